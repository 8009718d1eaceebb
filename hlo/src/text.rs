//! Graphs for people: a readable dump, the difference of two, and Graphviz.

use crate::graph::{Computation, Node};
use crate::op::Op;
use crate::shape::Shape;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Constants with more elements than this are printed by their first elements.
const SHOWN_ELEMENTS: usize = 8;

/// A dump, one instruction a line, called computations indented under their caller.
///
/// Nodes are named by scope and operator, so that a change in one layer leaves the names of the others as they are.
pub fn dump(computation: &Computation) -> String {
    let mut out = String::new();
    write_computation(&mut out, computation, 0);
    out
}

/// Unified difference of two dumps, three lines of context; empty when the graphs are the same.
pub fn diff(before: &Computation, after: &Computation) -> String {
    let (before, after) = (dump(before), dump(after));
    similar::TextDiff::from_lines(&before, &after)
        .unified_diff()
        .to_string()
}

/// Graphviz source; edges run from operand to user.
pub fn dot(computation: &Computation) -> String {
    let names = names(computation);
    let mut out = format!(
        "digraph \"{}\" {{\n  node [shape=box fontname=monospace];\n",
        computation.name
    );
    for (node, name) in computation.nodes.iter().zip(&names) {
        let fill = match node.op {
            Op::Parameter { .. } => " style=filled fillcolor=lightblue",
            Op::Constant(_) => " style=filled fillcolor=lightgrey",
            _ => "",
        };
        let _ = writeln!(out, "  \"{name}\" [label=\"{name}\\n{}\"{fill}];", shapes(node));
        for &operand in &node.operands {
            let _ = writeln!(out, "  \"{}\" -> \"{name}\";", names[operand]);
        }
    }
    for (i, &output) in computation.outputs.iter().enumerate() {
        let _ = writeln!(
            out,
            "  \"output {i}\" [shape=ellipse];\n  \"{}\" -> \"output {i}\";",
            names[output]
        );
    }
    out.push_str("}\n");
    out
}

/// Unique readable names: parameters by their own, others by scope and operator.
fn names(computation: &Computation) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let name = |node: &Node| {
        let stem = match &node.op {
            Op::Parameter { name, .. } => name.clone(),
            op if node.scope.is_empty() => op.name().to_string(),
            op => format!("{}/{}", node.scope, op.name()),
        };
        let count = seen.entry(stem.clone()).or_default();
        *count += 1;
        match *count {
            1 => stem,
            n => format!("{stem}.{n}"),
        }
    };
    computation.nodes.iter().map(name).collect()
}

fn shapes(node: &Node) -> String {
    match node.op.yields_tuple() {
        true => format!("({})", join(node.shapes.iter().map(Shape::to_string))),
        false => node.shape().to_string(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn write_computation(out: &mut String, computation: &Computation, indent: usize) {
    let names = names(computation);
    let pad = "  ".repeat(indent);
    let parameters = join(
        computation
            .parameter_specs()
            .iter()
            .map(|(name, shape)| format!("{name}: {shape}")),
    );
    let results = join(computation.output_shapes().iter().map(Shape::to_string));
    let _ = writeln!(out, "{pad}{} ({parameters}) -> ({results}) {{", computation.name);
    for (node, name) in computation.nodes.iter().zip(&names) {
        let operands = join(node.operands.iter().map(|&o| format!("%{}", names[o])));
        let _ = writeln!(
            out,
            "{pad}  %{name} = {} {}({operands}){}",
            shapes(node),
            node.op.name(),
            attributes(&node.op)
        );
        for called in node.op.called() {
            write_computation(out, called, indent + 2);
        }
    }
    let outputs = join(computation.outputs.iter().map(|&o| format!("%{}", names[o])));
    let _ = writeln!(out, "{pad}  return {outputs}\n{pad}}}");
}

fn attributes(op: &Op) -> String {
    match op {
        Op::Parameter { index, .. } => format!(" index={index}"),
        Op::Constant(value) => {
            let values = value.to_f64_vec();
            let shown = join(values.iter().take(SHOWN_ELEMENTS).map(f64::to_string));
            let more = if values.len() > SHOWN_ELEMENTS { ", …" } else { "" };
            format!(" {{{shown}{more}}}")
        }
        Op::Iota { axis, .. } | Op::Concatenate { axis } => format!(" axis={axis}"),
        Op::Compare(comparison) => format!(" direction={}", comparison.name()),
        Op::Broadcast { axes, .. } | Op::Reverse { axes } => format!(" axes={axes:?}"),
        Op::Transpose { permutation } => format!(" permutation={permutation:?}"),
        Op::Slice { start, limit, stride } => format!(" start={start:?} limit={limit:?} stride={stride:?}"),
        Op::Pad { low, high, interior } => format!(" low={low:?} high={high:?} interior={interior:?}"),
        Op::DynamicSlice { sizes } => format!(" sizes={sizes:?}"),
        Op::Gather { dims, sizes } => format!(" sizes={sizes:?} {dims:?}"),
        Op::Scatter { dims, update, unique } => format!(" update={update:?} unique={unique} {dims:?}"),
        Op::Dot(d) => format!(
            " contract={:?}x{:?} batch={:?}x{:?}",
            d.lhs_contract, d.rhs_contract, d.lhs_batch, d.rhs_batch
        ),
        Op::Reduce { axes, reducer } => format!(" axes={axes:?} by={}", reducer.name()),
        Op::Sort { axis, descending } => format!(" axis={axis} descending={descending}"),
        Op::TopK { k } => format!(" k={k}"),
        Op::GetTupleElement { index } => format!(" index={index}"),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::Convert(_)
        | Op::BitcastConvert(_)
        | Op::Reshape { .. }
        | Op::DynamicUpdateSlice
        | Op::StopGradient
        | Op::While { .. }
        | Op::Conditional { .. }
        | Op::Call { .. } => String::new(),
    }
}
