//! Modules of other programs, which a graph calls as they are.
//!
//! [`Module::read`] checks a serialized `HloModuleProto` and keeps the bytes of its computations. An emitted program
//! contains those bytes, so fields that this crate does not know survive.

mod check;
mod macs;
mod wire;

use crate::error::{Error, Result};
use crate::graph::{Computation, Graph, Tensor};
use crate::op::{Op, ensure};
use crate::proto;
use crate::shape::{DType, Shape};
use prost::Message;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use macs::Macs;

/// Maximum size of a serialized module: 256 MiB. Constants are part of it.
pub const MAX_MODULE_BYTES: usize = 256 << 20;

/// A checked module, whose entry computation a graph can call ([`Graph::call_module`]).
pub struct Module {
    /// Its computations and stack frames as serialized fields of an `HloModuleProto`.
    fields: Vec<u8>,
    message: proto::Module,
    parameters: Vec<Shape>,
    results: Vec<Shape>,
    /// Whether the entry returns a tuple.
    tuple: bool,
    last_id: i64,
}

impl Module {
    /// Reads a serialized `HloModuleProto`.
    ///
    /// # Errors
    /// [`Error::Proto`] for bytes that are not a module or for an inconsistent one; [`Error::Module`] for one that cannot
    /// run on every device: custom calls, communication, types that this crate lacks.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_MODULE_BYTES {
            return Err(Error::Proto(format!(
                "{} bytes, expected at most {MAX_MODULE_BYTES}",
                bytes.len()
            )));
        }
        let message = proto::Module::decode(bytes).map_err(|error| Error::Proto(error.to_string()))?;
        let entry = check::check(&message)?;
        let (parameters, results, tuple) = check::interface(entry)?;
        Ok(Module {
            fields: wire::callable(bytes).ok_or_else(|| Error::Proto("truncated field".into()))?,
            last_id: check::last_id(&message),
            parameters,
            results,
            tuple,
            message,
        })
    }

    /// Name of the module.
    pub fn name(&self) -> &str {
        &self.message.name
    }

    /// Shapes of the parameters of the entry computation.
    pub fn parameters(&self) -> &[Shape] {
        &self.parameters
    }

    /// Shapes of its results.
    pub fn results(&self) -> &[Shape] {
        &self.results
    }

    /// For each parameter, whether an instruction uses it.
    pub fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.parameters.len()];
        let Some(entry) = self.entry() else { return used };
        let operands = entry.instructions.iter().flat_map(|i| i.operand_ids.iter().copied());
        let read: BTreeSet<i64> = operands.chain([entry.root_id]).collect();
        for parameter in entry.instructions.iter().filter(|i| i.opcode == "parameter") {
            if let Some(used) = used.get_mut(parameter.parameter_number as usize) {
                *used = read.contains(&parameter.id);
            }
        }
        used
    }

    /// Number of instructions in all computations.
    pub fn instruction_count(&self) -> usize {
        self.message.computations.iter().map(|c| c.instructions.len()).sum()
    }

    /// The parsed module, without unknown fields.
    pub fn message(&self) -> &proto::Module {
        &self.message
    }

    fn entry(&self) -> Option<&proto::Computation> {
        let id = self.entry_id();
        self.message.computations.iter().find(|c| c.id == id)
    }

    pub(crate) fn entry_id(&self) -> i64 {
        self.message.entry_computation_id
    }

    /// Largest id of a computation or instruction, without the part that names the computation.
    pub(crate) fn last_id(&self) -> i64 {
        self.last_id
    }

    /// Serialized fields to put in front of those of a module that calls this one.
    pub(crate) fn fields(&self) -> &[u8] {
        &self.fields
    }

    /// Whether a call yields a tuple.
    pub(crate) fn yields_tuple(&self) -> bool {
        self.tuple
    }

    /// Shapes of the results of a call.
    pub(crate) fn infer(&self, operands: &[&Shape]) -> std::result::Result<Vec<Shape>, String> {
        let (taken, given) = (self.parameters.len(), operands.len());
        ensure(taken == given, || {
            format!("module '{}' takes {taken} arrays, is given {given}", self.name())
        })?;
        for (i, (taken, given)) in self.parameters.iter().zip(operands).enumerate() {
            ensure(taken == *given, || {
                format!("parameter {i} of module '{}' is {taken}, is given {given}", self.name())
            })?;
        }
        Ok(self.results.clone())
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({:?}, {} bytes)", self.name(), self.fields.len())
    }
}

impl Graph {
    /// Calls a module. Its results have no gradient; see [`Tensor::with_vjp`]. A program calls at most one module, as
    /// often as needed.
    #[track_caller]
    pub fn call_module<'g>(&'g self, module: &Arc<Module>, operands: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let op = Op::Module(Arc::clone(module));
        match module.yields_tuple() {
            true => self.apply_tuple(op, operands, module.results.len()),
            false => vec![self.apply(op, operands)],
        }
    }
}

impl Computation {
    /// The module of another program that this computation, or one that it calls, calls.
    pub fn module(&self) -> Option<&Arc<Module>> {
        self.nodes.iter().find_map(|node| match &node.op {
            Op::Module(module) => Some(module),
            op => op.called().into_iter().find_map(|called| called.module()),
        })
    }
}

/// The shape of a message, if this crate has its element type.
fn array(shape: &proto::Shape) -> std::result::Result<Shape, String> {
    let Some(dtype) = crate::emit::element_type(shape.element_type) else {
        return Err(format!(
            "element type {}, expected one of {}",
            shape.element_type,
            DType::ALL.map(|d| d.to_string()).join(", ")
        ));
    };
    let dims: Option<Vec<usize>> = shape.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
    let dims = dims.ok_or("a negative dimension")?;
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if elements.is_none_or(|n| n > 1 << 40) {
        return Err(format!("dimensions {dims:?} are too large"));
    }
    if shape.is_dynamic_dimension.contains(&true) {
        return Err("a dynamic dimension".into());
    }
    Ok(Shape::new(dtype, dims))
}
