//! Convolutions in the terms of a library of hand-tuned kernels, and the host call that replaces one in a program.

use super::Op;
use super::conv::ConvDims;
use super::host::HostFunction;
use super::window::WindowDim;

/// Name of the host function that computes a [`DirectConvolution`].
pub const DIRECT_CONVOLUTION: &str = "rigl_xla.convolution";

/// Name of the host function that packs a kernel for it ([`DirectConvolution::packed`]).
pub const PACK_KERNEL: &str = "rigl_xla.kernel";

/// Libraries pad the output channels of a packed kernel to a multiple of these.
const FILLED_UP: [usize; 2] = [48, 64];

/// The pass of a convolution `y = x * w` that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvPass {
    /// `y`, from `x` and `w`.
    Forward,
    /// The gradient of `x`, from that of `y` and the flipped `w`.
    Input,
    /// The gradient of `w`, from `x` and that of `y`.
    Kernel,
}

/// Sizes and strides of an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    /// Size of each axis.
    pub sizes: Vec<usize>,
    /// Stride of each axis, in elements.
    pub strides: Vec<usize>,
}

/// A convolution operator as a pass of a convolution `y = x * w`, in the terms of convolution libraries. An operator
/// that [`crate::grad`] emitted as a gradient maps back to that gradient's pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirectConvolution {
    /// The pass.
    pub pass: ConvPass,
    /// `[examples, channels, spatial…]` of `x` or its gradient.
    pub x: Placed,
    /// `[groups, output channels per group, input channels per group, window…]` of `w` or its gradient.
    pub w: Placed,
    /// `[examples, channels, spatial…]` of `y` or its gradient.
    pub y: Placed,
    /// Stride per spatial axis.
    pub stride: Vec<usize>,
    /// Window dilation per spatial axis.
    pub dilation: Vec<usize>,
    /// Padding before `x`, per spatial axis.
    pub pad_low: Vec<usize>,
    /// Padding after `x`, per spatial axis.
    pub pad_high: Vec<usize>,
    /// Whether `w` was packed by [`PACK_KERNEL`]. Its elements may then be in the library's own order, in an array of
    /// [`DirectConvolution::room`] numbers, and `w` describes the layout before packing.
    pub packed: bool,
}

impl DirectConvolution {
    /// Maps a convolution operator on operands and a result of these dimensions to a pass. `None` if libraries have no
    /// such pass: negative padding, batch groups in a forward pass, or a flipped kernel with a larger window whose
    /// spatial axes are not outermost.
    pub fn of(
        window: &[WindowDim],
        dims: &ConvDims,
        [feature_groups, batch_groups]: [usize; 2],
        [lhs, rhs, out]: [&[usize]; 3],
    ) -> Option<Self> {
        if [lhs, rhs, out].iter().any(|dims| dims.contains(&0)) {
            return None;
        }
        let elements: usize = window.iter().map(|w| w.size).product();
        let positions: usize = dims.output_spatial.iter().map(|&axis| out[axis]).product();
        let moves_by_one = window.iter().all(|w| w.stride == 1);
        let no_holes = window.iter().all(|w| w.base_dilation == 1);
        let [low, high] = [|w: &WindowDim| w.pad_low, |w: &WindowDim| w.pad_high].map(|of| {
            let sizes = window.iter().map(|w| usize::try_from(of(w)).ok());
            sizes.collect::<Option<Vec<usize>>>()
        });
        let of = |part: fn(&WindowDim) -> usize| window.iter().map(part).collect::<Vec<usize>>();

        if no_holes && moves_by_one && elements > positions {
            let gradient = placed(out, [dims.output_feature, dims.output_batch], &dims.output_spatial);
            let whole = DirectConvolution {
                pass: ConvPass::Kernel,
                x: placed(lhs, [dims.input_feature, dims.input_batch], &dims.input_spatial),
                w: grouped(gradient, 0, batch_groups),
                y: placed(rhs, [dims.kernel_input, dims.kernel_output], &dims.kernel_spatial),
                stride: of(|w| w.window_dilation),
                dilation: of(|w| w.stride),
                pad_low: low?,
                pad_high: vec![],
                packed: false,
            };
            return (feature_groups == 1).then(|| whole.padded()).flatten();
        }
        if no_holes {
            let kernel = placed(rhs, [dims.kernel_output, dims.kernel_input], &dims.kernel_spatial);
            return (batch_groups == 1).then_some(DirectConvolution {
                pass: ConvPass::Forward,
                x: placed(lhs, [dims.input_batch, dims.input_feature], &dims.input_spatial),
                w: grouped(kernel, 0, feature_groups),
                y: placed(out, [dims.output_batch, dims.output_feature], &dims.output_spatial),
                stride: of(|w| w.stride),
                dilation: of(|w| w.window_dilation),
                pad_low: low?,
                pad_high: high?,
                packed: false,
            });
        }
        let outermost = elements == 1 || dims.kernel_spatial.iter().copied().eq(0..window.len());
        if !moves_by_one || !outermost || batch_groups != 1 {
            return None;
        }
        let kernel = placed(rhs, [dims.kernel_input, dims.kernel_output], &dims.kernel_spatial);
        let before = window.iter().map(|w| usize::try_from(w.span() - 1 - w.pad_low).ok());
        DirectConvolution {
            pass: ConvPass::Input,
            x: placed(out, [dims.output_batch, dims.output_feature], &dims.output_spatial),
            w: grouped(kernel, 1, feature_groups),
            y: placed(lhs, [dims.input_batch, dims.input_feature], &dims.input_spatial),
            stride: of(|w| w.base_dilation),
            dilation: of(|w| w.window_dilation),
            pad_low: before.collect::<Option<_>>()?,
            pad_high: vec![],
            packed: false,
        }
        .padded()
    }

