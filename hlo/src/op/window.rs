//! Sliding windows: their geometry, reductions over them, and the gradient of max pooling.

use super::reduce::ensure_reducer;
use super::{Op, Reducer, Sweep, Vjp, ensure};
use crate::emit::Emitter;
use crate::graph::Tensor;
use crate::proto;
use crate::shape::{DType, Shape};

/// One axis of a window, as HLO defines it.
///
/// At position `o`, element `k` of the window is over operand index `o·stride + k·window_dilation − pad_low`, counted
/// after `base_dilation − 1` holes were inserted between neighbours. Holes and padding hold the start value of a
/// reduction, or the zero of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowDim {
    /// Number of window elements.
    pub size: usize,
    /// Distance between neighbouring positions.
    pub stride: usize,
    /// Padding before the operand; negative padding cuts elements off.
    pub pad_low: i64,
    /// Padding after the operand; negative padding cuts elements off.
    pub pad_high: i64,
    /// Distance between neighbouring operand elements; above 1 there are holes between them.
    pub base_dilation: usize,
    /// Distance between neighbouring window elements.
    pub window_dilation: usize,
}

impl WindowDim {
    /// The window of one element, which leaves an axis unchanged.
    pub const fn unit() -> Self {
        WindowDim {
            size: 1,
            stride: 1,
            pad_low: 0,
            pad_high: 0,
            base_dilation: 1,
            window_dilation: 1,
        }
    }

    /// Extent of the window in operand elements, holes included.
    pub fn span(&self) -> i64 {
        dilated(self.size, self.window_dilation)
    }

    /// Operand index (below `extent`) under element `k` of the window at `position`; `None` in holes and padding.
    pub fn source(&self, position: usize, k: usize, extent: usize) -> Option<usize> {
        let at = (position * self.stride + k * self.window_dilation) as i64 - self.pad_low;
        let index = usize::try_from(at).ok()?;
        (index % self.base_dilation == 0 && index / self.base_dilation < extent).then_some(index / self.base_dilation)
    }

    /// Number of window positions over `extent` elements.
    fn positions(&self, extent: usize) -> Result<usize, String> {
        let numbers = [
            ("size", self.size),
            ("stride", self.stride),
            ("base dilation", self.base_dilation),
            ("window dilation", self.window_dilation),
        ];
        for (what, number) in numbers {
            ensure(number > 0, || format!("the window's {what} is 0"))?;
        }
        let padded = dilated(extent, self.base_dilation) + self.pad_low + self.pad_high;
        ensure(padded >= 0, || format!("padding leaves {padded} elements"))?;
        Ok(match padded - self.span() {
            room @ 0.. => room as usize / self.stride + 1,
            _ => 0,
        })
    }

    /// The window of the transposed linear map, from `output` positions to `input` elements.
    pub(super) fn transposed(&self, input: usize, output: usize) -> Self {
        let pad_low = self.span() - 1 - self.pad_low;
        let reach = dilated(input, self.base_dilation) + self.span() - 1;
        WindowDim {
            size: self.size,
            stride: self.base_dilation,
            pad_low,
            pad_high: reach - dilated(output, self.stride) - pad_low,
            base_dilation: self.stride,
            window_dilation: self.window_dilation,
        }
    }

    fn is_dilated(&self) -> bool {
        self.base_dilation != 1 || self.window_dilation != 1
    }
}

/// Size of `extent` elements after dilation.
pub(super) fn dilated(extent: usize, dilation: usize) -> i64 {
    match extent {
        0 => 0,
        n => ((n - 1) * dilation + 1) as i64,
    }
}

/// Padding of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// TensorFlow's rule: `ceil(extent / stride)` positions. If the padding is odd, the extra element goes after.
    Same,
    /// No padding: only positions where the window is entirely inside.
    Valid,
    /// Elements before and after, for height and width.
    Explicit([(usize, usize); 2]),
}

