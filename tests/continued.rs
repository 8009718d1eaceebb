//! Training continues from checkpoints. Runs that TensorFlow 1.15 began (`tests/data/tf1/continued.py`) end with the same masks
//! and weights; our own runs continue as if they had never stopped.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::runs::{Runs, object, small_mnist, write_split};
use common::{failed, json, rigl_xla};
use hlo::{DType, Literal};
use rigl_xla::checkpoint::tf::original;
use rigl_xla::checkpoint::{Metadata, load, save};
use rigl_xla::data::Split;

/// The examples of the script, by its generator.
fn examples(folder: &Path) {
    let mut state = 12345u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        match (state >> 41) % 4 {
            0 => ((state >> 33) % 256) as u8,
            _ => 0,
        }
    };
    let pixels: Vec<u8> = (0..32 * 784).map(|_| draw()).collect();
    let labels: Vec<u8> = (0..32).map(|i| i % 10).collect();
    for split in [Split::Train, Split::Test] {
        write_split(folder, split, &(pixels.clone(), labels.clone()));
    }
}

/// A checkpoint of the script, converted.
fn converted(runs: &Runs, method: &str, step: u64) -> PathBuf {
    let prefix = format!("tests/data/tf1/continued/{method}/model.ckpt-{step}");
    let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join(prefix);
    let out = runs.path(&format!("{method}-{step}.safetensors"));
    json(&[
        "convert",
        "--overwrite",
        prefix.to_str().unwrap(),
        out.to_str().unwrap(),
    ]);
    out
}

/// Flags of the script's run by a method.
fn flags<'a>(method: &'a str, data: &'a str) -> Vec<&'a str> {
    let run = [
        "train",
        "--json",
        "--method",
        method,
        "--data",
        data,
        "--sparsity",
        "0.8",
        "--lr",
        "0.05",
    ];
    let settings = [
        "model.hidden=[8,6]",
        "train.batch_size=32",
        "train.steps_per_launch=5",
        "method.drop_noise_std=0",
        "optimizer.weight_decay=0.01",
        "mask_update.end_step=16",
        "mask_update.frequency_steps=3",
        "prune.begin_step=2",
        "prune.end_step=20",
        "prune.frequency_steps=3",
        "train.checkpoint_interval=8",
    ];
    run.into_iter()
        .chain(settings.into_iter().flat_map(|s| ["--set", s]))
        .collect()
}

/// Masks are the same; other numbers differ by at most 1e-5 of the largest.
fn assert_same(found: &BTreeMap<String, Literal>, want: &BTreeMap<String, Literal>, what: &str) {
    for (name, found) in found {
        let want = want
            .get(name)
            .or_else(|| want.get(&original::name_of(name, found.dims())));
        let Some(want) = want else {
            panic!("{what}: the original has no {name}")
        };
        let (found_values, want) = (found.to_f64_vec(), want.to_f64_vec());
        if found.dtype() != DType::F32 {
            assert_eq!(found_values, want, "{what}: {name}");
            continue;
        }
        let largest = want.iter().fold(0f64, |largest, value| largest.max(value.abs()));
        for (found, want) in found_values.iter().zip(&want) {
            assert!(
                (found - want).abs() <= 1e-5 * largest.max(1.0),
                "{what}: {name}: {found}, expected {want}"
            );
        }
    }
}

#[test]
fn continues_runs_of_the_original_with_the_same_result() {
    let runs = Runs::new();
    let data = runs.path("data");
    fs::create_dir(&data).unwrap();
    examples(&data);
    for (method, midway, end) in [("rigl", 8, 18), ("snfs", 11, 24), ("prune", 11, 24)] {
        let start = converted(&runs, method, midway);
        let out = runs.path(method);
        let [start, out] = [&start, &out].map(|path| path.to_str().unwrap());
        let run = |steps: &str, more: &[&str]| {
            let args = [
                &flags(method, data.to_str().unwrap())[..],
                &["--steps", steps, "--out", out],
                more,
            ]
            .concat();
            let output = rigl_xla(&args);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            (object(output), message)
        };
        let from = &["--init", start, "--init-state", "--allow-incomplete-schedule"];
        // Includes an interruption.
        let (part, message) = run("17", from);
        assert!(
            message.contains(&format!(
                "{midway} gradient steps done, which are 11 iterations of this run"
            )),
            "{message}"
        );
        let (done, _) = run("24", &[from, &["--resume"][..]].concat());
        assert_eq!((&part["steps"], &done["steps"]), (&17.into(), &24.into()), "{method}");
        assert_eq!(done["global_step"], end, "{method}");
        let want = load(&converted(&runs, method, end)).unwrap().tensors;
        let found = load(&runs.path(method).join("ckpt-24.safetensors")).unwrap().tensors;
        assert_same(&found, &want, method);
        let before = load(start.as_ref()).unwrap().tensors;
        let moved = |mask: &str| before[mask].to_f64_vec() != want[mask].to_f64_vec();
        assert!(moved("layer1/mask"), "{method}");
    }
}

