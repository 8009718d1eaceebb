//! Sweeps and seeds: one table from many runs, whatever interrupts them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::runs::{RHYTHM, Runs, object, saved, small_mnist};
use common::{failed, json, rigl_xla};
use serde_json::Value;

/// Settings of all jobs: short runs with the rhythm of the other tests.
const SET: &str = "
[set]
train.iterations = 60
train.batch_size = 20
train.steps_per_launch = 7
train.eval_interval = 20
train.checkpoint_interval = 5
mask_update.frequency_steps = 10
mask_update.end_step = 45
";

/// Two methods at two sparsities with two seeds, and a dense network.
const GRID: &str = "
seeds = \"0..1\"
[grid]
method.name = [\"set\", \"rigl\"]
sparsity.target = [0.9, 0.95]
[[list]]
method.name = \"dense\"
";

/// A sweep in a folder of its own.
struct Sweep {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Sweep {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sweep.toml"), file).unwrap();
        Sweep {
            root: folder.path().to_owned(),
            _folder: folder,
        }
    }

    fn out(&self) -> PathBuf {
        self.root.join("runs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        command.args(["sweep", "--data", small_mnist()]);
        command
            .arg(self.root.join("sweep.toml"))
            .arg("--out")
            .arg(self.out())
            .args(args);
        command
    }

    /// The object that a sweep prints which ends well.
    fn run(&self, args: &[&str]) -> Value {
        object(self.command(&[args, &["--json"]].concat()).output().unwrap())
    }

    /// Starts the sweep and kills it after this time, without any chance to clean up. Returns whether it was still running.
    fn kill_after(&self, time: Duration) -> bool {
        let mut command = self.command(&["--jobs", "2"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(time);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }
}

#[test]
fn a_sweep_that_is_killed_again_and_again_ends_with_the_same_table() {
    let (quiet, disturbed) = (Sweep::new(&format!("{GRID}{SET}")), Sweep::new(&format!("{GRID}{SET}")));
    let whole = quiet.run(&[]);
    let rows = whole["table"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["finished"] == 2), "{rows:?}");
    // Times without a pattern, up to several jobs.
    let mut random = sparse::rng::stream(7, "kill", "sweep", 0);
    let kills = (0..8).filter(|_| disturbed.kill_after(Duration::from_secs_f64(0.05 + 0.6 * random.uniform_f64())));
    assert!(kills.count() >= 3);
    let resumed = disturbed.run(&["--jobs", "2"]);
    assert_eq!(resumed["table"], whole["table"]);
    for job in whole["jobs"].as_array().unwrap() {
        let name = job["name"].as_str().unwrap();
        let state = |sweep: &Sweep| fs::read(sweep.out().join(name).join("ckpt-60.safetensors")).unwrap();
        assert!(state(&quiet) == state(&disturbed), "{name}");
    }
    // Finished jobs are not repeated.
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let summary = quiet.out().join("rigl-target=0.9/seed1/summary.json");
    let before = modified(&summary);
    assert_eq!(quiet.run(&[])["table"], whole["table"]);
    assert_eq!(modified(&summary), before);
}

#[test]
fn failures_are_kept_listed_and_retried_on_request() {
    // The loss of the second is infinite at once.
    let sweep = Sweep::new(&format!("[grid]\nlearning_rate.base = [0.1, 1e30]\n{SET}"));
    let output = sweep.command(&["--json"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let states: Vec<&Value> = report["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["state"])
        .collect();
    assert_eq!(states, ["finished", "failed"]);
    let why = report["jobs"][1]["failure"]["error"].as_str().unwrap();
    assert!(why.contains("the loss is"), "{why}");
    assert!(message.contains("failed: base=1e30: the loss is"), "{message}");
    assert!(message.contains("1 of 2 jobs failed"), "{message}");
    // Again: nothing runs, the failure is still there.
    let again = sweep.command(&[]).output().unwrap();
    let message = String::from_utf8(again.stderr).unwrap();
    assert!(
        again.status.code() == Some(1) && !message.contains("starts"),
        "{message}"
    );
    let retried = sweep.command(&["--retry-failed"]).output().unwrap();
    let message = String::from_utf8(retried.stderr).unwrap();
    assert!(
        message.contains("base=1e30 starts") || message.contains("base=1e30 goes on"),
        "{message}"
    );
}

/// A cache with the plugins and data of the usual one, and no compiled programs.
fn cache_without_programs(at: &Path) -> PathBuf {
    fs::create_dir(at).unwrap();
    small_mnist();
    for entry in fs::read_dir(rigl_xla::cache::dir().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "executables" {
            std::os::unix::fs::symlink(entry.path(), at.join(entry.file_name())).unwrap();
        }
    }
    at.to_owned()
}

#[test]
fn seeds_share_one_program_and_are_ordinary_runs() {
    let runs = Runs::new();
    let cache = cache_without_programs(&runs.path("cache"));
    let train = |run: &str, args: &[&str]| {
        let mut command = runs.command(run, &[&["--steps", "40"], args].concat());
        command.env("RIGL_XLA_CACHE", &cache);
        object(command.output().unwrap())
    };
    let single = train("single", &["--seed", "2"]);
    let programs = || fs::read_dir(cache.join("executables")).unwrap().count();
    let of_one = programs();
    assert!(of_one >= 2, "{of_one}");
    let several = train("seeds", &["--seeds", "1..3", "--jobs", "2"]);
    assert_eq!(programs(), of_one, "jobs compiled programs of their own");
    let row = &several["table"][0];
    assert_eq!(row["finished"], 3);
    let tops: Vec<f64> = several["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["summary"]["eval"]["top1"].as_f64().unwrap())
        .collect();
    assert_eq!(tops[1], single["eval"]["top1"].as_f64().unwrap());
    assert!(runs.bytes("seeds/seed2", 40) == runs.bytes("single", 40));
    let (mean, n) = (tops.iter().sum::<f64>() / 3.0, 3.0f64);
    let std = (tops.iter().map(|top| (top - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let figure = &row["figures"]["test_top1"];
    let close = |key: &str, value: f64| (figure[key].as_f64().unwrap() - value).abs() < 1e-12;
    assert!(
        close("mean", mean) && close("std", std) && close("sem", std / n.sqrt()),
        "{figure}"
    );
}

#[test]
fn a_dry_run_counts_and_trains_nothing() {
    let sweep = Sweep::new(&format!("{GRID}{SET}"));
    let estimate = sweep.run(&["--dry-run", "--no-measure"]);
    assert_eq!((&estimate["jobs"], &estimate["programs"]), (&10.into(), &5.into()));
    assert!(!sweep.out().exists());
    let dense = &estimate["rows"][4];
    // 60 steps of 20 examples, three times the published FLOPs of a pass.
    let cost = json(&["cost", "mnist-dense", "--steps", "60", "--batch-size", "20"]);
    assert_eq!(
        dense["flops"],
        cost["total"]["training_run_flops"]["published"]["sparse"]
    );
    assert_eq!(dense["flops_of_dense"], 1.0);
    let csv = sweep.command(&["--dry-run", "--no-measure", "--csv"]).output().unwrap();
    assert_eq!(String::from_utf8(csv.stdout).unwrap().lines().count(), 6);
    let measured = Sweep::new(&format!("seeds = [3]\n{SET}"));
    let estimate = measured.run(&["--dry-run"]);
    assert!(estimate["seconds"].as_f64().unwrap() > 0.0, "{estimate}");
    assert!(saved(&measured.out()).is_empty());
}

#[test]
fn wrong_sweeps_are_refused() {
    for (file, expected) in [
        ("gird = 1", "did you mean 'grid'"),
        ("[grid]\nmethod.name = ['ringel']", "did you mean 'rigl'"),
        ("[grid]\nsparsity.targe = [0.9]", "did you mean 'target'"),
        ("[set]\nsparsity.target = 1.5", "a number in [0, 1)"),
        (
            "[[list]]\ntrain.seed = 1\n[[list]]\ntrain.seed = 1",
            "their settings are the same",
        ),
    ] {
        let sweep = Sweep::new(file);
        let path = sweep.root.join("sweep.toml");
        let message = failed(&["sweep", path.to_str().unwrap()], 2);
        assert!(message.contains(expected), "{file}: {message}");
    }
    let message = failed(&["train", "--csv"], 2);
    assert!(message.contains("give --seeds"), "{message}");
    let output = rigl_xla(&[&["train", "--seeds", "4..0"], RHYTHM].concat());
    assert_eq!(output.status.code(), Some(2));
}
