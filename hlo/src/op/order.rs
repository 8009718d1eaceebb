//! Ordering: sort and top-k.

use super::{Op, ensure, ensure_axes};
use crate::emit::Emitter;
use crate::graph::Tensor;
use crate::proto;
use crate::shape::{DType, Shape};

pub(super) fn infer_sort(axis: usize, operands: &[&Shape]) -> Result<Vec<Shape>, String> {
    ensure(operands.len() >= 2, || {
        "needs keys and at least one array to carry along".into()
    })?;
    ensure_axes(&[axis], operands[0])?;
    for shape in operands {
        ensure(shape.dims == operands[0].dims, || {
            format!("dimensions {:?} and {:?} differ", operands[0].dims, shape.dims)
        })?;
    }
    Ok(operands.iter().map(|s| (*s).clone()).collect())
}

pub(super) fn infer_top_k(k: usize, operands: &[&Shape]) -> Result<Vec<Shape>, String> {
    let x = operands[0];
    let longest = x.dims.last().copied().unwrap_or(0);
    ensure(k <= longest && x.rank() > 0, || format!("{k} largest of {longest}"))?;
    let mut values = x.clone();
    if let Some(last) = values.dims.last_mut() {
        *last = k;
    }
    let indices = values.with_dtype(DType::S32);
    Ok(vec![values, indices])
}

pub(super) fn emit_sort(
    axis: usize,
    descending: bool,
    operands: &[&Shape],
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.dimensions = vec![axis as i64];
    out.is_stable = true;
    out.called_computation_ids = vec![emitter.comparator(descending, operands)];
}

impl<'g> Tensor<'g> {
    /// Stable sort along `axis` by these keys, in total order. Returns the sorted keys, then the `carried` arrays in
    /// the same order.
    #[track_caller]
    #[must_use]
    pub fn sort_with(self, carried: &[Tensor<'g>], axis: usize, descending: bool) -> Vec<Tensor<'g>> {
        let operands = [&[self], carried].concat();
        self.graph()
            .apply_tuple(Op::Sort { axis, descending }, &operands, operands.len())
    }

    /// The `k` largest along the last axis in descending order, and their indices (s32).
    #[track_caller]
    #[must_use]
    pub fn top_k(self, k: usize) -> (Tensor<'g>, Tensor<'g>) {
        let results = self.graph().apply_tuple(Op::TopK { k }, &[self], 2);
        (results[0], results[1])
    }
}
