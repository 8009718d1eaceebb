//! Other programs read what we write and the other way round, and NumPy, from the reference alone, computes what we do.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod replay;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::json;
use common::runs::{Runs, mnist};
use hlo::Literal;
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::data::{Split, mnist as files};
use serde_json::Value;

/// What the scripts import, at versions with wheels for every Python from 3.10 on.
const PACKAGES: [&str; 2] = ["numpy==2.2.6", "safetensors==0.5.3"];

/// A folder under `target` with the Python packages, installed once.
fn packages() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = parent.join(format!("python-{}", PACKAGES.join("-")));
        let lock = File::create(parent.join("python.lock")).unwrap();
        lock.lock().unwrap();
        if !folder.exists() {
            let staging = tempfile::tempdir_in(parent).unwrap();
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary",
            ]);
            pip.args([":all:", "--target"]).arg(staging.path()).args(PACKAGES);
            assert!(pip.status().unwrap().success(), "pip cannot install {PACKAGES:?}");
            std::fs::rename(staging.keep(), &folder).unwrap();
        }
        folder
    })
}

/// Runs a script of `tests/interop`; its assertions must hold.
fn python(script: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script);
    let output = Command::new("python3")
        .arg("-B")
        .arg(path)
        .args(args)
        .env("PYTHONPATH", packages())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap()
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

#[test]
fn numpy_twin_reproduces_the_worked_examples() {
    assert_eq!(python("golden.py", &[]), "18 tests\n");
}
