//! Contractions: the general dot product.

use super::{Op, Sweep, Vjp, ensure, ensure_axes};
use crate::graph::Tensor;
use crate::proto;
use crate::shape::{DType, Shape};

/// Axis roles of a dot product. The result has the batch axes, then the free axes of the left operand, then those of
/// the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DotDims {
    /// Contracted axes of the left operand, paired with `rhs_contract`.
    pub lhs_contract: Vec<usize>,
    /// Contracted axes of the right operand.
    pub rhs_contract: Vec<usize>,
    /// Batch axes of the left operand, paired with `rhs_batch`.
    pub lhs_batch: Vec<usize>,
    /// Batch axes of the right operand.
    pub rhs_batch: Vec<usize>,
}

/// Axes that are in neither list, ascending.
fn free_axes(rank: usize, contract: &[usize], batch: &[usize]) -> Vec<usize> {
    (0..rank)
        .filter(|a| !contract.contains(a) && !batch.contains(a))
        .collect()
}

pub(super) fn infer_dot(d: &DotDims, operands: &[&Shape]) -> Result<Shape, String> {
    let (a, b) = (operands[0], operands[1]);
    ensure(a.dtype == b.dtype, || {
        format!("element types {} and {} differ", a.dtype, b.dtype)
    })?;
    ensure(a.dtype != DType::Pred, || "takes numbers, not pred".into())?;
    ensure_axes(&[&d.lhs_contract[..], &d.lhs_batch].concat(), a)?;
    ensure_axes(&[&d.rhs_contract[..], &d.rhs_batch].concat(), b)?;
    for (what, left, right) in [
        ("contracted", &d.lhs_contract, &d.rhs_contract),
        ("batch", &d.lhs_batch, &d.rhs_batch),
    ] {
        ensure(left.len() == right.len(), || {
            format!("{what} axes {left:?} and {right:?} do not pair")
        })?;
        for (&l, &r) in left.iter().zip(right) {
            ensure(a.dims[l] == b.dims[r], || {
                format!("{what} axes {l} and {r} have {} and {} elements", a.dims[l], b.dims[r])
            })?;
        }
    }
    let batch = d.lhs_batch.iter().map(|&i| a.dims[i]);
    let left = free_axes(a.rank(), &d.lhs_contract, &d.lhs_batch)
        .into_iter()
        .map(|i| a.dims[i]);
    let right = free_axes(b.rank(), &d.rhs_contract, &d.rhs_batch)
        .into_iter()
        .map(|i| b.dims[i]);
    Ok(a.with_dims(batch.chain(left).chain(right).collect::<Vec<_>>()))
}

pub(super) fn emit_dot(d: &DotDims, out: &mut proto::Instruction) {
    let signed = |axes: &[usize]| axes.iter().map(|&a| a as i64).collect();
    out.dot_dimension_numbers = Some(proto::DotDimensionNumbers {
        lhs_contracting_dimensions: signed(&d.lhs_contract),
        rhs_contracting_dimensions: signed(&d.rhs_contract),
        lhs_batch_dimensions: signed(&d.lhs_batch),
        rhs_batch_dimensions: signed(&d.rhs_batch),
    });
}

pub(super) fn vjp_dot<'g>(d: &DotDims, at: &Sweep<'g>) -> Vjp<'g> {
    let (lhs, rhs, ct) = (at.operands[0], at.operands[1], at.cotangent);
    let (lhs_rank, rhs_rank) = (lhs.shape().rank(), rhs.shape().rank());
    let batch = d.lhs_batch.len();
    let lhs_free = free_axes(lhs_rank, &d.lhs_contract, &d.lhs_batch);
    let rhs_free = free_axes(rhs_rank, &d.rhs_contract, &d.rhs_batch);
    let ct_batch: Vec<usize> = (0..batch).collect();
    let ct_left: Vec<usize> = (batch..batch + lhs_free.len()).collect();
    let ct_right: Vec<usize> = (batch + lhs_free.len()..ct.shape().rank()).collect();

    // d lhs: contract the free axes of the right operand. The result is [batch, lhs_free, contracted (in rhs order)].
    let g_lhs = ct.dot_general(
        rhs,
        DotDims {
            lhs_contract: ct_right,
            rhs_contract: rhs_free.clone(),
            lhs_batch: ct_batch.clone(),
            rhs_batch: d.rhs_batch.clone(),
        },
    );
    let g_rhs = lhs.dot_general(
        ct,
        DotDims {
            lhs_contract: lhs_free.clone(),
            rhs_contract: ct_left,
            lhs_batch: d.lhs_batch.clone(),
            rhs_batch: ct_batch,
        },
    );
    let lhs_order = [&d.lhs_batch[..], &lhs_free, &paired(&d.rhs_contract, &d.lhs_contract)].concat();
    let rhs_order = [&d.rhs_batch[..], &paired(&d.lhs_contract, &d.rhs_contract), &rhs_free].concat();
    Vjp::Operands(vec![
        Some(into_order(g_lhs, &lhs_order)),
        Some(into_order(g_rhs, &rhs_order)),
    ])
}

/// `values` sorted by their `keys`.
fn paired(keys: &[usize], values: &[usize]) -> Vec<usize> {
    let mut pairs: Vec<_> = keys.iter().zip(values).collect();
    pairs.sort();
    pairs.into_iter().map(|(_, &v)| v).collect()
}

/// Transposes axis `i` to position `order[i]`.
fn into_order<'g>(x: Tensor<'g>, order: &[usize]) -> Tensor<'g> {
    let mut permutation = vec![0; order.len()];
    for (i, &target) in order.iter().enumerate() {
        permutation[target] = i;
    }
    if permutation.is_sorted() {
        x
    } else {
        x.transpose(&permutation)
    }
}

impl<'g> Tensor<'g> {
    /// General dot product with the axis roles `dims`.
    #[track_caller]
    #[must_use]
    pub fn dot_general(self, rhs: Tensor<'g>, dims: DotDims) -> Tensor<'g> {
        self.graph().apply(Op::Dot(dims), &[self, rhs])
    }

    /// Matrix product: contracts the last axis of the left operand with the first of the right.
    #[track_caller]
    #[must_use]
    pub fn matmul(self, rhs: Tensor<'g>) -> Tensor<'g> {
        let dims = DotDims {
            lhs_contract: vec![self.shape().rank().saturating_sub(1)],
            rhs_contract: vec![0],
            ..DotDims::default()
        };
        self.dot_general(rhs, dims)
    }
}
