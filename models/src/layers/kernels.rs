//! Layers with a kernel: convolutions and the fully connected layer.

use crate::{Init, Kind, Layer, Naming, Net, Param};
use hlo::{Padding, Tensor};

/// A convolution over `[batch, height, width, channels]` with square windows.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Scope of its variables.
    pub scope: String,
    /// Form of their names.
    pub naming: Naming,
    /// Height and width of the window.
    pub size: usize,
    /// Output channels.
    pub filters: usize,
    /// Step of the window.
    pub stride: usize,
    /// How the window meets the edges.
    pub padding: Padding,
    /// Whether it has a bias, which starts at 0.
    pub bias: bool,
    /// Initialiser of the kernel.
    pub init: Init,
    /// How much larger the input is, in height and width, in the published counts: there its padding was a layer of its
    /// own, and the counts add a second one (reference 5.2, 5.3).
    pub counted_padding: usize,
}

/// A fully connected layer with bias.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Scope of its variables.
    pub scope: String,
    /// Form of their names.
    pub naming: Naming,
    /// Outputs.
    pub units: usize,
    /// Initialiser of the kernel; the bias starts at 0.
    pub init: Init,
}

/// `size - 1` zeros around the image, the larger half after: what the ImageNet networks give all their convolutions. With
/// a stride it differs from TensorFlow's rule, which depends on the image's size; without one it is the same.
pub(crate) fn fixed_padding(size: usize) -> Padding {
    let total = size.saturating_sub(1);
    Padding::Explicit([(total / 2, total - total / 2); 2])
}

impl<'g> Net<'g> {
    /// `[batch, height, width, channels] -> [batch, height', width', filters]`.
    #[track_caller]
    pub fn conv(&self, x: Tensor<'g>, conv: &Conv) -> Tensor<'g> {
        let &Conv {
            ref scope,
            naming,
            size,
            ..
        } = conv;
        let kernel = Param {
            name: naming.kernel(scope),
            dims: vec![size, size, channels(x), conv.filters],
            init: conv.init,
            mask: naming.mask(scope),
            decayed: true,
        };
        let mut layer = Layer::new(scope, Kind::Conv, &kernel);
        layer.bias = conv.bias;
        let kernel = self.compute(self.param(kernel));
        let y = self.compute(x).conv2d(kernel, [conv.stride; 2], conv.padding, 1);
        self.record(over_image(layer, x, y, conv));
        match conv.bias {
            true => y + self.bias(scope, naming, conv.filters),
            false => y,
        }
    }

    /// One filter per channel, without bias, mask or weight decay: `[batch, height, width, channels] ->
    /// [batch, height', width', channels]`. The kernel is called `depthwise_weights`, whatever the naming, and `filters`
    /// does not count.
    #[track_caller]
    pub fn depthwise(&self, x: Tensor<'g>, conv: &Conv) -> Tensor<'g> {
        let &Conv { ref scope, size, .. } = conv;
        let channels = channels(x);
        let kernel = Param {
            name: format!("{scope}/depthwise_weights"),
            dims: vec![size, size, channels, 1],
            init: conv.init,
            mask: None,
            decayed: false,
        };
        let mut layer = Layer::new(scope, Kind::Depthwise, &kernel);
        layer.groups = channels;
        let kernel = self.compute(self.param(kernel)).reshape(&[size, size, 1, channels]);
        let y = self.compute(x).conv2d(kernel, [conv.stride; 2], conv.padding, channels);
        self.record(over_image(layer, x, y, conv));
        y
    }

    /// `x · kernel + bias`: `[batch, in] -> [batch, units]`.
    #[track_caller]
    pub fn dense(&self, x: Tensor<'g>, dense: &Dense) -> Tensor<'g> {
        let &Dense {
            ref scope,
            naming,
            units,
            init,
        } = dense;
        let kernel = Param {
            name: naming.kernel(scope),
            dims: vec![channels(x), units],
            init,
            mask: naming.mask(scope),
            decayed: true,
        };
        self.record(Layer {
            bias: true,
            ..Layer::new(scope, Kind::Dense, &kernel)
        });
        let kernel = self.compute(self.param(kernel));
        self.compute(x).matmul(kernel) + self.bias(scope, naming, units)
    }

    fn bias(&self, scope: &str, naming: Naming, units: usize) -> Tensor<'g> {
        self.compute(self.param(Param {
            name: naming.bias(scope),
            dims: vec![units],
            init: Init::Zeros,
            mask: None,
            decayed: false,
        }))
    }
}

/// Extent of the last axis; 1 after a failed call, which the graph reports.
fn channels(x: Tensor<'_>) -> usize {
    x.dims().last().copied().unwrap_or(1)
}

fn over_image<'g>(layer: Layer, x: Tensor<'g>, y: Tensor<'g>, conv: &Conv) -> Layer {
    let image = |t: Tensor<'g>| [1, 2].map(|axis| t.dims().get(axis).copied().unwrap_or(1));
    let input = image(x);
    Layer {
        strides: [conv.stride; 2],
        padding: conv.padding,
        input,
        output: image(y),
        counted_input: input.map(|side| side + conv.counted_padding),
        ..layer
    }
}
