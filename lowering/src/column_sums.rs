//! Reductions over all axes but the last, as in batch normalisation and gradients of depthwise kernels, and sums of
//! products over all axes, as in weight decay.

use hlo::{Binary, DType, Graph, HostFunction, Node, NodeId, Op, Reducer, Tensor};
use std::collections::BTreeMap;

/// Name of the host function for sums over all axes but the last. With one operand `a`: `Σ a`, and `Σ (a - ā)²` about
/// the means `ā`. With two, `a` and one number `m` per column: `Σ (a - m)²`. With three, `a`, `b` and `m`: `Σ a (b -
/// m)` and `Σ a`.
pub const COLUMN_SUMS: &str = "rigl_xla.column_sums";

/// Largest number of parts added at once. The compiler duplicates the producer of the summands for each part, and stops
/// fusing at 15.
const MAX_PARTS: usize = 8;

/// Smallest number of elements for which the rewriting pays.
const MIN_ELEMENTS: usize = 1 << 14;

/// Number of rows into which arrays are reshaped before their products are summed. XLA's CPU compiler leaves a matrix
/// product to its library if the result is aligned to 64 bytes; for smaller results it generates code for each product.
const ROWS: usize = 4;

/// The replacement of `node`, if it is such a sum. Uses the host function [`COLUMN_SUMS`] if `host` is given.
pub(super) fn lower<'g>(graph: &'g Graph, node: &Node, host: Option<&mut HostSums<'g>>) -> Option<Tensor<'g>> {
    let Op::Reduce { axes, reducer } = &node.op else {
        return None;
    };
    let x = graph.tensor(node.operands[0]);
    let shape = x.shape();
    if *reducer != Reducer::Add || shape.dtype != DType::F32 || shape.elements() < MIN_ELEMENTS {
        return None;
    }
    // In all graphs built here, the start value is the reducer's identity, so it can be dropped.
    if axes.len() == shape.rank() {
        return product_sum(graph, x);
    }
    let leading = shape.rank() > 1 && axes.iter().copied().eq(0..shape.rank() - 1);
    let called = host.filter(|_| leading).and_then(|host| host.sums(graph, x));
    called.or_else(|| leading.then(|| column_sums(x)))
}

/// Sums computed by a host function, which reads its operands once for two sums, and whose code is compiled ahead of
/// time.
#[derive(Default)]
pub(super) struct HostSums<'g> {
    /// `Σ a` for each `a`.
    plain: BTreeMap<NodeId, Tensor<'g>>,
    /// `Σ (a - ā)²` for each `a`.
    about_mean: BTreeMap<NodeId, Tensor<'g>>,
}

impl<'g> HostSums<'g> {
    /// `None` if the host does not support the summand, or if an operand is stored at lower precision: operands of a
    /// host function are materialised in memory.
    fn sums(&mut self, graph: &'g Graph, summand: Tensor<'g>) -> Option<Tensor<'g>> {
        let node = graph.node(summand.id());
        match (&node.op, &node.operands[..]) {
            (Op::Binary(Binary::Multiply), &[a, b]) if a == b => {
                let [a, m] = as_centred(graph, a)?;
                match self.about_mean.get(&a.id()) {
                    Some(&squares) if self.is_mean(graph, a, m) => Some(squares),
                    _ => call_column_sums(graph, &[a, m]).first().copied(),
                }
            }
            (Op::Binary(Binary::Multiply), &[a, b]) => {
                let (a, [b, m]) = match (as_centred(graph, b), as_centred(graph, a)) {
                    (Some(difference), _) => (a, difference),
                    (None, Some(difference)) => (b, difference),
                    (None, None) => return None,
                };
                let &[products, sum] = &call_column_sums(graph, &[graph.tensor(a), b, m])[..] else {
                    return None;
                };
                self.plain.entry(a).or_insert(sum);
                Some(products)
            }
            _ => {
                let id = summand.id();
                if let Some(&sum) = self.plain.get(&id) {
                    return Some(sum);
                }
                let &[sum, squares] = &call_column_sums(graph, &[summand])[..] else {
                    return None;
                };
                self.plain.insert(id, sum);
                self.about_mean.insert(id, squares);
                Some(sum)
            }
        }
    }

    /// Whether `m` is `Σ a` divided by the number of rows, not a mean over several replicas or another value.
    fn is_mean(&self, graph: &'g Graph, a: Tensor<'g>, m: Tensor<'g>) -> bool {
        let (Some(sum), columns) = (self.plain.get(&a.id()), m.shape().elements()) else {
            return false;
        };
        let node = graph.node(m.id());
        let (Op::Binary(Binary::Divide), &[above, below]) = (&node.op, &node.operands[..]) else {
            return false;
        };
        let rows = a.shape().elements() as f64 / columns as f64;
        let count = graph.node(below);
        let broadcast = count.operands.first().map(|&id| graph.node(id).op);
        above == sum.id() && matches!(broadcast, Some(Op::Constant(value)) if value.to_f64_vec() == [rows])
    }
}

