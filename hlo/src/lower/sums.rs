//! Sums over all axes but the last, as batch normalisation and gradients of depthwise kernels have them, and sums of
//! products over all axes, as weight decay's loss has them.

use crate::graph::{Graph, Node, NodeId, Tensor};
use crate::op::{Binary, HostFunction, Op, Reducer};
use crate::shape::DType;
use std::collections::BTreeMap;

/// The name under which a host offers programs sums over all axes but the last. Of one operand `a`: `Σ a`, and `Σ (a - ā)²`
/// about the means `ā`. Of two, the second with one number per column: `Σ (a - m)²`. Of three, the last so: `Σ a (b - m)`,
/// and `Σ a`.
pub const COLUMN_SUMS: &str = "rigl_xla.sums";

/// Most parts that are added at once. The compiler writes out what makes the summands, once for each, and gives up on
/// fusing them at 15.
const PARTS: usize = 8;

/// Fewest elements for which it pays.
const WORTH: usize = 1 << 14;

/// Rows into which arrays are cut whose products are summed. XLA's CPU compiler leaves a matrix product to its library when
/// the result is aligned, as 64 bytes are; of a smaller one it makes code, anew for each product.
const ROWS: usize = 4;

/// What stands for `node`, if it is such a sum; by calls of the host where there is one to offer [`COLUMN_SUMS`].
pub(super) fn lowered<'g>(graph: &'g Graph, node: &Node, host: Option<&mut HostSums<'g>>) -> Option<Tensor<'g>> {
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
    let called = host.filter(|_| leading).and_then(|host| host.sums(graph, x));
    called.or_else(|| leading.then(|| column_sums(x)))
}

/// Sums by a host, which reads what it is given once for two of them, and has all that it needs compiled.
#[derive(Default)]
pub(super) struct HostSums<'g> {
    /// `Σ a` per `a`.
    plain: BTreeMap<NodeId, Tensor<'g>>,
    /// `Σ (a - ā)²` per `a`.
    about_mean: BTreeMap<NodeId, Tensor<'g>>,
}

impl<'g> HostSums<'g> {
    /// `None` for a product that the host does not know, and for numbers that lie in memory rounded: what it is given is
    /// written to memory for it.
    fn sums(&mut self, graph: &'g Graph, summand: Tensor<'g>) -> Option<Tensor<'g>> {
        let node = graph.node(summand.id());
        match (&node.op, &node.operands[..]) {
            (Op::Binary(Binary::Multiply), &[a, b]) if a == b => {
                let [a, m] = centred(graph, a)?;
                match self.about_mean.get(&a.id()) {
                    Some(&squares) if self.is_mean(graph, a, m) => Some(squares),
                    _ => called(graph, &[a, m]).first().copied(),
                }
            }
            (Op::Binary(Binary::Multiply), &[a, b]) => {
                let (a, [b, m]) = match (centred(graph, b), centred(graph, a)) {
                    (Some(of), _) => (a, of),
                    (None, Some(of)) => (b, of),
                    (None, None) => return None,
                };
                let &[products, sum] = &called(graph, &[graph.tensor(a), b, m])[..] else {
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
                let &[sum, squares] = &called(graph, &[summand])[..] else {
                    return None;
                };
                self.plain.insert(id, sum);
                self.about_mean.insert(id, squares);
                Some(sum)
            }
        }
    }

    /// Whether `m` is `Σ a` divided by the number of rows, and not the mean over several replicas, or another.
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
        let of = count.operands.first().map(|&of| graph.node(of).op);
        above == sum.id() && matches!(of, Some(Op::Constant(value)) if value.to_f64_vec() == [rows])
    }
}

/// The host's sums of these operands; none where one of them is only converted to `f32`.
fn called<'g>(graph: &'g Graph, operands: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
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

/// `[b, m]`, if the node is `b - m` with one number of `m` per column.
fn centred(graph: &Graph, id: NodeId) -> Option<[Tensor<'_>; 2]> {
    let node = graph.node(id);
    let (Op::Binary(Binary::Subtract), &[b, m]) = (&node.op, &node.operands[..]) else {
        return None;
    };
    let of = graph.node(m);
    let last = node.shape().rank() - 1;
    let per_column = matches!(&of.op, Op::Broadcast { axes, .. } if axes[..] == [last]);
    per_column.then(|| [b, of.operands[0]].map(|id| graph.tensor(id)))
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
