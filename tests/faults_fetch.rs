//! Running other programs to fetch files: ignores the working directory, replaces damaged files, leaves nothing behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::runs::start_until;
use rigl_xla::plugins::{self, Package};
use rustix::process::{Pid, Signal, kill_process};

/// A private cache, and programs that precede those of the system on PATH.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cache", "bin", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Machine { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        let path = std::env::var("PATH").unwrap();
        command
            .args(args)
            .current_dir(self.path("work"))
            .env("RIGL_XLA_CACHE", self.path("cache"))
            .env("PATH", format!(".:{}:{path}", self.path("bin").display()))
            .env("PIP_NO_INDEX", "1")
            .env_remove("PIP_FIND_LINKS")
            .env_remove("RIGL_XLA_PLUGIN");
        command
    }

    /// A program for the children to find.
    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A pip that does `script` with the folder to install into as `$to`.
    fn pip(&self, script: &str) {
        let parse = "case \"$*\" in *-m\\ pip*) ;; *) exit 0;; esac\n\
                     while [ \"$1\" != --target ]; do shift; done; to=$2";
        self.program("bin/python3", &format!("{parse}\n{script}"));
    }

    /// The cached library of a package: a copy of the real one.
    fn place(&self, package: &Package) -> PathBuf {
        let real = plugins::fetch(package).unwrap();
        let folder = format!("cache/plugins/{}-{}", package.name, package.version);
        let path = self.path(&folder).join(package.library);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(real, &path).unwrap();
        path
    }
}

fn cpu() -> &'static Package {
    Package::named("xla-cpu-pjrt").unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Unexpected files and folders under a folder.
fn left(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(left(&path));
        }
        if name.starts_with('.') {
            found.push(path);
        }
    }
    found
}

#[test]
fn ignores_the_working_directory() {
    let machine = Machine::new();
    let marker = machine.path("marker");
    let python = format!("open({:?}, 'a').write(__file__)\n", marker.to_str().unwrap());
    for module in [
        "pip",
        "zipfile",
        "json",
        "os",
        "sys",
        "encodings",
        "sitecustomize",
        "usercustomize",
    ] {
        fs::write(machine.path("work").join(format!("{module}.py")), &python).unwrap();
    }
    for program in ["python3", "npm", "node", "apt-get", "dpkg-deb"] {
        machine.program(
            &format!("work/{program}"),
            &format!("echo $0 >> {}; exit 1", marker.display()),
        );
    }
    fs::write(machine.path("work/xla-cpu-pjrt"), "a file with the name of a package").unwrap();
    for args in [
        &["plugin", "fetch", "onednn-cpu-gomp"][..],
        &["plugin", "fetch"],
        &["plugin", "list"],
        &["plugin", "doctor", "--plugin", "xla-cpu-pjrt"],
        &["data", "fetch", "mnist"],
        &["data", "fetch", "fashion-mnist"],
        &["train", "--steps", "1"],
    ] {
        let mut command = machine.command(args);
        command
            .env("PYTHONPATH", ".:")
            .env("npm_config_registry", "http://127.0.0.1:9/");
        let message = stderr(&command.output().unwrap());
        assert!(
            !marker.exists(),
            "{args:?} ran {}: {message}",
            fs::read_to_string(&marker).unwrap()
        );
        assert!(
            !message.contains("not a loadable shared library"),
            "{args:?}: {message}"
        );
    }
    assert!(
        left(&machine.path("cache")).is_empty(),
        "{:?}",
        left(&machine.path("cache"))
    );
}

/// Flips 64 bits, and keeps size and modification time.
fn flip(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let step = bytes.len() / 65;
    (1..65).for_each(|i| bytes[i * step] ^= 1 << (i % 8));
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn names_and_replaces_a_damaged_plugin() {
    let machine = Machine::new();
    let path = machine.place(cpu());
    machine.pip("echo 'ERROR: no route' >&2; exit 1");
    let list = |machine: &Machine| {
        let output = machine.command(&["plugin", "list", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout)
            .unwrap()
            .contains(path.to_str().unwrap())
    };
    assert!(list(&machine));
    flip(&path);
    assert!(!list(&machine));
    let synthetic = [
        "--data",
        "synthetic",
        "--set",
        "data.examples=100",
        "--batch-size",
        "10",
        "--steps",
        "5",
    ];
    for args in [&["plugin", "doctor"][..], &[&["train"], &synthetic[..]].concat()] {
        let output = machine.command(args).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("xla_cpu_pjrt.so: damaged: SHA-256 ") && message.contains("no route"),
            "{message}"
        );
    }
    assert!(!machine.path("work/runs").exists());
    // Both an explicit fetch and one on demand replace it.
    let real = plugins::fetch(cpu()).unwrap();
    let package = real.ancestors().nth(3).unwrap();
    machine.pip(&format!("cp -r {}/. \"$to\"", package.display()));
    let output = machine.command(&["plugin", "fetch"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(&path).unwrap() == fs::read(&real).unwrap());
    flip(&path);
    let output = machine
        .command(&["plugin", "doctor"])
        .env("RIGL_XLA_ONEDNN", "off")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        report.contains("damaged cache") && report.contains("the plugin works"),
        "{report}"
    );
    assert!(
        left(&machine.path("cache")).is_empty(),
        "{:?}",
        left(&machine.path("cache"))
    );
}

#[test]
fn killed_fetches_leave_no_files() {
    let machine = Machine::new();
    let begun = machine.path("begun");
    let slow = format!(
        "mkdir -p \"$to\"; echo half > \"$to/half\"; echo $$ > {}; exec sleep 600",
        begun.display()
    );
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        machine.pip(&slow);
        let _ = fs::remove_file(&begun);
        let content = || fs::read_to_string(&begun).ok().filter(|text| text.ends_with('\n'));
        let child = start_until(machine.command(&["plugin", "fetch"]), || content().is_some());
        kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let pip = content().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let state = fs::read_to_string(format!("/proc/{}/stat", pip.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "pip still runs: {state}");
        if signal == Signal::KILL {
            assert!(!left(&machine.path("cache")).is_empty());
            // The next fetch removes it, even if that fetch fails.
            machine.pip("exit 1");
            machine.command(&["plugin", "fetch"]).output().unwrap();
        } else {
            let code = 128 + signal.as_raw();
            assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        }
        assert!(
            left(&machine.path("cache")).is_empty(),
            "{:?}",
            left(&machine.path("cache"))
        );
    }
}
