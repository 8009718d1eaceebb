//! VGG for ImageNet, without normalisation and bias (reference 3.4).

use crate::imagenet::ImageNet;
use crate::layers::Conv;
use crate::{Init, Model, Naming, Net};
use hlo::{Padding, Tensor};

/// Names, as in scopes, with the convolutions per group.
const VARIANTS: [(&str, [usize; 5]); 3] = [
    ("vgg_a", [1, 1, 2, 2, 2]),
    ("vgg_16", [2, 2, 3, 3, 3]),
    ("vgg_19", [2, 2, 4, 4, 4]),
];

/// Channels per group.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// VGG-A, VGG-16 or VGG-19.
#[derive(Clone, Debug, PartialEq)]
pub struct Vgg {
    name: String,
    scope: &'static str,
    groups: [usize; 5],
    config: ImageNet,
}

impl Vgg {
    /// The network `vgg-a`, `vgg-16` or `vgg-19`; `None` for another name. In a masked network the first layer always
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
                x = net.conv(x, &self.conv(&name, 3, self.config.filters(channels))).relu();
            }
            if group < self.groups.len() {
                x = net.max_pool(x, 2, 2, Padding::Valid);
            }
        }
        self.classifier(net, net.mean_pool(x))
    }
}
