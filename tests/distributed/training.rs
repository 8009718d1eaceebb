//! Whole runs of two processes on the stand-in plugin of `mirror.c`: they write the same files as one process with as many replicas.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::common::runs::{last_iteration, object, saved, start_until};
use super::common::stand_in::{compile, cpu_plugin};
use super::records::{self, CLASSES, damage, offset};
use super::server::Server;
use super::stderr;
use hlo::Literal;
use rigl_xla::checkpoint;
use serde_json::Value;

/// Replicas of all processes together.
const REPLICAS: &str = "4";

/// A run folder for two processes, with their server and plugin.
struct Pair {
    dir: tempfile::TempDir,
    server: Server,
    plugin: PathBuf,
    args: Vec<String>,
}

impl Pair {
    fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugin = compile("tests/distributed/mirror.c", dir.path());
        Pair {
            dir,
            server: Server::start(),
            plugin,
            args: args.iter().map(ToString::to_string).collect(),
        }
    }

    fn out(&self, run: &str) -> PathBuf {
        self.dir.path().join(run)
    }

    fn command(&self, run: &str, plugin: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        command
            .args(["train", "--json", "--device", "gpu", "--plugin"])
            .arg(plugin)
            .args(&self.args)
            .args(["--replicas", REPLICAS, "--out"])
            .arg(self.out(run))
            .args(more);
        command
    }

    /// The commands of both processes, in an attempt of this name.
    fn processes(&self, run: &str, attempt: &str, more: &[&str]) -> [Command; 2] {
        let files = self.dir.path().join(attempt);
        fs::create_dir(&files).unwrap();
        [0, 1].map(|process| {
            let mut command = self.command(run, &self.plugin, more);
            command
                .args(["--num-processes", "2", "--process-id", &process.to_string()])
                .args(["--etcd", self.server.address(), "--heartbeat-timeout", "20"])
                .env("MIRROR_PLUGIN", cpu_plugin())
                .env("MIRROR_DIR", &files)
                .env("MIRROR_DEVICES", REPLICAS)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command
        })
    }

    /// Runs both processes; they must succeed. Returns the summary of process 0 and the messages of process 1.
    fn train(&self, run: &str, attempt: &str, more: &[&str]) -> (Value, String) {
        let children = self
            .processes(run, attempt, more)
            .map(|mut command| command.spawn().unwrap());
        let [first, second] = children.map(|child| child.wait_with_output().unwrap());
        let message = stderr(&second);
        let both = format!(
            "process 0 {}: {}\nprocess 1 {}: {message}",
            first.status,
            stderr(&first),
            second.status
        );
        assert!(first.status.success() && second.status.success(), "{both}");
        assert!(second.stdout.is_empty(), "{both}");
        (object(first), message)
    }

    /// The summary of the same run in one process.
    fn alone(&self, run: &str, more: &[&str]) -> Value {
        object(self.command(run, &cpu_plugin(), more).output().unwrap())
    }

    /// Both processes of a run that would take hours, once it has saved something.
    fn under_way(&self, run: &str) -> [Child; 2] {
        let [first, mut second] = self.processes(run, "under-way", &["--steps", "1000000"]);
        let second = second.spawn().unwrap();
        let out = self.out(run);
        let first = start_until(first, || last_iteration(&out) >= 20 && !saved(&out).is_empty());
        [first, second]
    }

    fn tensors(&self, run: &str, iteration: u64) -> BTreeMap<String, Literal> {
        let path = self.out(run).join(format!("ckpt-{iteration}.safetensors"));
        checkpoint::load(&path).unwrap().tensors
    }
}

/// A small fully connected network on random images; updates every ten gradient steps, in launches of seven iterations.
const SMALL: &[&str] = &[
    "--data",
    "synthetic",
    "--set",
    "data.examples=301",
    "--set",
    "model.hidden=[30,10]",
    "--batch-size",
    "24",
    "--steps-per-launch",
    "7",
    "--set",
    "mask_update.frequency_steps=10",
    "--set",
    "train.eval_interval=20",
    "--set",
    "train.checkpoint_interval=15",
];

