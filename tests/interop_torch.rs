//! Weights of torchvision and timm: converted, they give the logits of PyTorch; converted back, they load strictly.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use rigl_xla::checkpoint;
use serde_json::Value;

const PACKAGES: &[&str] = &[
    "torch==2.15.0",
    "torchvision==0.29.2",
    "timm==1.0.31",
    "safetensors==0.8.0",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
];

/// Runs the program with `--json`.
fn program(args: &[&str]) -> Result<Value, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .arg("--json")
        .args(args)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

fn logits(path: &Path) -> Vec<f32> {
    checkpoint::load(path).unwrap().tensors["logits"].to_vec().unwrap()
}

#[test]
fn torchvision_and_timm_networks_keep_their_logits_and_load_again() {
    let folder = tempfile::tempdir().unwrap();
    let networks = [
        ("resnet18", "torchvision", "64", "resnet18"),
        ("resnet50", "torchvision", "224", "resnet50"),
        ("timm-resnet50", "timm", "97", "resnet50"),
        ("mobilenet-v2", "torchvision", "224", "mobilenet-v2"),
        ("narrow-mobilenet-v2", "torchvision", "96", "mobilenet-v2"),
        ("timm-mobilenet-v2", "timm", "96", "mobilenet-v2"),
        ("vgg11", "torchvision", "224", "vgg-a"),
        ("vgg13-bn", "torchvision", "224", "vgg-13"),
        ("vgg16", "torchvision", "80", "vgg-16"),
    ];
    let names: Vec<&str> = networks.iter().map(|(name, ..)| *name).collect();
    let at = |file: String| folder.path().join(file).to_str().unwrap().to_owned();
    let root = folder.path().to_str().unwrap();
    common::python::run(PACKAGES, "torch_weights.py", &[&["make", root], &names[..]].concat());
    for (name, program_of, size, model) in networks {
        let [file, ours, images, found, back] =
            ["", "-ours", "-images", "-found", "-back"].map(|part| at(format!("{name}{part}.safetensors")));
        program(&["convert", &file, &ours]).unwrap();
        let predict = [
            "predict",
            "--checkpoint",
            &ours,
            "--image-size",
            size,
            "--input",
            &images,
            "--output",
            &found,
        ];
        assert_eq!(program(&predict).unwrap()["model"], model);
        let expected = logits(Path::new(&at(format!("{name}-logits.safetensors"))));
        for (found, expected) in logits(Path::new(&found)).iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{name}: {found}, expected {expected}");
        }
        program(&["convert", &ours, &back, "--to", program_of]).unwrap();
    }
    common::python::run(PACKAGES, "torch_weights.py", &[&["check", root], &names[..]].concat());
}
