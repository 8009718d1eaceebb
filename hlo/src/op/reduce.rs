//! Reductions.

use super::{Op, Sweep, Vjp, ensure, ensure_axes};
use crate::emit::Emitter;
use crate::graph::{Graph, Tensor};
use crate::proto;
use crate::shape::{DType, Shape};

/// Combining function of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reducer {
    /// Sum.
    Add,
    /// Maximum.
    Max,
    /// Minimum.
    Min,
    /// Logical or bitwise and.
    And,
    /// Logical or bitwise or.
    Or,
}

impl Reducer {
    /// Every variant.
    pub const ALL: [Reducer; 5] = [Reducer::Add, Reducer::Max, Reducer::Min, Reducer::And, Reducer::Or];

    /// HLO opcode of the combining instruction.
    pub fn name(self) -> &'static str {
        match self {
            Reducer::Add => "add",
            Reducer::Max => "maximum",
            Reducer::Min => "minimum",
            Reducer::And => "and",
            Reducer::Or => "or",
        }
    }

    /// The reducer's identity element, as a scalar.
    pub(super) fn identity(self, graph: &Graph, dtype: DType) -> Tensor<'_> {
        graph.number(dtype, identity(self, dtype))
    }
}

pub(super) fn infer_reduce(axes: &[usize], reducer: Reducer, operands: &[&Shape]) -> Result<Shape, String> {
    let x = operands[0];
    ensure_axes(axes, x)?;
    ensure_reducer(reducer, operands)?;
    let kept = (0..x.rank()).filter(|a| !axes.contains(a)).map(|a| x.dims[a]);
    Ok(x.with_dims(kept.collect::<Vec<_>>()))
}

/// Checks an array and the start value against the reducer.
pub(super) fn ensure_reducer(reducer: Reducer, operands: &[&Shape]) -> Result<(), String> {
    let (x, init) = (operands[0], operands[1]);
    ensure(*init == Shape::scalar(x.dtype), || {
        format!("the start value must be {}[]", x.dtype)
    })?;
    ensure_combines(reducer, x.dtype)
}

/// Checks that the reducer supports this element type.
pub(super) fn ensure_combines(reducer: Reducer, dtype: DType) -> Result<(), String> {
    let takes = match reducer {
        Reducer::And | Reducer::Or => !dtype.is_float(),
        Reducer::Add | Reducer::Max | Reducer::Min => dtype != DType::Pred,
    };
    ensure(takes, || format!("no {} of {dtype}", reducer.name()))
}

pub(super) fn emit_reduce(
    axes: &[usize],
    reducer: Reducer,
    operands: &[&Shape],
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.dimensions = axes.iter().map(|&a| a as i64).collect();
    out.called_computation_ids = vec![emitter.reducer(Some(reducer), operands[0].dtype)];
}

pub(super) fn vjp_reduce<'g>(axes: &[usize], reducer: Reducer, at: &Sweep<'g>) -> Vjp<'g> {
    let (x, y, ct) = (at.operands[0], at.output, at.cotangent);
    let dims = x.dims();
    let kept: Vec<usize> = (0..dims.len()).filter(|a| !axes.contains(a)).collect();
    Vjp::Operands(match reducer {
        Reducer::Add => vec![Some(ct.broadcast(&dims, &kept)), Some(ct.reduce_sum_all())],
        // Elements tied for the extreme share its gradient. The start value is an infinity and gets none.
        Reducer::Max | Reducer::Min => {
            let hits = x.eq(y.broadcast(&dims, &kept)).convert(ct.dtype());
            let each = ct / hits.reduce_sum(axes);
            vec![Some(hits * each.broadcast(&dims, &kept)), None]
        }
        Reducer::And | Reducer::Or => vec![None, None],
    })
}

impl<'g> Tensor<'g> {
    /// Reduces over `axes`, starting from the reducer's identity.
    #[track_caller]
    #[must_use]
    pub fn reduce(self, axes: &[usize], reducer: Reducer) -> Tensor<'g> {
        if self.is_poison() || axes.is_empty() {
            return self;
        }
        let identity = reducer.identity(self.graph(), self.dtype());
        self.graph().apply(
            Op::Reduce {
                axes: axes.to_vec(),
                reducer,
            },
            &[self, identity],
        )
    }

    /// Sum over `axes`.
    #[track_caller]
    #[must_use]
    pub fn reduce_sum(self, axes: &[usize]) -> Tensor<'g> {
        self.reduce(axes, Reducer::Add)
    }

    /// Maximum over `axes`.
    #[track_caller]
    #[must_use]
    pub fn reduce_max(self, axes: &[usize]) -> Tensor<'g> {
        self.reduce(axes, Reducer::Max)
    }

    /// Minimum over `axes`.
    #[track_caller]
    #[must_use]
    pub fn reduce_min(self, axes: &[usize]) -> Tensor<'g> {
        self.reduce(axes, Reducer::Min)
    }

    /// Sum of all elements, as a scalar.
    #[track_caller]
    #[must_use]
    pub fn reduce_sum_all(self) -> Tensor<'g> {
        self.reduce_sum(&(0..self.shape().rank()).collect::<Vec<_>>())
    }

    /// Mean over `axes`.
    #[track_caller]
    #[must_use]
    pub fn reduce_mean(self, axes: &[usize]) -> Tensor<'g> {
        let dims = self.dims();
        let count: usize = axes.iter().filter_map(|&a| dims.get(a)).product();
        self.reduce_sum(axes) / count as f64
    }

    /// Index (s32) of the largest element along `axis`; the lowest index among equals.
    #[track_caller]
    #[must_use]
    pub fn argmax(self, axis: usize) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        let shape = self.shape();
        let kept: Vec<usize> = (0..shape.rank()).filter(|&a| a != axis).collect();
        let largest = self.reduce_max(&[axis]).broadcast(&shape.dims, &kept);
        let index = self.graph().iota(shape.with_dtype(DType::S32), axis);
        let none = self
            .graph()
            .full(&index.shape(), shape.dims.get(axis).copied().unwrap_or(0) as f64);
        self.eq(largest).select(index, none).reduce_min(&[axis])
    }
}

/// The reducer's identity element.
fn identity(reducer: Reducer, dtype: DType) -> f64 {
    match (reducer, dtype) {
        (Reducer::Add | Reducer::Or, _) => 0.0,
        (Reducer::And, DType::Pred) => 1.0,
        (Reducer::And, DType::S32 | DType::S64) => -1.0,
        (Reducer::And, _) => crate::eval::integer_range(dtype).1 as f64,
        (Reducer::Max, _) if dtype.is_float() => f64::NEG_INFINITY,
        (Reducer::Min, _) if dtype.is_float() => f64::INFINITY,
        (Reducer::Max, _) => crate::eval::integer_range(dtype).0 as f64,
        (Reducer::Min, _) => crate::eval::integer_range(dtype).1 as f64,
    }
}
