//! Signatures of programs, read from their modules, and numbers of element types.

use hlo::{DType, Shape, proto};
use prost::Message;

use crate::abi::*;

/// Element type, its number in PJRT and its number in XLA's shapes.
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

/// PJRT's number of an element type.
pub(super) fn buffer_type(dtype: DType) -> PJRT_Buffer_Type {
    let row = ELEMENT_TYPES.iter().find(|row| row.0 == dtype);
    row.map_or(PJRT_Buffer_Type_INVALID, |row| row.1)
}

/// The element type of a PJRT number, if it is supported.
pub(super) fn from_buffer_type(number: PJRT_Buffer_Type) -> Option<DType> {
    ELEMENT_TYPES.iter().find(|row| row.1 == number).map(|row| row.0)
}

/// The part of `xla.HloModuleProto` with the signature.
#[derive(Clone, PartialEq, Message)]
struct ModuleHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    host_program_shape: Option<proto::ProgramShape>,
}

/// Name, parameters and results of a program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Signature {
    pub(super) name: String,
    pub(super) parameters: Vec<Shape>,
    pub(super) results: Vec<Shape>,
    /// The serialised part of the module with the signature.
    pub(super) module_head: Vec<u8>,
}

impl Signature {
    /// Reads the signature of a serialised `HloModuleProto`; `None` if it is missing or has nested tuples or unsupported element
    /// types.
    pub(super) fn of_module(module: &[u8]) -> Option<Signature> {
        let head = ModuleHead::decode(module).ok()?;
        let program = head.host_program_shape.as_ref()?;
        let result = program.result.as_ref()?;
        let results = match result.element_type {
            TUPLE => &result.tuple_shapes[..],
            _ => std::slice::from_ref(result),
        };
        Some(Signature {
            parameters: program.parameters.iter().map(shape).collect::<Option<_>>()?,
            results: results.iter().map(shape).collect::<Option<_>>()?,
            module_head: head.encode_to_vec(),
            name: head.name,
        })
    }
}

fn shape(proto: &proto::Shape) -> Option<Shape> {
    let dtype = ELEMENT_TYPES.iter().find(|row| row.2 == proto.element_type)?.0;
    let dims: Option<Vec<usize>> = proto.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
    Some(Shape::new(dtype, dims?))
}

/// Extracts the serialised `HloModuleProto` from a serialised `HloModuleProtoWithConfig`.
pub(super) fn strip_config(with_config: &[u8]) -> Option<Vec<u8>> {
    #[derive(Clone, PartialEq, Message)]
    struct WithConfig {
        #[prost(bytes = "vec", tag = "1")]
        module: Vec<u8>,
    }
    Some(WithConfig::decode(with_config).ok()?.module)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hlo::Graph;

    use super::*;

    #[test]
    fn reads_signatures_with_every_element_type() {
        let g = Graph::new("types");
        let shapes = DType::ALL.map(|dtype| Shape::new(dtype, [2, 3]));
        let outputs: Vec<_> = shapes.iter().map(|s| g.parameter("p", s.clone()).output()).collect();
        let module = g.build(&outputs).unwrap().to_bytes(&[]);
        let signature = Signature::of_module(&module).unwrap();
        assert_eq!(
            (&signature.parameters[..], &signature.results[..]),
            (&shapes[..], &shapes[..])
        );
        assert_eq!(signature.name, "types");
        assert_eq!(Signature::of_module(&signature.module_head), Some(signature));
        assert_eq!(Signature::of_module(b"not a module"), None);
        for dtype in DType::ALL {
            assert_eq!(from_buffer_type(buffer_type(dtype)), Some(dtype));
        }
    }
}
