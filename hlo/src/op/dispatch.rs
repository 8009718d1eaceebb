//! Finds the rules of each operator: shapes, gradient, emission.

use super::{Op, Sweep, Vjp, collective, contract, control, conv, elementwise, index, layout, order, reduce, window};
use crate::emit::{Calling, Emitter};
use crate::proto;
use crate::shape::Shape;

impl Op {
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
            Op::Module(module) => module.infer(operands),
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
            Op::Module(_) => Vjp::Stop("a module of another program returns its gradients"),
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
            Op::Module(module) => out.called_computation_ids = vec![module.entry_id()],
            Op::GetTupleElement { index } => out.tuple_index = *index as i64,
        }
    }
}
