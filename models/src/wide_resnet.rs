//! Wide residual networks for CIFAR, pre-activation (reference 3.5).

use crate::infer::Variables;
use crate::layers::{BatchNorm, Conv, Dense, Window};
use crate::options::{MAX_EXTENT, Spelling, WIDTHS};
use crate::{Driver, Error, Family, Init, Model, Naming, Net, Options, Recipe};
use hlo::{Padding, Tensor};

/// Networks of the original's CIFAR-10 driver.
pub(crate) static FAMILY: Family = Family {
    names: &["wide-resnet", "wrn-22-2"],
    recipe: Recipe {
        driver: Driver::Cifar,
        preset: |_| "cifar10",
        label_smoothing: 0.0,
        weight_decay: 5e-4,
        erdos_renyi_masks_first: false,
        max_pooling: false,
    },
    has: |name| name.plain == "wideresnet" || name.dashed.starts_with("wrn-"),
    build,
    infer,
    torch: None,
};

/// Variable scope.
const SCOPE: &str = "resnet_model";

/// Channels of the first layer, and of the first group before widening.
const BASE: usize = 16;

/// WRN-`depth`-`width`.
#[derive(Clone, Debug, PartialEq)]
pub struct WideResNet {
    name: String,
    /// Residual blocks per group.
    blocks: usize,
    /// Options.
    config: WideResNetConfig,
}

/// Options of a wide residual network.
#[derive(Clone, Debug, PartialEq)]
pub struct WideResNetConfig {
    /// Number of layers: 6 per block of the three groups, plus 4.
    pub depth: usize,
    /// Multiplier of the channel counts in the groups.
    pub width: f64,
    /// Whether the network has masks.
    pub masked: bool,
    /// Whether its first layer has a mask.
    pub mask_first: bool,
    /// Whether its classifier has a mask.
    pub mask_last: bool,
    /// Dropout rate within a block.
    pub dropout: f64,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of an image.
    pub image_size: usize,
}

impl WideResNet {
    /// The network; `None` if the depth is not 6 n + 4 with n ≥ 1.
    pub fn new(config: WideResNetConfig) -> Option<Self> {
        let blocks = config.depth.checked_sub(4)? / 6;
        (blocks > 0 && config.depth == 6 * blocks + 4).then(|| WideResNet {
            name: format!("wrn-{}-{}", config.depth, config.width),
            blocks,
            config,
        })
    }

    fn naming(&self, has_mask: bool) -> Naming {
        match has_mask && self.config.masked {
            true => Naming::Masked,
            false => Naming::Doubled,
        }
    }

    fn conv<'g>(&self, net: &Net<'g>, x: Tensor<'g>, name: &str, [size, filters, stride]: [usize; 3]) -> Tensor<'g> {
        let _scope = net.graph().scope(name);
        let first = name == "conv_1";
        let conv = Conv {
            scope: format!("{SCOPE}/{name}"),
            naming: self.naming(!first || self.config.mask_first),
            window: Window {
                padding: Padding::Same,
                ..Window::fixed(size, stride)
            },
            filters,
            bias: false,
            init: Init::GlorotUniform,
        };
        net.conv(x, &conv)
    }

    /// Normalisation and ReLU.
    fn activate<'g>(&self, net: &Net<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let norm = BatchNorm {
            scope: SCOPE,
            gamma: Init::Ones,
            unbiased: false,
        };
        let _scope = net.graph().scope(net.next_batch_norm());
        net.batch_norm(x, &norm).relu()
    }

    /// Block `index` of the group called `group`.
    fn block<'g>(&self, net: &Net<'g>, x: Tensor<'g>, group: &str, index: usize, filters: usize) -> Tensor<'g> {
        let stride = if index == 0 && group != "conv_2" { 2 } else { 1 };
        let active = self.activate(net, x);
        let shortcut = match x.dims().last() == Some(&filters) {
            true => x,
            false => self.conv(net, active, &format!("skip_{group}"), [1, filters, stride]),
        };
        let x = self.conv(net, active, &format!("{group}_{index}_1"), [3, filters, stride]);
        let x = net.dropout(self.activate(net, x), self.config.dropout);
        let name = format!("{group}_{index}_2");
        let x = self.conv(net, x, &name, [3, filters, 1]);
        let _scope = net.graph().scope(name);
        net.add(x, shortcut)
    }
}

impl Model for WideResNet {
    fn name(&self) -> &str {
        &self.name
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![self.config.image_size, self.config.image_size, 3]
    }

    fn classes(&self) -> usize {
        self.config.classes
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let mut x = self.conv(net, images, "conv_1", [3, BASE, 1]);
        for group in 0..3 {
            let filters = ((BASE << group) as f64 * self.config.width) as usize;
            let name = format!("conv_{}", group + 2);
            for index in 0..self.blocks {
                x = self.block(net, x, &name, index, filters);
            }
        }
        // The original pools over 8 × 8, which is the whole image here.
        let x = net.mean_pool(self.activate(net, x));
        let _scope = net.graph().scope("logits");
        let dense = Dense {
            scope: format!("{SCOPE}/logits"),
            naming: self.naming(self.config.mask_last),
            units: self.config.classes,
            init: Init::GlorotUniform,
        };
        net.dense(x, &dense)
    }
}

fn build(options: &Options, name: &Spelling) -> Result<Box<dyn Model>, Error> {
    let own = ["depth", "width", "mask_first", "mask_last", "image_size", "dropout"];
    options.only(&own)?;
    let (depth, width) = match name.dashed.strip_prefix("wrn-") {
        None => (None, None),
        Some(size) => {
            let parsed = size
                .split_once('-')
                .map(|(depth, width)| (depth.parse(), width.parse()));
            let Some((Ok(depth), Ok(width))) = parsed else {
                return Err(options.unknown());
            };
            (Some(depth), Some(width))
        }
    };
    let width = options.named_or_given("width", width, options.width)?.unwrap_or(4.0);
    let depth = options.named_or_given("depth", depth, options.depth)?.unwrap_or(16);
    let config = WideResNetConfig {
        depth: options.within("depth", depth, 10..=1000)?,
        width: options.within("width", width, WIDTHS)?,
        masked: options.masked,
        mask_first: options.mask_first.unwrap_or(false),
        mask_last: options.mask_last.unwrap_or(true),
        dropout: options.within("dropout", options.dropout.unwrap_or(0.3), 0.0..=0.99)?,
        classes: options.within("classes", options.classes.unwrap_or(10), 1..=MAX_EXTENT)?,
        image_size: options.within("image_size", options.image_size.unwrap_or(32), 1..=MAX_EXTENT)?,
    };
    let network = WideResNet::new(config).map(|network| Box::new(network) as _);
    network.ok_or_else(|| options.wrong("depth", depth, "6 n + 4 layers, such as 16, 22 or 28".into()))
}

fn infer(variables: &Variables) -> Option<Options> {
    let blocks = variables.count(0, |i| format!("conv_2_{i}_1"));
    let channels = variables.outputs("resnet_model/conv_4_0_1")?;
    Some(Options {
        depth: Some(6 * blocks + 4),
        width: Some(channels as f64 / 64.0),
        ..variables.options("wide-resnet", ["resnet_model/conv_1", "resnet_model/logits"])?
    })
}
