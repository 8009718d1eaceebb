//! Event files for TensorBoard, read by its own reader.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::runs::{Runs, ones};
use rigl_xla::report::events::FILE;

#[test]
fn tensorboard_reads_what_a_run_and_a_resumed_run_wrote() {
    let runs = Runs::new();
    runs.train("whole", &["--steps", "50"]);
    runs.train("resumed", &["--steps", "30"]);
    // What a killed run leaves: events after the checkpoint, and a part of one.
    let path = runs.path("resumed").join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let whole = fs::read(runs.path("whole").join(FILE)).unwrap();
    bytes.extend(&whole[whole.len() - 200..]);
    fs::write(&path, bytes).unwrap();
    fs::remove_file(runs.checkpoint_path("resumed", 30)).unwrap();
    runs.train("resumed", &["--steps", "50", "--resume"]);
    assert_eq!(runs.bytes("whole", 50), runs.bytes("resumed", 50));
    let folders = ["whole", "resumed"].map(|run| runs.path(run).to_str().unwrap().to_owned());
    let args = folders.each_ref().map(String::as_str);
    let found = common::python::run(
        &["tensorboard==2.19.0", "numpy==2.2.6", "setuptools==75.8.0"],
        "events.py",
        &args,
    );
    assert!(found.ends_with(" scalars\n"), "{found}");
}

#[test]
fn norms_are_those_of_the_connections() {
    const RATE: f64 = 0.125;
    let runs = Runs::new();
    let gradient_alone = [
        "optimizer.name=sgd",
        "optimizer.weight_decay=0",
        "learning_rate.base=0.125",
        "train.checkpoint_interval=1",
        "train.keep_checkpoints=20",
    ];
    let set = gradient_alone.iter().flat_map(|setting| ["--set", setting]);
    let method = [
        "--steps",
        "14",
        "--steps-per-launch",
        "1",
        "--allow-incomplete-schedule",
    ];
    for execution in ["masked", "sparse"] {
        let args: Vec<&str> = method
            .into_iter()
            .chain(["--execution", execution])
            .chain(set.clone())
            .collect();
        runs.train(execution, &args);
        let lines = runs.metrics(execution);
        let launches = lines.iter().filter(|line| line.get("loss").is_some());
        let mut steps = 0;
        for (line, before) in launches.skip(1).zip(1..) {
            let arrays = [before, before + 1].map(|iteration| runs.tensors(execution, iteration));
            for layer in ["layer1", "layer2", "layer3"] {
                let masks = arrays.each_ref().map(|arrays| ones(&arrays[&format!("{layer}/mask")]));
                let weights = arrays
                    .each_ref()
                    .map(|arrays| arrays[&format!("{layer}/weights")].to_f64_vec());
                let norm =
                    |value: &dyn Fn(usize) -> f64| masks[1].iter().map(|&i| value(i).powi(2)).sum::<f64>().sqrt();
                let near = |key: &str, expected: f64| {
                    let found = line[key][layer].as_f64().unwrap();
                    assert!(
                        (found - expected).abs() < 2e-3 * expected,
                        "{execution} {before} {key} {layer}: {found}, expected {expected}"
                    );
                };
                near("weight_norm", norm(&|i| weights[1][i]));
                // An update replaces the gradient step.
                if line["mask_updates"] == lines[0]["mask_updates"] {
                    near("gradient_norm", norm(&|i| (weights[0][i] - weights[1][i]) / RATE));
                    steps += 1;
                }
            }
        }
        assert!(steps > 20, "{steps}");
    }
}

#[test]
fn a_run_without_events_has_no_event_file() {
    let runs = Runs::new();
    runs.train(
        "run",
        &["--steps", "7", "--no-tensorboard", "--allow-incomplete-schedule"],
    );
    assert!(!runs.path("run").join(FILE).exists());
    // A resumed run may write them nevertheless.
    runs.train(
        "run",
        &[
            "--steps",
            "14",
            "--resume",
            "--allow-incomplete-schedule",
            "--set",
            "output.tensorboard=true",
        ],
    );
    assert!(runs.path("run").join(FILE).exists());
}
