//! VGG for ImageNet: the original's, without normalisation and bias (reference 3.4), and torchvision's.

use crate::imagenet::ImageNet;
use crate::layers::{BatchNorm, Conv, Window};
use crate::{Init, Model, Naming, Net, Variant};
use hlo::{DotDims, Literal, Padding, Tensor};

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
