//! Constants in MLIR's textual form.

use crate::literal::Literal;
use crate::shape::DType;
use std::fmt::Write;

/// The elements of a constant, exactly: a readable number if there is one element, bytes otherwise.
pub(super) fn value(literal: &Literal) -> String {
    let elements = literal.shape().elements();
    let single = (literal.dims().is_empty() && literal.dtype() != DType::F64).then(|| literal.to_f64_vec()[0]);
    match (single, literal.dtype()) {
        _ if elements == 0 => "dense<>".into(),
        (_, DType::Pred) => format!(
            "dense<{}>",
            nested(literal.dims(), &literal.to_bools().unwrap_or_default())
        ),
        (Some(number), dtype) if dtype.is_float() => match readable(number) {
            Some(text) => format!("dense<{text}>"),
            None => bytes(literal),
        },
        // Above 2^53 not every integer is an exact f64.
        (Some(number), _) if number.abs() < (1u64 << 53) as f64 => format!("dense<{number:.0}>"),
        _ => bytes(literal),
    }
}

/// A finite number in a form that MLIR parses back exactly: up to single precision, the shortest form in double
/// precision.
fn readable(number: f64) -> Option<String> {
    let text = number.is_finite().then(|| format!("{number:e}"))?;
    let (digits, exponent) = text.split_once('e')?;
    let point = if digits.contains('.') { "" } else { ".0" };
    Some(format!("{digits}{point}e{exponent}"))
}

/// Booleans as nested lists, because MLIR releases differ in whether the byte form is packed.
fn nested(dims: &[usize], values: &[bool]) -> String {
    let Some((&first, rest)) = dims.split_first() else {
        return values.first().is_some_and(|&value| value).to_string();
    };
    let parts = values
        .chunks(values.len() / first.max(1))
        .map(|part| nested(rest, part));
    format!("[{}]", parts.collect::<Vec<_>>().join(", "))
}

/// All elements, in little-endian order.
fn bytes(literal: &Literal) -> String {
    let mut text = String::from("dense<\"0x");
    for byte in literal.bytes() {
        let _ = write!(text, "{byte:02X}");
    }
    text + "\">"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_exact() {
        assert_eq!(
            value(&Literal::scalar(0.1f32)),
            format!("dense<{}>", "1.0000000149011612e-1")
        );
        assert_eq!(value(&Literal::scalar(-2f32)), "dense<-2.0e0>");
        assert_eq!(value(&Literal::scalar(f32::NAN)), "dense<\"0x0000C07F\">");
        assert_eq!(value(&Literal::scalar(u64::MAX)), "dense<\"0xFFFFFFFFFFFFFFFF\">");
        assert_eq!(value(&Literal::scalar(-7i64)), "dense<-7>");
        assert_eq!(value(&Literal::new(&[2], &[1i32, -1])), "dense<\"0x01000000FFFFFFFF\">");
        let bools = Literal::from_bools(&[2, 1], &[true, false]);
        assert_eq!(value(&bools), "dense<[[true], [false]]>");
        assert_eq!(value(&Literal::new::<f32>(&[0, 3], &[])), "dense<>");
    }
}
