//! Compiling ahead of time for TPUs, on a machine without any.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{error, json, rigl_xla};
use hlo::{Computation, text};
use pjrt::DeviceKind;
use rigl_xla::aot::Graph;
use rigl_xla::aot::chips::GENERATIONS;
use rigl_xla::config::Layers;
use serde_json::Value;

/// A chip, or four, of every generation.
const EVERY: [&str; 7] = [
    "v2:2x2",
    "v3:2x2",
    "v4:2x2x1",
    "v5e:2x2",
    "v5p:2x2x1",
    "v6e:2x2",
    "tpu7x:2x2x1",
];

fn graph(graph: Graph, preset: &str) -> Computation {
    build(graph, Layers::preset(preset).unwrap())
}

fn build(graph: Graph, layers: Layers) -> Computation {
    graph.build(&layers.plan().unwrap()).unwrap().0
}

/// The report of `compile` on a program that must compile, fit and have plausible costs.
fn compiles(args: &[&str]) -> Value {
    let report = common::compiles(args);
    let number = |key: &str| {
        report[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{args:?}: {key} in {report}"))
    };
    assert!(number("flops") > 0.0 && number("bytes_accessed") > 0.0, "{report}");
    let intensity = number("flops") / number("bytes_accessed");
    assert!((number("intensity") / intensity - 1.0).abs() < 1e-6, "{report}");
    let time = report["estimate"]["time_s"].as_f64().unwrap();
    assert!(time > 0.0, "{report}");
    if report["graph"] != "update" {
        let examples = number("batch_per_device") * number("devices");
        assert!(
            (number("examples_per_s") * time / examples - 1.0).abs() < 1e-6,
            "{report}"
        );
    }
    report
}

#[test]
fn mnist_compiles_for_every_generation() {
    let names = EVERY.map(|topology| topology.split_once(':').unwrap().0);
    let known = GENERATIONS.iter().filter(|g| g.device() == DeviceKind::Tpu);
    assert_eq!(known.map(|g| g.name).collect::<Vec<_>>(), names);
    for topology in EVERY {
        let report = compiles(&["mnist-rigl", "--topology", topology]);
        assert_eq!((&report["topology"], &report["chips"]), (&topology.into(), &4.into()));
        let devices = report["devices"].as_u64().unwrap();
        let chip = report["chip"]["memory_bytes"].as_u64().unwrap();
        assert_eq!(report["device_bytes"].as_u64().unwrap() * devices, chip * 4, "{report}");
        // Gradients of all parameters, and a few scalars.
        let gradients = 4 * 266_610;
        let collective = report["collective_bytes"].as_u64().unwrap();
        assert!((gradients..gradients + 1024).contains(&collective), "{report}");
    }
}

#[test]
fn every_graph_of_mnist_compiles() {
    for graph in ["update", "eval", "train"] {
        let report = compiles(&["mnist-rigl", "--topology", "v3:1x1", "--graph", graph]);
        assert_eq!(report["graph"], graph);
    }
}

/// One iteration of ResNet-50 by RigL at 80 %, on a batch that the paper's 4096 leaves each of 32 devices. Effort
/// is 0, because at full effort the compiler takes minutes.
fn resnet50_compiles(topology: &str) {
    let args = [
        "resnet50-rigl-erk-0.8",
        "--batch-per-device",
        "128",
        "--effort",
        "0",
        "--topology",
        topology,
    ];
    let report = compiles(&args);
    let flops = report["flops"].as_f64().unwrap();
    // Forward pass and both gradients: about 3 x 2 x 4.1e9 per example.
    assert!((2.8e12..3.4e12).contains(&flops), "{report}");
    // Gradients of all parameters. The offsets of the four shortcuts (3840) have the same gradients as the branches that
    // they are added to, so a compiler may reduce them once.
    let collective = report["collective_bytes"].as_u64().unwrap();
    assert!(
        (4 * (25_557_032 - 3840)..4 * 25_557_032 + 1024).contains(&collective),
        "{report}"
    );
}

#[test]
fn resnet50_compiles_for_v5e() {
    resnet50_compiles("v5e:2x2");
}

#[test]
fn resnet50_compiles_for_v4() {
    resnet50_compiles("v4:2x2x1");
}

#[test]
fn saves_the_compiled_program() {
    let folder = tempfile::tempdir().unwrap();
    let [hlo, executable] = ["step.hlo", "step.exe"].map(|name| folder.path().join(name));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let files = ["--save-hlo", &path(&hlo), "--save", &path(&executable)];
    let report = compiles(
        &[
            &["mnist-set", "--topology", "v5e:1x1", "--batch-per-device", "8"][..],
            &files,
        ]
        .concat(),
    );
    assert_eq!(report["batch_per_device"], 8);
    let module = text::read_module(&std::fs::read(hlo).unwrap()).unwrap();
    let instructions: usize = module.computations.iter().map(|c| c.instructions.len()).sum();
    assert_eq!(report["instructions"], instructions);
    assert!(std::fs::read(executable).unwrap().starts_with(b"RIGLEXE1"));
}

#[test]
fn the_largest_batch_is_found() {
    let args = [
        "mnist-dense",
        "--topology",
        "v2:1x1",
        "--graph",
        "eval",
        "--batch-per-device",
        "auto",
    ];
    assert_eq!(
        compiles(&args)["batch_per_device"],
        1 << 16,
        "the most that is tried fits easily"
    );
}

#[test]
fn rejects_invalid_options() {
    let compile = |args: &[&str], code| error(&[&["compile"], args].concat(), code);
    for (args, expected) in [
        (&["--topology", "v5:2x2"][..], "did you mean 'v5"),
        (
            &["--topology", "v5e:2x2x1"],
            "expected GENERATION:SIDES with a side for each axis",
        ),
        (
            &["--topology", "v5e:2x2", "--batch-per-device", "0"],
            "expected auto or a number above 0",
        ),
        (&["--topology", "v5e:2x2", "--device", "cpu"], "expected tpu"),
        (
            &["mnist-dense", "--topology", "v5e:2x2", "--graph", "update"],
            "no mask update",
        ),
        (
            &[
                "--topology",
                "v5e:2x2",
                "--graph",
                "update",
                "--batch-per-device",
                "auto",
            ],
            "no batch",
        ),
    ] {
        let message = compile(args, 2);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn reports_the_largest_batch_that_fits() {
    let args = ["compile", "--topology", "v2:1x1", "--batch-per-device", "90000000"];
    let answer = json(&args);
    assert_eq!(
        (&answer["fits"], &answer["batch_per_device"]),
        (&false.into(), &90_000_000.into())
    );
    assert!(answer["reason"].as_str().unwrap().contains("memory"), "{answer}");
    let largest = answer["largest_batch"].as_u64().unwrap();
    assert!((1_000_000..90_000_000).contains(&largest), "{answer}");
    let fitting = compiles(&["--topology", "v2:1x1", "--batch-per-device", &largest.to_string()]);
    assert_eq!(fitting["fits"], true);
    // A requested file that cannot be written is an error.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step.exe");
    let output = rigl_xla(&[&args[..], &["--save", file.to_str().unwrap()]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && message.contains("step.exe: not written"),
        "{message}"
    );
}

/// Evaluation of ResNet-50 of eight times the channels on pictures of 1024 pixels.
#[test]
fn reports_that_no_batch_fits() {
    let network = [
        "compile", "--model", "resnet50", "--width", "8", "--graph", "eval", "--effort", "0",
    ];
    let answer = json(
        &[
            &network[..],
            &[
                "--topology",
                "v2:1x1",
                "--batch-per-device",
                "auto",
                "--set",
                "model.image_size=1024",
            ],
        ]
        .concat(),
    );
    assert_eq!(
        (&answer["fits"], &answer["batch_per_device"]),
        (&false.into(), &1.into())
    );
    assert_eq!(answer["largest_batch"], Value::Null, "{answer}");
}

#[test]
fn missing_device_error_lists_the_places_searched() {
    for (args, package) in [
        (&["plugin", "doctor", "--device", "tpu"][..], "libtpu"),
        (&["cost", "--compiled", "--device", "tpu"], "libtpu"),
    ] {
        let message = error(args, 1);
        for expected in [
            "no tpu on this machine",
            "/dev/accel*",
            "/dev/vfio/*",
            package,
            "--plugin",
        ] {
            assert!(message.contains(expected), "{args:?}: {message}");
        }
    }
}

/// Opcodes of a computation and of those that it calls.
fn opcodes(computation: &Computation) -> Vec<String> {
    let module = computation.to_proto(&[]);
    let instructions = module.computations.into_iter().flat_map(|c| c.instructions);
    instructions.map(|i| i.opcode).collect()
}

#[test]
fn mask_updates_do_not_sort() {
    for preset in ["mnist-rigl", "resnet50-rigl"] {
        let opcodes = opcodes(&graph(Graph::Update, preset));
        assert!(opcodes.iter().any(|opcode| opcode == "while"), "{preset}");
        let sorts = |opcode: &&String| ["sort", "topk", "custom-call"].contains(&opcode.as_str());
        assert_eq!(opcodes.iter().find(sorts), None, "{preset}");
    }
}

#[test]
fn instructions_are_linear_in_layers() {
    for which in [Graph::Step, Graph::Update] {
        let count = |depth: i64| {
            let layers = Layers::preset("cifar10-rigl").unwrap();
            let named = layers.set("--model", &["model", "name"], format!("wrn-{depth}-2"));
            let deep = named.unwrap().set("--depth", &["model", "depth"], depth);
            build(which, deep.unwrap()).instruction_count()
        };
        let [small, middle, large] = [16, 22, 28].map(count);
        assert_eq!(large - middle, middle - small, "{which:?}");
    }
    let [step, update] = [Graph::Step, Graph::Update].map(|g| graph(g, "resnet50-rigl").instruction_count());
    assert_eq!([step, update], [7424, 6199]);
}
