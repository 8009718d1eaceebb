//! Other programs read what we write and the other way round, and NumPy, from the reference alone, computes what we do.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::json;
use common::runs::{Runs, mnist, write_split};
use hlo::Literal;
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::data::{Split, mnist as files};
use serde_json::{Value, json as value};

/// What the scripts import, at versions with wheels for every Python from 3.10 on.
const PACKAGES: &[&str] = &["numpy==2.2.6", "safetensors==0.5.3"];

/// Runs a script of `tests/interop`; its assertions must hold.
fn python(script: &str, args: &[&str]) -> String {
    common::python::run(PACKAGES, script, args)
}

#[test]
fn python_reads_our_checkpoints_and_numpy_agrees_with_eval_and_predict() {
    let runs = Runs::new();
    let (data, out) = (mnist(), runs.path("run"));
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let done = json(&["train", "--data", "mnist", "--steps", "400", "--out", out]);
    let checkpoint = done["checkpoint"].as_str().unwrap();
    let test = files::load(data.as_ref(), Split::Test).unwrap();
    let images = Literal::new(&[256, 28, 28], &test.images.bytes()[..256 * 784]);
    let [input, logits, converted] = ["input", "logits", "converted"].map(|name| {
        let path = runs.path(&format!("{name}.safetensors"));
        path.to_str().unwrap().to_owned()
    });
    save(
        input.as_ref(),
        &[("x".to_string(), images)].into(),
        &Metadata::new("", 0, ""),
    )
    .unwrap();
    json(&[
        "predict",
        "--checkpoint",
        checkpoint,
        "--input",
        &input,
        "--output",
        &logits,
    ]);
    let eval = |checkpoint: &str| json(&["eval", "--checkpoint", checkpoint, "--data", "mnist"]);
    let report = eval(checkpoint);
    assert_eq!(report["top1"], done["eval"]["top1"]);
    python("inference.py", &[checkpoint, data, &logits, &report.to_string()]);
    // The script wrote the network as a conversion of the original's checkpoint would.
    let foreign = eval(&converted);
    for key in ["top1", "top5", "loss", "nonzeros", "maskable", "examples", "model"] {
        assert_eq!(foreign[key], report[key], "{key}");
    }
    assert_eq!(
        (&foreign["nonzeros"], &foreign["iteration"]),
        (&9244.into(), &Value::Null)
    );
}

/// A training set of 32 random images, so that no two gradients are equal but for rounding, and as large as the batch.
fn random_images(folder: &Path) {
    let mut state = 12345u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    for split in [Split::Train, Split::Test] {
        let mut pixel = || if draw() % 4 == 0 { (draw() % 256) as u8 } else { 0 };
        let pixels = (0..32 * 784).map(|_| pixel()).collect();
        let labels = (0..32).map(|i| (i % 10) as u8).collect();
        write_split(folder, split, &(pixels, labels));
    }
}

/// Weights and slots to 1e-5, masks and counters exactly, over 24 iterations from the start.
#[test]
fn numpy_replays_training() {
    let (runs, data) = (Runs::new(), tempfile::tempdir().unwrap());
    random_images(data.path());
    let data = data.path().to_str().unwrap();
    let train = |run: &str, args: &[&str]| {
        let out = runs.path(run);
        let fixed = [
            "train",
            "--data",
            data,
            "--batch-size",
            "32",
            "--out",
            out.to_str().unwrap(),
        ];
        json(&[&fixed[..], args].concat())
    };
    let schedule = [
        "mask_update.frequency_steps=3",
        "mask_update.end_step=14",
        "method.drop_noise_std=0",
        "learning_rate.boundaries=[7]",
        "learning_rate.factors=[0.5]",
        "optimizer.weight_decay=0.01",
        "train.checkpoint_interval=1",
        "train.keep_checkpoints=100",
    ];
    let schedule: Vec<&str> = schedule.iter().flat_map(|setting| ["--set", setting]).collect();
    // Per method: iterations that update masks, and gradient steps.
    let cases: [(&str, &str, Vec<u64>, u64); 4] = [
        ("rigl", "scratch", vec![1, 5, 9, 13, 17], 19),
        ("set", "scratch", vec![1, 4, 7, 10, 13], 24),
        ("scratch", "scratch", vec![], 24),
        ("dense", "dense", vec![], 24),
    ];
    for (method, still, updates, steps) in cases {
        // Without a learning rate, the first iteration leaves weights and masks as they were drawn.
        let start = format!("{still}-start");
        train(&start, &["--method", still, "--steps", "1", "--lr", "0", "--overwrite"]);
        let args = [
            "--method",
            method,
            "--steps",
            "24",
            "--lr",
            "0.05",
            "--steps-per-launch",
            "7",
        ];
        let done = train(method, &[&args[..], &schedule].concat());
        assert_eq!(
            (&done["mask_updates"], &done["global_step"]),
            (&updates.len().into(), &steps.into())
        );
        let recipe = value!({
            "method": method, "iterations": 24, "data": data, "start": runs.checkpoint_path(&start, 1),
            "rate": 0.05, "boundary": 7, "factor": 0.5, "decay": 0.01,
            "begin": 0, "end": 14, "frequency": 3, "drop": 0.3,
        });
        let told = python(
            "training.py",
            &[runs.path(method).to_str().unwrap(), &recipe.to_string()],
        );
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (&told["updates"], &told["step"]),
            (&value!(updates), &steps.into()),
            "{method}"
        );
        let moved = told["moved"].as_u64().unwrap();
        assert_eq!(moved > 1000, !updates.is_empty(), "{method}: {moved}");
    }
}
