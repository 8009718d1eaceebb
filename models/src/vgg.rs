//! VGG for ImageNet: the original's, without normalisation and bias (reference 3.4), and torchvision's.

use crate::family::Torch;
use crate::imagenet::ImageNet;
use crate::infer::Variables;
use crate::layers::{BatchNorm, Conv, Window};
use crate::options::Spelling;
use crate::torch::{Module, Names, network};
use crate::{Declaration, Driver, Error, Family, Init, Model, Naming, Net, Options, Recipe, Scheme, Variant};
use hlo::{DotDims, Literal, Padding, Tensor};

/// Networks of the original's ImageNet driver.
pub(crate) static FAMILY: Family = Family {
    names: &["vgg-a", "vgg-13", "vgg-16", "vgg-19"],
    recipe: Recipe {
        driver: Driver::ImageNet,
        preset: |_| "vgg-16",
        label_smoothing: 0.1,
        weight_decay: 1e-4,
        erdos_renyi_masks_first: false,
        max_pooling: true,
    },
    has: |name| matches!(name.plain.as_str(), "vgga" | "vgg13" | "vgg16" | "vgg19"),
    build,
    infer,
    torch: Some(Torch { recognise, modules }),
};

/// Names, as in scopes, with the convolutions per group.
const VARIANTS: [(&str, [usize; 5]); 4] = [
    ("vgg_a", [1, 1, 2, 2, 2]),
    ("vgg_13", [2, 2, 2, 2, 2]),
    ("vgg_16", [2, 2, 3, 3, 3]),
    ("vgg_19", [2, 2, 4, 4, 4]),
];

/// Channels per group.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// Units of torchvision's first two dense layers, the height and width that it pools images to before them, and its
/// dropout rate after them.
const DENSE_UNITS: usize = 4096;
pub(crate) const POOLED: usize = 7;
const DROPOUT: f64 = 0.5;

/// VGG-A, VGG-13, VGG-16 or VGG-19.
#[derive(Clone, Debug, PartialEq)]
pub struct Vgg {
    name: String,
    scope: &'static str,
    groups: [usize; 5],
    config: ImageNet,
}

impl Vgg {
    /// The network `vgg-a`, `vgg-13`, `vgg-16` or `vgg-19`; `None` for another name. In a masked network the first layer always
    /// has a mask.
    pub fn new(name: &str, config: ImageNet) -> Option<Self> {
        let scope = name.replace('-', "_");
        let &(scope, groups) = VARIANTS.iter().find(|(known, _)| *known == scope)?;
        Some(Vgg {
            name: scope.replace('_', "-"),
            scope,
            groups,
            config,
        })
    }

    fn conv(&self, name: &str, size: usize, filters: usize) -> Conv {
        Conv {
            scope: format!("{}/{name}", self.scope),
            init: Init::VarianceScaling(2.0),
            ..self.config.conv(name, [size, filters, 1])
        }
    }

    /// A convolution of a group, with what follows it up to the activation.
    fn layer<'g>(&self, net: &Net<'g>, x: Tensor<'g>, name: &str, filters: usize) -> Tensor<'g> {
        let conv = Conv {
            bias: self.config.variant.is_torchvision(),
            ..self.conv(name, 3, filters)
        };
        let x = net.conv(x, &conv);
        let norm = BatchNorm {
            scope: self.scope,
            gamma: Init::Ones,
            unbiased: true,
        };
        match self.config.variant {
            Variant::Original | Variant::Torchvision => x.relu(),
            Variant::TorchvisionBn => net.batch_norm(x, &norm).relu(),
        }
    }

