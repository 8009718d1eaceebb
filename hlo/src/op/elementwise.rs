//! Elementwise operators: unary, binary, compare, select, clamp, conversions.

use super::{Op, Sweep, Vjp, ensure};
use crate::graph::Tensor;
use crate::proto;
use crate::shape::{DType, Shape, broadcast_dims};

macro_rules! named {
    ($(#[$meta:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident => $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// Every variant.
            pub const ALL: &[$kind] = &[$($kind::$variant,)*];

            /// HLO's name.
            pub fn name(self) -> &'static str {
                match self { $($kind::$variant => $name,)* }
            }
        }
    };
}

named! {
    /// Function of one element.
    Unary {
        /// Absolute value.
        Abs => "abs",
        /// Sign change.
        Negate => "negate",
        /// −1, 0 or 1.
        Sign => "sign",
        /// e^x.
        Exp => "exponential",
        /// Natural logarithm.
        Log => "log",
        /// Square root.
        Sqrt => "sqrt",
        /// Reciprocal square root.
        Rsqrt => "rsqrt",
        /// Hyperbolic tangent.
        Tanh => "tanh",
        /// 1 / (1 + e^−x).
        Logistic => "logistic",
        /// Sine (radians).
        Sin => "sine",
        /// Cosine (radians).
        Cos => "cosine",
        /// Largest integer that is not larger.
        Floor => "floor",
        /// Nearest integer, halves to even.
        RoundNearestEven => "round-nearest-even",
        /// Bitwise (integers) or logical (`pred`) complement.
        Not => "not",
        /// Whether the element is neither infinite nor NaN; yields `pred`.
        IsFinite => "is-finite",
    }
}

named! {
    /// Function of two elements.
    Binary {
        /// Sum.
        Add => "add",
        /// Difference.
        Subtract => "subtract",
        /// Product.
        Multiply => "multiply",
        /// Quotient (integers truncate).
        Divide => "divide",
        /// Remainder with the sign of the dividend.
        Remainder => "remainder",
        /// Larger; NaN if either is.
        Maximum => "maximum",
        /// Smaller; NaN if either is.
        Minimum => "minimum",
        /// Power.
        Power => "power",
        /// Bitwise or logical and.
        And => "and",
        /// Bitwise or logical or.
        Or => "or",
        /// Bitwise or logical exclusive or.
        Xor => "xor",
        /// Left shift; 0 when the amount reaches the width.
        ShiftLeft => "shift-left",
        /// Logical right shift; 0 when the amount reaches the width.
        ShiftRightLogical => "shift-right-logical",
    }
}

named! {
    /// Comparison of two elements; with NaN all but `Ne` are false.
    Comparison {
        /// Equal.
        Eq => "EQ",
        /// Not equal.
        Ne => "NE",
        /// Less.
        Lt => "LT",
        /// Less or equal.
        Le => "LE",
        /// Greater.
        Gt => "GT",
        /// Greater or equal.
        Ge => "GE",
    }
}

fn same_dims(a: &Shape, b: &Shape) -> Result<(), String> {
    ensure(a.dims == b.dims, || {
        format!("dimensions {:?} and {:?} differ", a.dims, b.dims)
    })
}

fn same_shape(a: &Shape, b: &Shape) -> Result<(), String> {
    ensure(a.dtype == b.dtype, || {
        format!("element types {} and {} differ", a.dtype, b.dtype)
    })?;
    same_dims(a, b)
}

fn want(dtype: DType, holds: bool, kinds: &str) -> Result<(), String> {
    ensure(holds, || format!("takes {kinds}, not {dtype}"))
}

pub(super) fn infer_unary(unary: Unary, operands: &[&Shape]) -> Result<Shape, String> {
    let x = operands[0];
    match unary {
        Unary::Negate => want(x.dtype, x.dtype != DType::Pred, "numbers")?,
        Unary::Abs | Unary::Sign => want(
            x.dtype,
            x.dtype != DType::Pred && !x.dtype.is_unsigned(),
            "signed numbers",
        )?,
        Unary::Not => want(x.dtype, !x.dtype.is_float(), "integers or pred")?,
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
        | Unary::IsFinite => want(x.dtype, x.dtype.is_float(), "floating-point numbers")?,
    }
    let pred = unary == Unary::IsFinite;
    Ok(if pred { x.with_dtype(DType::Pred) } else { x.clone() })
}

