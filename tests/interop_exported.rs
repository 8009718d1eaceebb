//! Models exported from JAX: trained here and again in JAX with the same masks and losses, resumed, on several replicas, and
//! refused where they do not fit.
#![allow(clippy::unwrap_used)]

mod common;

use common::runs::{Runs, saved};
use common::{error, json};
use serde_json::Value;
use std::fs;

/// Packages of the scripts. JAX is newer and older than what users have.
const PACKAGES: &[&str] = &["jax==0.4.38", "numpy==2.2.6"];

/// Runs a script; its assertions must hold.
fn python(script: &str, args: &[&str]) -> String {
    common::python::run(PACKAGES, script, args)
}

#[test]
fn jax_trains_the_same_connections_with_the_same_losses() {
    let runs = Runs::new();
    let scratch = runs.path("scratch");
    let scratch = scratch.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_rigl-xla");
    let models = ["mlp", "vit", "scanned", "conv", "dropout", "language", "mixer"];
    let done = python("exported.py", &[&[program, scratch], &models[..]].concat());
    assert_eq!(done.lines().collect::<Vec<_>>(), models);
}

#[test]
fn networks_of_flax_equinox_and_haiku_train() {
    let packages = [PACKAGES, &["flax==0.10.2", "equinox==0.11.11", "dm-haiku==0.0.13"]].concat();
    let runs = Runs::new();
    let scratch = runs.path("scratch");
    let program = env!("CARGO_BIN_EXE_rigl-xla");
    let examples = ["flax", "equinox", "haiku"];
    let args = [&[program, scratch.to_str().unwrap()], &examples[..]].concat();
    let done = common::python::run(&packages, "frameworks.py", &args);
    assert_eq!(done.lines().collect::<Vec<_>>(), examples);
}

/// Trains into a folder of `runs`.
fn train(runs: &Runs, run: &str, args: &[&str]) -> Value {
    json(&[&["train", "--out", runs.path(run).to_str().unwrap()], args].concat())
}

/// A small model with dropout, state and per-example measures, and its data, exported once.
fn exported(runs: &Runs) -> [String; 3] {
    let folder = runs.path("export");
    let folder = folder.to_str().unwrap();
    python("exported_small.py", &[folder]);
    ["model.rigl", "data.npz", "bad"].map(|name| format!("{folder}/{name}"))
}

