//! Operators across replicas that run one program in parallel.

use super::reduce::ensure_combines;
use super::{Op, Reducer, Sweep, Vjp};
use crate::emit::Emitter;
use crate::graph::Tensor;
use crate::proto;
use crate::shape::Shape;

pub(super) fn infer_all_reduce(reducer: Reducer, operands: &[&Shape]) -> Result<Shape, String> {
    ensure_combines(reducer, operands[0].dtype)?;
    Ok(operands[0].clone())
}

/// Without groups all replicas form one group; without a channel the group spans replicas only.
pub(super) fn emit_all_reduce(
    reducer: Reducer,
    operands: &[&Shape],
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.called_computation_ids = vec![emitter.reducer(Some(reducer), operands[0].dtype)];
}

/// The derivative of the sum of all replicas' losses with respect to this replica's operand. The operand of a sum
/// contributes to the result on every replica, so the cotangents of all replicas add up.
pub(super) fn vjp_all_reduce<'g>(reducer: Reducer, at: &Sweep<'g>) -> Vjp<'g> {
    match reducer {
        Reducer::Add => Vjp::Operands(vec![Some(at.cotangent.all_reduce(Reducer::Add))]),
        Reducer::Max | Reducer::Min => Vjp::Stop("which replica holds the extreme is not kept"),
        Reducer::And | Reducer::Or => Vjp::Operands(vec![None]),
    }
}

impl<'g> Tensor<'g> {
    /// All-reduce: combines this array elementwise across all replicas; each gets the same result.
    ///
    /// All replicas must execute it equally often. The gradient is that of the sum of all replicas' losses. If each
    /// replica holds a part of the loss, its gradients are correct; gradients of shared parameters still have to be
    /// summed.
    #[track_caller]
    #[must_use]
    pub fn all_reduce(self, reducer: Reducer) -> Tensor<'g> {
        self.graph().apply(Op::AllReduce { reducer }, &[self])
    }
}
