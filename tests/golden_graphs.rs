//! The real graphs, reviewed: a change of any of them is a difference in `hlo/golden`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden_graphs` rewrites the files.
#![allow(clippy::unwrap_used)]

use hlo::{Computation, text};
use rigl_xla::config::{Layers, Plan};
use rigl_xla::data::mnist;
use rigl_xla::train::eval::{Inference, evaluation};
use rigl_xla::train::step::Trainer;
use sparse::select::Select;
use std::path::Path;

const METHODS: [&str; 4] = ["rigl", "set", "scratch", "dense"];

/// Methods of which only the mask update is shown.
const OTHERS: [&str; 7] = ["static", "snfs", "rigl-inverted", "snip", "grasp", "dnw", "prune"];

fn plan(method: &str, execution: &str) -> Plan {
    let layers = Layers::preset(&format!("mnist-{method}")).unwrap();
    let layers = layers.set("test", &["device", "execution"], execution);
    layers.unwrap().plan().unwrap()
}

/// The graph of a method's preset that `dump-hlo` shows under this name, with a selection algorithm.
fn graph(method: &str, which: &str, select: Select) -> Computation {
    let execution = if which == "sparse-step" { "sparse" } else { "masked" };
    let mut plan = plan(method, execution);
    plan.run.mask_update.select = select;
    let model = models::find(&plan.run.model.name, plan.method.masked).unwrap();
    let [train_examples, test_examples] = mnist::EXAMPLES;
    let trainer = Trainer {
        plan: &plan,
        model: &*model,
    };
    match which {
        "step" | "sparse-step" => trainer.launch(train_examples).unwrap().0,
        "update" => trainer.update().unwrap(),
        "eval" => evaluation(Inference::new(&plan, &*model), test_examples, 1000).unwrap(),
        _ => unreachable!("{which}"),
    }
}

/// Compares with, or writes, `hlo/golden/mnist-fc-METHOD-WHICH.txt`; the difference, if any.
fn compare(method: &str, which: &str) -> Option<String> {
    let name = format!("hlo/golden/mnist-fc-{method}-{which}.txt");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
    let now = text::dump(&graph(method, which, Select::Bits));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, now).unwrap();
        return None;
    }
    let reviewed = std::fs::read_to_string(path).unwrap_or_default();
    let difference = similar::TextDiff::from_lines(&reviewed, &now)
        .unified_diff()
        .header(&name, "now")
        .to_string();
    (!difference.is_empty()).then_some(difference)
}

#[test]
fn graphs_are_as_reviewed() {
    let graphs = METHODS
        .iter()
        .flat_map(|&method| [(method, "step"), (method, "eval")])
        .chain([("rigl", "update"), ("set", "update")])
        .chain(OTHERS.iter().map(|&method| (method, "update")))
        // Their gradient steps differ from those of the others.
        .chain([("snfs", "step"), ("dnw", "step"), ("rigl", "sparse-step")]);
    let differences: Vec<String> = graphs.filter_map(|(method, which)| compare(method, which)).collect();
    assert!(
        differences.is_empty(),
        "UPDATE_GOLDEN=1 takes these over:\n{}",
        differences.join("\n")
    );
}

/// Compile time grows with the number of instructions, including called computations.
#[test]
fn graphs_keep_their_size() {
    let counts = METHODS
        .map(|method| ["step", "update", "eval"].map(|which| graph(method, which, Select::Bits).instruction_count()));
    assert_eq!(
        counts,
        [[2419, 1768, 162], [2739, 2112, 162], [460, 18, 162], [406, 15, 144]]
    );
}

/// The training program of a preset with one value set.
fn launch(preset: &str, key: [&str; 2], value: &str) -> Computation {
    let layers = Layers::preset(preset).unwrap();
    let layers = layers.set("test", &["device", "execution"], "masked").unwrap();
    let plan = layers.set("test", &key, value).unwrap().plan().unwrap();
    let model = plan.model();
    let trainer = Trainer { plan: &plan, model };
    trainer.launch(1).unwrap().0
}

