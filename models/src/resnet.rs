//! Residual networks for ImageNet, post-activation, with the stride in the 3×3 convolution (reference 3.1).

use crate::family::Torch;
use crate::imagenet::ImageNet;
use crate::infer::{SCOPE, Variables};
use crate::layers::Conv;
use crate::options::Spelling;
use crate::torch::{Module, Names, network};
use crate::{Declaration, Driver, Error, Family, Init, Layer, Model, Net, Options, Recipe, Scheme, Variant};
use hlo::{Padding, Tensor};

/// Residual networks of the original's ImageNet driver.
pub(crate) static FAMILY: Family = Family {
    names: &[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnet200",
    ],
    recipe: Recipe {
        driver: Driver::ImageNet,
        preset: |_| "resnet50",
        label_smoothing: 0.1,
        weight_decay: 1e-4,
        erdos_renyi_masks_first: true,
        max_pooling: true,
    },
    has: |name| name.plain.starts_with("resnet"),
    build,
    infer,
    torch: Some(Torch { recognise, modules }),
};

/// Depth, blocks per group, and whether the blocks are bottlenecks.
const DEPTHS: [(usize, [usize; 4], bool); 6] = [
    (18, [2, 2, 2, 2], false),
    (34, [3, 4, 6, 3], false),
    (50, [3, 4, 6, 3], true),
    (101, [3, 4, 23, 3], true),
    (152, [3, 8, 36, 3], true),
    (200, [3, 24, 36, 3], true),
];

/// ResNet-18 to 200.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNet {
    name: String,
    blocks: [usize; 4],
    bottleneck: bool,
    config: ImageNet,
}

/// One residual block.
struct Block {
    /// Suffix of its layers' names.
    suffix: String,
    /// Output channels of its convolutions; the last one of a bottleneck has four times as many.
    filters: usize,
    stride: usize,
    /// Whether the shortcut is a convolution.
    projects: bool,
}

impl ResNet {
    /// Supported depths.
    pub fn depths() -> impl Iterator<Item = usize> {
        DEPTHS.iter().map(|&(depth, ..)| depth)
    }

    /// The depth with these blocks per group, if there is one.
    pub(crate) fn depth(blocks: [usize; 4], bottleneck: bool) -> Option<usize> {
        let found = DEPTHS
            .iter()
            .find(|&&(_, known, kind)| (known, kind) == (blocks, bottleneck))?;
        Some(found.0)
    }

    /// The network of this depth, if there is one.
    pub fn new(depth: usize, config: ImageNet) -> Option<Self> {
        let &(_, blocks, bottleneck) = DEPTHS.iter().find(|(known, ..)| *known == depth)?;
        Some(ResNet {
            name: format!("resnet{depth}"),
            blocks,
            bottleneck,
            config,
        })
    }

    /// Whether the shortcut of block `index` of `group`, from 1, is a convolution.
    pub(crate) fn projects(&self, group: usize, index: usize) -> bool {
        index == 0 && (group > 1 || self.bottleneck || !self.config.variant.is_torchvision())
    }

    fn block<'g>(&self, net: &Net<'g>, x: Tensor<'g>, block: &Block) -> Tensor<'g> {
        let &Block {
            ref suffix,
            filters,
            stride,
            projects,
        } = block;
        let kind = if self.bottleneck { "bottleneck" } else { "residual" };
        let name = |part: &str| format!("{kind}_{part}_{suffix}");
        let conv = |x, part: &str, shape, gamma| {
            let name = name(part);
            self.conv(net, x, &name, &self.config.conv(&name, shape), gamma)
        };
        let relu = |x: Tensor<'g>, part: &str| {
            let _scope = net.graph().scope(name(part));
            x.relu()
        };
        let outputs = if self.bottleneck { 4 * filters } else { filters };
        let shortcut = match projects {
            true => conv(x, "projection", [1, outputs, stride], Init::Ones),
            false => x,
        };
        // The last scale is initialised to zero, so that a block starts as the identity.
        let residual = if self.bottleneck {
            let x = relu(conv(x, "1", [1, filters, 1], Init::Ones), "1");
            let x = relu(conv(x, "2", [3, filters, stride], Init::Ones), "2");
            conv(x, "3", [1, outputs, 1], Init::Zeros)
        } else {
            let x = relu(conv(x, "1", [3, filters, stride], Init::Ones), "1");
            conv(x, "2", [3, outputs, 1], Init::Zeros)
        };
        let _scope = net.graph().scope(name(if self.bottleneck { "3" } else { "2" }));
        net.add(residual, shortcut).relu_by_result()
    }

    /// A convolution followed by normalisation.
    fn conv<'g>(&self, net: &Net<'g>, x: Tensor<'g>, name: &str, conv: &Conv, gamma: Init) -> Tensor<'g> {
        let _scope = net.graph().scope(name);
        self.config.batch_norm(net, net.conv(x, conv), gamma)
    }
}

impl Model for ResNet {
    fn name(&self) -> &str {
        &self.name
    }

    fn input_dims(&self) -> Vec<usize> {
        self.config.input_dims()
    }

