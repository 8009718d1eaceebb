//! The operators: a small set close to HLO's own. Each has its shape rule, emission and gradient in the file of its
//! family.
//!
//! Everything else (`relu`, `softmax`, random bits, …) is composed of these, which keeps the gradient table short.

pub(crate) mod collective;
pub(crate) mod contract;
pub(crate) mod control;
pub(crate) mod conv;
mod dispatch;
pub(crate) mod elementwise;
mod host;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod order;
mod overload;
pub(crate) mod reduce;
pub(crate) mod rule;
pub(crate) mod window;

use crate::graph::{Computation, Tensor};
use crate::literal::Literal;
use crate::module::Module;
use crate::shape::{DType, Shape};
use std::sync::Arc;

pub use contract::DotDims;
pub use conv::ConvDims;
pub use elementwise::{Binary, Comparison, Operand, Unary};
pub use host::HostFunction;
pub use index::{GatherDims, Update};
pub use reduce::Reducer;
pub use rule::Rule;
pub use window::{Padding, WindowDim};

/// An operator with its attributes. The node holds operands and result shapes.
#[derive(Clone, Debug)]
pub enum Op {
    /// Input of the computation.
    Parameter {
        /// Position.
        index: usize,
        /// Name.
        name: String,
    },
    /// Fixed array.
    Constant(Literal),
    /// Counts 0, 1, … along `axis`.
    Iota {
        /// Result shape.
        shape: Shape,
        /// The axis that counts.
        axis: usize,
    },
    /// Elementwise function of one operand.
    Unary(Unary),
    /// Elementwise function of two operands of equal shape.
    Binary(Binary),
    /// Elementwise comparison; yields `pred`.
    Compare(Comparison),
    /// `select(pred, on_true, on_false)`, elementwise.
    Select,
    /// `clamp(low, x, high)`, elementwise.
    Clamp,
    /// Value conversion to another element type.
    Convert(DType),
    /// Reinterprets the bits as another element type of the same width.
    BitcastConvert(DType),
    /// Operand axis `i` becomes result axis `axes[i]`; the others repeat.
    Broadcast {
        /// Result dimensions.
        dims: Vec<usize>,
        /// Result axis of each operand axis, ascending.
        axes: Vec<usize>,
    },
    /// The same elements in row-major order with other dimensions.
    Reshape {
        /// Result dimensions.
        dims: Vec<usize>,
    },
    /// Result axis `i` is operand axis `permutation[i]`.
    Transpose {
        /// The permutation.
        permutation: Vec<usize>,
    },
    /// Strided window, per axis.
    Slice {
        /// First index.
        start: Vec<usize>,
        /// One past the last index.
        limit: Vec<usize>,
        /// Step.
        stride: Vec<usize>,
    },
    /// Edge and interior padding with a scalar (second operand). Negative edge padding cuts elements off.
    Pad {
        /// Elements before, per axis.
        low: Vec<i64>,
        /// Elements after, per axis.
        high: Vec<i64>,
        /// Elements between neighbours, per axis.
        interior: Vec<usize>,
    },
    /// Concatenates the operands along `axis`.
    Concatenate {
        /// The axis.
        axis: usize,
    },
    /// Reverses the order of elements along `axes`.
    Reverse {
        /// The axes.
        axes: Vec<usize>,
    },
    /// Window of fixed size at run-time start indices (further scalar operands), clamped into the array.
    DynamicSlice {
        /// Window size.
        sizes: Vec<usize>,
    },
    /// The first operand with the second written over it at run-time start indices, clamped into the array.
    DynamicUpdateSlice,
    /// Windows of the first operand at the indices of the second.
    Gather {
        /// Axis roles.
        dims: GatherDims,
        /// Window size per operand axis.
        sizes: Vec<usize>,
    },
    /// The first operand, with the windows at the indices of the second combined with the third. Drops a window that is
    /// not entirely inside.
    Scatter {
        /// Axis roles; the window axes are those of the updates.
        dims: GatherDims,
        /// How an update combines with the existing element.
        update: Update,
        /// Promises that no two windows overlap.
        unique: bool,
    },
    /// General dot product.
    Dot(DotDims),
    /// Convolution of the first operand with the second, the kernel.
    Convolution {
        /// One entry per spatial axis.
        window: Vec<WindowDim>,
        /// Axis roles.
        dims: ConvDims,
        /// Number of feature groups.
        feature_groups: usize,
        /// Number of batch groups.
        batch_groups: usize,
    },
    /// Reduction over `axes` starting from the second operand, a scalar.
    Reduce {
        /// Reduced axes.
        axes: Vec<usize>,
        /// Combining function.
        reducer: Reducer,
    },
    /// Reduction under each position of a window, starting from the second operand, the reducer's identity.
    ReduceWindow {
        /// One entry per axis.
        window: Vec<WindowDim>,
        /// Combining function.
        reducer: Reducer,
    },
    /// An array filled with the third operand, a scalar. Each element of the second operand is added where the first
    /// has its maximum under that window position, the first in row-major order among equals.
    SelectAndScatter {
        /// One entry per axis, without dilation.
        window: Vec<WindowDim>,
    },
    /// Combines the operand across all replicas that run the program; each gets the same result.
    AllReduce {
        /// Combining function.
        reducer: Reducer,
    },
    /// Stable sort of all operands along `axis` by the first. Floating-point keys use IEEE's total order: −NaN, −∞, …,
    /// −0, +0, …, ∞, NaN.
    Sort {
        /// The axis.
        axis: usize,
        /// Largest first if true.
        descending: bool,
    },
    /// The `k` largest along the last axis in sorted order, and their indices (s32); the lower index first among
    /// equals.
    TopK {
        /// Number of elements.
        k: usize,
    },
    /// Repeats `body` on the operands while `condition` holds.
    While {
        /// State to `pred` scalar.
        condition: Arc<Computation>,
        /// State to state.
        body: Arc<Computation>,
    },
    /// Applies one of two computations to operands 1.., chosen by the `pred` scalar operand 0.
    Conditional {
        /// Applied if the predicate is true.
        on_true: Arc<Computation>,
        /// Applied if the predicate is false.
        on_false: Arc<Computation>,
    },
    /// Applies a computation to the operands.
    Call {
        /// The computation.
        body: Arc<Computation>,
        /// A host function that computes the same. If set, programs call it instead.
        host: Option<HostFunction>,
    },
    /// Calls the entry computation of a module that another program made.
    Module(Arc<Module>),
    /// The operand itself; its gradient is zero. Emits nothing.
    StopGradient,
    /// The first operand, with a custom gradient rule for the others. Emits nothing.
    WithVjp(Rule),
    /// One element of a tuple-valued node.
    GetTupleElement {
        /// Index of the element.
        index: usize,
    },
}

