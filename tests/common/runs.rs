//! Small training runs: a data set that is quick to load, and the files of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hlo::Literal;
use rigl_xla::checkpoint::{self, Checkpoint};
use rigl_xla::data::{Dataset, Split, fetch, idx, mnist};
use serde_json::Value;

/// The cached MNIST files, fetched when absent.
pub fn mnist() -> PathBuf {
    fetch::ensure("mnist").unwrap()
}

/// A folder with the first 1000 training and 300 test examples of MNIST, shared by the tests of one process.
pub fn small_mnist() -> &'static str {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (split, examples) in [(Split::Train, 1000), (Split::Test, 300)] {
            let whole = mnist::load(&mnist(), split).unwrap();
            write_split(folder.path(), split, &first(&whole, examples));
        }
        folder
    });
    folder.path().to_str().unwrap()
}

/// The first `examples` of a data set, as pixels and labels.
pub fn first(set: &Dataset, examples: usize) -> (Vec<u8>, Vec<u8>) {
    let labels: Vec<i32> = set.labels.to_vec().unwrap();
    let labels = labels[..examples].iter().map(|&label| label as u8).collect();
    (set.images.bytes()[..784 * examples].to_vec(), labels)
}

/// Writes one split under its usual file names.
pub fn write_split(folder: &Path, split: Split, (pixels, labels): &(Vec<u8>, Vec<u8>)) {
    let stem = if split == Split::Train { "train" } else { "t10k" };
    let n = labels.len();
    let images = Literal::new(&[n, 28, 28], pixels);
    idx::write(&folder.join(format!("{stem}-images-idx3-ubyte")), &images).unwrap();
    idx::write(
        &folder.join(format!("{stem}-labels-idx1-ubyte")),
        &Literal::new(&[n], labels),
    )
    .unwrap();
}

/// Flags of a small run: mask updates every 10 gradient steps until step 45, launches of 7 iterations, evaluations every
/// 20 and checkpoints every 25, so that no rhythm divides another.
pub const RHYTHM: &[&str] = &[
    "--batch-size",
    "20",
    "--steps-per-launch",
    "7",
    "--set",
    "mask_update.frequency_steps=10",
    "--set",
    "mask_update.end_step=45",
    "--set",
    "train.eval_interval=20",
    "--set",
    "train.checkpoint_interval=25",
];

/// Run folders in one temporary folder.
pub struct Runs(pub tempfile::TempDir);

impl Runs {
    pub fn new() -> Self {
        Runs(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, run: &str) -> PathBuf {
        self.0.path().join(run)
    }

    /// `train --json` on the small MNIST into folder `run`, with [`RHYTHM`] under `args`.
    pub fn train(&self, run: &str, args: &[&str]) -> Value {
        let output = self.command(run, args).output().unwrap();
        object(output)
    }

    /// The command of [`Runs::train`].
    pub fn command(&self, run: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        command
            .args(["train", "--json", "--data", small_mnist(), "--out"])
            .arg(self.path(run))
            .args(super::under(RHYTHM, args));
        command
    }

    /// The bytes of a checkpoint.
    pub fn bytes(&self, run: &str, iteration: u64) -> Vec<u8> {
        fs::read(self.checkpoint_path(run, iteration)).unwrap()
    }

    pub fn checkpoint_path(&self, run: &str, iteration: u64) -> PathBuf {
        self.path(run).join(format!("ckpt-{iteration}.safetensors"))
    }

    pub fn checkpoint(&self, run: &str, iteration: u64) -> Checkpoint {
        checkpoint::load(&self.checkpoint_path(run, iteration)).unwrap()
    }

    /// Arrays alone: the configuration that a checkpoint carries may differ where the numbers do not.
    pub fn tensors(&self, run: &str, iteration: u64) -> BTreeMap<String, Literal> {
        self.checkpoint(run, iteration).tensors
    }

    /// The lines of `metrics.jsonl`, less the rates.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(without_rate).collect()
    }
}

/// Starts a command, its output kept for later, and waits until `ready` holds.
pub fn start_until(mut command: Command, ready: impl Fn() -> bool) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "ended too early");
        if started.elapsed() > Duration::from_secs(300) {
            child.kill().unwrap();
            panic!("never ready");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn without_rate(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).unwrap();
    record.as_object_mut().unwrap().remove("steps_per_s");
    record
}

/// The one JSON object on the standard output of a command that succeeded.
pub fn object(output: Output) -> Value {
    assert!(
        output.status.success(),
        "{:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Iterations of the checkpoints in a run folder, ascending.
pub fn saved(path: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(path) else { return vec![] };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let number = |name: String| name.strip_prefix("ckpt-")?.strip_suffix(".safetensors")?.parse().ok();
    let mut found: Vec<u64> = names.filter_map(number).collect();
    found.sort();
    found
}

/// The last iteration in `metrics.jsonl`, or 0.
pub fn last_iteration(path: &Path) -> u64 {
    let text = fs::read_to_string(path.join("metrics.jsonl")).unwrap_or_default();
    let of = |line: &str| serde_json::from_str::<Value>(line).ok()?["iteration"].as_u64();
    text.lines().rev().find_map(of).unwrap_or(0)
}

/// Which entries of a mask are ones.
pub fn ones(mask: &Literal) -> Vec<usize> {
    let mask = mask.to_bools().unwrap();
    (0..mask.len()).filter(|&i| mask[i]).collect()
}
