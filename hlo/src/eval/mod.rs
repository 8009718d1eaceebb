//! Reference interpreter: the oracle of the tests, and the executor where no plugin is available.
//!
//! Floating-point results are computed in `f64` and rounded to the element type once per operator (for a dot product or
//! a sum, once at its end). Integers wrap at their width. A program runs as its only replica, so an all-reduce returns
//! its operand.

mod arith;
mod index;
mod moves;
mod window;

use crate::error::{Error, Result};
use crate::graph::{Computation, Node};
use crate::literal::Literal;
use crate::op::Op;
use crate::shape::{DType, Shape};
use std::rc::Rc;

/// An array under evaluation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub shape: Shape,
    pub data: Data,
}

/// Elements in row-major order; `pred` is stored as 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Float(Vec<f64>),
    Int(Vec<i128>),
}

/// Smallest and largest value of an integer type (`pred`: 0 and 1; floating-point types: 0).
pub(crate) fn integer_range(dtype: DType) -> (i128, i128) {
    match dtype {
        DType::Pred => (0, 1),
        DType::U8 | DType::U32 | DType::U64 => (0, (1 << dtype.bits()) - 1),
        DType::S32 | DType::S64 => (-(1 << (dtype.bits() - 1)), (1 << (dtype.bits() - 1)) - 1),
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => (0, 0),
    }
}

/// Rounds `value` to a floating-point type.
pub(crate) fn round_to(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => half::f16::from_f64(value).to_f64(),
        DType::BF16 => half::bf16::from_f64(value).to_f64(),
        DType::F64 => value,
        DType::Pred | DType::U8 | DType::S32 | DType::S64 | DType::U32 | DType::U64 => value,
    }
}

/// Wraps `value` to the width of an integer type.
pub(crate) fn wrap(dtype: DType, value: i128) -> i128 {
    let (low, high) = integer_range(dtype);
    let span = high - low + 1;
    (value - low).rem_euclid(span) + low
}

/// Converts to an integer type: truncates, saturates, and maps NaN to 0.
pub(crate) fn saturate(dtype: DType, value: f64) -> i128 {
    let (low, high) = integer_range(dtype);
    (value as i128).clamp(low, high)
}

impl Value {
    /// An array filled with `value`, rounded or saturated to the type.
    pub fn filled(shape: Shape, value: f64) -> Self {
        let n = shape.elements();
        Self::rounded(shape, &vec![value; n])
    }

    /// An array of `values`, rounded or saturated to the type.
    pub fn rounded(shape: Shape, values: &[f64]) -> Self {
        let dtype = shape.dtype;
        let data = match dtype.is_float() {
            true => Data::Float(values.iter().map(|&v| round_to(dtype, v)).collect()),
            false => Data::Int(values.iter().map(|&v| saturate(dtype, v)).collect()),
        };
        Value { shape, data }
    }

    pub fn from_literal(literal: &Literal) -> Self {
        let shape = literal.shape().clone();
        let ints = |v: Option<Vec<i128>>| Data::Int(v.unwrap_or_default());
        let data = match shape.dtype {
            DType::S64 => ints(literal.to_vec::<i64>().map(|v| v.into_iter().map(i128::from).collect())),
            DType::U64 => ints(literal.to_vec::<u64>().map(|v| v.into_iter().map(i128::from).collect())),
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => Data::Float(literal.to_f64_vec()),
            DType::Pred | DType::U8 | DType::S32 | DType::U32 => {
                Data::Int(literal.to_f64_vec().into_iter().map(|v| v as i128).collect())
            }
        };
        Value { shape, data }
    }

