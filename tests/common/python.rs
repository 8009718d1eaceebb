//! Scripts of `tests/interop`, with Python packages of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

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
