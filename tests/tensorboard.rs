//! Event files for TensorBoard, read by its own reader.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::runs::Runs;
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
