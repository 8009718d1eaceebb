//! Element types and array shapes.

use std::fmt;

/// Element type of an array. Displayed with HLO's names (`f32`, `pred`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Boolean, one byte per element (0 or 1).
    Pred,
    /// Signed 32-bit integer.
    S32,
    /// Signed 64-bit integer.
    S64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision (absent on TPU).
    F64,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 10] = [
        DType::Pred,
        DType::S32,
        DType::S64,
        DType::U8,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
    ];

    /// HLO's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            DType::Pred => "pred",
            DType::S32 => "s32",
            DType::S64 => "s64",
            DType::U8 => "u8",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::Pred | DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::S32 | DType::U32 | DType::F32 => 4,
            DType::S64 | DType::U64 | DType::F64 => 8,
        }
    }

    /// Bits per element (`pred` counts as 8, its storage).
    pub fn bits(self) -> usize {
        8 * self.size()
    }

    /// Whether the type is `f16`, `bf16`, `f32` or `f64`.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Whether the type is a signed or unsigned integer (`pred` is not).
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != DType::Pred
    }

    /// Whether the type is `u8`, `u32` or `u64`.
    pub fn is_unsigned(self) -> bool {
        matches!(self, DType::U8 | DType::U32 | DType::U64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Element type and dimensions of a dense array; displayed as `f32[784,300]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first (C order).
    pub dims: Vec<usize>,
}

impl Shape {
    /// A shape from its parts.
    pub fn new(dtype: DType, dims: impl Into<Vec<usize>>) -> Self {
        Shape {
            dtype,
            dims: dims.into(),
        }
    }

    /// The rank-0 shape of `dtype`.
    pub fn scalar(dtype: DType) -> Self {
        Shape::new(dtype, [])
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// The same dimensions with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Shape::new(dtype, self.dims.clone())
    }

    /// The same element type with other dimensions.
    pub fn with_dims(&self, dims: impl Into<Vec<usize>>) -> Self {
        Shape::new(self.dtype, dims)
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.rank()];
        for axis in (1..self.rank()).rev() {
            strides[axis - 1] = strides[axis] * self.dims[axis];
        }
        strides
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.dims.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Dimensions of two operands after NumPy broadcasting (right-aligned, 1 stretches), or `None`.
pub fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    (0..rank)
        .map(|i| {
            let at = |dims: &[usize]| match (i + dims.len()).checked_sub(rank) {
                Some(j) => dims[j],
                None => 1,
            };
            match (at(a), at(b)) {
                (x, y) if x == y => Some(x),
                (1, y) => Some(y),
                (x, 1) => Some(x),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_hlo() {
        assert_eq!(Shape::new(DType::F32, [784, 300]).to_string(), "f32[784,300]");
        assert_eq!(Shape::scalar(DType::Pred).to_string(), "pred[]");
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(Shape::new(DType::U8, [2, 3, 4]).strides(), [12, 4, 1]);
        assert!(Shape::scalar(DType::U8).strides().is_empty());
    }

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast_dims(&[4, 1], &[3]), Some(vec![4, 3]));
        assert_eq!(broadcast_dims(&[], &[2, 5]), Some(vec![2, 5]));
        assert_eq!(broadcast_dims(&[2], &[3]), None);
    }
}