    pub fn to_literal(&self) -> Literal {
        let dims = &self.shape.dims;
        match (&self.data, self.shape.dtype) {
            (Data::Float(v), DType::F16) => {
                Literal::new(dims, &v.iter().map(|&x| half::f16::from_f64(x)).collect::<Vec<_>>())
            }
            (Data::Float(v), DType::BF16) => {
                Literal::new(dims, &v.iter().map(|&x| half::bf16::from_f64(x)).collect::<Vec<_>>())
            }
            (Data::Float(v), DType::F32) => Literal::new(dims, &v.iter().map(|&x| x as f32).collect::<Vec<_>>()),
            (Data::Float(v), DType::F64) => Literal::new(dims, v),
            (Data::Int(v), DType::Pred) => Literal::from_bools(dims, &v.iter().map(|&x| x != 0).collect::<Vec<_>>()),
            (Data::Int(v), DType::U8) => Literal::new(dims, &v.iter().map(|&x| x as u8).collect::<Vec<_>>()),
            (Data::Int(v), DType::S32) => Literal::new(dims, &v.iter().map(|&x| x as i32).collect::<Vec<_>>()),
            (Data::Int(v), DType::U32) => Literal::new(dims, &v.iter().map(|&x| x as u32).collect::<Vec<_>>()),
            (Data::Int(v), DType::U64) => Literal::new(dims, &v.iter().map(|&x| x as u64).collect::<Vec<_>>()),
            (Data::Int(v), DType::S64) => Literal::new(dims, &v.iter().map(|&x| x as i64).collect::<Vec<_>>()),
            (Data::Float(_), DType::Pred | DType::U8 | DType::S32 | DType::S64 | DType::U32 | DType::U64)
            | (Data::Int(_), DType::F16 | DType::BF16 | DType::F32 | DType::F64) => {
                unreachable!("elements follow the element type")
            }
        }
    }

    /// Picks elements: element `i` of the result is element `from(i)` of this array, or that of `other` if `from(i)` is
    /// `None`.
    pub fn picked(&self, shape: Shape, other: Option<&Value>, from: impl Fn(usize) -> Option<usize>) -> Value {
        fn pick<T: Copy>(own: &[T], other: Option<T>, n: usize, from: impl Fn(usize) -> Option<usize>) -> Vec<T> {
            (0..n)
                .map(|i| from(i).map_or_else(|| other.unwrap_or_else(|| own[0]), |j| own[j]))
                .collect()
        }
        let n = shape.elements();
        let data = match (&self.data, other.map(|o| &o.data)) {
            (Data::Float(v), Some(Data::Float(o))) => Data::Float(pick(v, o.first().copied(), n, from)),
            (Data::Int(v), Some(Data::Int(o))) => Data::Int(pick(v, o.first().copied(), n, from)),
            (Data::Float(v), None) => Data::Float(pick(v, None, n, from)),
            (Data::Int(v), None) => Data::Int(pick(v, None, n, from)),
            (Data::Float(_), Some(Data::Int(_))) | (Data::Int(_), Some(Data::Float(_))) => {
                unreachable!("the shape rule requires one element type")
            }
        };
        Value { shape, data }
    }

    /// Elements as text; integers are exact.
    pub fn printed(&self) -> Vec<String> {
        match &self.data {
            Data::Float(v) => v.iter().map(f64::to_string).collect(),
            Data::Int(v) => v.iter().map(i128::to_string).collect(),
        }
    }

    /// Integer elements (of an integer or `pred` array).
    pub fn ints(&self) -> &[i128] {
        match &self.data {
            Data::Int(v) => v,
            Data::Float(_) => &[],
        }
    }
}

impl Computation {
    /// Evaluates the computation on `arguments`, one per parameter.
    ///
    /// # Errors
    ///
    /// [`Error::Evaluate`] if the number, types or dimensions of the arguments do not match the parameters.
    pub fn evaluate(&self, arguments: &[Literal]) -> Result<Vec<Literal>> {
        let specs = self.parameter_specs();
        let fail = |message: String| Error::Evaluate {
            computation: self.name.clone(),
            message,
        };
        if let Some(module) = self.module() {
            return Err(fail(format!(
                "module '{}' of another program needs a compiler",
                module.name()
            )));
        }
        if specs.len() != arguments.len() {
            return Err(fail(format!(
                "{} arguments for {} parameters",
                arguments.len(),
                specs.len()
            )));
        }
        for ((name, shape), argument) in specs.iter().zip(arguments) {
            if shape != argument.shape() {
                return Err(fail(format!(
                    "parameter {name} is {shape}, the argument {}",
                    argument.shape()
                )));
            }
        }
        let arguments: Vec<Rc<Value>> = arguments.iter().map(|a| Rc::new(Value::from_literal(a))).collect();
        Ok(run(self, &arguments).iter().map(|v| v.to_literal()).collect())
    }
}

