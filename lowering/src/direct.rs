//! Convolutions in the terms of a library of hand-tuned kernels, and the host call that replaces one in a program.

use hlo::{ConvDims, HostFunction, Op, WindowDim};

/// Name of the host function that computes a [`DirectConvolution`].
pub const DIRECT_CONVOLUTION: &str = "rigl_xla.convolution";

/// Name of the host function that packs a kernel for it ([`DirectConvolution::packed`]).
pub const PACK_KERNEL: &str = "rigl_xla.kernel";

/// Libraries pad the output channels of a packed kernel to a multiple of these.
const FILTER_MULTIPLES: [usize; 2] = [48, 64];

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
pub struct StridedLayout {
    /// Size of each axis.
    pub sizes: Vec<usize>,
    /// Stride of each axis, in elements.
    pub strides: Vec<usize>,
}

/// A convolution operator as a pass of a convolution `y = x * w`, in the terms of convolution libraries. An operator
/// that [`hlo::grad`] emitted as a gradient maps back to that gradient's pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirectConvolution {
    /// The pass.
    pub pass: ConvPass,
    /// `[examples, channels, spatial…]` of `x` or its gradient.
    pub x: StridedLayout,
    /// `[groups, output channels per group, input channels per group, window…]` of `w` or its gradient.
    pub w: StridedLayout,
    /// `[examples, channels, spatial…]` of `y` or its gradient.
    pub y: StridedLayout,
    /// Stride per spatial axis.
    pub stride: Vec<usize>,
    /// Window dilation per spatial axis.
    pub dilation: Vec<usize>,
    /// Padding before `x`, per spatial axis.
    pub pad_low: Vec<usize>,
    /// Padding after `x`, per spatial axis.
    pub pad_high: Vec<usize>,
    /// Whether `w` was packed by [`PACK_KERNEL`]. Its elements may then be in the library's own order, in an array of
    /// [`DirectConvolution::packed_len`] numbers, and `w` describes the layout before packing.
    pub packed: bool,
}

