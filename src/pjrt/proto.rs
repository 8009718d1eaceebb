//! The few XLA messages that a program's signature needs, and the element types' numbers in the two vocabularies.

use hlo::{DType, Shape};
use prost::Message;

use super::abi::*;

/// Element type, its number as a PJRT buffer and its number in XLA's shapes.
const ELEMENT_TYPES: [(DType, PJRT_Buffer_Type, i32); 10] = [
    (DType::Pred, PJRT_Buffer_Type_PRED, 1),
    (DType::S32, PJRT_Buffer_Type_S32, 4),
    (DType::S64, PJRT_Buffer_Type_S64, 5),
    (DType::U8, PJRT_Buffer_Type_U8, 6),
    (DType::U32, PJRT_Buffer_Type_U32, 8),
    (DType::U64, PJRT_Buffer_Type_U64, 9),
    (DType::F16, PJRT_Buffer_Type_F16, 10),
    (DType::BF16, PJRT_Buffer_Type_BF16, 16),
    (DType::F32, PJRT_Buffer_Type_F32, 11),
    (DType::F64, PJRT_Buffer_Type_F64, 12),
];

/// XLA's number for tuples.
const TUPLE: i32 = 13;

fn row(dtype: DType) -> (DType, PJRT_Buffer_Type, i32) {
    // Every element type has a row (tested), so the default is never taken.
    ELEMENT_TYPES
        .into_iter()
        .find(|row| row.0 == dtype)
        .unwrap_or(ELEMENT_TYPES[0])
}

/// PJRT's number of an element type.
pub(super) fn buffer_type(dtype: DType) -> PJRT_Buffer_Type {
    row(dtype).1
}

/// The element type of PJRT's number, where we have one.
pub(super) fn from_buffer_type(number: PJRT_Buffer_Type) -> Option<DType> {
    ELEMENT_TYPES.into_iter().find(|row| row.1 == number).map(|row| row.0)
}

/// `xla.ShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ShapeProto {
    #[prost(int32, tag = "2")]
    pub(super) element_type: i32,
    #[prost(int64, repeated, tag = "3")]
    pub(super) dimensions: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    pub(super) tuple_shapes: Vec<ShapeProto>,
    #[prost(message, optional, tag = "5")]
    pub(super) layout: Option<LayoutProto>,
}

/// `xla.LayoutProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LayoutProto {
    #[prost(int64, repeated, tag = "1")]
    pub(super) minor_to_major: Vec<i64>,
}

impl ShapeProto {
    /// A dense array in C order.
    pub(super) fn array(shape: &Shape) -> Self {
        ShapeProto {
            element_type: row(shape.dtype).2,
            dimensions: shape.dims.iter().map(|&d| d as i64).collect(),
            tuple_shapes: Vec::new(),
            layout: Some(LayoutProto {
                minor_to_major: (0..shape.rank() as i64).rev().collect(),
            }),
        }
    }

    /// A tuple of arrays.
    pub(super) fn tuple(shapes: &[Shape]) -> Self {
        let tuple_shapes = shapes.iter().map(ShapeProto::array).collect();
        ShapeProto {
            element_type: TUPLE,
            tuple_shapes,
            ..ShapeProto::default()
        }
    }

    fn to_shape(&self) -> Option<Shape> {
        let dtype = ELEMENT_TYPES.into_iter().find(|row| row.2 == self.element_type)?.0;
        let dims: Option<Vec<usize>> = self.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
        Some(Shape::new(dtype, dims?))
    }
}

/// `xla.ProgramShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ProgramShape {
    #[prost(message, repeated, tag = "1")]
    pub(super) parameters: Vec<ShapeProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) result: Option<ShapeProto>,
    /// As many as parameters; XLA insists.
    #[prost(string, repeated, tag = "3")]
    pub(super) parameter_names: Vec<String>,
}

impl ProgramShape {
    /// The shape of a program with parameters named by their position.
    pub(super) fn new(parameters: &[Shape], result: ShapeProto) -> Self {
        ProgramShape {
            parameters: parameters.iter().map(ShapeProto::array).collect(),
            result: Some(result),
            parameter_names: (0..parameters.len()).map(|i| format!("p{i}")).collect(),
        }
    }
}

/// The part of `xla.HloModuleProto` that says what goes in and what comes out.
#[derive(Clone, PartialEq, Message)]
struct ModuleHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    host_program_shape: Option<ProgramShape>,
}

/// Name, parameters and results of a program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Signature {
    pub(super) name: String,
    pub(super) parameters: Vec<Shape>,
    pub(super) results: Vec<Shape>,
}

impl Signature {
    /// Reads the signature of a serialized `HloModuleProto`; `None` where there is none, or where it holds nested tuples
    /// or element types that no array of ours has.
    pub(super) fn of_module(module: &[u8]) -> Option<Signature> {
        let head = ModuleHead::decode(module).ok()?;
        let program = head.host_program_shape?;
        let result = program.result?;
        let results = if result.element_type == TUPLE {
            result.tuple_shapes
        } else {
            vec![result]
        };
        let shapes = |protos: &[ShapeProto]| protos.iter().map(ShapeProto::to_shape).collect::<Option<Vec<_>>>();
        Some(Signature {
            name: head.name,
            parameters: shapes(&program.parameters)?,
            results: shapes(&results)?,
        })
    }

    /// The shortest module that has this signature, for keeping beside a serialized executable.
    pub(super) fn to_module_head(&self) -> Vec<u8> {
        let shape = ProgramShape::new(&self.parameters, ShapeProto::tuple(&self.results));
        ModuleHead {
            name: self.name.clone(),
            host_program_shape: Some(shape),
        }
        .encode_to_vec()
    }
}

/// Takes the serialized `HloModuleProto` out of a serialized `HloModuleProtoWithConfig`.
pub(super) fn strip_config(with_config: &[u8]) -> Option<Vec<u8>> {
    #[derive(Clone, PartialEq, Message)]
    struct WithConfig {
        #[prost(bytes = "vec", tag = "1")]
        module: Vec<u8>,
    }
    Some(WithConfig::decode(with_config).ok()?.module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_a_row() {
        for dtype in DType::ALL {
            assert_eq!(row(dtype).0, dtype);
            assert_eq!(from_buffer_type(buffer_type(dtype)), Some(dtype));
        }
    }

    #[test]
    fn signatures_survive_their_module_head() {
        let signature = Signature {
            name: "step".into(),
            parameters: vec![Shape::new(DType::F32, [2, 3]), Shape::scalar(DType::Pred)],
            results: vec![Shape::new(DType::BF16, [0])],
        };
        assert_eq!(Signature::of_module(&signature.to_module_head()), Some(signature));
        assert_eq!(Signature::of_module(b"not a module"), None);
    }
}
