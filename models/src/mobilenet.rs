//! MobileNet-v1 and v2 for ImageNet, with plain ReLU (reference 3.2, 3.3).

use crate::family::Torch;
use crate::imagenet::{INIT, ImageNet};
use crate::infer::{SCOPE, Variables};
use crate::layers::Window;
use crate::options::{Spelling, WIDTHS};
use crate::torch::{Module, Names, network};
use crate::{Declaration, Driver, Error, Family, Init, Model, Naming, Net, Options, Recipe, Scheme, Variant};
use hlo::Tensor;

/// Both versions, of the original's ImageNet driver.
pub(crate) static FAMILY: Family = Family {
    names: &["mobilenet-v1", "mobilenet-v2"],
    recipe: Recipe {
        driver: Driver::ImageNet,
        preset: |name| match name.ends_with('2') {
            true => "mobilenet-v2",
            false => "mobilenet-v1",
        },
        label_smoothing: 0.1,
        weight_decay: 1e-4,
        erdos_renyi_masks_first: false,
        max_pooling: false,
    },
    has: |name| matches!(name.plain.as_str(), "mobilenetv1" | "mobilenetv2"),
    build,
    infer,
    torch: Some(Torch { recognise, modules }),
};

/// Filters and stride of the blocks of v1.
const V1: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// Filters, stride of the first block and number of blocks, per group of v2.
const V2: [(usize, usize, usize); 7] = [
    (16, 1, 1),
    (24, 2, 2),
    (32, 2, 3),
    (64, 2, 4),
    (96, 1, 3),
    (160, 2, 3),
    (320, 1, 1),
];

/// MobileNet version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Version {
    /// Alternating depthwise and pointwise convolutions.
    V1,
    /// Inverted residual blocks with `expansion`.
    V2 {
        /// Ratio of the channels inside a block to its input channels.
        expansion: f64,
    },
}

/// MobileNet.
#[derive(Clone, Debug, PartialEq)]
pub struct MobileNet {
    /// Version.
    pub version: Version,
    /// Options. The first layer never has a mask.
    pub config: ImageNet,
}

/// The multiple of `divisor` nearest to `channels`, but at least 0.9 of `channels` and at least `divisor`.
fn make_divisible(channels: f64, divisor: usize) -> usize {
    let step = divisor as f64;
    let nearest = (((channels + step / 2.0) / step).floor() * step).max(step);
    let rounded = if nearest < 0.9 * channels {
        nearest + step
    } else {
        nearest
    };
    rounded as usize
}

impl MobileNet {
    /// Output channels of block `i`. From the second block on they are multiples of 8.
    fn block_filters(&self, i: usize, channels: usize) -> usize {
        match self.config.variant {
            Variant::Original => make_divisible(self.config.filters(channels) as f64, if i == 0 { 1 } else { 8 }),
            Variant::Torchvision | Variant::TorchvisionBn => make_divisible(channels as f64 * self.config.width, 8),
        }
    }