impl DirectConvolution {
    /// The description of a convolution operator on operands and a result of these dimensions. `None` for any other
    /// operator, and if libraries have no such pass: negative padding, batch groups in a forward pass, or a flipped
    /// kernel with a larger window whose spatial axes are not outermost.
    pub fn from_op(op: &Op, [lhs, rhs, out]: [&[usize]; 3]) -> Option<Self> {
        let Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } = op
        else {
            return None;
        };
        if [lhs, rhs, out].iter().any(|dims| dims.contains(&0)) {
            return None;
        }
        let operator = Operator {
            window,
            dims,
            feature_groups: *feature_groups,
            batch_groups: *batch_groups,
            lhs,
            rhs,
            out,
        };
        let elements: usize = window.iter().map(|w| w.size).product();
        let positions: usize = dims.output_spatial.iter().map(|&axis| out[axis]).product();
        let strided = window.iter().any(|w| w.stride != 1);
        let has_holes = window.iter().any(|w| w.base_dilation != 1);
        match (has_holes, strided) {
            (false, false) if elements > positions => operator.kernel_gradient(),
            (false, _) => operator.forward(),
            (true, false) => operator.input_gradient(),
            (true, true) => None,
        }
    }

    /// Sets the padding after `x` that gives `y` its size; `None` if no padding does.
    fn with_high_padding(mut self) -> Option<Self> {
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
    pub fn packed_len(&self) -> usize {
        let filters: usize = self.w.sizes[..2].iter().product();
        let filled = FILTER_MULTIPLES.map(|multiple| filters.next_multiple_of(multiple));
        self.kernel_elements() / filters * filled.into_iter().max().unwrap_or(filters)
    }

    /// The convolution of a host call of [`DIRECT_CONVOLUTION`]; `None` for any other operator.
    pub fn from_call(op: &Op) -> Option<Self> {
        let Op::Call { host: Some(host), .. } = op else {
            return None;
        };
        let attribute = |name: &str| {
            let mut attributes = host.attributes.iter();
            attributes
                .find(|(known, _)| *known == name)
                .map(|(_, list)| list.clone())
        };
        match host.name {
            DIRECT_CONVOLUTION => Self::from_attributes(attribute),
            _ => None,
        }
    }

    /// A host function that receives the full description as attributes.
    pub(crate) fn host_function(&self, name: &'static str) -> HostFunction {
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
    pub fn from_attributes(attribute: impl Fn(&str) -> Option<Vec<i64>>) -> Option<Self> {
        let list = |name: &str| -> Option<Vec<usize>> {
            attribute(name)?.into_iter().map(|n| usize::try_from(n).ok()).collect()
        };
        let array = |sizes: &str, strides: &str| -> Option<StridedLayout> {
            let (sizes, strides) = (list(sizes)?, list(strides)?);
            (sizes.len() == strides.len()).then_some(StridedLayout { sizes, strides })
        };
        let passes = [ConvPass::Forward, ConvPass::Input, ConvPass::Kernel];
        let convolution = DirectConvolution {
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
        let spatial = convolution.stride.len();
        let lists = [&convolution.dilation, &convolution.pad_low, &convolution.pad_high];
        let fits = lists.iter().all(|list| list.len() == spatial)
            && convolution.x.sizes.len() == spatial + 2
            && convolution.y.sizes.len() == spatial + 2
            && convolution.w.sizes.len() == spatial + 3;
        fits.then_some(convolution)
    }
}

/// A convolution operator with the dimensions of its operands and result.
struct Operator<'a> {
    window: &'a [WindowDim],
    dims: &'a ConvDims,
    feature_groups: usize,
    batch_groups: usize,
    lhs: &'a [usize],
    rhs: &'a [usize],
    out: &'a [usize],
}

impl Operator<'_> {
    fn per_axis(&self, value: fn(&WindowDim) -> usize) -> Vec<usize> {
        self.window.iter().map(value).collect()
    }

    /// Padding per spatial axis; `None` if any is negative.
    fn padding(&self, value: impl Fn(&WindowDim) -> i64) -> Option<Vec<usize>> {
        self.window.iter().map(|w| usize::try_from(value(w)).ok()).collect()
    }

    fn forward(&self) -> Option<DirectConvolution> {
        let dims = self.dims;
        let kernel = strided_layout(self.rhs, [dims.kernel_output, dims.kernel_input], &dims.kernel_spatial);
        (self.batch_groups == 1).then_some(DirectConvolution {
            pass: ConvPass::Forward,
            x: strided_layout(self.lhs, [dims.input_batch, dims.input_feature], &dims.input_spatial),
            w: grouped(kernel, 0, self.feature_groups),
            y: strided_layout(self.out, [dims.output_batch, dims.output_feature], &dims.output_spatial),
            stride: self.per_axis(|w| w.stride),
            dilation: self.per_axis(|w| w.window_dilation),
            pad_low: self.padding(|w| w.pad_low)?,
            pad_high: self.padding(|w| w.pad_high)?,
            packed: false,
        })
    }

    fn input_gradient(&self) -> Option<DirectConvolution> {
        let dims = self.dims;
        let one_by_one = self.window.iter().all(|w| w.size == 1);
        let outermost = dims.kernel_spatial.iter().copied().eq(0..self.window.len());
        if self.batch_groups != 1 || !(one_by_one || outermost) {
            return None;
        }
        let kernel = strided_layout(self.rhs, [dims.kernel_input, dims.kernel_output], &dims.kernel_spatial);
        DirectConvolution {
            pass: ConvPass::Input,
            x: strided_layout(self.out, [dims.output_batch, dims.output_feature], &dims.output_spatial),
            w: grouped(kernel, 1, self.feature_groups),
            y: strided_layout(self.lhs, [dims.input_batch, dims.input_feature], &dims.input_spatial),
            stride: self.per_axis(|w| w.base_dilation),
            dilation: self.per_axis(|w| w.window_dilation),
            pad_low: self.padding(|w| w.span() - 1 - w.pad_low)?,
            pad_high: vec![],
            packed: false,
        }
        .with_high_padding()
    }

    fn kernel_gradient(&self) -> Option<DirectConvolution> {
        let dims = self.dims;
        if self.feature_groups != 1 {
            return None;
        }
        let gradient = strided_layout(self.out, [dims.output_feature, dims.output_batch], &dims.output_spatial);
        DirectConvolution {
            pass: ConvPass::Kernel,
            x: strided_layout(self.lhs, [dims.input_feature, dims.input_batch], &dims.input_spatial),
            w: grouped(gradient, 0, self.batch_groups),
            y: strided_layout(self.rhs, [dims.kernel_input, dims.kernel_output], &dims.kernel_spatial),
            stride: self.per_axis(|w| w.window_dilation),
            dilation: self.per_axis(|w| w.stride),
            pad_low: self.padding(|w| w.pad_low)?,
            pad_high: vec![],
            packed: false,
        }
        .with_high_padding()
    }
}

/// Row-major strides of `dims`.
pub(crate) fn row_major(dims: &[usize]) -> Vec<usize> {
    (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect()
}

/// The layout of a row-major array with its axes in role order: the two `roles`, then the spatial axes.
fn strided_layout(dims: &[usize], roles: [usize; 2], spatial: &[usize]) -> StridedLayout {
    let axes = [&roles[..], spatial].concat();
    let strides = row_major(dims);
    StridedLayout {
        sizes: axes.iter().map(|&axis| dims[axis]).collect(),
        strides: axes.iter().map(|&axis| strides[axis]).collect(),
    }
}

/// Splits a kernel `[output channels, input channels, window…]` into groups along `axis`, the operator's output
/// channels.
fn grouped(mut kernel: StridedLayout, axis: usize, groups: usize) -> StridedLayout {
    kernel.sizes[axis] /= groups;
    let stride = kernel.sizes[axis] * kernel.strides[axis];
    kernel.sizes.insert(0, groups);
    kernel.strides.insert(0, stride);
    kernel
}
