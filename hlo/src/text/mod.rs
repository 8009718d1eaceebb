//! Human-readable graphs: a dump, whose lines can be compared with those of another graph, and Graphviz.

mod module;
mod window;

pub use module::{dot_module, dump_module, read_module, show_shape};

use crate::graph::{Computation, Node};
use crate::op::Op;
use crate::op::window::window_proto;
use crate::shape::Shape;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Larger constants are printed with their first elements only.
const SHOWN_ELEMENTS: usize = 8;

/// A dump with one instruction per line; called computations are indented under their caller.
///
/// Nodes are named by scope and operator, so that a change in one layer leaves the names of other layers unchanged. In
/// a called computation the caller's scope is left out, and an operand `%./x` is the `x` in the line's own scope.
/// Called computations carry a hash of their text; a repeated one is printed once.
pub fn dump(computation: &Computation) -> String {
    let parameters = join(
        computation
            .parameter_specs()
            .iter()
            .map(|(name, shape)| format!("{name}: {shape}")),
    );
    let results = join(computation.output_shapes().iter().map(Shape::to_string));
    let mut out = format!("{} ({parameters}) -> ({results}) {{\n", computation.name);
    write_instructions(&mut out, computation, "", 0, &mut BTreeSet::new());
    out
}

/// Graphviz source: edges from operand to user, a cluster per called computation, and dashed edges from its results to
/// the caller.
pub fn dot(computation: &Computation) -> String {
    let title = quoted(&computation.name);
    let mut out = format!("digraph \"{title}\" {{\n  node [shape=box fontname=monospace];\n");
    let names = write_nodes(&mut out, computation, "", "");
    for (i, &output) in computation.outputs.iter().enumerate() {
        let name = &names[output];
        let _ = writeln!(
            out,
            "  \"output {i}\" [shape=ellipse];\n  \"{name}\" -> \"output {i}\";"
        );
    }
    out.push_str("}\n");
    out
}

/// Writes nodes and edges, including those of called computations. Identifiers start with `path`, which distinguishes
/// computations. Returns the quoted identifiers.
fn write_nodes(out: &mut String, computation: &Computation, scope: &str, path: &str) -> Vec<String> {
    let names = names(computation, scope);
    let ids: Vec<String> = names.iter().map(|name| quoted(&format!("{path}{name}"))).collect();
    for ((node, name), id) in computation.nodes.iter().zip(&names).zip(&ids) {
        let fill = if let Op::Parameter { .. } = node.op {
            " style=filled fillcolor=lightblue"
        } else if let Op::Constant(_) = node.op {
            " style=filled fillcolor=lightgrey"
        } else {
            ""
        };
        let label = quoted(name);
        let _ = writeln!(out, "  \"{id}\" [label=\"{label}\\n{}\"{fill}];", shapes(node));
        for &operand in &node.operands {
            let _ = writeln!(out, "  \"{}\" -> \"{id}\";", ids[operand]);
        }
        for called in node.op.called() {
            let inner = format!("{path}{name}:{}/", called.name);
            let title = quoted(&format!("{name}: {}", called.name));
            let _ = writeln!(
                out,
                "  subgraph \"cluster {}\" {{\n  label=\"{title}\";",
                quoted(&inner)
            );
            let results = write_nodes(out, called, &node.scope, &inner);
            out.push_str("  }\n");
            for &output in &called.outputs {
                let _ = writeln!(out, "  \"{}\" -> \"{id}\" [style=dashed];", results[output]);
            }
        }
    }
    ids
}

/// Escapes `name` for a quoted Graphviz string.
fn quoted(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Unique readable names: the names of parameters, and operator plus scope below `outer` for the rest.
fn names(computation: &Computation, outer: &str) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let name = |node: &Node| {
        let stem = if let Op::Parameter { name, .. } = &node.op {
            name.clone()
        } else {
            match relative_scope(&node.scope, outer) {
                "" => node.op.name().to_string(),
                scope => format!("{scope}/{}", node.op.name()),
            }
        };
        let count = next.entry(stem.clone()).or_insert(1);
        loop {
            let name = match *count {
                1 => stem.clone(),
                n => format!("{stem}.{n}"),
            };
            *count += 1;
            if taken.insert(name.clone()) {
                return name;
            }
        }
    };
    computation.nodes.iter().map(name).collect()
}

/// The part of `scope` below `outer`; all of `scope` if it is elsewhere.
fn relative_scope<'a>(scope: &'a str, outer: &str) -> &'a str {
    match scope.strip_prefix(outer) {
        Some("") => "",
        Some(inner) if outer.is_empty() => inner,
        Some(inner) => inner.strip_prefix('/').unwrap_or(scope),
        None => scope,
    }
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

/// Writes the text between the braces and the closing brace. `printed` holds the texts of called computations.
fn write_instructions(
    out: &mut String,
    computation: &Computation,
    scope: &str,
    indent: usize,
    printed: &mut BTreeSet<String>,
) {
    let names = names(computation, scope);
    let pad = "  ".repeat(indent);
    for (node, name) in computation.nodes.iter().zip(&names) {
        let own = relative_scope(&node.scope, scope);
        let operand = |&o: &usize| {
            let operand = &computation.nodes[o];
            let parameter = matches!(operand.op, Op::Parameter { .. });
            match parameter || own.is_empty() || operand.scope != node.scope {
                true => format!("%{}", names[o]),
                false => format!("%.{}", &names[o][own.len()..]),
            }
        };
        let operands = join(node.operands.iter().map(operand));
        let _ = writeln!(
            out,
            "{pad}  %{name} = {} {}({operands}){}",
            shapes(node),
            node.op.name(),
            attributes(&node.op)
        );
        for called in node.op.called() {
            let mut text = String::new();
            write_instructions(&mut text, called, &node.scope, 0, &mut BTreeSet::new());
            let title = format!("{pad}    {} #{:08x}", called.name, fnv(text.as_bytes()) as u32);
            if printed.insert(text) {
                let _ = writeln!(out, "{title} {{");
                write_instructions(out, called, &node.scope, indent + 2, printed);
            } else {
                let _ = writeln!(out, "{title} as above");
            }
        }
    }
    let outputs = join(computation.outputs.iter().map(|&o| format!("%{}", names[o])));
    let _ = writeln!(out, "{pad}  return {outputs}\n{pad}}}");
}

