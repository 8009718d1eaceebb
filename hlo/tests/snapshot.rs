//! Human-readable output: the snapshot of every case of the conformance table and Graphviz.
//!
//! `UPDATE_GOLDEN=1 cargo test -p rigl-hlo --test snapshot` rewrites the snapshot; review the change as text.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{Computation, DType, Graph, Literal, Shape, text};
use hlo_cases as cases;
use std::{env, fs, path::Path};

#[test]
fn dumps_match_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/ops.txt");
    let dumps: Vec<String> = cases::all()
        .iter()
        .map(|c| text::dump(&c.computation().unwrap()))
        .collect();
    let now = dumps.join("\n");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(&path, now).unwrap();
    }
    let reviewed = fs::read_to_string(&path).unwrap();
    let differing = reviewed.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(
        reviewed == now,
        "golden/ops.txt differs from line {:?} on; run with UPDATE_GOLDEN=1 and review the change",
        differing.map(|line| line + 1)
    );
}

fn layer(width: usize, scope: &str) -> Computation {
    let parameters = [(r#"w "quoted\".2"#.to_string(), Shape::new(DType::F32, [2, width]))];
    Graph::function("layer", &parameters, |g, p| {
        let _scope = g.scope(scope);
        vec![(p[0] * 2.0).relu().reduce_sum(&[0])]
    })
    .unwrap()
}

#[test]
fn dumps_of_similar_graphs_differ_in_few_lines() {
    let [a, b] = [3, 4].map(|width| text::dump(&layer(width, "dense")));
    let common = |line: &&str| b.contains(*line);
    assert!(a.lines().filter(common).count() > 1 && a.lines().count() == b.lines().count());
    assert!(a.contains("  %dense/reduce = f32[3] reduce(") && b.contains("  %dense/reduce = f32[4] reduce("));
}

#[test]
fn dumps_distinguish_elided_constants() {
    let constant = |last: i64| {
        let mut values = vec![0i64; 12];
        values[11] = last;
        Graph::function("c", &[], |g, _| vec![g.constant(Literal::new(&[12], &values))]).unwrap()
    };
    let [first, second] = [1, 2].map(|last| text::dump(&constant(last)));
    assert!(first != second && first.contains("fnv="));
    let large = |value: i64| Graph::function("c", &[], |g, _| vec![g.scalar(value)]).unwrap();
    assert_ne!(text::dump(&large(1 << 53)), text::dump(&large((1 << 53) + 1)));
}

#[test]
fn names_in_a_dump_are_unique() {
    let parameters = ["add.2", "add", "x"].map(|n| (n.to_string(), Shape::scalar(DType::F32)));
    let computation = Graph::function("names", &parameters, |_, p| vec![p[0] + p[1] + p[2] + 1.0]).unwrap();
    let dump = text::dump(&computation);
    let mut names: Vec<&str> = dump
        .lines()
        .filter_map(|l| l.trim().strip_prefix('%')?.split(" = ").next())
        .collect();
    assert_eq!(names.len(), computation.nodes.len());
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), computation.nodes.len(), "{dump}");
}

#[test]
fn graphviz_has_every_node_and_edge_and_escapes_quotes() {
    let computation = layer(3, "dense");
    let dot = text::dot(&computation);
    let count = |part: &str| dot.matches(part).count();
    let edges: usize = computation.nodes.iter().map(|n| n.operands.len()).sum();
    assert_eq!(count(" -> "), edges + computation.outputs.len(), "{dot}");
    assert_eq!(count("[label="), computation.nodes.len(), "{dot}");
    assert!(dot.starts_with("digraph \"layer\" {") && dot.ends_with("}\n"));
    assert!(dot.contains(r#""w \"quoted\\\".2""#), "{dot}");
    let bare = dot.replace("\\\\", "").replace("\\\"", "");
    assert_eq!(bare.matches('"').count() % 2, 0, "{dot}");
}

#[test]
fn compiled_modules_are_printed_in_full() {
    for case in cases::all() {
        let bytes = case.computation().unwrap().to_bytes(&[]);
        let module = text::read_module(&bytes).unwrap();
        let (dump, dot) = (text::dump_module(&module), text::dot_module(&module));
        assert_eq!(dump.matches("\nentry ").count(), 1, "{dump}");
        for instruction in module.computations.iter().flat_map(|c| &c.instructions) {
            assert!(dump.contains(&format!("%{} = ", instruction.name)), "{dump}");
            assert!(dump.contains(&format!(" {}(", instruction.opcode)), "{dump}");
            assert!(dot.contains(&instruction.name), "{dot}");
        }
    }
    let error = text::read_module(b"no module").unwrap_err().to_string();
    assert!(error.starts_with("reading an HLO module: "), "{error}");
}
