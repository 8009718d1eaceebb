//! TensorFlow's element types (`tensorflow/core/framework/types.proto`) and their safetensors names.

use std::fmt;

use safetensors::Dtype;

/// An element type, as TensorFlow's number. Any number in a file is representable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataType(pub i32);

/// Number, name, and safetensors type.
type Row = (i32, &'static str, Option<Dtype>);

const TYPES: &[Row] = &[
    (1, "float32", Some(Dtype::F32)),
    (2, "float64", Some(Dtype::F64)),
    (3, "int32", Some(Dtype::I32)),
    (4, "uint8", Some(Dtype::U8)),
    (5, "int16", Some(Dtype::I16)),
    (6, "int8", Some(Dtype::I8)),
    (7, "string", None),
    (8, "complex64", None),
    (9, "int64", Some(Dtype::I64)),
    (10, "bool", Some(Dtype::BOOL)),
    (11, "qint8", None),
    (12, "quint8", None),
    (13, "qint32", None),
    (14, "bfloat16", Some(Dtype::BF16)),
    (15, "qint16", None),
    (16, "quint16", None),
    (17, "uint16", Some(Dtype::U16)),
    (18, "complex128", None),
    (19, "float16", Some(Dtype::F16)),
    (20, "resource", None),
    (21, "variant", None),
    (22, "uint32", Some(Dtype::U32)),
    (23, "uint64", Some(Dtype::U64)),
];

impl DataType {
    /// `float32`.
    pub const FLOAT32: DataType = DataType(1);
    /// `string`.
    pub const STRING: DataType = DataType(7);
    /// `bool`.
    pub const BOOL: DataType = DataType(10);

    /// TensorFlow's type of a safetensors array; `None` if old versions of TensorFlow lack it.
    pub fn of(dtype: Dtype) -> Option<DataType> {
        let row = TYPES.iter().find(|row| row.2 == Some(dtype))?;
        Some(DataType(row.0))
    }

    /// The safetensors type; `None` if there is none (strings, complex and quantised numbers).
    pub fn stored(self) -> Option<Dtype> {
        self.row()?.2
    }

    /// Bytes per element, for types with a [`stored`](DataType::stored) form.
    pub fn bytes(self) -> Option<usize> {
        Some(self.stored()?.bitsize() / 8)
    }

    fn row(self) -> Option<&'static Row> {
        TYPES.iter().find(|row| row.0 == self.0)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.1),
            None => write!(f, "type {}", self.0),
        }
    }
}