    fn classes(&self) -> usize {
        self.config.classes
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let config = &self.config;
        let name = "initial_conv";
        let mut initial = config.conv(name, [7, config.filters(64), 2]);
        initial.naming = config.naming(config.mask_first);
        initial.window.counted_padding = 6;
        let padding = match config.variant {
            Variant::Original => Padding::Same,
            Variant::Torchvision | Variant::TorchvisionBn => Padding::Explicit([(1, 1); 2]),
        };
        let mut x = {
            let _scope = net.graph().scope(name);
            let x = net.conv(images, &initial);
            net.norm_relu_max_pool(x, &self.config.norm(Init::Ones), 3, 2, padding)
        };
        for (group, blocks) in (1..).zip(self.blocks) {
            for index in 0..blocks {
                let first = index == 0;
                let block = Block {
                    suffix: match first {
                        true => format!("block_group_projection_block_group{group}"),
                        false => format!("block_group{group}_{index}_1"),
                    },
                    filters: config.filters(32 << group),
                    stride: if first && group > 1 { 2 } else { 1 },
                    projects: self.projects(group, index),
                };
                x = self.block(net, x, &block);
            }
        }
        let last = config.naming(config.mask_last);
        config.classifier(net, net.mean_pool(x), last, Init::Normal(0.01))
    }
}

fn build(options: &Options, name: &Spelling) -> Result<Box<dyn Model>, Error> {
    options.only(&["depth", "width", "mask_first", "mask_last", "image_size", "variant"])?;
    options.variants(&[Variant::Original, Variant::Torchvision])?;
    let named = match &name.plain["resnet".len()..] {
        "" => None,
        text => Some(text.parse::<usize>().map_err(|_| options.unknown())?),
    };
    let depth = options.named_or_given("depth", named, options.depth)?.unwrap_or(50);
    match ResNet::new(depth, options.image_net(options.mask_first.unwrap_or(false), 1)?) {
        Some(network) => Ok(Box::new(network)),
        None if named.is_some() => Err(options.unknown()),
        None => {
            let depths: Vec<String> = ResNet::depths().map(|depth| depth.to_string()).collect();
            Err(options.wrong("depth", depth, format!("one of {}", depths.join(", "))))
        }
    }
}

fn infer(variables: &Variables) -> Option<Options> {
    let depth_and_width = |(kind, bottleneck)| {
        let first = |group| format!("{kind}_1_block_group_projection_block_group{group}");
        // Channels double from group to group, so the truncated count of the largest group determines the others.
        let channels = variables.outputs(&format!("{SCOPE}/{}", first(4)))?;
        let later = |group| variables.count(1, |i| format!("{kind}_1_block_group{group}_{i}_1"));
        let blocks = [1, 2, 3, 4].map(|group| 1 + later(group));
        Some((ResNet::depth(blocks, bottleneck)?, channels as f64 / 512.0))
    };
    let (depth, width) = [("bottleneck", true), ("residual", false)]
        .into_iter()
        .find_map(depth_and_width)?;
    let first_block = |part: &str| format!("{SCOPE}/residual_{part}_block_group_projection_block_group1");
    let torchvision =
        variables.kernel(&first_block("1")).is_some() && variables.kernel(&first_block("projection")).is_none();
    Some(Options {
        variant: variables.variant.or(torchvision.then_some(Variant::Torchvision)),
        width: Some(width),
        ..variables.options(
            &format!("resnet{depth}"),
            ["resnet_model/initial_conv", "resnet_model/final_dense"],
        )?
    })
}

fn recognise(names: &Names) -> Option<(Scheme, Options)> {
    if !names.has("layer1.0.conv1.weight") || !names.has("conv1.weight") {
        return None;
    }
    let blocks = [1, 2, 3, 4].map(|group| {
        let exists = |i: &usize| names.has(&format!("layer{group}.{i}.conv1.weight"));
        (0..).take_while(exists).count()
    });
    let depth = ResNet::depth(blocks, names.has("layer1.0.conv3.weight"))?;
    Some((
        Scheme::Torchvision,
        network(format!("resnet{depth}"), Variant::Torchvision),
    ))
}

/// The shortcut's convolution comes first, as in a forward pass of this crate.
fn modules(_: Scheme, options: &Options, declaration: &Declaration) -> Option<Vec<Module>> {
    // Only the original's networks without bottlenecks have this projection.
    let projects = |layer: &Layer| {
        layer
            .name
            .contains("residual_projection_block_group_projection_block_group1")
    };
    let original = options.variant.unwrap_or_default() == Variant::Original;
    if original && declaration.layers.iter().any(projects) {
        return None;
    }
    let mut modules = vec![("conv1".to_owned(), Some("bn1".to_owned()))];
    for layer in &declaration.layers {
        let Some((_, block)) = layer.name.split_once("_block_group") else {
            continue;
        };
        let part = layer.name.split('_').nth(2).unwrap_or_default();
        let (group, index) = match block.strip_prefix("_projection_block_group") {
            Some(group) => (group, "0"),
            // As in `2_1_1`: group, block, and the end of every such name.
            None => block.split_once('_').map_or((block, "0"), |(group, rest)| {
                (group, rest.strip_suffix("_1").unwrap_or(rest))
            }),
        };
        let block = format!("layer{group}.{index}");
        modules.push(match part {
            "projection" => (format!("{block}.downsample.0"), Some(format!("{block}.downsample.1"))),
            part => (format!("{block}.conv{part}"), Some(format!("{block}.bn{part}"))),
        });
    }
    modules.push(("fc".to_owned(), None));
    Some(modules)
}
