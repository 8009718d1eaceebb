//! Layers with a kernel: convolutions and the dense layer.

use super::Expanding;
use super::examples::add_bias;
use super::sparse::{SparseKernel, Wanted, blocked, can_be_blocked, is_blocked, mask_key, unblocked};
use crate::{Init, Kind, Layer, Naming, Net, Param};
use hlo::{DType, Padding, Shape, Tensor};

/// A square window that slides over an image.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Height and width.
    pub size: usize,
    /// Stride.
    pub stride: usize,
    /// Padding.
    pub padding: Padding,
    /// Extra height and width of the image in the published counts. There its padding was a separate layer, and the
    /// counts add a second one (reference 5.2, 5.3).
    pub counted_padding: usize,
}

impl Window {
    /// A window with `size - 1` zeros around the image, the larger half after, as in all convolutions of the ImageNet
    /// networks. With a stride it differs from TensorFlow's "same" rule, which depends on the image size; with stride 1
    /// it is the same.
    pub fn fixed(size: usize, stride: usize) -> Self {
        let total = size.saturating_sub(1);
        Window {
            size,
            stride,
            padding: Padding::Explicit([(total / 2, total - total / 2); 2]),
            counted_padding: 0,
        }
    }
}

/// A convolution.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Variable scope.
    pub scope: String,
    /// Naming of its variables.
    pub naming: Naming,
    /// Window.
    pub window: Window,
    /// Output channels.
    pub filters: usize,
    /// Whether it has a bias, initialised to 0.
    pub bias: bool,
    /// Initialiser of the kernel.
    pub init: Init,
}

/// A dense layer with bias.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Variable scope.
    pub scope: String,
    /// Naming of its variables.
    pub naming: Naming,
    /// Output units.
    pub units: usize,
    /// Initialiser of the kernel; the bias is initialised to 0.
    pub init: Init,
}

impl<'g> Net<'g> {
    /// `[batch, height, width, channels] -> [batch, height', width', filters]`. Images may be blocked
    /// ([`sparse`](super::sparse)), and those of a sparse layer become so.
    #[track_caller]
    pub fn conv(&self, x: Tensor<'g>, conv: &Conv) -> Tensor<'g> {
        let &Conv {
            ref scope,
            naming,
            window,
            filters,
            ..
        } = conv;
        let kernel = Param {
            name: naming.kernel(scope),
            dims: vec![window.size, window.size, channels(x), filters],
            init: conv.init,
            mask: naming.mask(scope),
            decayed: true,
        };
        let layer = Layer {
            bias: conv.bias,
            ..Layer::new(scope, Kind::Conv, &kernel)
        };
        let sparse = self.sparse_kernel(&kernel.name);
        let kernel = self.param(kernel);
        let y = match sparse {
            Some(sparse) if can_be_blocked(x) => {
                let x = blocked(x);
                let y = sparse.conv2d(x, kernel, [window.stride; 2], window.padding);
                self.record_conv(window, layer, x, y);
                y
            }
            _ => self.masked_conv(self.compute(unblocked(x)), kernel, window, layer),
        };
        match conv.bias {
            true => y + self.bias(scope, naming, filters),
            false => y,
        }
    }

    /// Depthwise convolution without bias, mask or weight decay: `[batch, height, width, channels] -> [batch, height',
    /// width', channels]`.
    #[track_caller]
    pub fn depthwise(&self, x: Tensor<'g>, scope: &str, window: Window, init: Init) -> Tensor<'g> {
        let channels = channels(x);
        let kernel = Param {
            name: format!("{scope}/depthwise_weights"),
            dims: vec![window.size, window.size, channels, 1],
            init,
            mask: None,
            decayed: false,
        };
        let layer = Layer {
            groups: channels,
            ..Layer::new(scope, Kind::Depthwise, &kernel)
        };
        let weights = self.param(kernel);
        if is_blocked(x) {
            // All connections are there; as a sparse layer it keeps the layout of its neighbours.
            let mask = weights.graph().full(&Shape::new(DType::Pred, weights.dims()), 1.0);
            let kernel = SparseKernel {
                weights,
                mask,
                key: mask_key(mask),
                dense_gradient: Wanted::Never,
            };
            let y = kernel.depthwise(x, weights, [window.stride; 2], window.padding);
            self.record_conv(window, layer, x, y);
            return y;
        }
        let kernel = self.compute(weights).reshape(&[window.size, window.size, 1, channels]);
        self.apply_conv(x, kernel, window, layer)
    }

    /// A convolution with an f32 kernel.
    #[track_caller]
    fn masked_conv(&self, x: Tensor<'g>, kernel: Tensor<'g>, window: Window, layer: Layer) -> Tensor<'g> {
        let expands = !layer.bias && Expanding::applies(kernel, [window.stride; 2], layer.groups);
        let y = self.apply_conv(x, self.compute(kernel), window, layer);
        if expands {
            self.record_expanding(y, Expanding { input: x, kernel });
        }
        y
    }

    /// Applies the convolution of `layer` and records the layer with its input and output sizes.
    #[track_caller]
    fn apply_conv(&self, x: Tensor<'g>, kernel: Tensor<'g>, window: Window, layer: Layer) -> Tensor<'g> {
        let y = self
            .compute(x)
            .conv2d(kernel, [window.stride; 2], window.padding, layer.groups);
        self.record_conv(window, layer, x, y);
        y
    }

    /// Records `layer`, whose window slides over `x` and yields `y`.
    fn record_conv(&self, window: Window, layer: Layer, x: Tensor<'g>, y: Tensor<'g>) {
        let input = image(x);
        self.record(Layer {
            strides: [window.stride; 2],
            padding: window.padding,
            input,
            output: image(y),
            counted_input: input.map(|side| side + window.counted_padding),
            ..layer
        });
        self.record_output(y);
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
        let sparse = self.sparse_kernel(&kernel.name);
        let kernel = self.param(kernel);
        let y = match sparse {
            Some(sparse) => sparse.matmul(x, kernel),
            None => self.compute(x).matmul(self.compute(kernel)),
        };
        let bias = self.bias(scope, naming, units);
        match sparse {
            Some(_) => add_bias(y, bias),
            None => y + bias,
        }
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

/// Height and width of images, blocked or not; 1 after a failed call.
fn image(x: Tensor<'_>) -> [usize; 2] {
    let dims = x.dims();
    match dims[..] {
        [.., height, width, _] => [height, width],
        _ => [1; 2],
    }
}

/// Size of the last axis; 1 after a failed call, which the graph reports.
fn channels(x: Tensor<'_>) -> usize {
    x.dims().last().copied().unwrap_or(1)
}