/// FNV-1a hash. Distinguishes values that are too long to print.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn attributes(op: &Op) -> String {
    match op {
        Op::Parameter { index, .. } => format!(" index={index}"),
        Op::Constant(value) => {
            let values = crate::eval::Value::from_literal(value).printed();
            let shown = join(values.iter().take(SHOWN_ELEMENTS).cloned());
            match values.len() > SHOWN_ELEMENTS {
                true => format!(" {{{shown}, …}} fnv={:016x}", fnv(value.bytes())),
                false => format!(" {{{shown}}}"),
            }
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
        Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } => format!(
            " window={} dim_labels={} feature_groups={feature_groups} batch_groups={batch_groups}",
            window::window(&window_proto(window)),
            window::dim_labels(&dims.to_proto()),
        ),
        Op::Reduce { axes, reducer } => format!(" axes={axes:?} by={}", reducer.name()),
        Op::ReduceWindow { window, reducer } => {
            format!(
                " window={} by={}",
                window::window(&window_proto(window)),
                reducer.name()
            )
        }
        Op::SelectAndScatter { window } => format!(" window={}", window::window(&window_proto(window))),
        Op::AllReduce { reducer } => format!(" by={}", reducer.name()),
        Op::Sort { axis, descending } => format!(" axis={axis} descending={descending}"),
        Op::TopK { k } => format!(" k={k}"),
        Op::GetTupleElement { index } => format!(" index={index}"),
        Op::Call { host: Some(host), .. } => format!(" host={} {}", host.name, host.configuration()),
        Op::Module(module) => format!(" module={}", crate::emit::identifier(module.name())),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::Convert(_)
        | Op::BitcastConvert(_)
        | Op::Reshape { .. }
        | Op::DynamicUpdateSlice
        | Op::StopGradient
        | Op::WithVjp(_)
        | Op::While { .. }
        | Op::Conditional { .. }
        | Op::Call { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{DType, Graph, Shape};

    /// Multiplies `x` by each factor, `times` times, with every loop in a scope of its own.
    fn loops(factors: &[f64]) -> Computation {
        let parameters = [("x".to_string(), Shape::new(DType::F32, [2]))];
        Graph::function("loops", &parameters, |g, p| {
            let mut x = p[0];
            for (i, &factor) in factors.iter().enumerate() {
                let _scope = g.scope(format!("layer{i}"));
                x = g.repeat(g.scalar(3i32), &[x], |g, _, s| {
                    let _scope = g.scope("scale");
                    vec![s[0] * factor]
                })[0];
            }
            vec![x]
        })
        .unwrap()
    }

    #[test]
    fn equal_called_computations_are_printed_once() {
        let count = |factors: &[f64], text: &str| dump(&loops(factors)).matches(text).count();
        assert_eq!(count(&[2.0, 2.0, 2.0], " = f32[2] multiply("), 1);
        assert_eq!(count(&[2.0, 2.0, 2.0], " as above\n"), 4, "two conditions, two bodies");
        assert_eq!(count(&[2.0, 3.0, 2.0], " = f32[2] multiply("), 2);
        assert_eq!(
            count(&[2.0, 2.0], "      %scale/multiply = "),
            1,
            "the caller's scope is left out"
        );
        assert_eq!(count(&[2.0, 2.0], "get-tuple-element(%./while) index=2"), 2);
    }

    #[test]
    fn graphviz_shows_called_computations() {
        let computation = loops(&[2.0, 2.0]);
        let dot = dot(&computation);
        let nodes: BTreeSet<&str> = dot.lines().filter_map(|l| Some(l.split_once(" [")?.0.trim())).collect();
        let declared = dot
            .lines()
            .filter(|l| l.contains("label=\"") && l.contains(" ["))
            .count();
        assert_eq!(declared, computation.instruction_count(), "every node once");
        let multiplications = nodes.iter().filter(|n| n.ends_with("/scale/multiply\"")).count();
        assert_eq!(multiplications, 2, "{dot}");
        for (from, to) in dot.lines().filter_map(|l| l.split_once(" -> ")) {
            let to = to.split_once(" [").map_or(to.trim_end_matches(';'), |(to, _)| to);
            assert!(nodes.contains(from.trim()) && nodes.contains(to), "{from} -> {to}");
        }
        let result = "\"layer0/while:body/scale/multiply\" -> \"layer0/while\" [style=dashed];";
        assert!(dot.contains(result), "{dot}");
        assert_eq!(dot.matches('{').count(), dot.matches('}').count());
        assert_eq!(dot.matches("subgraph").count(), 4);
    }

    #[test]
    fn strips_scopes_at_whole_components() {
        for (scope, outer, expected) in [
            ("a/b", "a", "b"),
            ("a", "a", ""),
            ("ab/c", "a", "ab/c"),
            ("b/a", "a", "b/a"),
            ("a/b", "", "a/b"),
        ] {
            assert_eq!(relative_scope(scope, outer), expected, "{scope} in {outer}");
        }
    }
}