/// Result of an operator's gradient rule.
pub(crate) enum Vjp<'g> {
    /// Cotangent per operand (`None`: no dependence, or not differentiable).
    Operands(Vec<Option<Tensor<'g>>>),
    /// Differentiating through the operator is an error, for this reason.
    Stop(&'static str),
}

/// Context of one operator in the reverse sweep.
pub(crate) struct Sweep<'g> {
    pub operands: Vec<Tensor<'g>>,
    pub output: Tensor<'g>,
    pub cotangent: Tensor<'g>,
}

/// A pattern of all operators that yield one array and use no computation, not even a scalar one.
macro_rules! array_op {
    () => {
        Op::Parameter { .. }
            | Op::Constant(_)
            | Op::Iota { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select
            | Op::Clamp
            | Op::Convert(_)
            | Op::BitcastConvert(_)
            | Op::Broadcast { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concatenate { .. }
            | Op::Reverse { .. }
            | Op::DynamicSlice { .. }
            | Op::DynamicUpdateSlice
            | Op::Gather { .. }
            | Op::Dot(_)
            | Op::Convolution { .. }
            | Op::StopGradient
            | Op::WithVjp(_)
            | Op::GetTupleElement { .. }
    };
}
pub(crate) use array_op;

/// A pattern of all operators that yield one array and combine elements by a scalar computation.
macro_rules! reducing_op {
    () => {
        Op::Scatter { .. }
            | Op::Reduce { .. }
            | Op::ReduceWindow { .. }
            | Op::SelectAndScatter { .. }
            | Op::AllReduce { .. }
    };
}

impl Op {
    /// HLO opcode of every operator that a graph can contain, in the order of the enum, with families spelled out.
    /// Tests iterate over this list.
    pub fn all_names() -> Vec<&'static str> {
        let mut names = vec!["parameter", "constant", "iota"];
        names.extend(Unary::ALL.iter().map(|u| u.name()));
        names.extend(Binary::ALL.iter().map(|b| b.name()));
        names.extend([
            "compare",
            "select",
            "clamp",
            "convert",
            "bitcast-convert",
            "broadcast",
            "reshape",
            "transpose",
            "slice",
            "pad",
            "concatenate",
            "reverse",
            "dynamic-slice",
            "dynamic-update-slice",
            "gather",
            "scatter",
            "dot",
            "convolution",
            "reduce",
            "reduce-window",
            "select-and-scatter",
            "all-reduce",
            "sort",
            "topk",
            "while",
            "conditional",
            "call",
            "stop-gradient",
            "with-vjp",
            "get-tuple-element",
        ]);
        names
    }

    /// HLO opcode.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Parameter { .. } => "parameter",
            Op::Constant(_) => "constant",
            Op::Iota { .. } => "iota",
            Op::Unary(unary) => unary.name(),
            Op::Binary(binary) => binary.name(),
            Op::Compare(_) => "compare",
            Op::Select => "select",
            Op::Clamp => "clamp",
            Op::Convert(_) => "convert",
            Op::BitcastConvert(_) => "bitcast-convert",
            Op::Broadcast { .. } => "broadcast",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concatenate { .. } => "concatenate",
            Op::Reverse { .. } => "reverse",
            Op::DynamicSlice { .. } => "dynamic-slice",
            Op::DynamicUpdateSlice => "dynamic-update-slice",
            Op::Gather { .. } => "gather",
            Op::Scatter { .. } => "scatter",
            Op::Dot(_) => "dot",
            Op::Convolution { .. } => "convolution",
            Op::Reduce { .. } => "reduce",
            Op::ReduceWindow { .. } => "reduce-window",
            Op::SelectAndScatter { .. } => "select-and-scatter",
            Op::AllReduce { .. } => "all-reduce",
            Op::Sort { .. } => "sort",
            Op::TopK { .. } => "topk",
            Op::While { .. } => "while",
            Op::Conditional { .. } => "conditional",
            Op::Call { .. } | Op::Module(_) => "call",
            Op::StopGradient => "stop-gradient",
            Op::WithVjp(_) => "with-vjp",
            Op::GetTupleElement { .. } => "get-tuple-element",
        }
    }

    /// Computations that the operator calls.
    pub fn called(&self) -> Vec<&Arc<Computation>> {
        match self {
            Op::While { condition, body } => vec![body, condition],
            Op::Conditional { on_true, on_false } => vec![on_true, on_false],
            Op::Call { body, .. } => vec![body],
            Op::Sort { .. } | Op::TopK { .. } | Op::Module(_) | array_op!() | reducing_op!() => vec![],
        }
    }

    /// Replaces the computations that the operator calls.
    ///
    /// # Errors
    ///
    /// Those of `replace`.
    pub fn try_map_called<E>(
        self,
        mut replace: impl FnMut(&Arc<Computation>) -> Result<Arc<Computation>, E>,
    ) -> Result<Self, E> {
        Ok(match self {
            Op::While { condition, body } => Op::While {
                condition: replace(&condition)?,
                body: replace(&body)?,
            },
            Op::Conditional { on_true, on_false } => Op::Conditional {
                on_true: replace(&on_true)?,
                on_false: replace(&on_false)?,
            },
            Op::Call { body, host } => Op::Call {
                body: replace(&body)?,
                host,
            },
            Op::Sort { .. } | Op::TopK { .. } | Op::Module(_) | array_op!() | reducing_op!() => self,
        })
    }

    /// Whether the result is a tuple even with one element.
    pub fn yields_tuple(&self) -> bool {
        match self {
            Op::While { .. } | Op::Conditional { .. } | Op::TopK { .. } | Op::Sort { .. } => true,
            Op::Call { body, host } => host.is_none() || body.outputs.len() != 1,
            Op::Module(module) => module.yields_tuple(),
            array_op!() | reducing_op!() => false,
        }
    }
}

/// `Err` with the message unless `holds`.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

/// Checks that `axes` are distinct axes of `shape`.
pub(crate) fn ensure_axes(axes: &[usize], shape: &Shape) -> Result<(), String> {
    for (i, axis) in axes.iter().enumerate() {
        ensure(*axis < shape.rank(), || {
            format!("axis {axis} of an operand of rank {}", shape.rank())
        })?;
        ensure(!axes[..i].contains(axis), || format!("axis {axis} is named twice"))?;
    }
    Ok(())
}