    fn activation<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        match self.config.variant {
            Variant::Original => x.relu(),
            Variant::Torchvision | Variant::TorchvisionBn => x.relu().min(6.0),
        }
    }

    /// A convolution followed by normalisation.
    fn conv<'g>(&self, net: &Net<'g>, x: Tensor<'g>, name: &str, filters: usize) -> Tensor<'g> {
        let _scope = net.graph().scope(name);
        let y = net.conv(x, &self.config.conv(name, [1, filters, 1]));
        self.config.batch_norm(net, y, Init::Ones)
    }

    /// The same followed by ReLU.
    fn active_conv<'g>(&self, net: &Net<'g>, x: Tensor<'g>, name: &str, filters: usize) -> Tensor<'g> {
        let y = self.conv(net, x, name, filters);
        let _scope = net.graph().scope(name);
        self.activation(y)
    }

    fn depthwise<'g>(&self, net: &Net<'g>, x: Tensor<'g>, i: usize, stride: usize) -> Tensor<'g> {
        let name = format!("depthwise_nxn_{i}");
        let _scope = net.graph().scope(name.as_str());
        let window = Window {
            counted_padding: stride - 1,
            ..Window::fixed(3, stride)
        };
        let y = net.depthwise(x, &self.config.scope(&name), window, Init::GlorotUniform);
        self.activation(self.config.batch_norm(net, y, Init::Ones))
    }

    fn initial<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let name = "initial_conv";
        let _scope = net.graph().scope(name);
        let filters = make_divisible(32.0 * self.config.width, 8);
        let mut conv = self.config.conv(name, [3, filters, 2]);
        conv.naming = Naming::Plain;
        conv.window.counted_padding = 1;
        let y = net.conv(images, &conv);
        self.activation(self.config.batch_norm(net, y, Init::Ones))
    }

    fn blocks_v1<'g>(&self, net: &Net<'g>, mut x: Tensor<'g>) -> Tensor<'g> {
        for (i, (channels, stride)) in V1.into_iter().enumerate() {
            x = self.depthwise(net, x, i, stride);
            let filters = self.block_filters(i, channels);
            x = self.active_conv(net, x, &format!("contraction_1x1_{i}"), filters);
        }
        x
    }

    fn blocks_v2<'g>(&self, net: &Net<'g>, mut x: Tensor<'g>, expansion: f64) -> Tensor<'g> {
        let strides = |first, blocks| (0..blocks).map(move |block| if block == 0 { first } else { 1 });
        let blocks = V2
            .into_iter()
            .flat_map(|(channels, first, blocks)| strides(first, blocks).map(move |stride| (channels, stride)));
        for (i, (channels, stride)) in blocks.enumerate() {
            let (input, shortcut) = (x.dims().last().copied().unwrap_or(1), x);
            if i > 0 {
                let inside = (expansion * input as f64) as usize;
                x = self.active_conv(net, x, &format!("expand_1x1_{i}"), inside);
            }
            x = self.depthwise(net, x, i, stride);
            let filters = self.block_filters(i, channels);
            let name = format!("contraction_1x1_{i}");
            x = self.conv(net, x, &name, filters);
            if stride == 1 && input == filters {
                let _scope = net.graph().scope(name);
                x = net.add(x, shortcut);
            }
        }
        let filters = make_divisible(1280.0 * self.config.width, 8).max(1280);
        self.active_conv(net, x, "final_1x1_conv", filters)
    }
}

impl Model for MobileNet {
    fn name(&self) -> &str {
        match self.version {
            Version::V1 => "mobilenet-v1",
            Version::V2 { .. } => "mobilenet-v2",
        }
    }

    fn input_dims(&self) -> Vec<usize> {
        self.config.input_dims()
    }

    fn classes(&self) -> usize {
        self.config.classes
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let x = self.initial(net, images);
        let x = match self.version {
            Version::V1 => self.blocks_v1(net, x),
            Version::V2 { expansion } => self.blocks_v2(net, x, expansion),
        };
        let naming = match self.config.mask_last {
            true => self.config.naming(true),
            false => Naming::Plain,
        };
        self.config.classifier(net, net.mean_pool(x), naming, INIT)
    }
}

fn build(options: &Options, name: &Spelling) -> Result<Box<dyn Model>, Error> {
    let version = match name.plain.as_str() {
        "mobilenetv1" => Version::V1,
        _ => Version::V2 {
            expansion: options.within("expansion", options.expansion.unwrap_or(6.0), WIDTHS)?,
        },
    };
    let own: &[_] = match version {
        Version::V1 => &[],
        Version::V2 { .. } => &["expansion", "variant"],
    };
    options.variants(&[Variant::Original, Variant::Torchvision])?;
    options.only(&[&["width", "mask_first", "mask_last", "image_size"], own].concat())?;
    if options.mask_first == Some(true) {
        return Err(options.wrong("mask_first", true, "false: its first layer has no mask".into()));
    }
    let config = options.image_net(false, 1)?;
    Ok(Box::new(MobileNet { version, config }))
}

