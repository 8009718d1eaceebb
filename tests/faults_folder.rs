//! Run folders of runs killed at any moment, impossible folders, and systems that refuse threads.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rigl_xla::checkpoint;

const PROGRAM: &str = env!("CARGO_BIN_EXE_rigl-xla");

/// A run of two iterations that needs no plugin and no files.
fn small(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["train", "--json", "--engine", "interpreter", "--data", "synthetic"])
        .args(["--batch-size", "10", "--steps", "2", "--sparsity", "0.5"])
        .args(["--set", "data.examples=20", "--set", "model.hidden=[3,2]"])
        .args(["--set", "train.checkpoint_interval=1", "--out"])
        .arg(out)
        .args(more);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names in a folder, sorted; none where there is no folder.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Continues with a folder by the commands that the messages name. Returns the bytes of the last checkpoint.
fn continued(out: &Path, at: usize) -> Vec<u8> {
    let before = names(out);
    let resume = small(out, &["--resume"]).output().unwrap();
    if !resume.status.success() {
        assert!(
            stderr(&resume).contains("nothing to resume"),
            "{at} {before:?}: {}",
            stderr(&resume)
        );
        let fresh = small(out, &[]).output().unwrap();
        assert!(fresh.status.success(), "{at} {before:?}: {}", stderr(&fresh));
    }
    let kept = [
        ".lock",
        "certificate.json",
        "ckpt-1.safetensors",
        "ckpt-2.safetensors",
        "config.toml",
        "events.out.tfevents.0.rigl-xla",
        "metrics.jsonl",
        "summary.json",
        "topology.journal",
    ];
    let mut found = names(out);
    if before.contains(&kept[3].to_owned()) {
        // A run that was at its end, whose older checkpoint was deleted already.
        found.extend((!before.contains(&kept[2].to_owned())).then(|| kept[2].to_owned()));
        found.sort();
        found.dedup();
    }
    assert_eq!(found, kept, "{at} {before:?}");
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let iterations: Vec<_> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["iteration"].clone())
        .collect();
    assert_eq!(iterations, [1, 2, 2], "{at} {before:?}");
    fs::read(out.join("ckpt-2.safetensors")).unwrap()
}

/// Kills a run of `mode` before each change that it makes to a folder, which may hold a run of `before`, then continues.
fn kill_before_each_change(mode: &[&str], before: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let shim = dir.path().join("crash.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o"])
        .arg(&shim)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/crash.c"))
        .arg("-ldl")
        .status();
    assert!(compiled.unwrap().success());
    let whole = dir.path().join("whole");
    let expected = continued(&whole, 0);
    for at in 1.. {
        let out = dir.path().join(format!("parent/run-{at}"));
        before(&out);
        let mut command = small(&out, mode);
        command
            .env("LD_PRELOAD", &shim)
            .env("CRASH_DIR", dir.path().join("parent"))
            .env("CRASH_AT", at.to_string());
        let output = command.output().unwrap();
        if output.status.signal() != Some(9) {
            assert!(output.status.success(), "{at}: {}", stderr(&output));
            // Fewer would mean that changes go unseen.
            assert!(at > 15, "{at}");
            return;
        }
        assert!(continued(&out, at) == expected, "killed before change {at}");
    }
}

#[test]
fn continues_a_new_run_killed_before_any_change() {
    kill_before_each_change(&[], |_| {});
}

#[test]
fn continues_an_overwriting_run_killed_before_any_change() {
    kill_before_each_change(&["--overwrite"], |out| drop(continued(out, 0)));
}

#[test]
fn reuses_a_half_made_folder_of_earlier_versions() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".lock", "metrics.jsonl"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    continued(dir.path(), 0);
}

#[test]
fn a_failed_run_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    // A set smaller than a batch is detected after the folder was made.
    let fails = |out: &Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["train", "--engine", "interpreter", "--data", "synthetic"]);
        command.args([
            "--batch-size",
            "21",
            "--set",
            "data.examples=20",
            "--steps",
            "2",
            "--out",
        ]);
        let output = command.arg(out).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    };
    fails(&out);
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    // An existing folder is left unchanged.
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("notes"), "mine").unwrap();
    fails(&out);
    assert_eq!(names(&out), ["notes"]);
}

