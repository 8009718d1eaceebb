//! `verify` passes on what a run wrote, and on nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::failed;
use common::runs::{RHYTHM, object, small_mnist};
use serde_json::Value;

/// A finished run with checkpoints at 25, 50 and 60, and its own copy of the data.
struct Run(tempfile::TempDir);

impl Run {
    fn new() -> Self {
        let run = Run(tempfile::tempdir().unwrap());
        let data = run.0.path().join("data");
        fs::create_dir(&data).unwrap();
        for entry in fs::read_dir(small_mnist()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), data.join(entry.file_name())).unwrap();
        }
        let mut train = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        train.args(["train", "--json", "--steps", "60", "--data"]).arg(data);
        train.arg("--out").arg(run.path()).args(RHYTHM);
        object(train.output().unwrap());
        run
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("run")
    }

    /// Exit code and report of `verify`.
    fn verify(&self, args: &[&str]) -> (i32, Value) {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        let output = verify
            .args(["verify", "--json"])
            .arg(self.path())
            .args(args)
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code().unwrap(),
            report.unwrap_or_else(|_| panic!("{error}")),
        )
    }
}

/// Names of the checks that failed.
fn wrong(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["ok"] == false)
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

fn flip(path: &Path, position: impl Fn(&[u8]) -> usize) -> Vec<u8> {
    let before = fs::read(path).unwrap();
    let mut bytes = before.clone();
    bytes[position(&before)] ^= 1;
    fs::write(path, bytes).unwrap();
    before
}

/// Where an array of a safetensors file begins.
fn start_of(name: &str) -> impl Fn(&[u8]) -> usize {
    move |bytes| {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let names: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        8 + header + names[name]["data_offsets"][0].as_u64().unwrap() as usize
    }
}

#[test]
fn a_run_is_verified_and_one_flipped_bit_is_found() {
    let run = Run::new();
    let (code, report) = run.verify(&[]);
    assert_eq!((code, &report["verified"]), (0, &true.into()), "{report}");
    assert_eq!(
        (&report["comparison"], &report["window"]),
        (&"bytes".into(), &serde_json::json!([50, 60]))
    );
    let (code, report) = run.verify(&["--from", "0", "--to", "25"]);
    assert_eq!((code, wrong(&report)), (0, vec![]), "{report}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "mask updates"), "{report}");
    let last = run.path().join("ckpt-60.safetensors");
    for (name, kind) in [
        ("layer1/weights", "weights and slots"),
        ("layer1/mask", "masks"),
        ("global_step", "counters"),
    ] {
        let before = flip(&last, start_of(name));
        let (code, report) = run.verify(&[]);
        assert_eq!(
            (code, wrong(&report)),
            (1, vec!["ckpt-60.safetensors", kind]),
            "{report}"
        );
        fs::write(&last, before).unwrap();
    }
    // A bit of a digit in a record of the window.
    let metrics = run.path().join("metrics.jsonl");
    let digit = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap();
        let line = text.rfind("\"cross_entropy\":").unwrap();
        line + text[line..].find('.').unwrap() + 3
    };
    let before = flip(&metrics, digit);
    assert_eq!(wrong(&run.verify(&[]).1), ["metrics.jsonl", "metrics of the window"]);
    assert_eq!(wrong(&run.verify(&["--files-only"]).1), ["metrics.jsonl"]);
    fs::write(&metrics, before).unwrap();
    let journal = run.path().join("topology.journal");
    let before = flip(&journal, |bytes| bytes.len() - 1);
    assert_eq!(wrong(&run.verify(&["--files-only"]).1), ["topology.journal"]);
    fs::write(&journal, before).unwrap();
    for name in ["summary.json", "events.out.tfevents.0.rigl-xla"] {
        let before = flip(&run.path().join(name), |bytes| bytes.len() / 2);
        assert_eq!(wrong(&run.verify(&["--files-only"]).1), [name]);
        fs::write(run.path().join(name), before).unwrap();
    }
    let images = run.0.path().join("data/train-images-idx3-ubyte");
    let before = flip(&images, |bytes| bytes.len() / 2);
    let (code, report) = run.verify(&[]);
    assert_eq!(code, 1);
    assert_eq!(wrong(&report)[0], "train data", "{report}");
    fs::write(&images, before).unwrap();
    assert_eq!(run.verify(&[]).0, 0);
}

#[test]
fn another_processor_is_compared_within_a_tolerance() {
    let run = Run::new();
    let path = run.path().join("certificate.json");
    let mut certificate: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    certificate["origin"]["device"]["processor"] = "another".into();
    fs::write(&path, certificate.to_string()).unwrap();
    let (code, report) = run.verify(&[]);
    assert_eq!((code, &report["comparison"]), (0, &"tolerance".into()), "{report}");
    assert!(
        report["differences"][0]
            .as_str()
            .unwrap()
            .starts_with("processor: another then"),
        "{report}"
    );
    // A rounding is within the tolerance, a connection elsewhere in a small layer is not.
    let last = run.path().join("ckpt-60.safetensors");
    let before = flip(&last, start_of("layer1/weights"));
    assert_eq!(wrong(&run.verify(&[]).1), ["ckpt-60.safetensors"]);
    assert_eq!(
        wrong(&run.verify(&["--tolerance", "0"]).1),
        ["ckpt-60.safetensors", "weights and slots"]
    );
    fs::write(&last, before).unwrap();
}

#[test]
fn another_engine_computes_the_same_within_the_tolerance() {
    let run = Run::new();
    let (code, report) = run.verify(&["--engine", "interpreter"]);
    assert_eq!((code, &report["comparison"]), (0, &"tolerance".into()), "{report}");
    let differences = report["differences"].as_array().unwrap();
    assert!(differences[0].as_str().unwrap().starts_with("devices:"), "{report}");
}

#[test]
fn what_cannot_be_verified_is_said() {
    let run = Run::new();
    let path = run.path();
    let path = path.to_str().unwrap();
    let message = failed(&["verify", path, "--to", "59"], 2);
    assert!(
        message.contains("no checkpoint of iteration 59, expected one of 25, 50, 60"),
        "{message}"
    );
    fs::write(run.path().join("certificate.json"), "{}").unwrap();
    let message = failed(&["verify", path], 1);
    assert!(message.contains("certificate.json: damaged"), "{message}");
    fs::remove_file(run.path().join("certificate.json")).unwrap();
    let message = failed(&["verify", path], 1);
    assert!(message.contains("the run has not ended"), "{message}");
}
