//! Host arrays: constants of graphs, inputs and outputs of evaluators and devices, tensors of checkpoints.

use crate::shape::{DType, Shape};

/// A Rust type that can be an element of a [`Literal`].
pub trait Element: bytemuck::Pod {
    /// The matching element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}
elements!(i32 => S32, i64 => S64, u8 => U8, u32 => U32, u64 => U64,
          half::f16 => F16, half::bf16 => BF16, f32 => F32, f64 => F64);

/// A dense host array: shape and little-endian bytes in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    shape: Shape,
    bytes: Vec<u8>,
}

impl Literal {
    /// An array from raw bytes; `None` if their number does not match the shape.
    pub fn from_bytes(shape: Shape, bytes: Vec<u8>) -> Option<Self> {
        (shape.bytes() == bytes.len()).then_some(Literal { shape, bytes })
    }

    /// An array of `dims` from its elements.
    ///
    /// # Panics
    ///
    /// If the length of `values` is not the product of `dims`.
    pub fn new<T: Element>(dims: &[usize], values: &[T]) -> Self {
        let shape = Shape::new(T::DTYPE, dims);
        assert_eq!(shape.elements(), values.len(), "elements of {shape}");
        Literal {
            shape,
            bytes: bytemuck::cast_slice(values).to_vec(),
        }
    }

    /// A `pred` array.
    ///
    /// # Panics
    ///
    /// If the length of `values` is not the product of `dims`.
    pub fn from_bools(dims: &[usize], values: &[bool]) -> Self {
        let shape = Shape::new(DType::Pred, dims);
        assert_eq!(shape.elements(), values.len(), "elements of {shape}");
        Literal {
            shape,
            bytes: values.iter().map(|&v| u8::from(v)).collect(),
        }
    }

    /// A rank-0 array.
    pub fn scalar<T: Element>(value: T) -> Self {
        Literal::new(&[], &[value])
    }

    /// An array of `shape` filled with 0, 0.0 or false.
    pub fn zeros(shape: Shape) -> Self {
        let bytes = vec![0; shape.bytes()];
        Literal { shape, bytes }
    }

    /// Element type and dimensions.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.shape.dtype
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.shape.dims
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The raw bytes, by value.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The elements, if `T` is the element type.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        (T::DTYPE == self.shape.dtype).then(|| bytemuck::pod_collect_to_vec(&self.bytes))
    }

    /// The elements, if this is a `pred` array.
    pub fn to_bools(&self) -> Option<Vec<bool>> {
        (self.shape.dtype == DType::Pred).then(|| self.bytes.iter().map(|&b| b != 0).collect())
    }

    /// The element of a one-element array, if `T` is its type.
    pub fn item<T: Element>(&self) -> Option<T> {
        match self.to_vec::<T>()?.as_slice() {
            [value] => Some(*value),
            _ => None,
        }
    }

    /// The elements of any type as `f64` (64-bit integers beyond 2^53 are rounded; `pred` is 0 or 1).
    pub fn to_f64_vec(&self) -> Vec<f64> {
        fn cast<T: Element>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            bytes
                .chunks_exact(size_of::<T>())
                .map(|c| f(bytemuck::pod_read_unaligned(c)))
                .collect()
        }
        match self.shape.dtype {
            DType::Pred | DType::U8 => cast(&self.bytes, |v: u8| f64::from(v)),
            DType::S32 => cast(&self.bytes, |v: i32| f64::from(v)),
            DType::S64 => cast(&self.bytes, |v: i64| v as f64),
            DType::U32 => cast(&self.bytes, |v: u32| f64::from(v)),
            DType::U64 => cast(&self.bytes, |v: u64| v as f64),
            DType::F16 => cast(&self.bytes, |v: half::f16| v.to_f64()),
            DType::BF16 => cast(&self.bytes, |v: half::bf16| v.to_f64()),
            DType::F32 => cast(&self.bytes, |v: f32| f64::from(v)),
            DType::F64 => cast(&self.bytes, |v: f64| v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_values_and_refuses_other_types() {
        let a = Literal::new(&[2, 2], &[1.0f32, -2.0, 3.5, 0.0]);
        assert_eq!(a.to_vec::<f32>(), Some(vec![1.0, -2.0, 3.5, 0.0]));
        assert_eq!(a.to_vec::<i32>(), None);
        assert_eq!(Literal::scalar(7i64).item::<i64>(), Some(7));
        assert_eq!(a.item::<f32>(), None);
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        let shape = Shape::new(DType::F32, [3]);
        assert!(Literal::from_bytes(shape.clone(), vec![0; 11]).is_none());
        assert!(Literal::from_bytes(shape, vec![0; 12]).is_some());
    }

    #[test]
    fn every_type_widens_to_f64() {
        assert_eq!(Literal::from_bools(&[2], &[true, false]).to_f64_vec(), [1.0, 0.0]);
        assert_eq!(Literal::new(&[1], &[half::bf16::from_f32(1.5)]).to_f64_vec(), [1.5]);
    }
}
