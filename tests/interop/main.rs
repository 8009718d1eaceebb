//! Other programs read our files and we read theirs; a NumPy program written from the reference alone gives our results.
#![allow(clippy::unwrap_used)]

#[path = "../common/checkpoints.rs"]
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod replay;

use ::sparse::Distribution;
use checkpoints::{budgets, random};
use common::json;
use common::runs::{Runs, mnist};
use hlo::Literal;
use models::Options;
use rigl_xla::checkpoint::sparse::{self, Format};
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::data::{Split, mnist as files};
use serde_json::Value;

/// Packages of the scripts, at versions with wheels for Python 3.10 and newer.
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
    // The script wrote the network like a converted checkpoint of the original.
    let foreign = eval(&converted);
    for key in ["top1", "top5", "loss", "nonzeros", "maskable", "examples", "model"] {
        assert_eq!(foreign[key], report[key], "{key}");
    }
    assert_eq!(
        (&foreign["nonzeros"], &foreign["iteration"]),
        (&9244.into(), &Value::Null)
    );
}

/// `docs/formats.md` prints a reader of bitmask files, which is run here; SciPy takes the csr form. With `torch` among its last
/// arguments the script checks PyTorch too.
#[test]
fn numpy_and_scipy_read_sparse_files_as_documented() {
    let runs = Runs::new();
    let network = Options {
        width: Some(1.0 / 16.0),
        classes: Some(10),
        mask_first: Some(true),
        ..Options::new("resnet18", true)
    };
    let [full, bitmask, csr, folded, back] = ["full", "bitmask", "csr", "folded", "back"].map(|name| {
        let path = runs.path(&format!("{name}.safetensors"));
        path.to_str().unwrap().to_owned()
    });
    let mut shares = budgets(&network, Distribution::Erk, 0.8);
    (shares[1].nonzeros, shares[1].zeros) = (shares[1].zeros + shares[1].nonzeros, 0);
    sparse::save(full.as_ref(), random(&network, &shares), None, Format::Complete).unwrap();
    let check = |complete: &str, bitmask: &str| {
        json(&["convert", complete, &csr, "--format", "csr", "--overwrite"]);
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/formats.md");
        let packages = [PACKAGES, &["scipy==1.15.3"]].concat();
        let args = [docs, complete, bitmask, &csr, "scipy"];
        let checked = common::python::run(&packages, "sparse_files.py", &args);
        assert_eq!(checked, "22 layers with scipy\n");
    };
    json(&["convert", &full, &bitmask, "--format", "bitmask"]);
    check(&full, &bitmask);
    json(&[
        "compact",
        "--checkpoint",
        &full,
        "--output",
        &folded,
        "--format",
        "bitmask",
        "--overwrite",
    ]);
    json(&["convert", &folded, &back]);
    check(&back, &folded);
}

#[test]
fn numpy_twin_reproduces_the_worked_examples() {
    assert_eq!(python("golden.py", &[]), "18 tests\n");
}
