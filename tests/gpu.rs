//! Compiling ahead of time for GPUs, on a machine without any.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compiles, error};
use hlo::proto::{Instruction, Module};
use hlo::text;
use pjrt::DeviceKind;
use rigl_xla::aot::chips::GENERATIONS;

/// The compiled training step of a preset, with activations in bf16.
fn step(preset: &str, batch: &str) -> Module {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step.hlo");
    let saved = ["--save-hlo", file.to_str().unwrap()];
    let args = [
        preset,
        "--topology",
        "h200:1",
        "--precision",
        "bf16",
        "--batch-per-device",
        batch,
    ];
    compiles(&[&args[..], &saved].concat());
    text::read_module(&std::fs::read(&file).unwrap()).unwrap()
}

fn instructions(module: &Module) -> impl Iterator<Item = &Instruction> {
    module.computations.iter().flat_map(|c| &c.instructions)
}

#[test]
fn mnist_compiles_for_every_gpu() {
    let known = GENERATIONS.iter().filter(|g| g.device() == DeviceKind::Gpu);
    for gpu in known {
        let topology = format!("{}:4", gpu.name);
        let report = compiles(&["mnist-rigl", "--topology", &topology]);
        assert_eq!((&report["topology"], &report["devices"]), (&topology.into(), &4.into()));
        assert_eq!(report["device_bytes"], gpu.memory_bytes);
        // Gradients of all parameters, and a few scalars.
        let collective = report["collective_bytes"].as_u64().unwrap();
        assert!((4 * 266_610..4 * 266_610 + 1024).contains(&collective), "{report}");
    }
}

#[test]
fn every_graph_of_mnist_compiles() {
    for graph in ["update", "eval", "train"] {
        let report = compiles(&["mnist-rigl", "--topology", "h200:1", "--graph", graph]);
        assert_eq!(report["graph"], graph);
    }
}

/// All convolutions, and both gradients of each, are left to cuDNN, in bf16.
fn convolves_in_cudnn(preset: &str, layers: usize) {
    let module = step(preset, "64");
    let calls = |name: &str| {
        instructions(&module)
            .filter(|i| i.custom_call_target.starts_with(name))
            .count()
    };
    // The pictures get no gradient. That of a stride of one is a forward convolution with the kernel turned around.
    assert_eq!(calls("__cudnn$conv"), 3 * layers - 1, "{preset}");
    assert_eq!(calls("__cudnn$convBackwardFilter"), layers, "{preset}");
    for instruction in instructions(&module) {
        assert_ne!(instruction.opcode, "convolution", "{preset}: {}", instruction.name);
    }
}

#[test]
fn resnet50_convolves_in_cudnn() {
    convolves_in_cudnn("resnet50-rigl-erk-0.8", 53);
}

#[test]
fn mobilenet_convolves_in_cudnn() {
    convolves_in_cudnn("mobilenet-v1-rigl", 27);
}

#[test]
fn wide_resnet_convolves_in_cudnn() {
    convolves_in_cudnn("cifar10-rigl", 22);
}

#[test]
fn rejects_invalid_options() {
    for (args, expected) in [
        (&["--topology", "h200"][..], "such as h200:8"),
        (&["--topology", "h200:2x2"], "expected GENERATION:SIDES"),
        (&["--topology", "h202:1"], "did you mean 'h200'"),
        (&["--topology", "h200:1", "--device", "tpu"], "expected gpu"),
    ] {
        let message = error(&[&["compile"], args].concat(), 2);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}
