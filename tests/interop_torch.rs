//! Weights of torchvision and timm: converted, they give the logits of PyTorch; converted back, they load strictly.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use hlo::{DType, Graph, Literal};
use rigl_xla::checkpoint;
use rigl_xla::config::Layers;
use rigl_xla::named::Named;
use rigl_xla::optimizer::{Coefficients, Parameter, Settings, Step};
use serde_json::Value;

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
    common::python::run(
        common::python::TORCH,
        "torch_weights.py",
        &[&["make", root], &names[..]].concat(),
    );
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
    common::python::run(
        common::python::TORCH,
        "torch_weights.py",
        &[&["check", root], &names[..]].concat(),
    );
}

#[test]
fn adamw_and_warm_ups_are_those_of_pytorch() {
    let settings = Settings {
        rule: Named::find("adamw").unwrap(),
        momentum: 0.0,
        nesterov: false,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-3,
        weight_decay: 0.1,
        clip_norm: None,
        ema_decay: None,
    };
    let (steps, n) = (5, 7);
    let value = |i: usize| ((i * 37 + 11) % 29) as f32 / 7.0 - 2.0;
    let start: Vec<f32> = (0..n).map(value).collect();
    let gradients: Vec<f32> = (0..steps * n).map(|i| value(i + 100) * 0.1).collect();
    let g = Graph::new("adamw");
    let mut weights = g.constant(Literal::new(&[n], &start));
    let mut slots = vec![weights.zeros_like(); 2];
    let mut scalars = vec![g.scalar(0.9f32), g.scalar(0.95f32)];
    let mut all = vec![];
    for gradient in gradients.chunks(n) {
        let coefficients = Coefficients {
            rate: g.scalar(0.01f32),
            decay: g.scalar(0f32),
            advance: g.scalar(1f32),
            taken: g.number(DType::Pred, 1.0),
        };
        let step = Step::new(&settings, coefficients, &scalars);
        (weights, slots) = step.apply(Parameter {
            weights,
            slots: &slots,
            gradient: g.constant(Literal::new(&[n], gradient)),
            decayed: true,
        });
        scalars = step.advance(&scalars);
        all.push(weights.output());
    }
    let moved = g.build(&all).unwrap().evaluate(&[]).unwrap();
    let moved: Vec<f32> = moved.iter().flat_map(|row| row.to_vec::<f32>().unwrap()).collect();
    let mut arrays = BTreeMap::from([
        ("start".to_owned(), Literal::new(&[n], &start)),
        ("gradients".to_owned(), Literal::new(&[steps, n], &gradients)),
        ("weights".to_owned(), Literal::new(&[steps, n], &moved)),
    ]);
    for schedule in ["cosine", "linear"] {
        let set = |layers: Layers, key: &str, value: toml::Value| {
            layers.set("--set", &["learning_rate", key], value).unwrap()
        };
        let layers = set(Layers::preset("mnist-rigl").unwrap(), "schedule", schedule.into());
        let layers = set(set(layers, "warmup_steps", 10.into()), "decay_steps", 100.into());
        let rate = set(layers, "base", 0.3.into()).plan().unwrap().learning_rate;
        let rates: Vec<f32> = (0..100).map(|step| rate.at(step)).collect();
        arrays.insert(schedule.to_owned(), Literal::new(&[100], &rates));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("found.safetensors");
    checkpoint::save(&path, &arrays, &checkpoint::Metadata::new("mnist-fc", 0, "")).unwrap();
    common::python::run(common::python::TORCH, "torch_optimizers.py", &[path.to_str().unwrap()]);
}