pub(super) fn infer_binary(binary: Binary, operands: &[&Shape]) -> Result<Shape, String> {
    let (a, b) = (operands[0], operands[1]);
    same_shape(a, b)?;
    match binary {
        Binary::And | Binary::Or | Binary::Xor => want(a.dtype, !a.dtype.is_float(), "integers or pred")?,
        Binary::ShiftLeft | Binary::ShiftRightLogical => want(a.dtype, a.dtype.is_integer(), "integers")?,
        Binary::Add
        | Binary::Subtract
        | Binary::Multiply
        | Binary::Divide
        | Binary::Remainder
        | Binary::Maximum
        | Binary::Minimum
        | Binary::Power => want(a.dtype, a.dtype != DType::Pred, "numbers")?,
    }
    Ok(a.clone())
}

pub(super) fn infer_compare(operands: &[&Shape]) -> Result<Shape, String> {
    same_shape(operands[0], operands[1])?;
    Ok(operands[0].with_dtype(DType::Pred))
}

pub(super) fn infer_select(operands: &[&Shape]) -> Result<Shape, String> {
    want(
        operands[0].dtype,
        operands[0].dtype == DType::Pred,
        "a pred first operand",
    )?;
    same_shape(operands[1], operands[2])?;
    same_dims(operands[0], operands[1])?;
    Ok(operands[1].clone())
}

pub(super) fn infer_clamp(operands: &[&Shape]) -> Result<Shape, String> {
    same_shape(operands[0], operands[1])?;
    same_shape(operands[1], operands[2])?;
    want(operands[1].dtype, operands[1].dtype != DType::Pred, "numbers")?;
    Ok(operands[1].clone())
}

pub(super) fn infer_bitcast(dtype: DType, operands: &[&Shape]) -> Result<Shape, String> {
    let from = operands[0].dtype;
    ensure(
        from.size() == dtype.size() && from != DType::Pred && dtype != DType::Pred,
        || format!("{from} and {dtype} differ in width"),
    )?;
    Ok(operands[0].with_dtype(dtype))
}

pub(super) fn emit_compare(comparison: Comparison, operands: &[&Shape], out: &mut proto::Instruction) {
    out.comparison_direction = comparison.name().into();
    out.comparison_type = comparison_type(operands[0].dtype).into();
}

/// XLA's `ComparisonType` of an element type.
pub(crate) fn comparison_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => "FLOAT",
        DType::S32 | DType::S64 => "SIGNED",
        DType::Pred | DType::U8 | DType::U32 | DType::U64 => "UNSIGNED",
    }
}

pub(super) fn vjp_unary<'g>(unary: Unary, at: &Sweep<'g>) -> Vjp<'g> {
    let (x, y, ct) = (at.operands[0], at.output, at.cotangent);
    Vjp::Operands(vec![match unary {
        Unary::Abs => Some(ct * x.sign()),
        Unary::Negate => Some(-ct),
        Unary::Exp => Some(ct * y),
        Unary::Log => Some(ct / x),
        Unary::Sqrt => Some(ct * 0.5 / y),
        Unary::Rsqrt => Some(ct * -0.5 * y / x),
        Unary::Tanh => Some(ct * (1.0 - y * y)),
        Unary::Logistic => Some(ct * y * (1.0 - y)),
        Unary::Sin => Some(ct * x.cos()),
        Unary::Cos => Some(-(ct * x.sin())),
        // Piecewise constant: the derivative is zero wherever it exists.
        Unary::Sign | Unary::Floor | Unary::RoundNearestEven => None,
        Unary::Not | Unary::IsFinite => None,
    }])
}

pub(super) fn vjp_binary<'g>(binary: Binary, at: &Sweep<'g>) -> Vjp<'g> {
    let (a, b, y, ct) = (at.operands[0], at.operands[1], at.output, at.cotangent);
    // If both operands are equal, each gets half of the cotangent.
    let share = |x: Tensor<'g>, other: Tensor<'g>| {
        let whole = x.eq(y).convert(ct.dtype());
        ct * whole / (whole + other.eq(y).convert(ct.dtype()))
    };
    let (ga, gb) = match binary {
        Binary::Add => (Some(ct), Some(ct)),
        Binary::Subtract => (Some(ct), Some(-ct)),
        Binary::Multiply => (Some(ct * b), Some(ct * a)),
        Binary::Divide => (Some(ct / b), Some(-(ct * y / b))),
        // y = a - n·b, where n is a / b rounded towards zero.
        Binary::Remainder => (Some(ct), Some(-(ct * ((a - y) / b).round_nearest_even()))),
        Binary::Maximum | Binary::Minimum => (Some(share(a, b)), Some(share(b, a))),
        // The limits at zero: x^0 is constant in x, and 0^x (with x > 0) in x. The general formulas give 0·∞ there.
        Binary::Power => {
            let one = a.zeros_like() + 1.0;
            let exponent = b.eq(0.0).select(one, b - 1.0);
            let base = a.eq(0.0).select(one, a);
            (Some(ct * b * a.pow(exponent)), Some(ct * y * base.log()))
        }
        Binary::And | Binary::Or | Binary::Xor | Binary::ShiftLeft | Binary::ShiftRightLogical => (None, None),
    };
    Vjp::Operands(vec![ga, gb])
}

