//! Plugins of the tests, in C.

use std::path::{Path, PathBuf};
use std::process::Command;

use rigl_xla::plugins::{self, Package};

/// A plugin made into `dir`, with the header of a real one.
pub fn compile(source: &str, dir: &Path) -> PathBuf {
    let library = dir.join("plugin.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-pthread", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
        .arg("-I")
        .arg(cpu_plugin().parent().unwrap().join("include"))
        .status()
        .unwrap();
    assert!(compiled.success());
    library
}

/// The default CPU plugin, which stand-ins are made of.
pub fn cpu_plugin() -> PathBuf {
    plugins::fetch(Package::named("xla-cpu-pjrt").unwrap()).unwrap()
}
