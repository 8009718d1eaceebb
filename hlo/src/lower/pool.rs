//! Maxima under a window, and their gradient.
//!
//! XLA's CPU compiler asks of each element under each window whether it lies in the image: 3.6 % of ResNet-50's inference. For
//! the gradient it reduces the indices of all axes beside the elements, each written out first as large as the operand, and then
//! scatters element by element: in ResNet-50's step 2 to 4 % of the time. Hosts do either in one pass.

use crate::graph::{Graph, Node, Tensor};
use crate::op::{HostFunction, Op, Reducer, WindowDim};
use crate::shape::{DType, Shape};

/// The name under which a host offers programs the maxima of `f32` under a window ([`Tensor::max_pool`]) over images
/// `[batch, height, width, channels]`. A call says the dimensions of the images `x` and of the maxima `y`, and the `window`, its
/// `stride` and the padding `pad_low` before the image along height and width.
pub const MAXIMA: &str = "rigl_xla.maxima";

/// The name under which a host offers programs [`Tensor::select_and_scatter`] of `f32` over images. A call says what one of
/// [`MAXIMA`] does.
pub const MAXIMA_GRADIENT: &str = "rigl_xla.maxima_gradient";

/// What stands for `node`, if it is either.
pub(super) fn lowered<'g>(graph: &'g Graph, node: &Node) -> Option<Tensor<'g>> {
    let operand = |i: usize| graph.tensor(node.operands[i]);
    let (name, window, operands) = match &node.op {
        Op::ReduceWindow {
            window,
            reducer: Reducer::Max,
        } => (MAXIMA, window, vec![operand(0)]),
        Op::SelectAndScatter { window } => (MAXIMA_GRADIENT, window, vec![operand(0), operand(1)]),
        _ => return None,
    };
    let shapes: Vec<Shape> = operands.iter().map(Tensor::shape).collect();
    let (x, y) = (&shapes[0], shapes.get(1).unwrap_or(node.shape()));
    let [batch, height, width, channels] = window[..] else {
        return None;
    };
    let known = |w: &WindowDim| w.pad_low >= 0 && w.base_dilation == 1 && w.window_dilation == 1;
    let over_images = [batch, channels] == [WindowDim::unit(); 2] && known(&height) && known(&width);
    if !over_images || x.dtype != DType::F32 || y.elements() == 0 {
        return None;
    }
    let numbers = |of: &[usize]| of.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let attributes = vec![
        ("pad_low", vec![height.pad_low, width.pad_low]),
        ("stride", numbers(&[height.stride, width.stride])),
        ("window", numbers(&[height.size, width.size])),
        ("x", numbers(&x.dims)),
        ("y", numbers(&y.dims)),
    ];
    let called = graph.host_call(
        HostFunction::new(name, attributes),
        &operands,
        |_, operands| match *operands {
            [x, y] => vec![x.select_and_scatter(y, window.clone())],
            _ => vec![operands[0].reduce_window(window.clone(), Reducer::Max)],
        },
    );
    called.first().copied()
}
