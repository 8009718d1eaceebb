//! Convolutions. Their gradients are convolutions too, with axis roles exchanged and strides and dilations swapped, so
//! only the kernel is rearranged in memory.

use super::window::{dilated, infer_window, window_proto};
use super::{Op, Padding, Sweep, Vjp, WindowDim, ensure, ensure_axes};
use crate::graph::Tensor;
use crate::proto;
use crate::shape::Shape;

/// Axis roles of a convolution. The spatial axes of input, kernel and output correspond by position, and to the
/// window's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvDims {
    /// Batch axis of the input.
    pub input_batch: usize,
    /// Channel axis of the input.
    pub input_feature: usize,
    /// Spatial axes of the input.
    pub input_spatial: Vec<usize>,
    /// Input-channel axis of the kernel (the channels of one group).
    pub kernel_input: usize,
    /// Output-channel axis of the kernel.
    pub kernel_output: usize,
    /// Spatial axes of the kernel.
    pub kernel_spatial: Vec<usize>,
    /// Batch axis of the output.
    pub output_batch: usize,
    /// Channel axis of the output.
    pub output_feature: usize,
    /// Spatial axes of the output.
    pub output_spatial: Vec<usize>,
}

impl ConvDims {
    /// Input `[n, h, w, c]`, kernel `[h, w, in, out]`, output `[n, h, w, c]`.
    pub fn nhwc() -> Self {
        Self::channels_last(2)
    }

    /// Input `[n, spatial…, c]`, kernel `[window…, in, out]`, output `[n, spatial…, c]`, with `spatial` spatial axes.
    pub fn channels_last(spatial: usize) -> Self {
        let within_ends: Vec<usize> = (1..=spatial).collect();
        ConvDims {
            input_batch: 0,
            input_feature: spatial + 1,
            input_spatial: within_ends.clone(),
            kernel_input: spatial,
            kernel_output: spatial + 1,
            kernel_spatial: (0..spatial).collect(),
            output_batch: 0,
            output_feature: spatial + 1,
            output_spatial: within_ends,
        }
    }

    pub(crate) fn to_proto(&self) -> proto::ConvolutionDimensionNumbers {
        let signed = |axes: &[usize]| axes.iter().map(|&a| a as i64).collect();
        proto::ConvolutionDimensionNumbers {
            kernel_input_feature_dimension: self.kernel_input as i64,
            kernel_output_feature_dimension: self.kernel_output as i64,
            kernel_spatial_dimensions: signed(&self.kernel_spatial),
            input_batch_dimension: self.input_batch as i64,
            input_feature_dimension: self.input_feature as i64,
            output_batch_dimension: self.output_batch as i64,
            output_feature_dimension: self.output_feature as i64,
            input_spatial_dimensions: signed(&self.input_spatial),
            output_spatial_dimensions: signed(&self.output_spatial),
        }
    }

    /// Roles in the input gradient: the cotangent convolved with the kernel.
    fn for_input(&self) -> Self {
        ConvDims {
            input_batch: self.output_batch,
            input_feature: self.output_feature,
            input_spatial: self.output_spatial.clone(),
            kernel_input: self.kernel_output,
            kernel_output: self.kernel_input,
            kernel_spatial: self.kernel_spatial.clone(),
            output_batch: self.input_batch,
            output_feature: self.input_feature,
            output_spatial: self.input_spatial.clone(),
        }
    }

    /// Roles in the kernel gradient: the input, with batch and channel axes exchanged, convolved with the cotangent.
    fn for_kernel(&self) -> Self {
        ConvDims {
            input_batch: self.input_feature,
            input_feature: self.input_batch,
            input_spatial: self.input_spatial.clone(),
            kernel_input: self.output_batch,
            kernel_output: self.output_feature,
            kernel_spatial: self.output_spatial.clone(),
            output_batch: self.kernel_input,
            output_feature: self.kernel_output,
            output_spatial: self.kernel_spatial.clone(),
        }
    }
}

/// The elements of `dims` at `axes`.
fn take(dims: &[usize], axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&a| dims[a]).collect()
}