    /// torchvision's logits of images: dense layers over 7 x 7 pixels, as convolutions.
    fn dense_layers<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let units = self.config.filters(DENSE_UNITS);
        let mut x = adaptive_mean_pool(images, POOLED);
        for (name, size, units) in [
            ("fc6", POOLED, units),
            ("fc7", 1, units),
            ("fc8", 1, self.config.classes),
        ] {
            let _scope = net.graph().scope(name);
            let mut conv = Conv {
                bias: true,
                window: Window {
                    padding: Padding::Valid,
                    ..Window::fixed(size, 1)
                },
                ..self.conv(name, size, units)
            };
            if name == "fc8" {
                if !self.config.mask_last {
                    conv.naming = Naming::Doubled;
                }
                x = net.conv(x, &conv);
            } else {
                x = net.dropout(net.conv(x, &conv).relu(), DROPOUT);
            }
        }
        let batch = x.dims().first().copied().unwrap_or(1);
        x.reshape(&[batch, self.config.classes])
    }

    /// Logits of `[batch, channels]`, by a convolution over an image of one pixel.
    fn classifier<'g>(&self, net: &Net<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let _scope = net.graph().scope("fc8");
        let mut conv = self.conv("fc8", 1, self.config.classes);
        if !self.config.mask_last {
            conv = Conv {
                naming: Naming::Doubled,
                bias: true,
                init: Init::GlorotUniform,
                ..conv
            };
        }
        let dims = x.dims();
        let (batch, channels) = (dims.first().copied(), dims.last().copied());
        let pixel = x.reshape(&[batch.unwrap_or(1), 1, 1, channels.unwrap_or(1)]);
        net.conv(pixel, &conv)
            .reshape(&[batch.unwrap_or(1), self.config.classes])
    }
}

impl Model for Vgg {
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
        let mut x = images;
        for (group, (convs, channels)) in (1..).zip(self.groups.into_iter().zip(CHANNELS)) {
            for index in 1..=convs {
                let name = format!("conv{group}/conv{group}_{index}");
                let _scope = net.graph().scope(format!("conv{group}_{index}"));
                x = self.layer(net, x, &name, self.config.filters(channels));
            }
            if group < self.groups.len() || self.config.variant.is_torchvision() {
                x = net.max_pool(x, 2, 2, Padding::Valid);
            }
        }
        match self.config.variant {
            Variant::Original => self.classifier(net, net.mean_pool(x)),
            Variant::Torchvision | Variant::TorchvisionBn => self.dense_layers(net, x),
        }
    }
}