    /// Sets the padding after `x` that gives `y` its size; `None` if no padding does.
    fn padded(mut self) -> Option<Self> {
        let high = (0..self.stride.len()).map(|axis| {
            let (x, y) = (self.x.sizes[axis + 2], self.y.sizes[axis + 2]);
            let span = (self.w.sizes[axis + 3] - 1) * self.dilation[axis] + 1;
            let needed = (y - 1) * self.stride[axis] + span;
            let high = needed.saturating_sub(x + self.pad_low[axis]);
            let room = (x + self.pad_low[axis] + high).checked_sub(span)?;
            (room / self.stride[axis] + 1 == y).then_some(high)
        });
        self.pad_high = high.collect::<Option<_>>()?;
        Some(self)
    }

    /// Number of kernel elements.
    pub fn kernel_elements(&self) -> usize {
        self.w.sizes.iter().product()
    }

    /// Number of elements of a packed kernel, including the padding that libraries commonly add. A library that needs
    /// more cannot store its layout, and packs at every call.
    pub fn room(&self) -> usize {
        let filters: usize = self.w.sizes[..2].iter().product();
        let filled = FILLED_UP.map(|multiple| filters.next_multiple_of(multiple));
        self.kernel_elements() / filters * filled.into_iter().max().unwrap_or(filters)
    }

    /// The convolution of a host call of [`DIRECT_CONVOLUTION`]; `None` for any other operator.
    pub fn called(op: &Op) -> Option<Self> {
        let Op::Call { host: Some(host), .. } = op else {
            return None;
        };
        let named = |name: &str| {
            host.attributes
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, list)| list.clone())
        };
        (host.name == DIRECT_CONVOLUTION)
            .then(|| Self::from_attributes(named))
            .flatten()
    }

    /// A host function that receives the full description as attributes.
    pub(crate) fn host(&self, name: &'static str) -> HostFunction {
        let signed = |list: &[usize]| list.iter().map(|&n| n as i64).collect();
        let attributes = vec![
            ("dilation", signed(&self.dilation)),
            ("packed", vec![i64::from(self.packed)]),
            ("pad_high", signed(&self.pad_high)),
            ("pad_low", signed(&self.pad_low)),
            ("pass", vec![self.pass as i64]),
            ("stride", signed(&self.stride)),
            ("w_sizes", signed(&self.w.sizes)),
            ("w_strides", signed(&self.w.strides)),
            ("x_sizes", signed(&self.x.sizes)),
            ("x_strides", signed(&self.x.strides)),
            ("y_sizes", signed(&self.y.sizes)),
            ("y_strides", signed(&self.y.strides)),
        ];
        HostFunction::new(name, attributes)
    }

    /// Parses the attributes of a call; `None` if one is missing or invalid.
    pub fn from_attributes(named: impl Fn(&str) -> Option<Vec<i64>>) -> Option<Self> {
        let list =
            |name: &str| -> Option<Vec<usize>> { named(name)?.into_iter().map(|n| usize::try_from(n).ok()).collect() };
        let array = |sizes: &str, strides: &str| -> Option<Placed> {
            let (sizes, strides) = (list(sizes)?, list(strides)?);
            (sizes.len() == strides.len()).then_some(Placed { sizes, strides })
        };
        let passes = [ConvPass::Forward, ConvPass::Input, ConvPass::Kernel];
        let found = DirectConvolution {
            pass: *passes.get(*list("pass")?.first()?)?,
            x: array("x_sizes", "x_strides")?,
            w: array("w_sizes", "w_strides")?,
            y: array("y_sizes", "y_strides")?,
            stride: list("stride")?,
            dilation: list("dilation")?,
            pad_low: list("pad_low")?,
            pad_high: list("pad_high")?,
            packed: *list("packed")?.first()? == 1,
        };
        let spatial = found.stride.len();
        let lists = [&found.dilation, &found.pad_low, &found.pad_high];
        let fits = lists.iter().all(|list| list.len() == spatial)
            && found.x.sizes.len() == spatial + 2
            && found.y.sizes.len() == spatial + 2
            && found.w.sizes.len() == spatial + 3;
        fits.then_some(found)
    }
}

/// Row-major strides of `dims`.
fn row_major(dims: &[usize]) -> Vec<usize> {
    (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect()
}

/// The layout of a row-major array with its axes in role order: the two `roles`, then the spatial axes.
fn placed(dims: &[usize], roles: [usize; 2], spatial: &[usize]) -> Placed {
    let axes = [&roles[..], spatial].concat();
    let strides = row_major(dims);
    Placed {
        sizes: axes.iter().map(|&axis| dims[axis]).collect(),
        strides: axes.iter().map(|&axis| strides[axis]).collect(),
    }
}

/// Splits a kernel `[output channels, input channels, window…]` into groups along `axis`, the operator's output
/// channels.
fn grouped(mut kernel: Placed, axis: usize, groups: usize) -> Placed {
    kernel.sizes[axis] /= groups;
    let stride = kernel.sizes[axis] * kernel.strides[axis];
    kernel.sizes.insert(0, groups);
    kernel.strides.insert(0, stride);
    kernel
}

impl Op {
    /// [`DirectConvolution::of`] this operator, if it is a convolution, on operands and a result of these dimensions.
    pub fn direct_convolution(&self, arrays: [&[usize]; 3]) -> Option<DirectConvolution> {
        match self {
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups,
                ..
            } => DirectConvolution::of(window, dims, [*feature_groups, *batch_groups], arrays),
            _ => None,
        }
    }
}