/// Checks that the roles of one array name each of its axes once.
fn ensure_roles(what: &str, shape: &Shape, axes: [usize; 2], spatial: &[usize]) -> Result<(), String> {
    let axes = [&axes[..], spatial].concat();
    ensure(axes.len() == shape.rank(), || {
        format!("{} axis roles for the {what} {shape}", axes.len())
    })?;
    ensure_axes(&axes, shape).map_err(|e| format!("{e}, in the roles of the {what}"))
}

pub(super) fn infer_convolution(
    window: &[WindowDim],
    d: &ConvDims,
    [feature_groups, batch_groups]: [usize; 2],
    operands: &[&Shape],
) -> Result<Shape, String> {
    let (x, kernel) = (operands[0], operands[1]);
    ensure(x.dtype == kernel.dtype, || {
        format!("element types {} and {} differ", x.dtype, kernel.dtype)
    })?;
    ensure(x.dtype.is_float(), || {
        format!("takes floating-point numbers, not {}", x.dtype)
    })?;
    ensure_roles("input", x, [d.input_batch, d.input_feature], &d.input_spatial)?;
    ensure_roles("kernel", kernel, [d.kernel_input, d.kernel_output], &d.kernel_spatial)?;
    let own = take(&kernel.dims, &d.kernel_spatial);
    let sizes: Vec<usize> = window.iter().map(|w| w.size).collect();
    ensure(sizes == own, || {
        format!("a window of sizes {sizes:?}, the kernel has {own:?}")
    })?;
    let positions = infer_window(window, &take(&x.dims, &d.input_spatial))?;
    let (batch, channels) = (x.dims[d.input_batch], x.dims[d.input_feature]);
    let (inner, outer) = (kernel.dims[d.kernel_input], kernel.dims[d.kernel_output]);
    ensure_groups(feature_groups, batch_groups, batch, outer)?;
    ensure(inner * feature_groups == channels, || {
        format!("{channels} input channels, expected {feature_groups} × {inner} by feature groups and kernel")
    })?;
    let mut out = x.with_dims(vec![0; positions.len() + 2]);
    ensure_roles("output", &out, [d.output_batch, d.output_feature], &d.output_spatial)?;
    out.dims[d.output_batch] = batch / batch_groups;
    out.dims[d.output_feature] = outer;
    assert_eq!(d.output_spatial.len(), positions.len());
    for (&axis, positions) in d.output_spatial.iter().zip(positions) {
        out.dims[axis] = positions;
    }
    Ok(out)
}

fn ensure_groups(feature_groups: usize, batch_groups: usize, batch: usize, outer: usize) -> Result<(), String> {
    ensure(feature_groups > 0 && batch_groups > 0, || "0 groups".into())?;
    ensure(feature_groups == 1 || batch_groups == 1, || {
        format!("{feature_groups} feature groups and {batch_groups} batch groups at once")
    })?;
    for (what, count, groups) in [
        ("output channels", outer, feature_groups.max(batch_groups)),
        ("examples", batch, batch_groups),
    ] {
        ensure(count % groups == 0, || format!("{count} {what} in {groups} groups"))?;
    }
    Ok(())
}

pub(super) fn emit_convolution(
    window: &[WindowDim],
    dims: &ConvDims,
    [feature_groups, batch_groups]: [usize; 2],
    out: &mut proto::Instruction,
) {
    out.window = Some(window_proto(window));
    out.convolution_dimension_numbers = Some(dims.to_proto());
    out.feature_group_count = feature_groups as i64;
    out.batch_group_count = batch_groups as i64;
}