/// Pools images to `size` x `size` means: row `i` is the mean of the rows from `i·height / size`, rounded down, to
/// `(i + 1)·height / size`, rounded up; and so for columns.
fn adaptive_mean_pool(images: Tensor<'_>, size: usize) -> Tensor<'_> {
    let dims = images.dims();
    let &[_, height, width, _] = &dims[..] else {
        return images;
    };
    let shares = |extent: usize| {
        let row = move |i: usize| {
            let (first, end) = (i * extent / size, ((i + 1) * extent).div_ceil(size));
            (0..extent).map(move |at| match (first..end).contains(&at) {
                true => 1.0 / (end - first) as f32,
                false => 0.0,
            })
        };
        let shares: Vec<f32> = (0..size).flat_map(row).collect();
        let shares = images.graph().constant(Literal::new(&[size, extent], &shares));
        shares.convert(images.dtype())
    };
    if height == size && width == size {
        return images;
    }
    // [n, h, w, c] to [n, w, c, h'], to [n, c, h', w'].
    // A product puts the axis of the shares last.
    let pooled = [height, width]
        .into_iter()
        .fold(images, |x, extent| x.dot_general(shares(extent), contract(1, 1)));
    pooled.transpose(&[0, 2, 3, 1])
}

/// Contracts an axis of each side.
fn contract(lhs: usize, rhs: usize) -> DotDims {
    DotDims {
        lhs_contract: vec![lhs],
        rhs_contract: vec![rhs],
        ..DotDims::default()
    }
}

fn build(options: &Options, name: &Spelling) -> Result<Box<dyn Model>, Error> {
    options.only(&["width", "mask_first", "mask_last", "image_size", "variant"])?;
    if options.mask_first == Some(false) {
        return Err(options.wrong("mask_first", false, "true: its first layer always has a mask".into()));
    }
    // Four or five pooling layers halve the image.
    let smallest = match options.variant.unwrap_or_default() {
        Variant::Original => 16,
        Variant::Torchvision | Variant::TorchvisionBn => 32,
    };
    let network = Vgg::new(
        &format!("vgg-{}", &name.plain["vgg".len()..]),
        options.image_net(true, smallest)?,
    );
    network.map_or_else(|| Err(options.unknown()), |network| Ok(Box::new(network) as _))
}

fn infer(variables: &Variables) -> Option<Options> {
    let scope = ["vgg_a", "vgg_13", "vgg_16", "vgg_19"]
        .into_iter()
        .find(|scope| variables.kernel(&format!("{scope}/fc8")).is_some())?;
    let [first, last, classifier] = ["conv1/conv1_1", "conv5/conv5_1", "fc8"].map(|name| format!("{scope}/{name}"));
    let variant = match (
        variables.kernel(&format!("{scope}/fc6")),
        variables.has(&format!("{scope}/batch_normalization/beta")),
    ) {
        (None, _) => None,
        (Some(_), false) => Some(Variant::Torchvision),
        (Some(_), true) => Some(Variant::TorchvisionBn),
    };
    Some(Options {
        variant: variables.variant.or(variant),
        width: Some(variables.outputs(&last)? as f64 / 512.0),
        mask_first: None,
        ..variables.options(scope, [&first, &classifier])?
    })
}

fn recognise(names: &Names) -> Option<(Scheme, Options)> {
    let scheme = match (names.has("classifier.6.weight"), names.has("head.fc.weight")) {
        (true, _) => Scheme::Torchvision,
        (_, true) => Scheme::Timm,
        _ => return None,
    };
    // Normalisations are the only features with a mean.
    let variant = match names.0.iter().any(|name| name.ends_with(".running_mean")) {
        true => Variant::TorchvisionBn,
        false => Variant::Torchvision,
    };
    let kernels = names.0.iter().filter(|name| name.starts_with("features.")).count();
    let arrays = if variant == Variant::TorchvisionBn { 7 } else { 2 };
    // Batch counters may be missing.
    let arrays = arrays - usize::from(arrays == 7 && !names.0.iter().any(|name| name.ends_with("num_batches_tracked")));
    let name = match kernels / arrays {
        8 => "vgg-a",
        10 => "vgg-13",
        13 => "vgg-16",
        16 => "vgg-19",
        _ => return None,
    };
    Some((scheme, network(name, variant)))
}

/// Kernels of convolutions are numbered by the modules between them: activations, poolings and normalisations.
fn modules(scheme: Scheme, options: &Options, declaration: &Declaration) -> Option<Vec<Module>> {
    let normalised = match options.variant.unwrap_or_default() {
        Variant::Original => return None,
        Variant::Torchvision => false,
        Variant::TorchvisionBn => true,
    };
    let (mut modules, mut at, mut group) = (vec![], 0, "conv1");
    for layer in &declaration.layers {
        let mut parts = layer.name.split('/').skip(1);
        let (scope, Some(_)) = (parts.next().unwrap_or_default(), parts.next()) else {
            continue;
        };
        if scope != group {
            (group, at) = (scope, at + 1);
        }
        let norm = normalised.then(|| format!("features.{}", at + 1));
        modules.push((format!("features.{at}"), norm));
        at += if normalised { 3 } else { 2 };
    }
    let dense = match scheme {
        Scheme::Torchvision => ["classifier.0", "classifier.3", "classifier.6"],
        Scheme::Timm => ["pre_logits.fc1", "pre_logits.fc2", "head.fc"],
    };
    modules.extend(dense.map(|module| (module.to_owned(), None)));
    Some(modules)
}