#[test]
fn names_an_out_that_is_not_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let [file, link, to_file] = ["file", "link", "to-file"].map(|name| dir.path().join(name));
    fs::write(&file, "text").unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    std::os::unix::fs::symlink("file", &to_file).unwrap();
    for (out, expected) in [
        (file.clone(), "file: a file; expected a folder"),
        (file.join("run"), "file: a file; expected a folder"),
        (
            link.clone(),
            "link: a symbolic link to nowhere, which does not exist; expected a folder",
        ),
        (
            to_file,
            "to-file: a symbolic link to file, which is not a folder; expected a folder",
        ),
    ] {
        for mode in [&[][..], &["--resume"], &["--overwrite"]] {
            let output = small(&out, mode).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        }
    }
    assert_eq!(fs::read(file).unwrap(), b"text");
}

/// Latin-1, which is not UTF-8.
const LATIN: &[u8] = b"gr\xfc\xdfe";

#[test]
fn accepts_paths_that_are_not_utf_8() {
    let dir = tempfile::tempdir().unwrap();
    let [out, cache] =
        ["out-", "cache-"].map(|stem| dir.path().join(OsStr::from_bytes(&[stem.as_bytes(), LATIN].concat())));
    let plugin = rigl_xla::plugins::fetch(rigl_xla::plugins::Package::named("xla-cpu-pjrt").unwrap()).unwrap();
    // As an ordinary run has it, found in the cache.
    let package = plugin.ancestors().nth(3).unwrap();
    fs::create_dir_all(cache.join("plugins")).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(package)
        .arg(cache.join("plugins"))
        .status();
    assert!(copied.unwrap().success());
    for mode in ["--overwrite", "--resume"] {
        let mut command = Command::new(PROGRAM);
        command
            .args(["train", "--json", "--data", "synthetic", "--set", "data.examples=100"])
            .args(["--batch-size", "10", "--steps", "5", mode, "--out"])
            .arg(&out)
            .env("RIGL_XLA_CACHE", &cache)
            .env("PIP_NO_INDEX", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let path: PathBuf = checkpoint::resolve(&out).unwrap();
    checkpoint::load(&path).unwrap();
    let mut eval = Command::new(PROGRAM);
    eval.args(["eval", "--data", "synthetic", "--checkpoint"])
        .arg(&out)
        .env("RIGL_XLA_CACHE", &cache);
    let output = eval.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Runs a command as a user with at most so many processes and threads. Root has no such limit, so it becomes another user.
fn limited(limit: usize, inner: &Command, dir: &Path) -> Output {
    let mut command = Command::new("sh");
    let root = rustix::process::getuid().is_root();
    let user = if root {
        "setpriv --reuid=54321 --clear-groups"
    } else {
        "env"
    };
    command.args(["-c", &format!("exec prlimit --nproc={limit} {user} \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).env("HOME", dir);
    command.output().unwrap()
}

#[test]
fn reports_refused_threads() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Where any user may read them.
    let program = dir.path().join("rigl-xla");
    fs::copy(PROGRAM, &program).unwrap();
    let plugin = rigl_xla::plugins::fetch(rigl_xla::plugins::Package::named("xla-cpu-pjrt").unwrap()).unwrap();
    let library = dir.path().join("plugin.so");
    fs::copy(plugin, &library).unwrap();
    let mut refused = 0;
    for limit in [1, 2, 3, 4, 6, 9, 12, 40] {
        let out = dir.path().join(format!("run-{limit}"));
        let mut command = Command::new(&program);
        command
            .args(["train", "--json", "--data", "synthetic", "--set", "data.examples=100"])
            .args(["--batch-size", "10", "--steps", "5", "--plugin"])
            .arg(&library)
            .arg("--out")
            .arg(&out);
        let output = limited(limit, &command, dir.path());
        let text = stderr(&output);
        if output.status.success() {
            continue;
        }
        refused += 1;
        assert_eq!(output.status.code(), Some(1), "{limit}: {:?} {text}", output.status);
        let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(errors == 1 && !text.contains("panicked"), "{limit}: {text}");
        assert!(!out.exists(), "{limit}: {:?}", names(&out));
    }
    assert!(refused >= 3, "{refused}");
}
