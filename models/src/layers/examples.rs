//! Around dense layers that are computed from their connections alone: examples taken out of a set, and biases.

use super::sparse::LANES;
use hlo::{HostFunction, Tensor};

/// Host function: the rows of `u8[examples, values]` at `s32[rows]`, as `u8[rows', values]` with contiguous rows, that is, stored
/// as `[values][rows']`. Rows are as many as are taken, then zeros up to a multiple of [`LANES`].
pub const TAKE_EXAMPLES: &str = "rigl_xla.take_examples";

/// The rows `indices` (s32, `[rows]`) of `set` (u8, `[examples, values]`), as [`TAKE_EXAMPLES`]. Out-of-range indices are clamped.
#[track_caller]
pub fn take_examples<'g>(set: Tensor<'g>, indices: Tensor<'g>) -> Tensor<'g> {
    let host = HostFunction {
        layouts: vec![vec![1, 0], vec![0], vec![0, 1]],
        ..HostFunction::named(TAKE_EXAMPLES)
    };
    let called = set.graph().host_call(host, &[set, indices], |_, x| {
        let rows = x[1].shape().elements();
        let more = rows.next_multiple_of(LANES) - rows;
        vec![x[0].take_rows(x[1]).pad(0.0, &[0, 0], &[more as i64, 0], &[0, 0])]
    });
    called[0]
}

/// Host function: the sums over the examples of `f32[examples, units]` with contiguous examples.
pub const UNIT_SUMS: &str = "rigl_xla.unit_sums";

/// `x + bias`, for the result `[examples, units]` of a sparse layer. The gradient of the bias is summed as `x` lies in memory.
#[track_caller]
pub(crate) fn add_bias<'g>(x: Tensor<'g>, bias: Tensor<'g>) -> Tensor<'g> {
    (x + bias).with_vjp(&[x, bias], |_, cotangent| {
        let host = HostFunction {
            layouts: vec![vec![0, 1]],
            ..HostFunction::named(UNIT_SUMS)
        };
        let graph = cotangent.graph();
        let sums = graph.host_call(host, &[cotangent], |_, x| vec![x[0].reduce_sum(&[0])]);
        vec![Some(cotangent), Some(sums[0])]
    })
}