impl Padding {
    /// The windows over height and width of images with these `extents`.
    pub fn windows(self, size: [usize; 2], strides: [usize; 2], extents: [usize; 2]) -> [WindowDim; 2] {
        [0, 1].map(|axis| {
            let (size, stride, extent) = (size[axis], strides[axis], extents[axis]);
            let (low, high) = match self {
                Padding::Same => {
                    let positions = extent.div_ceil(stride.max(1));
                    let covered = positions.saturating_sub(1) * stride + size;
                    let total = covered.saturating_sub(extent);
                    (total / 2, total - total / 2)
                }
                Padding::Valid => (0, 0),
                Padding::Explicit(edges) => edges[axis],
            };
            WindowDim {
                size,
                stride,
                pad_low: low as i64,
                pad_high: high as i64,
                ..WindowDim::unit()
            }
        })
    }
}

/// Window positions per axis of `dims`.
pub(super) fn infer_window(window: &[WindowDim], dims: &[usize]) -> Result<Vec<usize>, String> {
    ensure(window.len() == dims.len(), || {
        format!("a window of rank {} over {} axes", window.len(), dims.len())
    })?;
    let positions = |(axis, (w, &extent)): (usize, (&WindowDim, &usize))| {
        w.positions(extent).map_err(|e| format!("{e} on window axis {axis}"))
    };
    window.iter().zip(dims).enumerate().map(positions).collect()
}

pub(super) fn infer_reduce_window(
    window: &[WindowDim],
    reducer: Reducer,
    operands: &[&Shape],
) -> Result<Shape, String> {
    ensure_reducer(reducer, operands)?;
    Ok(operands[0].with_dims(infer_window(window, &operands[0].dims)?))
}

pub(super) fn infer_select_and_scatter(window: &[WindowDim], operands: &[&Shape]) -> Result<Shape, String> {
    let (x, source, init) = (operands[0], operands[1], operands[2]);
    ensure_reducer(Reducer::Max, &[x, init])?;
    ensure(!window.iter().any(WindowDim::is_dilated), || {
        "takes no dilated window".into()
    })?;
    let positions = x.with_dims(infer_window(window, &x.dims)?);
    ensure(*source == positions, || {
        format!("the source is {source}, the window has positions {positions}")
    })?;
    Ok(x.clone())
}

pub(crate) fn window_proto(window: &[WindowDim]) -> proto::Window {
    let dimension = |w: &WindowDim| proto::WindowDimension {
        size: w.size as i64,
        stride: w.stride as i64,
        padding_low: w.pad_low,
        padding_high: w.pad_high,
        window_dilation: w.window_dilation as i64,
        base_dilation: w.base_dilation as i64,
        window_reversal: false,
    };
    proto::Window {
        dimensions: window.iter().map(dimension).collect(),
    }
}

pub(super) fn emit_reduce_window(
    window: &[WindowDim],
    reducer: Reducer,
    dtype: DType,
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.window = Some(window_proto(window));
    out.called_computation_ids = vec![emitter.reducer(Some(reducer), dtype)];
}

pub(super) fn emit_select_and_scatter(
    window: &[WindowDim],
    dtype: DType,
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.window = Some(window_proto(window));
    out.called_computation_ids = vec![
        emitter.first_of_largest(dtype),
        emitter.reducer(Some(Reducer::Add), dtype),
    ];
}

/// The start value is the reducer's identity and gets no gradient.
pub(super) fn vjp_reduce_window<'g>(window: &[WindowDim], reducer: Reducer, at: &Sweep<'g>) -> Vjp<'g> {
    let (x, ct) = (at.operands[0], at.cotangent);
    let gradient = match reducer {
        Reducer::Add => spread(ct, window, &x.dims()),
        Reducer::And | Reducer::Or => return Vjp::Operands(vec![None, None]),
        Reducer::Max | Reducer::Min if window.iter().any(WindowDim::is_dilated) => {
            return Vjp::Stop("select-and-scatter takes no dilated window; take the extreme of shifted slices instead");
        }
        Reducer::Max => x.select_and_scatter(ct, window.to_vec()),
        Reducer::Min => (-x).select_and_scatter(ct, window.to_vec()),
    };
    Vjp::Operands(vec![Some(gradient), None])
}

