//! Arithmetic of the evaluator.

use super::{Data, Value, round_to, saturate, wrap};
use crate::op::{Binary, Comparison, DotDims, Reducer, Unary};
use crate::shape::{DType, Shape};

pub fn unary(op: Unary, x: &Value, shape: Shape) -> Value {
    let dtype = x.shape.dtype;
    let data = match (&x.data, op) {
        (Data::Float(v), Unary::IsFinite) => Data::Int(v.iter().map(|a| i128::from(a.is_finite())).collect()),
        (Data::Float(v), _) => Data::Float(v.iter().map(|&a| round_to(dtype, float_unary(op, a))).collect()),
        (Data::Int(v), _) => Data::Int(v.iter().map(|&a| wrap(dtype, int_unary(op, dtype, a))).collect()),
    };
    Value { shape, data }
}

fn float_unary(op: Unary, a: f64) -> f64 {
    match op {
        Unary::Abs => a.abs(),
        Unary::Negate => -a,
        Unary::Sign if a == 0.0 || a.is_nan() => a,
        Unary::Sign => a.signum(),
        Unary::Exp => a.exp(),
        Unary::Log => a.ln(),
        Unary::Sqrt => a.sqrt(),
        Unary::Rsqrt => 1.0 / a.sqrt(),
        Unary::Tanh => a.tanh(),
        Unary::Logistic => 1.0 / (1.0 + (-a).exp()),
        Unary::Sin => a.sin(),
        Unary::Cos => a.cos(),
        Unary::Floor => a.floor(),
        Unary::RoundNearestEven => a.round_ties_even(),
        Unary::Not => unreachable!("the shape rule requires integers"),
        Unary::IsFinite => unreachable!("yields pred"),
    }
}

fn int_unary(op: Unary, dtype: DType, a: i128) -> i128 {
    match op {
        Unary::Abs => a.abs(),
        Unary::Negate => -a,
        Unary::Sign => a.signum(),
        Unary::Not if dtype == DType::Pred => 1 - a,
        Unary::Not => !a,
        Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Tanh
        | Unary::Logistic
        | Unary::Sin
        | Unary::Cos
        | Unary::Floor
        | Unary::RoundNearestEven
        | Unary::IsFinite => unreachable!("the shape rule requires floating-point numbers"),
    }
}

pub fn binary(op: Binary, x: &Value, y: &Value) -> Value {
    let dtype = x.shape.dtype;
    let data = match (&x.data, &y.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(zip(a, b, |a, b| round_to(dtype, float_binary(op, a, b)))),
        (Data::Int(a), Data::Int(b)) => Data::Int(zip(a, b, |a, b| wrap(dtype, int_binary(op, dtype, a, b)))),
        (Data::Float(_), Data::Int(_)) | (Data::Int(_), Data::Float(_)) => {
            unreachable!("the shape rule requires one element type")
        }
    };
    Value {
        shape: x.shape.clone(),
        data,
    }
}

fn zip<T: Copy, R>(a: &[T], b: &[T], f: impl Fn(T, T) -> R) -> Vec<R> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

fn float_binary(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Remainder => a % b,
        Binary::Maximum | Binary::Minimum if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Power => a.powf(b),
        Binary::And | Binary::Or | Binary::Xor | Binary::ShiftLeft | Binary::ShiftRightLogical => {
            unreachable!("the shape rule requires integers")
        }
    }
}

fn int_binary(op: Binary, dtype: DType, a: i128, b: i128) -> i128 {
    let width = dtype.bits() as i128;
    match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a.wrapping_mul(b),
        // Like XLA: division by zero yields all ones, and its remainder is the dividend.
        Binary::Divide if b == 0 => -1,
        Binary::Divide => a / b,
        Binary::Remainder if b == 0 => a,
        Binary::Remainder => a % b,
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Power => int_power(a, b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::ShiftLeft | Binary::ShiftRightLogical if !(0..width).contains(&b) => 0,
        Binary::ShiftLeft => a << b,
        Binary::ShiftRightLogical => (a & ((1 << width) - 1)) >> b,
    }
}