/// The process that does not write is stopped; both do, at the same iteration, and go on together later.
#[cfg(unix)]
#[test]
fn two_processes_stop_together_and_resume_like_one() {
    let pair = Pair::new(SMALL);
    let children = pair.under_way("run");
    let stopped = Command::new("kill")
        .args(["-INT", &children[1].id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let message = stderr(&outputs[1]);
    assert!(
        outputs[1].status.code() == Some(130) && message.starts_with("stopping: "),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
    let [first, _] = outputs;
    // Another process was stopped: as if by SIGTERM.
    assert_eq!(first.status.code(), Some(143), "{}", stderr(&first));
    let stopped: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(stopped["interrupted"], true);
    let done = stopped["steps"].as_u64().unwrap();
    assert!((20..1_000_000).contains(&done));
    assert_eq!(saved(&pair.out("run")).last(), Some(&done));

    let end = (done + 20).to_string();
    let (shared, message) = pair.train("run", "on", &["--resume", "--steps", &end]);
    assert_eq!(message, "", "process 1 is silent");
    let alone = pair.alone("alone", &["--steps", &end]);
    for what in ["steps", "global_step", "mask_updates", "nonzeros", "eval"] {
        assert_eq!(shared[what], alone[what], "{what}");
    }
    assert!(pair.tensors("run", done + 20) == pair.tensors("alone", done + 20));
    let config = fs::read_to_string(pair.out("run").join("config.toml")).unwrap();
    assert!(config.contains("processes = 2"), "{config}");
    // One process resumes the run of two.
    let [shared, alone] = ["run", "alone"].map(|run| {
        let end = (done + 25).to_string();
        pair.alone(run, &["--resume", "--num-processes", "1", "--steps", &end]);
        pair.tensors(run, done + 25)
    });
    assert!(shared == alone);
}

#[test]
fn lost_process_ends_the_run_which_resumes_from_its_checkpoint() {
    let pair = Pair::new(SMALL);
    let [first, mut second] = pair.under_way("run");
    second.kill().unwrap();
    second.wait().unwrap();
    let output = first.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("error: process 1 gave no sign of life for 20s; this process ends too"),
        "{message}"
    );
    let newest = *saved(&pair.out("run")).last().unwrap();
    let end = newest + 5;
    pair.train("run", "again", &["--resume", "--steps", &end.to_string()]);
    assert_eq!(saved(&pair.out("run")).last(), Some(&end));
}

/// Each process reads its own part of every batch of pictures. The test set's last batch is short, so that process 1 has nothing
/// of it, and a record of either set is corrupt: they are counted once.
#[test]
fn two_processes_read_the_same_data_as_one() {
    let data = tempfile::tempdir().unwrap();
    let train = records::write(data.path(), "train", 3, 48);
    let test = records::write(data.path(), "validation", 2, 18);
    // In their data, after a header of twelve bytes.
    damage(&train[1], offset(&train[1], 5) + 20);
    damage(&test[0], offset(&test[0], 3) + 20);
    let model = format!("model={{name='wrn-10-1',image_size=8,classes={CLASSES}}}");
    let pair = Pair::new(&[
        "cifar10-dense",
        "--set",
        &model,
        "--set",
        "data.preprocessing=imagenet",
        "--data",
        data.path().to_str().unwrap(),
        "--skip-corrupt",
        "1",
        "--data-threads",
        "2",
        "--batch-size",
        "8",
        "--steps-per-launch",
        "2",
        "--set",
        "train.eval_batch_size=8",
        "--set",
        "train.eval_interval=40",
        "--steps",
        "5",
    ]);
    let ((shared, _), alone) = (pair.train("run", "pictures", &[]), pair.alone("alone", &[]));
    for what in ["steps", "nonzeros", "skipped_records", "eval"] {
        assert_eq!(shared[what], alone[what], "{what}");
    }
    assert_eq!(shared["eval"]["examples"], 17);
    assert_eq!(shared["eval"]["skipped"], 1);
    assert!(pair.tensors("run", 5) == pair.tensors("alone", 5));
}