/// Each element of `dims` gets the sum of the cotangents of the windows that cover it.
fn spread<'g>(ct: Tensor<'g>, window: &[WindowDim], dims: &[usize]) -> Tensor<'g> {
    let positions = ct.dims();
    let back: Vec<WindowDim> = (0..dims.len())
        .map(|axis| window[axis].transposed(dims[axis], positions[axis]))
        .collect();
    // Some platforms reject a windowed reduction with base dilation, so pad the holes explicitly.
    let low: Vec<i64> = back.iter().map(|w| w.pad_low).collect();
    let high: Vec<i64> = back.iter().map(|w| w.pad_high).collect();
    let holes: Vec<usize> = back.iter().map(|w| w.base_dilation - 1).collect();
    let plain = |w: WindowDim| WindowDim {
        pad_low: 0,
        pad_high: 0,
        base_dilation: 1,
        ..w
    };
    ct.pad(0.0, &low, &high, &holes)
        .reduce_window(back.into_iter().map(plain).collect(), Reducer::Add)
}

impl<'g> Tensor<'g> {
    /// Reduces the elements under each window position, starting from the reducer's identity. `window` has one entry
    /// per axis.
    #[track_caller]
    #[must_use]
    pub fn reduce_window(self, window: Vec<WindowDim>, reducer: Reducer) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        let identity = reducer.identity(self.graph(), self.dtype());
        self.graph()
            .apply(Op::ReduceWindow { window, reducer }, &[self, identity])
    }

    /// Zeros of this shape. Each element of `source`, one per window position, is added where the window has its
    /// maximum: the first in row-major order among equals, like TensorFlow's max pooling.
    #[track_caller]
    #[must_use]
    pub fn select_and_scatter(self, source: Tensor<'g>, window: Vec<WindowDim>) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        let zero = self.graph().number(self.dtype(), 0.0);
        self.graph()
            .apply(Op::SelectAndScatter { window }, &[self, source, zero])
    }

    /// Max pooling over height and width of `[n, h, w, c]`. The gradient goes to the first maximum of a window.
    #[track_caller]
    #[must_use]
    pub fn max_pool(self, size: [usize; 2], strides: [usize; 2], padding: Padding) -> Tensor<'g> {
        let window = self.image_window(size, strides, padding);
        self.reduce_window(window, Reducer::Max)
    }

    /// Average pooling over height and width of `[n, h, w, c]`. Padding does not count, as in TensorFlow; a window over
    /// padding alone yields NaN. For global pooling, [`Tensor::reduce_mean`] is cheaper.
    #[track_caller]
    #[must_use]
    pub fn avg_pool(self, size: [usize; 2], strides: [usize; 2], padding: Padding) -> Tensor<'g> {
        let window = self.image_window(size, strides, padding);
        let dims = self.dims();
        let sum = self.reduce_window(window.clone(), Reducer::Add);
        if sum.is_poison() {
            return sum;
        }
        let out = sum.dims();
        let counts = [1, 2].map(|axis| counts(&window[axis], dims[axis], out[axis]));
        let whole = counts.iter().zip(size).all(|(c, size)| c.iter().all(|&n| n == size));
        if whole {
            return sum / (size[0] * size[1]) as f64;
        }
        let cells = counts[0]
            .iter()
            .flat_map(|h| counts[1].iter().map(move |w| (h * w) as f64));
        let cells: Vec<f64> = cells.collect();
        let cells = self.graph().numbers(sum.dtype(), &out[1..3], &cells);
        sum / cells.broadcast(&out, &[1, 2])
    }

    /// The windows over `[n, h, w, c]`. The operator reports invalid ones.
    fn image_window(self, size: [usize; 2], strides: [usize; 2], padding: Padding) -> Vec<WindowDim> {
        let dims = self.dims();
        let extents = [1, 2].map(|axis| dims.get(axis).copied().unwrap_or(0));
        let [height, width] = padding.windows(size, strides, extents);
        vec![WindowDim::unit(), height, width, WindowDim::unit()]
    }
}

/// Number of elements under each position that are not padding.
fn counts(window: &WindowDim, extent: usize, positions: usize) -> Vec<usize> {
    let inside = |o| {
        (0..window.size)
            .filter(|&k| window.source(o, k, extent).is_some())
            .count()
    };
    (0..positions).map(inside).collect()
}
