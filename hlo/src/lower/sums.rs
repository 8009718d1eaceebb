//! Sums over all axes but the last, as batch normalisation and gradients of depthwise kernels have them, and sums of
//! products over all axes, as weight decay's loss has them.

use crate::graph::{Graph, Node, Tensor};
use crate::op::{Binary, Op, Reducer};
use crate::shape::DType;

/// Most parts that are added at once. The compiler writes out what makes the summands, once for each, and gives up on
/// fusing them at 15.
const PARTS: usize = 8;

/// Fewest elements for which it pays.
const WORTH: usize = 1 << 14;

/// Rows into which arrays are cut whose products are summed. XLA's CPU compiler leaves a matrix product to its library when
/// the result is aligned, as 64 bytes are; of a smaller one it makes code, anew for each product.
const ROWS: usize = 4;

/// What stands for `node`, if it is such a sum.
pub(super) fn lowered<'g>(graph: &'g Graph, node: &Node) -> Option<Tensor<'g>> {
    let Op::Reduce { axes, reducer } = &node.op else {
        return None;
    };
    let x = graph.tensor(node.operands[0]);
    let shape = x.shape();
    if *reducer != Reducer::Add || shape.dtype != DType::F32 || shape.elements() < WORTH {
        return None;
    }
    // The start value is the identity, which changes nothing, in all graphs that are built here.
    if axes.len() == shape.rank() {
        return product_sum(graph, x);
    }
    let leading = shape.rank() > 1 && axes.iter().copied().eq(0..shape.rank() - 1);
    leading.then(|| column_sums(x))
}

/// `Σ a b`, if `product` is a product of arrays that can be cut into [`ROWS`]. XLA's CPU compiler writes all products to
/// memory and sums windows of them, each of its own code; a matrix product needs no code. The sum is that of its diagonal.
fn product_sum<'g>(graph: &'g Graph, product: Tensor<'g>) -> Option<Tensor<'g>> {
    let node = graph.node(product.id());
    let elements = product.shape().elements();
    if !matches!(node.op, Op::Binary(Binary::Multiply)) || !elements.is_multiple_of(ROWS) {
        return None;
    }
    let [a, b] = [0, 1].map(|i| graph.tensor(node.operands[i]).reshape(&[ROWS, elements / ROWS]));
    let products = a.matmul(b.transpose(&[1, 0]));
    let diagonal = |i: usize| products.slice(&[i, i], &[i + 1, i + 1]).reshape(&[]);
    Some((1..ROWS).map(diagonal).fold(diagonal(0), |sum, entry| sum + entry))
}

/// `[rows…, columns] -> [columns]`.
///
/// XLA's CPU compiler walks down one column after the other, without vectors. Parts of the array added elementwise go along
/// its rows, and what makes them is fused in; a product with ones sums the rest. The ones are two rows, for a product with
/// one row would be fused too, and walk down the columns again.
pub(super) fn column_sums(x: Tensor<'_>) -> Tensor<'_> {
    let x = parts_added(x);
    let dims = x.dims();
    let columns = dims.last().copied().unwrap_or(1);
    let rows: usize = dims.iter().rev().skip(1).product();
    let ones = x.graph().number(x.dtype(), 1.0).broadcast_to(&[2, rows]);
    let sums = ones.matmul(x.reshape(&[rows, columns]));
    sums.slice(&[0, 0], &[1, columns]).reshape(&[columns])
}

/// The sum of as many equal parts, along one axis but the last, as there are up to [`PARTS`].
fn parts_added(x: Tensor<'_>) -> Tensor<'_> {
    let dims = x.dims();
    let count = |extent: usize| (1..=PARTS).rev().find(|&k| extent.is_multiple_of(k)).unwrap_or(1);
    let axes = 0..dims.len().saturating_sub(1);
    let Some((axis, parts)) = axes.map(|axis| (axis, count(dims[axis]))).rev().max_by_key(|(_, n)| *n) else {
        return x;
    };
    let length = dims[axis] / parts;
    let part = |i: usize| {
        let (mut start, mut limit) = (vec![0; dims.len()], dims.clone());
        (start[axis], limit[axis]) = (i * length, (i + 1) * length);
        x.slice(&start, &limit)
    };
    (1..parts).map(part).fold(part(0), |sum, part| sum + part)
}