/// Wrapping integer power. Like XLA, a negative exponent yields 0 unless the base is 1 or −1.
fn int_power(base: i128, exponent: i128) -> i128 {
    match (base, exponent) {
        (1, _) => 1,
        (-1, n) => 1 - 2 * (n & 1),
        (_, ..0) => 0,
        (_, mut n) => {
            let (mut square, mut result) = (base, 1i128);
            while n > 0 {
                if n & 1 == 1 {
                    result = result.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                n >>= 1;
            }
            result
        }
    }
}

pub fn compare(op: Comparison, x: &Value, y: &Value) -> Value {
    fn holds<T: PartialOrd>(op: Comparison, a: T, b: T) -> i128 {
        i128::from(match op {
            Comparison::Eq => a == b,
            Comparison::Ne => a != b,
            Comparison::Lt => a < b,
            Comparison::Le => a <= b,
            Comparison::Gt => a > b,
            Comparison::Ge => a >= b,
        })
    }
    let data = match (&x.data, &y.data) {
        (Data::Float(a), Data::Float(b)) => zip(a, b, |a, b| holds(op, a, b)),
        (Data::Int(a), Data::Int(b)) => zip(a, b, |a, b| holds(op, a, b)),
        (Data::Float(_), Data::Int(_)) | (Data::Int(_), Data::Float(_)) => {
            unreachable!("the shape rule requires one element type")
        }
    };
    Value {
        shape: x.shape.with_dtype(DType::Pred),
        data: Data::Int(data),
    }
}

pub fn select(pred: &Value, on_true: &Value, on_false: &Value) -> Value {
    fn choose<T: Copy>(pred: &[i128], a: &[T], b: &[T]) -> Vec<T> {
        (0..pred.len())
            .map(|i| if pred[i] != 0 { a[i] } else { b[i] })
            .collect()
    }
    let data = match (&on_true.data, &on_false.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(choose(pred.ints(), a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(choose(pred.ints(), a, b)),
        (Data::Float(_), Data::Int(_)) | (Data::Int(_), Data::Float(_)) => {
            unreachable!("the shape rule requires one element type")
        }
    };
    Value {
        shape: on_true.shape.clone(),
        data,
    }
}

pub fn clamp(low: &Value, x: &Value, high: &Value) -> Value {
    binary(Binary::Minimum, &binary(Binary::Maximum, low, x), high)
}

pub fn convert(x: &Value, to: DType) -> Value {
    let data = match &x.data {
        Data::Float(v) if to.is_float() => Data::Float(v.iter().map(|&a| round_to(to, a)).collect()),
        Data::Float(v) if to == DType::Pred => Data::Int(v.iter().map(|&a| i128::from(a != 0.0)).collect()),
        Data::Float(v) => Data::Int(v.iter().map(|&a| saturate(to, a)).collect()),
        Data::Int(v) if to == DType::F32 => Data::Float(v.iter().map(|&a| f64::from(a as f32)).collect()),
        Data::Int(v) if to.is_float() => Data::Float(v.iter().map(|&a| round_to(to, a as f64)).collect()),
        Data::Int(v) if to == DType::Pred => Data::Int(v.iter().map(|&a| i128::from(a != 0)).collect()),
        Data::Int(v) => Data::Int(v.iter().map(|&a| wrap(to, a)).collect()),
    };
    Value {
        shape: x.shape.with_dtype(to),
        data,
    }
}

pub fn bitcast(x: &Value, to: DType) -> Value {
    let bytes = x.to_literal().into_bytes();
    match crate::Literal::from_bytes(x.shape.with_dtype(to), bytes) {
        Some(literal) => Value::from_literal(&literal),
        None => unreachable!("the shape rule requires one width"),
    }
}

pub fn dot(d: &DotDims, x: &Value, y: &Value, shape: Shape) -> Value {
    // Transpose both operands to [batch, free, contracted], then use plain loops.
    let (a, [batch, rows, depth]) = super::moves::grouped(x, &d.lhs_batch, &d.lhs_contract);
    let (b, [_, columns, _]) = super::moves::grouped(y, &d.rhs_batch, &d.rhs_contract);
    let dtype = shape.dtype;
    let cells = (0..batch * rows * columns).map(|cell| {
        let (n, m) = (cell % columns, cell / columns);
        let (left, right) = (m * depth, (m / rows * columns + n) * depth);
        (left, right)
    });
    let data = match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(
            cells
                .map(|(l, r)| round_to(dtype, (0..depth).fold(0.0, |sum, k| sum + a[l + k] * b[r + k])))
                .collect(),
        ),
        (Data::Int(a), Data::Int(b)) => Data::Int(
            cells
                .map(|(l, r)| {
                    let sum = |sum: i128, k: usize| sum.wrapping_add(a[l + k].wrapping_mul(b[r + k]));
                    wrap(dtype, (0..depth).fold(0, sum))
                })
                .collect(),
        ),
        (Data::Float(_), Data::Int(_)) | (Data::Int(_), Data::Float(_)) => {
            unreachable!("the shape rule requires one element type")
        }
    };
    Value { shape, data }
}

pub fn reduce(axes: &[usize], reducer: Reducer, x: &Value, init: &Value, shape: Shape) -> Value {
    let (x, [_, kept, depth]) = super::moves::grouped(x, &[], axes);
    let data = fold(reducer, &x, init, (0..kept).map(|i| i * depth..(i + 1) * depth));
    Value { shape, data }
}

/// Combines each group of elements of `x`, given by flat indices, in order and starting from `init`.
pub fn fold<G: IntoIterator<Item = usize>>(
    reducer: Reducer,
    x: &Value,
    init: &Value,
    groups: impl Iterator<Item = G>,
) -> Data {
    let dtype = x.shape.dtype;
    let op = match reducer {
        Reducer::Add => Binary::Add,
        Reducer::Max => Binary::Maximum,
        Reducer::Min => Binary::Minimum,
        Reducer::And => Binary::And,
        Reducer::Or => Binary::Or,
    };
    match (&x.data, &init.data) {
        (Data::Float(v), Data::Float(start)) => {
            let float = |a: f64, i: usize| float_binary(op, a, v[i]);
            Data::Float(
                groups
                    .map(|group| round_to(dtype, group.into_iter().fold(start[0], float)))
                    .collect(),
            )
        }
        (Data::Int(v), Data::Int(start)) => {
            let int = |a: i128, i: usize| int_binary(op, dtype, a, v[i]);
            Data::Int(
                groups
                    .map(|group| wrap(dtype, group.into_iter().fold(start[0], int)))
                    .collect(),
            )
        }
        (Data::Float(_), Data::Int(_)) | (Data::Int(_), Data::Float(_)) => {
            unreachable!("the shape rule requires one element type")
        }
    }
}
