//! Residual networks for ImageNet, post-activation, with the stride in the 3×3 convolution (reference 3.1).

use crate::imagenet::ImageNet;
use crate::layers::Conv;
use crate::{Init, Model, Net, Variant};
use hlo::{Padding, Tensor};

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
