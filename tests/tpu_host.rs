//! A host with four TPU chips, played by a plugin in C (`tpu_host/host.c`): training, faults, preemption, dry runs, and what
//! `plugin doctor` says of a TPU that does not start.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::runs::{Runs, object, saved};
use common::stand_in::{compile, cpu_plugin};
use common::{error, json, rigl_xla, under};
use serde_json::Value;

/// The plugin, made once for all tests.
fn plugin() -> &'static str {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = compile("tests/tpu_host/host.c", dir.path());
        (dir, path)
    });
    path.to_str().unwrap()
}

/// A run on four chips.
const FOUR: &[&str] = &["--device", "tpu", "--replicas", "4", "--steps", "60"];

fn on_host(runs: &Runs, run: &str, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let given = [&["--plugin", plugin()], args].concat();
    let mut command = runs.command(run, &under(FOUR, &given));
    command.env("HOST_PLUGIN", cpu_plugin()).envs(variables.iter().copied());
    command
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The same run without interruptions.
fn reference(runs: &Runs) {
    object(on_host(runs, "reference", &[], &[]).output().unwrap());
}

/// Against the CPU plugin as it is, up to the order of sums over the chips; also as the second host of two.
#[test]
fn order_and_layout_of_chips_change_nothing() {
    let runs = Runs::new();
    let cpu = cpu_plugin();
    let four = ["--device", "gpu", "--replicas", "4", "--steps", "20"];
    runs.train("cpu", &[&four[..], &["--plugin", cpu.to_str().unwrap()]].concat());
    let expected = runs.tensors("cpu", 20);
    for (run, variables) in [("alone", &[][..]), ("second", &[("HOST_PROCESS", "1")])] {
        object(on_host(&runs, run, &["--steps", "20"], variables).output().unwrap());
        for (name, array) in runs.tensors(run, 20) {
            let [found, expected] = [&array, &expected[&name]].map(hlo::Literal::to_f64_vec);
            let largest = expected.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
            let apart = found
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            assert!(apart <= 1e-4 * largest, "{run}: {name} by {apart} of {largest}");
        }
    }
    let alone = ["--steps", "5", "--replicas", "1"];
    object(
        on_host(&runs, "one", &alone, &[("HOST_PROCESS", "1")])
            .output()
            .unwrap(),
    );
}

#[test]
fn a_failed_execution_names_the_checkpoint_to_resume() {
    let runs = Runs::new();
    reference(&runs);
    // The first launch fails: the run begins again.
    let output = on_host(&runs, "none", &[], &[("HOST_FAILS", "1")]).output().unwrap();
    let text = message(&output);
    assert!(
        text.contains("uncorrectable") && text.contains("no checkpoint was saved before"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    let done = object(
        on_host(&runs, "none", &["--resume", "--steps", "20"], &[])
            .output()
            .unwrap(),
    );
    assert_eq!(done["steps"], 20);
    let output = on_host(&runs, "run", &[], &[("HOST_FAILS", "9")]).output().unwrap();
    let text = message(&output);
    let at = *saved(&runs.path("run")).last().unwrap();
    let path = runs.checkpoint_path("run", at);
    assert!(
        text.contains(&format!("--resume goes on from {}", path.display())),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    let done = object(on_host(&runs, "run", &["--resume"], &[]).output().unwrap());
    assert_eq!(done["steps"], 60);
    assert!(runs.tensors("run", 60) == runs.tensors("reference", 60));
}

/// SIGTERM during a launch, after which the chips still answer, only give their memory back, or are gone.
#[test]
fn preempted_runs_are_saved_or_go_on_from_a_checkpoint() {
    let runs = Runs::new();
    reference(&runs);
    for (run, preempts, code, expected) in [
        ("saved", "5 execute", 143, "not evaluated; --resume goes on"),
        ("gone", "7 all", 1, "--resume goes on from"),
    ] {
        let output = on_host(&runs, run, &[], &[("HOST_PREEMPTS", preempts)])
            .output()
            .unwrap();
        let text = message(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(
            text.contains("the chip was taken away") && text.contains(expected),
            "{text}"
        );
        let done = object(on_host(&runs, run, &["--resume"], &[]).output().unwrap());
        assert_eq!(done["steps"], 60);
        assert!(runs.tensors(run, 60) == runs.tensors("reference", 60), "{run}");
    }
    // Saved where the launch ended, not only at the intervals.
    let text = fs::read_to_string(runs.path("saved").join("metrics.jsonl")).unwrap();
    assert!(text.contains("\"iteration\":60"), "{text}");
}

fn doctor(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command
        .args(["plugin", "doctor", "--device", "tpu", "--plugin", plugin()])
        .args(args)
        .env("HOST_PLUGIN", cpu_plugin())
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn doctor_finds_the_chips_of_the_host() {
    let found = object(doctor(
        &[("TPU_WORKER_HOSTNAMES", "a,b"), ("TPU_WORKER_ID", "1")],
        &["--json"],
    ));
    let ids: Vec<i64> = found["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [3, 2, 1, 0]);
    assert_eq!(found["devices"][0]["kind"], "TPU v5 lite");
    assert_eq!(
        found["slice"],
        serde_json::json!({ "worker": "1", "hosts": ["a", "b"] })
    );
}

#[test]
fn doctor_tells_why_a_tpu_does_not_start() {
    let taken = "The TPU is already in use by process with pid 4242. Not attempting to load libtpu.so in this process.";
    let chips = "open(/dev/vfio/0): Device or resource busy: Couldn't open iommu group /dev/vfio/0";
    let other = "Are you using the right LibTPU version? This LibTPU is built for TPU v4";
    let slice = "Initialization of slice failed with error status: DEADLINE_EXCEEDED";
    let hosts = ("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2");
    for (variables, expected) in [
        (
            &[("HOST_REFUSES_LOAD", taken)][..],
            &["another process uses the TPU", "lsof", "pid 4242"][..],
        ),
        (
            &[("HOST_REFUSES", chips)],
            &["another process uses the TPU", "wait for that process", "/dev/vfio/0"],
        ),
        (
            &[("HOST_REFUSES", "No TPU platform available.")],
            &["finds no chip", "--dry-run --topology v5e:2x2"],
        ),
        (
            &[("HOST_REFUSES", other)],
            &["this libtpu does not fit", "plugin fetch tpu"],
        ),
        (
            &[("HOST_REFUSES", slice), hosts],
            &["other hosts of the TPU slice are missing", "2: 10.0.0.1, 10.0.0.2"],
        ),
        (
            &[("HOST_HANGS", "1"), hosts],
            &["other hosts of the TPU slice are missing", "every host", "within 1 s"],
        ),
        (&[("HOST_HANGS", "1")], &["does not start", "TPU_SKIP_MDS_QUERY=1"]),
    ] {
        let output = doctor(variables, &["--wait", "1"]);
        let text = message(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in expected {
            assert!(text.contains(part), "{variables:?}: {part} in {text}");
        }
    }
}

#[test]
fn a_dry_run_on_the_host_compiles_and_leaves_nothing() {
    let runs = Runs::new();
    let report = object(on_host(&runs, "run", &["--dry-run"], &[]).output().unwrap());
    assert_eq!((&report["replicas"], &report["device"]), (&4.into(), &"tpu".into()));
    assert!(report["devices"].as_str().unwrap().contains("TPU v5 lite"), "{report}");
    let names: Vec<&Value> = report["programs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["launch", "evaluation"]);
    assert!(report["programs"][0]["needed_bytes"].as_u64().unwrap() > report["state_bytes"].as_u64().unwrap());
    assert!(!runs.path("run").exists());
    // As the run itself, it refuses too many replicas and folders of other runs.
    let many = on_host(&runs, "run", &["--dry-run", "--replicas", "5"], &[])
        .output()
        .unwrap();
    assert!(message(&many).contains("4 addressable devices"), "{}", message(&many));
    fs::create_dir(runs.path("run")).unwrap();
    fs::write(runs.path("run").join("config.toml"), "").unwrap();
    let occupied = on_host(&runs, "run", &["--dry-run"], &[]).output().unwrap();
    assert!(
        occupied.status.code() == Some(1) && message(&occupied).contains("config.toml"),
        "{}",
        message(&occupied)
    );
}

#[test]
fn a_dry_run_compiles_for_absent_chips() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("run");
    let folder = folder.to_str().unwrap();
    let report = json(&[
        "train",
        "mnist-rigl",
        "--batch-size",
        "96",
        "--dry-run",
        "--topology",
        "v5e:2x2",
        "--out",
        folder,
    ]);
    assert_eq!(
        (&report["topology"], &report["replicas"]),
        (&"v5e:2x2".into(), &4.into())
    );
    let needed = report["programs"][0]["needed_bytes"].as_u64().unwrap();
    assert!(
        needed < report["device_bytes"].as_u64().unwrap() && needed > 60_000 * 784,
        "{report}"
    );
    // All gradients over two links of 50 GB/s each.
    let seconds = report["all_reduce_s"].as_f64().unwrap();
    assert!(
        (seconds / (4.0 * 266_610.0 * 1.5 / 100e9) - 1.0).abs() < 1e-6,
        "{report}"
    );
    assert!(!out.path().join("run").exists());
    for (args, expected) in [
        (&["--topology", "v5e:2x2"][..], "--dry-run"),
        (
            &["--dry-run", "--topology", "v5e:2x2", "--device", "cpu"],
            "expected tpu",
        ),
        (
            &["--dry-run", "--topology", "v5e:2x2", "--replicas", "2"],
            "has 4 devices",
        ),
        (&["--dry-run", "--topology", "v5e:2x"], "expected GENERATION:SIDES"),
    ] {
        let text = error(&[&["train"], args].concat(), 2);
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    let output = rigl_xla(&["train", "--device", "tpu", "--dry-run", "--out", folder]);
    assert!(
        message(&output).contains("--dry-run --topology v5e:2x2"),
        "{}",
        message(&output)
    );
}