/// Evaluates on checked arguments.
fn run(computation: &Computation, arguments: &[Rc<Value>]) -> Vec<Rc<Value>> {
    let mut results: Vec<Vec<Rc<Value>>> = Vec::with_capacity(computation.nodes.len());
    for node in &computation.nodes {
        let result = if let Op::GetTupleElement { index } = node.op {
            vec![results[node.operands[0]][index].clone()]
        } else if let Op::Parameter { index, .. } = node.op {
            vec![arguments[index].clone()]
        } else {
            let operands: Vec<Rc<Value>> = node.operands.iter().map(|&o| results[o][0].clone()).collect();
            apply(node, &operands)
        };
        results.push(result);
    }
    computation.outputs.iter().map(|&o| results[o][0].clone()).collect()
}

fn apply(node: &Node, operands: &[Rc<Value>]) -> Vec<Rc<Value>> {
    let x: Vec<&Value> = operands.iter().map(Rc::as_ref).collect();
    let shape = node
        .shapes
        .first()
        .cloned()
        .unwrap_or_else(|| Shape::scalar(DType::Pred));
    let value = match &node.op {
        Op::While { condition, body } => return run_while(condition, body, operands),
        Op::Conditional { on_true, on_false } => {
            let branch = if x[0].ints()[0] != 0 { on_true } else { on_false };
            return run(branch, &operands[1..]);
        }
        Op::Call { body, .. } => return run(body, operands),
        Op::Sort { axis, descending } => return wrap_all(index::sort(*axis, *descending, &x)),
        Op::TopK { k } => return wrap_all(index::top_k(*k, x[0], &node.shapes)),
        Op::Parameter { .. } | Op::GetTupleElement { .. } | Op::Module(_) => unreachable!("handled by the caller"),
        Op::Constant(literal) => Value::from_literal(literal),
        Op::Iota { axis, .. } => moves::iota(shape, *axis),
        Op::Unary(unary) => arith::unary(*unary, x[0], shape),
        Op::Binary(binary) => arith::binary(*binary, x[0], x[1]),
        Op::Compare(comparison) => arith::compare(*comparison, x[0], x[1]),
        Op::Select => arith::select(x[0], x[1], x[2]),
        Op::Clamp => arith::clamp(x[0], x[1], x[2]),
        Op::Convert(dtype) => arith::convert(x[0], *dtype),
        Op::BitcastConvert(dtype) => arith::bitcast(x[0], *dtype),
        Op::Broadcast { axes, .. } => moves::broadcast(x[0], shape, axes),
        Op::Reshape { .. } | Op::StopGradient | Op::WithVjp(_) | Op::AllReduce { .. } => Value {
            shape,
            data: x[0].data.clone(),
        },
        Op::Transpose { permutation } => moves::transpose(x[0], shape, permutation),
        Op::Slice { start, stride, .. } => moves::slice(x[0], shape, start, stride),
        Op::Pad { low, interior, .. } => moves::pad(x[0], x[1], shape, low, interior),
        Op::Concatenate { axis } => moves::concatenate(&x, shape, *axis),
        Op::Reverse { axes } => moves::reverse(x[0], axes),
        Op::DynamicSlice { .. } => index::dynamic_slice(x[0], &x[1..], shape),
        Op::DynamicUpdateSlice => index::dynamic_update_slice(x[0], x[1], &x[2..]),
        Op::Gather { dims, sizes } => index::gather(dims, sizes, x[0], x[1], shape),
        Op::Scatter { dims, update, .. } => index::scatter(dims, *update, x[0], x[1], x[2]),
        Op::Dot(dims) => arith::dot(dims, x[0], x[1], shape),
        Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } => window::convolution(window, dims, [*feature_groups, *batch_groups], [x[0], x[1]], shape),
        Op::Reduce { axes, reducer } => arith::reduce(axes, *reducer, x[0], x[1], shape),
        Op::ReduceWindow { window, reducer } => window::reduce_window(window, *reducer, x[0], x[1], shape),
        Op::SelectAndScatter { window } => window::select_and_scatter(window, x[0], x[1], x[2]),
    };
    vec![Rc::new(value)]
}

fn wrap_all(values: Vec<Value>) -> Vec<Rc<Value>> {
    values.into_iter().map(Rc::new).collect()
}

fn run_while(condition: &Computation, body: &Computation, init: &[Rc<Value>]) -> Vec<Rc<Value>> {
    let mut state = init.to_vec();
    while run(condition, &state)[0].ints()[0] != 0 {
        state = run(body, &state);
    }
    state
}
