//! Human-readable form of modules that a compiler returns: the messages of [`crate::proto`].

use crate::emit::element_type;
use crate::error::{Error, Result};
use crate::proto::{Computation, Instruction, Literal, Module, Shape};
use crate::text::window;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Larger constants are not printed.
const SHOWN_ELEMENTS: usize = 8;

/// Decodes a serialized `HloModuleProto`. Fields unknown to [`crate::proto`] are dropped.
///
/// # Errors
///
/// [`Error::Proto`] if the bytes are not a module.
pub fn read_module(bytes: &[u8]) -> Result<Module> {
    Module::decode(bytes).map_err(|e| Error::Proto(e.to_string()))
}

/// A dump with one instruction per line, computations in the module's order.
pub fn dump_module(module: &Module) -> String {
    let computations = computation_names(module);
    let mut out = format!("{}\n", module.name);
    for computation in &module.computations {
        let entry = if computation.id == module.entry_computation_id {
            "entry "
        } else {
            ""
        };
        let _ = writeln!(out, "\n{entry}{} {{", computation.name);
        let names = instruction_names(computation);
        for instruction in &computation.instructions {
            let root = if instruction.id == computation.root_id {
                "root "
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "  {root}%{} = {} {}({}){}",
                instruction.name,
                shape(instruction.shape.as_ref()),
                instruction.opcode,
                operands(instruction, &names),
                attributes(instruction, &computations),
            );
        }
        out.push_str("}\n");
    }
    out
}

/// Graphviz source: a cluster per computation, edges from operand to user.
pub fn dot_module(module: &Module) -> String {
    let mut out = format!(
        "digraph \"{}\" {{\n  node [shape=box fontname=monospace];\n",
        module.name
    );
    for (i, computation) in module.computations.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{i} {{\n    label=\"{}\";", computation.name);
        for instruction in &computation.instructions {
            let label = format!("{}\\n{}", instruction.name, shape(instruction.shape.as_ref()));
            let _ = writeln!(out, "    n{} [label=\"{label}\"];", instruction.id);
            for operand in &instruction.operand_ids {
                let _ = writeln!(out, "    n{operand} -> n{};", instruction.id);
            }
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

fn computation_names(module: &Module) -> BTreeMap<i64, &str> {
    module.computations.iter().map(|c| (c.id, c.name.as_str())).collect()
}

fn instruction_names(computation: &Computation) -> BTreeMap<i64, &str> {
    computation
        .instructions
        .iter()
        .map(|i| (i.id, i.name.as_str()))
        .collect()
}

fn operands(instruction: &Instruction, names: &BTreeMap<i64, &str>) -> String {
    let name = |id: &i64| format!("%{}", names.get(id).unwrap_or(&"?"));
    instruction.operand_ids.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn shape(shape: Option<&Shape>) -> String {
    shape.map_or("?".into(), show_shape)
}

/// Element type and dimensions, such as `f32[8,3]`; of a tuple, those of its parts.
pub fn show_shape(s: &Shape) -> String {
    if !s.tuple_shapes.is_empty() {
        let parts: Vec<String> = s.tuple_shapes.iter().map(show_shape).collect();
        return format!("({})", parts.join(", "));
    }
    let dtype = element_type(s.element_type);
    let dims: Vec<String> = s.dimensions.iter().map(i64::to_string).collect();
    let name = dtype.map_or_else(|| format!("type{}", s.element_type), |d| d.name().to_string());
    format!("{name}[{}]", dims.join(","))
}

fn attributes(i: &Instruction, computations: &BTreeMap<i64, &str>) -> String {
    let mut out = String::new();
    let mut add = |name: &str, value: String| {
        let _ = write!(out, " {name}={value}");
    };
    if i.opcode == "parameter" {
        add("index", i.parameter_number.to_string());
    }
    if i.opcode == "get-tuple-element" {
        add("index", i.tuple_index.to_string());
    }
    if let Some(value) = i.literal.as_ref().and_then(literal) {
        add("value", value);
    }
    if !i.dimensions.is_empty() {
        add("dimensions", format!("{:?}", i.dimensions));
    }
    if let Some(d) = &i.dot_dimension_numbers {
        add(
            "contract",
            format!("{:?}x{:?}", d.lhs_contracting_dimensions, d.rhs_contracting_dimensions),
        );
    }
    if let Some(w) = &i.window {
        add("window", window::window(w));
    }
    if let Some(d) = &i.convolution_dimension_numbers {
        add("dim_labels", window::dim_labels(d));
    }
    for (name, count) in [
        ("feature_groups", i.feature_group_count),
        ("batch_groups", i.batch_group_count),
    ] {
        if count > 1 {
            add(name, count.to_string());
        }
    }
    for (name, value) in [
        ("kind", &i.fusion_kind),
        ("target", &i.custom_call_target),
        ("direction", &i.comparison_direction),
    ] {
        if !value.is_empty() {
            add(name, value.clone());
        }
    }
    let called: Vec<&str> = i
        .called_computation_ids
        .iter()
        .map(|id| *computations.get(id).unwrap_or(&"?"))
        .collect();
    if !called.is_empty() {
        add("calls", called.join(","));
    }
    if let Some(scope) = i.metadata.as_ref().map(|m| &m.op_name).filter(|s| !s.is_empty()) {
        add("scope", scope.clone());
    }
    out
}

/// The elements of a small constant.
fn literal(literal: &Literal) -> Option<String> {
    let elements: i64 = literal.shape.as_ref()?.dimensions.iter().product();
    if elements as usize > SHOWN_ELEMENTS {
        return None;
    }
    let l = literal;
    let parts: [Vec<String>; 7] = [
        l.preds.iter().map(bool::to_string).collect(),
        l.s32s.iter().map(i32::to_string).collect(),
        l.s64s.iter().map(i64::to_string).collect(),
        l.u32s.iter().map(u32::to_string).collect(),
        l.u64s.iter().map(u64::to_string).collect(),
        l.f32s.iter().map(f32::to_string).collect(),
        l.f64s.iter().map(f64::to_string).collect(),
    ];
    let values = parts.into_iter().find(|p| !p.is_empty())?;
    Some(format!("{{{}}}", values.join(", ")))
}
