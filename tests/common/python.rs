//! Scripts of `tests/interop`, with Python packages of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PyTorch, its networks and ONNX; one list, because it is large.
pub const TORCH: &[&str] = &[
    "torch==2.15.0",
    "torchvision==0.29.2",
    "timm==1.0.31",
    "safetensors==0.8.0",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
];

/// A folder under `target` with these Python packages, installed once.
fn installed(packages: &[&str]) -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = parent.join(format!("python-{}", packages.join("-")));
    let lock = File::create(parent.join("python.lock")).unwrap();
    lock.lock().unwrap();
    if !folder.exists() {
        let staging = tempfile::tempdir_in(parent).unwrap();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--only-binary", ":all:", "--target"]);
        pip.arg(staging.path()).args(packages);
        assert!(pip.status().unwrap().success(), "pip cannot install {packages:?}");
        std::fs::rename(staging.keep(), &folder).unwrap();
    }
    folder
}

/// Runs a script of `tests/interop` with these packages; its assertions must hold. Returns its standard output.
pub fn run(packages: &[&str], script: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script);
    let output = Command::new("python3")
        .arg("-B")
        .arg(path)
        .args(args)
        .env("PYTHONPATH", installed(packages))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {message}");
    String::from_utf8(output.stdout).unwrap()
}
