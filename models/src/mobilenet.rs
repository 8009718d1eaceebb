//! MobileNet-v1 and v2 for ImageNet, with plain ReLU (reference 3.2, 3.3).

use crate::imagenet::{INIT, ImageNet};
use crate::layers::Window;
use crate::{Init, Model, Naming, Net, Variant};
use hlo::Tensor;

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
pub(crate) const V2: [(usize, usize, usize); 7] = [
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
