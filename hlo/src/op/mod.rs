//! The operators: a small set close to HLO's own. Each has its shape rule, emission and gradient in the file of its
//! family.
//!
//! Everything else (`relu`, `softmax`, random bits, …) is composed of these, which keeps the gradient table short.

pub(crate) mod collective;
pub(crate) mod contract;
pub(crate) mod control;
pub(crate) mod conv;
pub(crate) mod elementwise;
mod host;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod order;
mod overload;
pub(crate) mod reduce;
pub(crate) mod rule;
pub(crate) mod window;

use crate::emit::{Calling, Emitter};
use crate::graph::{Computation, Tensor};
use crate::literal::Literal;
use crate::proto;
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
            Op::Call { .. } => "call",
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
            Op::Sort { .. } | Op::TopK { .. } | array_op!() | reducing_op!() => vec![],
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
            Op::Sort { .. } | Op::TopK { .. } | array_op!() | reducing_op!() => self,
        })
    }

    /// Whether the result is a tuple even with one element.
    pub fn yields_tuple(&self) -> bool {
        match self {
            Op::While { .. } | Op::Conditional { .. } | Op::TopK { .. } | Op::Sort { .. } => true,
            Op::Call { body, host } => host.is_none() || body.outputs.len() != 1,
            array_op!() | reducing_op!() => false,
        }
    }

    /// Shape rule: result shapes from operand shapes, or a message that describes the mismatch.
    pub(crate) fn infer(&self, operands: &[&Shape]) -> Result<Vec<Shape>, String> {
        let one = |shape: Result<Shape, String>| shape.map(|s| vec![s]);
        match self {
            Op::Parameter { .. } | Op::Constant(_) | Op::GetTupleElement { .. } => {
                Err("is added by the graph itself".into())
            }
            Op::Iota { shape, axis } => one(layout::infer_iota(shape, *axis)),
            Op::Unary(unary) => one(elementwise::infer_unary(*unary, operands)),
            Op::Binary(binary) => one(elementwise::infer_binary(*binary, operands)),
            Op::Compare(_) => one(elementwise::infer_compare(operands)),
            Op::Select => one(elementwise::infer_select(operands)),
            Op::Clamp => one(elementwise::infer_clamp(operands)),
            Op::StopGradient | Op::WithVjp(_) => one(Ok(operands[0].clone())),
            Op::Convert(dtype) => one(Ok(operands[0].with_dtype(*dtype))),
            Op::BitcastConvert(dtype) => one(elementwise::infer_bitcast(*dtype, operands)),
            Op::Broadcast { dims, axes } => one(layout::infer_broadcast(dims, axes, operands)),
            Op::Reshape { dims } => one(layout::infer_reshape(dims, operands)),
            Op::Transpose { permutation } => one(layout::infer_transpose(permutation, operands)),
            Op::Slice { start, limit, stride } => one(layout::infer_slice(start, limit, stride, operands)),
            Op::Pad { low, high, interior } => one(layout::infer_pad(low, high, interior, operands)),
            Op::Concatenate { axis } => one(layout::infer_concatenate(*axis, operands)),
            Op::Reverse { axes } => one(layout::infer_reverse(axes, operands)),
            Op::DynamicSlice { sizes } => one(index::infer_dynamic_slice(sizes, operands)),
            Op::DynamicUpdateSlice => one(index::infer_dynamic_update_slice(operands)),
            Op::Gather { dims, sizes } => one(index::infer_gather(dims, sizes, operands)),
            Op::Scatter { dims, .. } => one(index::infer_scatter(dims, operands)),
            Op::Dot(dims) => one(contract::infer_dot(dims, operands)),
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups,
            } => one(conv::infer_convolution(
                window,
                dims,
                [*feature_groups, *batch_groups],
                operands,
            )),
            Op::Reduce { axes, reducer } => one(reduce::infer_reduce(axes, *reducer, operands)),
            Op::ReduceWindow { window, reducer } => one(window::infer_reduce_window(window, *reducer, operands)),
            Op::SelectAndScatter { window } => one(window::infer_select_and_scatter(window, operands)),
            Op::AllReduce { reducer } => one(collective::infer_all_reduce(*reducer, operands)),
            Op::Sort { axis, .. } => order::infer_sort(*axis, operands),
            Op::TopK { k } => order::infer_top_k(*k, operands),
            Op::While { condition, body } => control::infer_while(condition, body, operands),
            Op::Conditional { on_true, on_false } => control::infer_conditional(on_true, on_false, operands),
            Op::Call { body, .. } => control::infer_call(body, operands),
        }
    }

    /// Gradient rule.
    pub(crate) fn vjp<'g>(&self, at: &Sweep<'g>) -> Vjp<'g> {
        match self {
            Op::Parameter { .. } | Op::Constant(_) | Op::Iota { .. } => Vjp::Operands(vec![]),
            Op::Unary(unary) => elementwise::vjp_unary(*unary, at),
            Op::Binary(binary) => elementwise::vjp_binary(*binary, at),
            Op::StopGradient => Vjp::Operands(vec![None]),
            Op::WithVjp(rule) => rule.vjp(at),
            Op::Compare(_) => Vjp::Operands(vec![None, None]),
            Op::Select => elementwise::vjp_select(at),
            Op::Clamp => elementwise::vjp_clamp(at),
            Op::Convert(dtype) => elementwise::vjp_convert(*dtype, at),
            Op::BitcastConvert(_) => Vjp::Stop("bits have no derivative"),
            Op::Broadcast { axes, .. } => layout::vjp_broadcast(axes, at),
            Op::Reshape { .. } => layout::vjp_reshape(at),
            Op::Transpose { permutation } => layout::vjp_transpose(permutation, at),
            Op::Slice { start, stride, .. } => layout::vjp_slice(start, stride, at),
            Op::Pad { low, high, interior } => layout::vjp_pad(low, high, interior, at),
            Op::Concatenate { axis } => layout::vjp_concatenate(*axis, at),
            Op::Reverse { axes } => layout::vjp_reverse(axes, at),
            Op::DynamicSlice { .. } => index::vjp_dynamic_slice(at),
            Op::DynamicUpdateSlice => index::vjp_dynamic_update_slice(at),
            Op::Gather { dims, sizes } => index::vjp_gather(dims, sizes, at),
            Op::Scatter { dims, update, unique } => index::vjp_scatter(dims, *update, *unique, at),
            Op::Dot(dims) => contract::vjp_dot(dims, at),
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups,
            } => conv::vjp_convolution(window, dims, *feature_groups, *batch_groups, at),
            Op::Reduce { axes, reducer } => reduce::vjp_reduce(axes, *reducer, at),
            Op::ReduceWindow { window, reducer } => window::vjp_reduce_window(window, *reducer, at),
            Op::SelectAndScatter { .. } => {
                Vjp::Stop("its own derivative would gather by where each window has its maximum")
            }
            Op::AllReduce { reducer } => collective::vjp_all_reduce(*reducer, at),
            Op::Sort { .. } => Vjp::Stop("an order has no derivative; gather by sorted indices instead"),
            Op::TopK { .. } => Vjp::Stop("an order has no derivative; gather by the indices instead"),
            Op::While { .. } => Vjp::Stop("reverse mode does not run a loop backwards; unroll it"),
            Op::Conditional { .. } => Vjp::Stop("differentiate inside the branches"),
            Op::Call { .. } => Vjp::Stop("differentiate inside the called computation"),
            Op::GetTupleElement { .. } => Vjp::Operands(vec![Some(at.cotangent)]),
        }
    }

    /// Writes the operator's attributes into its instruction.
    pub(crate) fn emit(&self, operands: &[&Shape], emitter: &mut Emitter, out: &mut proto::Instruction) {
        match self {
            Op::Parameter { index, name } => {
                out.parameter_number = *index as i64;
                out.name = name.clone();
            }
            Op::Constant(value) => out.literal = Some(crate::emit::literal_proto(value)),
            Op::Iota { axis, .. } => out.dimensions = vec![*axis as i64],
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Clamp | Op::Convert(_) | Op::BitcastConvert(_) => {}
            Op::Compare(comparison) => elementwise::emit_compare(*comparison, operands, out),
            Op::Reshape { .. } => {}
            Op::Broadcast { axes, .. } | Op::Reverse { axes } | Op::Transpose { permutation: axes } => {
                out.dimensions = axes.iter().map(|&axis| axis as i64).collect();
            }
            Op::Concatenate { axis } => out.dimensions = vec![*axis as i64],
            Op::Slice { start, limit, stride } => layout::emit_slice(start, limit, stride, out),
            Op::Pad { low, high, interior } => layout::emit_pad(low, high, interior, out),
            Op::DynamicSlice { sizes } => out.dynamic_slice_sizes = sizes.iter().map(|&s| s as i64).collect(),
            Op::DynamicUpdateSlice | Op::StopGradient | Op::WithVjp(_) => {}
            Op::Gather { dims, sizes } => index::emit_gather(dims, sizes, out),
            Op::Scatter { dims, update, unique } => {
                index::emit_scatter(dims, *update, *unique, operands, emitter, out);
            }
            Op::Dot(dims) => contract::emit_dot(dims, out),
            Op::Convolution {
                window,
                dims,
                feature_groups,
                batch_groups,
            } => conv::emit_convolution(window, dims, [*feature_groups, *batch_groups], out),
            Op::Reduce { axes, reducer } => reduce::emit_reduce(axes, *reducer, operands, emitter, out),
            Op::ReduceWindow { window, reducer } => {
                window::emit_reduce_window(window, *reducer, operands[0].dtype, emitter, out);
            }
            Op::SelectAndScatter { window } => {
                window::emit_select_and_scatter(window, operands[0].dtype, emitter, out);
            }
            Op::AllReduce { reducer } => collective::emit_all_reduce(*reducer, operands, emitter, out),
            Op::Sort { axis, descending } => order::emit_sort(*axis, *descending, operands, emitter, out),
            Op::TopK { k } => {
                out.k = *k as i64;
                out.largest = true;
            }
            Op::Call { host: Some(host), .. } => host.emit(operands, out),
            Op::While { condition, body } => {
                let called = [(body, Calling::Tuples), (condition, Calling::TupleToArray)];
                out.called_computation_ids = emitter.called(called);
            }
            Op::Conditional { on_true, on_false } => {
                out.called_computation_ids = emitter.called([on_true, on_false].map(|c| (c, Calling::Tuples)));
            }
            Op::Call { body, host: None } => {
                out.called_computation_ids = emitter.called([(body, Calling::Arrays)]);
            }
            Op::GetTupleElement { index } => out.tuple_index = *index as i64,
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