pub(super) fn vjp_select<'g>(at: &Sweep<'g>) -> Vjp<'g> {
    let (pred, ct) = (at.operands[0], at.cotangent);
    let zero = ct.zeros_like();
    Vjp::Operands(vec![None, Some(pred.select(ct, zero)), Some(pred.select(zero, ct))])
}

pub(super) fn vjp_clamp<'g>(at: &Sweep<'g>) -> Vjp<'g> {
    let (low, x, high, ct) = (at.operands[0], at.operands[1], at.operands[2], at.cotangent);
    let zero = ct.zeros_like();
    let below = x.lt(low);
    let above = x.gt(high);
    Vjp::Operands(vec![
        Some(below.select(ct, zero)),
        Some((below | above).select(zero, ct)),
        Some(above.select(ct, zero)),
    ])
}

pub(super) fn vjp_convert<'g>(to: DType, at: &Sweep<'g>) -> Vjp<'g> {
    let from = at.operands[0].dtype();
    let smooth = from.is_float() && to.is_float();
    Vjp::Operands(vec![smooth.then(|| at.cotangent.convert(from))])
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $method:ident => $variant:ident;)*) => {
        $($(#[$doc])*
        #[track_caller]
        #[must_use]
        pub fn $method(self) -> Tensor<'g> {
            self.graph().apply(Op::Unary(Unary::$variant), &[self])
        })*
    };
}

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $method:ident => $op:expr;)*) => {
        $($(#[$doc])*
        #[track_caller]
        #[must_use]
        pub fn $method(self, other: impl Operand<'g>) -> Tensor<'g> {
            let (a, b) = broadcast_pair(self, other.tensor_like(self));
            self.graph().apply($op, &[a, b])
        })*
    };
}

/// The second operand of a binary operator: a tensor, or a number, which takes the element type of the first operand.
pub trait Operand<'g> {
    /// The operand as a tensor that can be combined with `other`.
    fn tensor_like(self, other: Tensor<'g>) -> Tensor<'g>;
}

impl<'g> Operand<'g> for Tensor<'g> {
    fn tensor_like(self, _: Tensor<'g>) -> Tensor<'g> {
        self
    }
}

impl<'g> Operand<'g> for f64 {
    fn tensor_like(self, other: Tensor<'g>) -> Tensor<'g> {
        if other.is_poison() {
            return other;
        }
        other.graph().number(other.dtype(), self)
    }
}

/// Broadcasts both operands to their common NumPy dimensions. If there are none, returns them unchanged, so that the
/// shape rule reports the caller's shapes.
#[track_caller]
fn broadcast_pair<'g>(a: Tensor<'g>, b: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
    match broadcast_dims(&a.dims(), &b.dims()) {
        Some(dims) if !a.is_poison() && !b.is_poison() => (a.broadcast_to(&dims), b.broadcast_to(&dims)),
        _ => (a, b),
    }
}

// Comparisons have HLO's names, arithmetic those of Rust's operator traits.
#[allow(clippy::should_implement_trait)]
impl<'g> Tensor<'g> {
    unary_methods! {
        /// |x|.
        abs => Abs;
        /// −x.
        negate => Negate;
        /// −1, 0 or 1.
        sign => Sign;
        /// e^x.
        exp => Exp;
        /// Natural logarithm.
        log => Log;
        /// Square root.
        sqrt => Sqrt;
        /// 1/√x.
        rsqrt => Rsqrt;
        /// Hyperbolic tangent.
        tanh => Tanh;
        /// 1 / (1 + e^−x).
        logistic => Logistic;
        /// Sine.
        sin => Sin;
        /// Cosine.
        cos => Cos;
        /// Round down.
        floor => Floor;
        /// Round to nearest, halves to even.
        round_nearest_even => RoundNearestEven;
        /// Complement.
        logical_not => Not;
        /// Neither infinite nor NaN.
        is_finite => IsFinite;
    }

    binary_methods! {
        /// Sum.
        add => Op::Binary(Binary::Add);
        /// Difference.
        sub => Op::Binary(Binary::Subtract);
        /// Product.
        mul => Op::Binary(Binary::Multiply);
        /// Quotient.
        div => Op::Binary(Binary::Divide);
        /// Remainder with the sign of the dividend.
        rem => Op::Binary(Binary::Remainder);
        /// Larger.
        max => Op::Binary(Binary::Maximum);
        /// Smaller.
        min => Op::Binary(Binary::Minimum);
        /// Power.
        pow => Op::Binary(Binary::Power);
        /// Bitwise or logical and.
        and => Op::Binary(Binary::And);
        /// Bitwise or logical or.
        or => Op::Binary(Binary::Or);
        /// Bitwise or logical exclusive or.
        xor => Op::Binary(Binary::Xor);
        /// Left shift.
        shift_left => Op::Binary(Binary::ShiftLeft);
        /// Logical right shift.
        shift_right_logical => Op::Binary(Binary::ShiftRightLogical);
        /// Equal.
        eq => Op::Compare(Comparison::Eq);
        /// Not equal.
        ne => Op::Compare(Comparison::Ne);
        /// Less.
        lt => Op::Compare(Comparison::Lt);
        /// Less or equal.
        le => Op::Compare(Comparison::Le);
        /// Greater.
        gt => Op::Compare(Comparison::Gt);
        /// Greater or equal.
        ge => Op::Compare(Comparison::Ge);
    }

    /// `on_true` where this `pred` array is true, else `on_false`; operands broadcast.
    #[track_caller]
    #[must_use]
    pub fn select(self, on_true: Tensor<'g>, on_false: Tensor<'g>) -> Tensor<'g> {
        let (on_true, on_false) = broadcast_pair(on_true, on_false);
        let (pred, on_true) = broadcast_pair(self, on_true);
        let (_, on_false) = broadcast_pair(pred, on_false);
        self.graph().apply(Op::Select, &[pred, on_true, on_false])
    }

    /// Clamps to `[low, high]`; the bounds broadcast.
    #[track_caller]
    #[must_use]
    pub fn clamp(self, low: impl Operand<'g>, high: impl Operand<'g>) -> Tensor<'g> {
        let (x, low) = broadcast_pair(self, low.tensor_like(self));
        let (x, high) = broadcast_pair(x, high.tensor_like(self));
        let (_, low) = broadcast_pair(x, low);
        self.graph().apply(Op::Clamp, &[low, x, high])
    }

    /// Converts to `dtype`; a no-op if the array already has this type.
    #[track_caller]
    #[must_use]
    pub fn convert(self, dtype: DType) -> Tensor<'g> {
        if self.is_poison() || self.dtype() == dtype {
            return self;
        }
        self.graph().apply(Op::Convert(dtype), &[self])
    }

    /// Reinterprets the bits as `dtype`, which must have the same width.
    #[track_caller]
    #[must_use]
    pub fn bitcast_convert(self, dtype: DType) -> Tensor<'g> {
        self.graph().apply(Op::BitcastConvert(dtype), &[self])
    }

    /// Rounds towards zero.
    #[track_caller]
    #[must_use]
    pub fn trunc(self) -> Tensor<'g> {
        self.sign() * self.abs().floor()
    }

    /// max(x, 0), with derivative 0 at 0. NaN stays NaN.
    #[track_caller]
    #[must_use]
    pub fn relu(self) -> Tensor<'g> {
        where_positive(self, self)
    }

    /// [`Tensor::relu`] with a derivative that reads the result instead of the input; the values are the same.
    ///
    /// For an input that nothing else in the backward pass reads, such as the sum at the end of a residual block: the
    /// compiler would recompute that sum from its terms, while the result is already in memory.
    #[track_caller]
    #[must_use]
    pub fn relu_by_result(self) -> Tensor<'g> {
        let result = self.relu();
        result.with_vjp(&[self, result], |operands, cotangent| {
            vec![Some(where_positive(operands[1], cotangent)), None]
        })
    }

    /// This array as a constant: gradients do not pass through it.
    #[track_caller]
    #[must_use]
    pub fn stop_gradient(self) -> Tensor<'g> {
        self.graph().apply(Op::StopGradient, &[self])
    }

    /// Zeros of the same shape.
    #[must_use]
    pub fn zeros_like(self) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        self.graph().full(&self.shape(), 0.0)
    }
}

/// `value` where `x` is above 0 or NaN, else 0.
#[track_caller]
fn where_positive<'g>(x: Tensor<'g>, value: Tensor<'g>) -> Tensor<'g> {
    x.le(0.0).select(value.zeros_like(), value)
}
