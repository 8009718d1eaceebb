//! Signals at any moment: runs are saved, no temporary files remain, and the exit code names the signal.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::runs::{Runs, last_iteration, mnist, saved, start_until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(pid(child), signal).unwrap();
}

fn ended(child: Child, code: i32) -> String {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{status}: {message}");
    message
}

/// As `timeout` of coreutils sends it: to the process, then to its group.
#[test]
fn a_second_sigterm_still_saves_the_run() {
    let runs = Runs::new();
    let path = runs.path("run");
    let mut command = runs.command("run", &["--steps", "1000000"]);
    command.process_group(0);
    let child = start_until(command, || last_iteration(&path) > 10);
    send(&child, Signal::TERM);
    kill_process_group(pid(&child), Signal::TERM).unwrap();
    let message = ended(child, 143);
    let at = *saved(&path).last().unwrap();
    assert!(
        message.contains(&format!("saved in {}", runs.checkpoint_path("run", at).display())),
        "{message}"
    );
    assert_eq!(last_iteration(&path), at);
    let done = runs.train("run", &["--resume", "--steps", &(at + 5).to_string()]);
    assert_eq!(done["steps"], at + 5);
}

/// A launch that takes minutes, which the first Ctrl-C waits for.
#[test]
fn a_second_ctrl_c_ends_a_long_launch_at_once() {
    let runs = Runs::new();
    let path = runs.path("run");
    let long = ["--steps", "3000000", "--steps-per-launch", "1000000"];
    let rare = ["train.eval_interval=3000000", "train.checkpoint_interval=3000000"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command.args(["train", "--data", "synthetic", "--batch-size", "20", "--out"]);
    command
        .arg(&path)
        .args(long)
        .args(rare.iter().flat_map(|set| ["--set", set]));
    let child = start_until(command, || path.join("metrics.jsonl").exists());
    std::thread::sleep(Duration::from_millis(300));
    // Twice within the time of one key press.
    send(&child, Signal::INT);
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(700));
    let started = Instant::now();
    send(&child, Signal::INT);
    let message = ended(child, 130);
    assert!(started.elapsed() < Duration::from_secs(5), "{message}");
    assert!(
        message.contains("stopping: ") && message.ends_with("stopped by a second SIGINT\n"),
        "{message}"
    );
}

#[test]
fn a_signal_during_start_up_leaves_no_folder_or_a_saved_run() {
    let runs = Runs::new();
    for (i, delay) in [30, 100, 200, 400, 800].into_iter().enumerate() {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let run = format!("parent/{i}-{code}");
            let mut command = runs.command(&run, &["--steps", "1000000"]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay));
            send(&child, signal);
            let Output { status, stderr, .. } = child.wait_with_output().unwrap();
            // Before the program handles signals, the default action ends it.
            let by_system = std::os::unix::process::ExitStatusExt::signal(&status) == Some(signal.as_raw());
            let message = String::from_utf8_lossy(&stderr);
            assert!(status.code() == Some(code) || by_system, "{status}: {message}");
            let path = runs.path(&run);
            assert!(!path.exists() || !saved(&path).is_empty(), "{delay} ms: {message}");
        }
    }
}

/// Files in a folder and the folders in it.
fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| 1 + count(&entry.unwrap().path())).sum()
}

#[test]
fn stopped_preparation_of_data_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command
        .args(["data", "prepare", "--train-shards", "2", "--train"])
        .arg(mnist());
    command.arg(dir.path().join("set"));
    let child = start_until(command, || count(dir.path()) > 1);
    send(&child, Signal::TERM);
    send(&child, Signal::TERM);
    let message = ended(child, 143);
    assert!(message.contains("nothing is left behind"), "{message}");
    assert_eq!(count(dir.path()), 0, "{message}");
}
