//! Functions that a host provides to programs by name.

use crate::emit::shape_proto;
use crate::proto;
use crate::shape::Shape;

/// XLA's `CustomCallApiVersion` of typed functions.
const TYPED_FFI: i32 = 4;

/// A host function that computes the same as a called computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFunction {
    /// Registered name.
    pub name: &'static str,
    /// Attributes of a call: lists of numbers by name.
    pub attributes: Vec<(&'static str, Vec<i64>)>,
    /// Memory layouts of the operands, then of a single result, each as axes from minor to major. Arrays past the
    /// end of the list are in row-major order.
    pub layouts: Vec<Vec<usize>>,
}

impl HostFunction {
    /// A function with attributes, on row-major arrays.
    pub fn new(name: &'static str, attributes: Vec<(&'static str, Vec<i64>)>) -> Self {
        HostFunction {
            name,
            attributes,
            layouts: vec![],
        }
    }

    /// A function without attributes, on row-major arrays.
    pub fn named(name: &'static str) -> Self {
        HostFunction::new(name, vec![])
    }

    /// The attributes as text, in the syntax of an MLIR dictionary.
    pub(crate) fn configuration(&self) -> String {
        let lists = self.attributes.iter().map(|(name, values)| {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            format!("{name} = array<i64: {}>", values.join(", "))
        });
        format!("{{{}}}", lists.collect::<Vec<_>>().join(", "))
    }

    /// Turns an instruction into a call of the function.
    pub(super) fn emit(&self, operands: &[&Shape], out: &mut proto::Instruction) {
        out.opcode = "custom-call".into();
        out.custom_call_target = self.name.into();
        out.custom_call_api_version = TYPED_FFI;
        out.backend_config = self.configuration().into_bytes();
        out.constrain_layout = true;
        out.operand_shapes_with_layout = operands.iter().map(|shape| shape_proto(shape)).collect();
        // Shapes without a layout of their own stay in row-major order.
        assert!(self.layouts.len() <= operands.len() + 1, "layouts of {}", self.name);
        let shapes = out.operand_shapes_with_layout.iter_mut().chain(&mut out.shape);
        for (shape, layout) in shapes.zip(&self.layouts) {
            shape.layout = Some(proto::Layout {
                minor_to_major: layout.iter().map(|&axis| axis as i64).collect(),
                ..Default::default()
            });
        }
    }
}