/// The program grows with the number of kernels and with nothing else.
#[test]
fn deeper_networks_grow_by_their_kernels() {
    let sizes = ["resnet50", "resnet101", "resnet152", "resnet200"]
        .map(|model| launch("resnet50-rigl-erk-0.8", ["model", "name"], model).instruction_count());
    assert_eq!(sizes[0], 19_422);
    let kernels = [54, 105, 156, 204];
    // Another kernel of an existing size class adds no instructions for selection.
    let each: Vec<usize> = (1..4)
        .map(|i| (sizes[i] - sizes[i - 1]) / (kernels[i] - kernels[i - 1]))
        .collect();
    assert!(each.iter().all(|n| (200..300).contains(n)), "{each:?}");
}

/// Names of all operators of a graph, called computations included.
fn operators(computation: &Computation) -> Vec<&'static str> {
    let below = |node: &hlo::Node| -> Vec<_> {
        let called = node.op.called();
        let inner = called.iter().flat_map(|c| operators(c));
        [node.op.name()].into_iter().chain(inner).collect()
    };
    computation.nodes.iter().flat_map(below).collect()
}

#[test]
fn selection_by_bits_sorts_nothing() {
    let sorts = |which, select| {
        let names = operators(&graph("rigl", which, select));
        ["sort", "topk"].map(|name| names.iter().filter(|n| **n == name).count())
    };
    for which in ["update", "step"] {
        assert_eq!(sorts(which, Select::Bits), [0, 0]);
        // Two layers are sparse, each selects twice.
        assert_eq!(sorts(which, Select::Sort), [8, 0]);
        assert_eq!(sorts(which, Select::Topk), [0, 4]);
    }
}

/// A dense layer moves no connection, and neither do methods with fixed masks.
#[test]
fn only_sparse_layers_of_updating_methods_are_updated() {
    for method in METHODS {
        let dump = text::dump(&graph(method, "step", Select::Bits));
        let updated = ["layer1", "layer2", "layer3"].map(|l| dump.contains(&format!("%mask_update/{l}/weights/")));
        let expected = matches!(method, "rigl" | "set");
        assert_eq!(updated, [expected, expected, false], "{method}");
    }
}

/// The innermost loops of a graph that hold convolutions: steps that update no mask.
fn gradient_loops(computation: &Computation) -> Vec<Computation> {
    let called = computation.nodes.iter().flat_map(|node| node.op.called());
    let below: Vec<Computation> = called.flat_map(|c| gradient_loops(c)).collect();
    let convolves = |c: &Computation| c.nodes.iter().any(|node| node.op.name() == "convolution");
    let bodies = computation.nodes.iter().filter_map(|node| match &node.op {
        hlo::Op::While { body, .. } if convolves(body) => Some((**body).clone()),
        _ => None,
    });
    bodies.chain(below).collect()
}

/// The only difference is that it keeps its gradients for a possible mask update.
#[test]
fn an_ordinary_rigl_step_equals_one_with_static_masks() {
    for preset in ["cifar10-rigl", "mobilenet-v1-rigl", "resnet50-rigl-erk-0.8"] {
        let [rigl, fixed] = ["rigl", "static"].map(|method| {
            let loops = gradient_loops(&launch(preset, ["method", "name"], method));
            assert_eq!(loops.len(), 1, "{preset} {method}");
            let computes = loops[0].nodes.iter().filter(|node| node.op.name() != "parameter");
            let operators = computes.map(|node| format!("{} {:?}", node.op.name(), node.shapes));
            operators.collect::<Vec<_>>().join("\n")
        });
        let difference = similar::TextDiff::from_lines(&fixed, &rigl).unified_diff().to_string();
        assert!(difference.is_empty(), "{preset}:\n{difference}");
    }
}