/// The host's sums of these operands. Empty if one of them is only a conversion to `f32`.
fn call_column_sums<'g>(graph: &'g Graph, operands: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let converted = |operand: &Tensor<'g>| matches!(graph.node(operand.id()).op, Op::Convert(_));
    if operands.iter().any(converted) {
        return vec![];
    }
    graph.host_call(HostFunction::named(COLUMN_SUMS), operands, |_, x| {
        let axes: Vec<usize> = (0..x[0].shape().rank() - 1).collect();
        match *x {
            [a] => vec![a.reduce_sum(&axes), squares(a, a.reduce_mean(&axes), &axes)],
            [a, m] => vec![squares(a, m, &axes)],
            [a, b, m] => vec![(a * (b - m)).reduce_sum(&axes), a.reduce_sum(&axes)],
            _ => unreachable!("there are one to three operands"),
        }
    })
}

fn squares<'g>(a: Tensor<'g>, m: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    let centred = a - m;
    (centred * centred).reduce_sum(axes)
}

/// `[b, m]` if the node is `b - m`, where `m` has one number per column.
fn as_centred(graph: &Graph, id: NodeId) -> Option<[Tensor<'_>; 2]> {
    let node = graph.node(id);
    let (Op::Binary(Binary::Subtract), &[b, m]) = (&node.op, &node.operands[..]) else {
        return None;
    };
    let broadcast = graph.node(m);
    let last = node.shape().rank() - 1;
    let per_column = matches!(&broadcast.op, Op::Broadcast { axes, .. } if axes[..] == [last]);
    per_column.then(|| [b, broadcast.operands[0]].map(|id| graph.tensor(id)))
}

/// `Σ a b`, if `product` multiplies arrays that can be split into [`ROWS`]. XLA's CPU compiler materialises the
/// products and sums windows of them, with separate code for each. A matrix product needs no generated code; the sum is
/// the trace of the result.
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
/// XLA's CPU compiler sums one column after the other, without vector instructions. Adding parts of the array
/// elementwise runs along its rows and fuses the producer; a product with ones sums the rest. The ones have two rows
/// because the compiler would fuse a product with one row too and walk the columns again.
pub(super) fn column_sums(x: Tensor<'_>) -> Tensor<'_> {
    let x = add_parts(x);
    let dims = x.dims();
    let columns = dims.last().copied().unwrap_or(1);
    let rows: usize = dims.iter().rev().skip(1).product();
    let ones = x.graph().number(x.dtype(), 1.0).broadcast_to(&[2, rows]);
    let sums = ones.matmul(x.reshape(&[rows, columns]));
    sums.slice(&[0, 0], &[1, columns]).reshape(&[columns])
}

/// Adds equal parts along one axis other than the last: as many as divide it, up to [`MAX_PARTS`].
fn add_parts(x: Tensor<'_>) -> Tensor<'_> {
    let dims = x.dims();
    let count = |extent: usize| (1..=MAX_PARTS).rev().find(|&k| extent.is_multiple_of(k)).unwrap_or(1);
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