fn infer(variables: &Variables) -> Option<Options> {
    let expansion = infer_expansion(variables);
    // Finer steps of the width give the same channels, because channels are truncated multiples.
    let (name, last, channels, steps) = match expansion {
        None => ("mobilenet-v1", 12, 1024, 1024),
        Some(_) => ("mobilenet-v2", 16, 320, 960),
    };
    let outputs = variables.outputs(&format!("{SCOPE}/contraction_1x1_{last}"))?;
    let options = variables.options(name, ["resnet_model/initial_conv", "resnet_model/final_dense"])?;
    let with_width = |width: f64| Options {
        width: Some(width),
        expansion,
        mask_first: None,
        ..options.clone()
    };
    // Channels are rounded to multiples of 8, so the last ones determine the width only approximately.
    let around = 2 * 8 * steps / channels;
    let nominal = outputs as f64 / channels as f64;
    let candidates = (0..=2 * around).map(|i: usize| {
        let away = i.div_ceil(2) as f64 * if i.is_multiple_of(2) { -1.0 } else { 1.0 };
        with_width(nominal + away * 0.5 / steps as f64)
    });
    let fitting = candidates.into_iter().find(|options| variables.fit(options));
    Some(fitting.unwrap_or_else(|| with_width(nominal)))
}

/// Expansion of MobileNet-v2's blocks: the smallest factor that yields all their channels.
fn infer_expansion(variables: &Variables) -> Option<f64> {
    let block = |i: usize| match variables.kernel(&format!("{SCOPE}/expand_1x1_{i}"))? {
        &[_, _, input, inside] if input > 0 => Some((input as f64, inside)),
        _ => None,
    };
    let ratio = |(input, inside)| inside as f64 / input;
    let (input, inside) = (1..).map_while(block).max_by(|&a, &b| ratio(a).total_cmp(&ratio(b)))?;
    let factor = ratio((input, inside));
    // Truncation must not lose what the division rounded down.
    let truncated = (factor * input) as usize;
    Some(if truncated == inside { factor } else { factor.next_up() })
}

fn recognise(names: &Names) -> Option<(Scheme, Options)> {
    let torchvision = names.has("features.18.0.weight") && names.has("features.1.conv.0.0.weight");
    let timm =
        names.has("conv_stem.weight") && names.has("blocks.6.0.conv_pwl.weight") && names.has("conv_head.weight");
    let scheme = match (torchvision, timm) {
        (true, _) => Scheme::Torchvision,
        (false, true) => Scheme::Timm,
        (false, false) => return None,
    };
    Some((scheme, network("mobilenet-v2", Variant::Torchvision)))
}

fn modules(scheme: Scheme, options: &Options, _: &Declaration) -> Option<Vec<Module>> {
    let second = Spelling::new(&options.name).plain == "mobilenetv2";
    match (options.variant.unwrap_or_default(), scheme) {
        (Variant::Torchvision, Scheme::Torchvision) if second => Some(modules_of_torchvision()),
        (Variant::Torchvision, Scheme::Timm) if second => Some(modules_of_timm()),
        (Variant::Original | Variant::Torchvision | Variant::TorchvisionBn, _) => None,
    }
}

fn modules_of_torchvision() -> Vec<Module> {
    let layer = |conv: String, norm: String| (conv, Some(norm));
    let mut modules = vec![layer("features.0.0".into(), "features.0.1".into())];
    let blocks: usize = V2.iter().map(|(_, _, blocks)| blocks).sum();
    for block in 1..=blocks {
        let of = |part: &str| format!("features.{block}.conv.{part}");
        // The first block does not expand.
        let parts: &[_] = match block {
            1 => &[("0.0", "0.1"), ("1", "2")],
            _ => &[("0.0", "0.1"), ("1.0", "1.1"), ("2", "3")],
        };
        modules.extend(parts.iter().map(|(conv, norm)| layer(of(conv), of(norm))));
    }
    let last = blocks + 1;
    modules.push(layer(format!("features.{last}.0"), format!("features.{last}.1")));
    modules.push(("classifier.1".to_owned(), None));
    modules
}

fn modules_of_timm() -> Vec<Module> {
    let layer = |conv: String, norm: String| (conv, Some(norm));
    let mut modules = vec![layer("conv_stem".into(), "bn1".into())];
    for (group, (_, _, blocks)) in V2.into_iter().enumerate() {
        for block in 0..blocks {
            let of = |part: &str| format!("blocks.{group}.{block}.{part}");
            let parts: &[_] = match group {
                0 => &[("conv_dw", "bn1"), ("conv_pw", "bn2")],
                _ => &[("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")],
            };
            modules.extend(parts.iter().map(|(conv, norm)| layer(of(conv), of(norm))));
        }
    }
    modules.push(layer("conv_head".into(), "bn2".into()));
    modules.push(("classifier".to_owned(), None));
    modules
}
