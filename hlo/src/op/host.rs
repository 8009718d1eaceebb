//! Functions that a host offers programs by name.

use crate::emit::shape_proto;
use crate::proto;
use crate::shape::Shape;

/// Number of XLA's `CustomCallApiVersion` for functions with typed arguments.
const TYPED_FFI: i32 = 4;

/// A function of the host's that computes what a called computation says, from arrays in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    /// The name under which it is offered.
    pub name: &'static str,
    /// What a call says besides its operands: lists of numbers by name.
    pub attributes: Vec<(&'static str, Vec<i64>)>,
}

impl HostFunction {
    /// Without attributes.
    pub fn named(name: &'static str) -> Self {
        let attributes = vec![];
        HostFunction { name, attributes }
    }

    /// The attributes as the text that a program carries them in: as MLIR writes a dictionary.
    pub(crate) fn configuration(&self) -> String {
        let lists = self.attributes.iter().map(|(name, values)| {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            format!("{name} = array<i64: {}>", values.join(", "))
        });
        format!("{{{}}}", lists.collect::<Vec<_>>().join(", "))
    }

    /// Makes an instruction a call of the function.
    pub(super) fn emit(&self, operands: &[&Shape], out: &mut proto::Instruction) {
        out.opcode = "custom-call".into();
        out.custom_call_target = self.name.into();
        out.custom_call_api_version = TYPED_FFI;
        out.backend_config = self.configuration().into_bytes();
        out.constrain_layout = true;
        out.operand_shapes_with_layout = operands.iter().map(|shape| shape_proto(shape)).collect();
    }
}