/// Everything of a checkpoint, taken by a new run, and the run that was never stopped.
#[test]
fn continues_own_runs_to_the_same_bytes() {
    let runs = Runs::new();
    for method in ["rigl", "snfs", "static", "snip", "dnw", "rigl-itop"] {
        let whole = format!("{method}-whole");
        let own: &[&str] = match method {
            "dnw" | "snip" => &["--method", method],
            // Sparse execution without --init-state keeps connections alone between updates, which rounds differently.
            _ => &[
                "--method",
                method,
                "--execution",
                "masked",
                "--set",
                "mask_update.begin_step=5",
            ],
        };
        runs.train(&whole, &[own, &["--steps", "50"]].concat());
        let midway = runs.checkpoint_path(&whole, 25);
        let from = ["--steps", "50", "--init", midway.to_str().unwrap(), "--init-state"];
        let done = runs.train(method, &[own, &from].concat());
        assert_eq!(done["steps"], 50, "{method}");
        assert_eq!(runs.tensors(method, 50), runs.tensors(&whole, 50), "{method}");
        let iterations: Vec<_> = runs
            .metrics(method)
            .iter()
            .map(|line| line["iteration"].as_u64())
            .collect();
        assert!(iterations.iter().all(|&i| i > Some(25)), "{iterations:?}");
    }
}

#[test]
fn initialises_only_weights_or_masks() {
    let runs = Runs::new();
    runs.train("first", &["--steps", "25"]);
    let first = runs.tensors("first", 25);
    let folder = runs.path("first");
    let from = [
        "--steps",
        "1",
        "--seed",
        "3",
        "--lr",
        "0",
        "--init",
        folder.to_str().unwrap(),
    ];
    runs.train(
        "fresh",
        &["--steps", "1", "--seed", "3", "--lr", "0", "--method", "scratch"],
    );
    let fresh = runs.tensors("fresh", 1);
    for (flag, run) in [(None, "weights"), (Some("--init-masks"), "masks")] {
        let more: Vec<&str> = ["--method", "scratch"].into_iter().chain(flag).collect();
        let done = runs.train(run, &[&from[..], &more].concat());
        assert_eq!((&done["steps"], &done["global_step"]), (&1.into(), &1.into()));
        let found = runs.tensors(run, 1);
        assert_eq!(found["layer1/weights"], first["layer1/weights"]);
        let masks = if flag.is_some() { &first } else { &fresh };
        assert_eq!(found["layer1/mask"], masks["layer1/mask"]);
        assert_ne!(first["layer1/mask"], fresh["layer1/mask"]);
        assert_ne!(found["layer1/weights/Momentum"], first["layer1/weights/Momentum"]);
    }
}

#[test]
fn rejects_checkpoints_that_cannot_continue() {
    let runs = Runs::new();
    runs.train("first", &["--steps", "25"]);
    let first = runs.checkpoint_path("first", 25);
    let first = first.to_str().unwrap();
    let [other, out] = ["other.safetensors", "out"].map(|name| runs.path(name).to_str().unwrap().to_owned());
    let failure = |file: &str, more: &[&str], code: i32| {
        let run = [
            "train",
            "--data",
            small_mnist(),
            "--batch-size",
            "20",
            "--out",
            &out,
            "--init",
            file,
        ];
        failed(&[&run, more].concat(), code)
    };
    for (more, expected) in [
        (&["--init-state", "--steps", "20"][..], "found 22 gradient steps"),
        (
            &["--init-state", "--sparsity", "0.9"],
            "'layer1/mask' has 4704 connections, expected 23520, as the sparsity of this run",
        ),
        (&["--init-masks", "--sparsity", "0.9"], "take weights alone"),
        (
            &["--init-state", "--method", "snfs"],
            "'layer1/weights/ExponentialMovingAverage' is missing",
        ),
        (
            &["--init-state", "--set", "optimizer.name='adam'"],
            "'layer1/weights/Adam' is missing",
        ),
    ] {
        let message = failure(first, more, 1);
        let expected = expected.replace("found ", "'global_step' has ");
        assert!(
            message.contains(&expected) && message.contains("ckpt-25.safetensors"),
            "{message}"
        );
    }
    for step in [-5i64, i64::MAX] {
        let mut tensors = runs.tensors("first", 25);
        tensors.insert("global_step".into(), Literal::scalar(step));
        save(other.as_ref(), &tensors, &Metadata::new("mnist-fc", 25, "")).unwrap();
        let message = failure(&other, &["--init-state", "--steps", "100"], 1);
        assert!(
            message.contains(&format!("'global_step' has {step} gradient steps, expected from 0")),
            "{message}"
        );
    }
    assert!(
        failure("nosuch", &[], 1).contains("nosuch: no such file, expected a file in safetensors form: check the path")
    );
    failure(first, &["--init-masks", "--init-state"], 2);
    let message = failed(&["train", "--init-state", "--out", &out], 2);
    assert!(message.contains("--init"), "{message}");
}