#[test]
fn exported_models_resume_on_any_replicas_and_are_refused_by_name() {
    let runs = Runs::new();
    let [model, data, bad] = exported(&runs);
    let common = [
        "--model",
        &model,
        "--data",
        &data,
        "--steps",
        "24",
        "--set",
        "mask_update.frequency_steps=4",
    ];
    let often = [
        "--set",
        "train.checkpoint_interval=12",
        "--set",
        "train.eval_interval=12",
    ];
    let common = [&common[..], &often].concat();
    let whole = train(&runs, "whole", &common);
    assert_eq!(whole["eval"]["examples"], 50); // of 52, in batches of 8 and a part of one
    assert!(whole["eval"]["metrics"]["accuracy"].is_number(), "{whole}");
    assert_eq!(saved(&runs.path("whole")), [12, 24]);
    // The journal replays to the masks of both checkpoints.
    let journal = json(&["topology", runs.path("whole").to_str().unwrap(), "--check"]);
    assert_eq!(journal["equal"], serde_json::json!([12, 24]), "{journal}");

    // A run that ends at half of its length and goes on has the same end.
    let half = runs.path("half");
    fs::create_dir(&half).unwrap();
    for name in ["config.toml", "model.rigl", "ckpt-12.safetensors"] {
        fs::copy(runs.path("whole").join(name), half.join(name)).unwrap();
    }
    fs::rename(&model, format!("{model}.moved")).unwrap();
    let resumed = json(&["train", "--resume", "--out", half.to_str().unwrap()]);
    fs::rename(format!("{model}.moved"), &model).unwrap();
    assert_eq!(resumed["steps"], 24);
    assert_eq!(runs.tensors("half", 24), runs.tensors("whole", 24));

    // The copy in the run folder suffices for eval.
    let whole_dir = runs.path("whole");
    let report = json(&["eval", "--checkpoint", whole_dir.to_str().unwrap()]);
    assert_eq!(report["loss"], whole["eval"]["loss"]);
    assert_eq!(report["nonzeros"], whole["nonzeros"]);

    // Two replicas: each has a batch of the export.
    let two = train(&runs, "two", &[&common[..], &["--replicas", "2"]].concat());
    assert_eq!((&two["steps"], &two["eval"]["examples"]), (&24.into(), &50.into()));

    // Two parts of a batch: the state changes with each.
    let parts = train(&runs, "parts", &[&common[..], &["--accumulate", "2"]].concat());
    assert_eq!(parts["steps"], 24);
    assert_eq!(runs.tensors("parts", 24)["state/steps"].to_f64_vec(), [48.0]);
    // They give the step of a batch of twice the size.
    let [whole, half] = ["whole", "half"].map(|name| model.replace("model.rigl", &format!("{name}.rigl")));
    let common = [
        "--data",
        &data,
        "--steps",
        "24",
        "--set",
        "mask_update.frequency_steps=4",
    ];
    train(&runs, "large", &[&["--model", &whole], &common[..]].concat());
    train(
        &runs,
        "small",
        &[&["--model", &half, "--accumulate", "2"], &common[..]].concat(),
    );
    let [large, small] = ["large", "small"].map(|name| runs.tensors(name, 24));
    for (name, array) in &large {
        let pairs = array.to_f64_vec().into_iter().zip(small[name].to_f64_vec());
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-6, "{name}: {far}");
    }

    let refused = |args: &[&str], expected: &str| {
        let args = [&["plan", "--model", &model, "--data", &data][..], args].concat();
        let message = error(&args, 2);
        assert!(message.contains(expected), "{message}");
    };
    refused(
        &["--batch-size", "16"],
        "train.batch_size is 16, expected 8: the model was exported for batches of 8",
    );
    refused(&["--method", "grasp"], "second derivatives");
    refused(&["--precision", "bf16"], "train.precision is bf16");
    refused(&["--set", "model.masked=[\"nothing*\"]"], "nothing*");
    for (name, expected) in [
        ("custom", "custom-call 'lapack"),
        ("lacks", "has no array 'params/w2'"),
        ("unknown", "array 'more' is not in the manifest"),
        ("field", "unknown field `colour`"),
        ("newer", "version 2"),
        ("shape", "manifest"),
    ] {
        let file = format!("{bad}/{name}.rigl");
        let message = error(&["plan", "--model", &file, "--data", &data], 2);
        assert!(message.contains(expected), "{name}: {message}");
    }
    let message = common::failed(&["train", "--model", &model, "--data", &format!("{bad}/labels.npz")], 1);
    assert!(
        message.contains("no array for the input 'image' of the model, found label"),
        "{message}"
    );
}

#[test]
fn exported_models_are_planned_masked_by_name_and_dumped() {
    let runs = Runs::new();
    let [model, data, _] = exported(&runs);
    let plan = |args: &[&str]| json(&[&["plan", "--model", &model, "--data", &data][..], args].concat());
    let layers = |plan: &Value| -> Vec<String> {
        let layers = plan["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(layers(&plan(&[])), ["w1", "w2"]);
    assert_eq!(layers(&plan(&["--set", "model.unmasked=[\"*1\"]"])), ["w2"]);
    assert_eq!(
        layers(&plan(&["--set", "model.masked=[\"w1\", \"embed*\"]"])),
        ["embedding", "w1"]
    );
    let arrays = json(&["data", "inspect", &data])["arrays"].clone();
    assert_eq!(arrays.as_array().map(Vec::len), Some(4));
    assert_eq!(
        (&arrays[0]["dtype"], &arrays[0]["shape"][0]),
        (&"F32".into(), &52.into())
    );
    let out = runs.path("step.hlo");
    let args = [
        "dump-hlo",
        "--model",
        &model,
        "--data",
        &data,
        "--format",
        "proto",
        "--output",
        out.to_str().unwrap(),
    ];
    assert!(json(&args)["instructions"].as_u64().unwrap() > 100);
    for method in [
        "dense",
        "set",
        "static",
        "snfs",
        "snip",
        "dnw",
        "prune",
        "rigl-inverted",
        "rigl-itop",
    ] {
        let run = format!("run-{method}");
        let done = train(
            &runs,
            &run,
            &["--model", &model, "--data", &data, "--steps", "20", "--method", method],
        );
        assert_eq!(done["steps"], 20, "{method}");
    }
}