pub(super) fn vjp_convolution<'g>(
    window: &[WindowDim],
    d: &ConvDims,
    feature_groups: usize,
    batch_groups: usize,
    at: &Sweep<'g>,
) -> Vjp<'g> {
    let (x, kernel, ct) = (at.operands[0], at.operands[1], at.cotangent);
    if ct.shape().elements() == 0 {
        return Vjp::Operands(vec![Some(x.zeros_like()), Some(kernel.zeros_like())]);
    }
    let input = take(&x.dims(), &d.input_spatial);
    let output = take(&ct.dims(), &d.output_spatial);
    let extents = || window.iter().zip(input.iter().zip(&output));

    let back = extents().map(|(w, (&i, &o))| w.transposed(i, o)).collect();
    // Groups of output channels become groups of input channels, or of examples.
    let groups = feature_groups.max(batch_groups);
    let flipped = regroup(flipped(kernel, d), groups, d.kernel_output, d.kernel_input);
    let gx = ct.convolution(flipped, back, d.for_input(), groups, 1);
    let gx = regroup(gx, batch_groups, d.input_feature, d.input_batch);

    let over = extents().map(|(w, (&i, &o))| over_cotangent(w, i, o)).collect();
    let gk = x.convolution(ct, over, d.for_kernel(), batch_groups, feature_groups);
    Vjp::Operands(vec![Some(gx), Some(gk)])
}

/// The kernel reversed along its spatial axes.
fn flipped<'g>(kernel: Tensor<'g>, d: &ConvDims) -> Tensor<'g> {
    let dims = kernel.dims();
    let axes: Vec<usize> = d
        .kernel_spatial
        .iter()
        .copied()
        .filter(|&axis| dims[axis] > 1)
        .collect();
    match axes.is_empty() {
        true => kernel,
        false => kernel.reverse(&axes),
    }
}

/// The window of the kernel gradient: it has the `output` elements of the cotangent, and one position per kernel
/// element.
fn over_cotangent(w: &WindowDim, input: usize, output: usize) -> WindowDim {
    let reach = w.span() - 1 + dilated(output, w.stride);
    WindowDim {
        size: output,
        stride: w.window_dilation,
        pad_low: w.pad_low,
        pad_high: reach - dilated(input, w.base_dilation) - w.pad_low,
        base_dilation: w.base_dilation,
        window_dilation: w.stride,
    }
}

/// Moves `groups` equal parts of axis `from` to axis `to`, which then enumerates the parts in order.
fn regroup<'g>(x: Tensor<'g>, groups: usize, from: usize, to: usize) -> Tensor<'g> {
    if groups == 1 {
        return x;
    }
    let (mut split, mut merged) = (x.dims(), x.dims());
    split[from] /= groups;
    split.insert(from, groups);
    merged[from] /= groups;
    merged[to] *= groups;
    let mut order: Vec<usize> = (0..split.len()).filter(|&axis| axis != from).collect();
    order.insert(to, from);
    // Exchanging axes of size 1 moves nothing in memory, as with depthwise kernels.
    let moves = !order.iter().filter(|&&axis| split[axis] != 1).is_sorted();
    let parts = if moves { x.reshape(&split).transpose(&order) } else { x };
    parts.reshape(&merged)
}

impl<'g> Tensor<'g> {
    /// Convolution as HLO and TensorFlow define it (a cross-correlation: the kernel is not flipped).
    ///
    /// `feature_groups` splits the input channels and the kernel's output channels into that many parts; each output
    /// part reads its input part only. `batch_groups` splits the input's examples in the same way.
    #[track_caller]
    #[must_use]
    pub fn convolution(
        self,
        kernel: Tensor<'g>,
        window: Vec<WindowDim>,
        dims: ConvDims,
        feature_groups: usize,
        batch_groups: usize,
    ) -> Tensor<'g> {
        let op = Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        };
        self.graph().apply(op, &[self, kernel])
    }

    /// Convolution of `[n, h, w, c]` with a kernel `[kh, kw, c / groups, out]` to `[n, h', w', out]`. For a depthwise
    /// convolution, `groups = c`.
    #[track_caller]
    #[must_use]
    pub fn conv2d(self, kernel: Tensor<'g>, strides: [usize; 2], padding: Padding, groups: usize) -> Tensor<'g> {
        let (dims, size) = (self.dims(), kernel.dims());
        let get = |dims: &[usize], axis: usize| dims.get(axis).copied().unwrap_or(0);
        let size = [0, 1].map(|axis| get(&size, axis));
        let extents = [1, 2].map(|axis| get(&dims, axis));
        let window = padding.windows(size, strides, extents);
        self.convolution(kernel, window.to_vec(), ConvDims::nhwc(), groups, 1)
    }
}
