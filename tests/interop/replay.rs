//! Training runs that NumPy replays: every method, optimizer and deterministic growth, across update boundaries, from
//! ordinary starts and from tied, zero, full and nearly empty layers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rigl_xla::data::Split;
use serde_json::{Map, Value, json};

use super::common::runs::write_split;
use super::common::{json as rigl_xla, under};
use super::python;

/// Settings of all runs, before those of a case.
const SETTINGS: &[&str] = &[
    // Runs from kernels of our choice stop after one step first.
    "train.allow_incomplete_schedule=true",
    "train.batch_size=32",
    "train.steps_per_launch=7",
    "train.checkpoint_interval=1",
    "train.keep_checkpoints=100",
    "sparsity.mask_seed_compat=numpy",
    "method.drop_noise_std=0",
    "learning_rate.base=0.05",
    "learning_rate.boundaries=[7]",
    "learning_rate.factors=[0.5]",
    "optimizer.weight_decay=0.01",
    "mask_update.end_step=14",
    "mask_update.frequency_steps=3",
];

/// A run, and its expected schedule.
struct Case {
    method: &'static str,
    /// Initial kernels, by a name of `starts.py`; `drawn` keeps those of the run.
    start: &'static str,
    /// `key=value`, as for `--set`.
    settings: &'static [&'static str],
    iterations: u64,
    /// Iterations that update masks.
    updates: &'static [u64],
    /// Gradient steps.
    steps: u64,
}

impl Case {
    /// 24 iterations from the run's own start.
    const fn new(method: &'static str, updates: &'static [u64], steps: u64) -> Self {
        Case {
            method,
            start: "drawn",
            settings: &[],
            iterations: 24,
            updates,
            steps,
        }
    }

    const fn with(self, settings: &'static [&'static str]) -> Self {
        Case { settings, ..self }
    }

    /// 12 iterations from kernels of our choice.
    const fn from(self, start: &'static str) -> Self {
        Case {
            start,
            iterations: 12,
            ..self
        }
    }

    /// Runs the case and replays it in NumPy.
    fn check(&self) {
        let folder = tempfile::tempdir().unwrap();
        let settings = || SETTINGS.iter().chain(self.settings);
        let train = |iterations: u64, args: &[&str]| {
            let (out, steps) = (folder.path().to_str().unwrap(), iterations.to_string());
            let run = [
                "--method",
                self.method,
                "--data",
                data(),
                "--out",
                out,
                "--steps",
                &steps,
            ];
            let [shared, own] = [SETTINGS, self.settings]
                .map(|settings| settings.iter().flat_map(|&s| ["--set", s]).collect::<Vec<_>>());
            rigl_xla(&[&["train"], &run[..], &under(&shared, &own), args].concat())
        };
        let parameters = json!({
            "method": self.method,
            "settings": settings().map(|s| setting(s)).collect::<Map<_, _>>(),
            "data": data(),
            "start": drawn(self.method == "dense"),
            "start_as": self.start,
            "iterations": self.iterations,
        });
        let args = [folder.path().to_str().unwrap(), &parameters.to_string()];
        let name = format!("{} from {} with {:?}", self.method, self.start, self.settings);
        let done = if self.start == "drawn" {
            train(self.iterations, &[])
        } else {
            train(1, &[]);
            python("starts.py", &args);
            train(self.iterations, &["--resume"])
        };
        assert_eq!(done["global_step"], self.steps, "{name}");
        assert_eq!(done["mask_updates"], self.updates.len(), "{name}");
        let found: Value = serde_json::from_str(&python("replay.py", &args)).unwrap();
        eprintln!("{name}: {found}");
        assert_eq!(found["updates"], json!(self.updates), "{name}");
        let fixed = ["dense", "scratch"].contains(&self.method);
        let still = self.start == "drawn" && (fixed || self.settings.contains(&"mask_update.drop_fraction=0"));
        // Static masks change where re-initialised weights without a gradient tie with inactive ones at 0.
        assert!(self.method == "static" || (found["moved"] == 0) == still, "{name}");
    }
}

/// `key=value` with a TOML value that is JSON too, or else text.
fn setting(text: &str) -> (String, Value) {
    let (key, value) = text.split_once('=').unwrap();
    let parsed = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    (key.into(), parsed)
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// A training set as large as the batch: 32 random images, so that no two gradients are equal but for rounding, except
/// those of 196 pixels that are always 0.
fn data() -> &'static str {
    static DATA: OnceLock<String> = OnceLock::new();
    DATA.get_or_init(|| {
        let mut state = 12345u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        for split in [Split::Train, Split::Test] {
            let mut pixel = |i| {
                if draw() % 4 == 0 && i % 784 >= 196 {
                    (draw() % 256) as u8
                } else {
                    0
                }
            };
            let pixels = (0..32 * 784).map(&mut pixel).collect();
            let labels = (0..32).map(|i| (i % 10) as u8).collect();
            write_split(folder(), split, &(pixels, labels));
        }
        folder().to_str().unwrap().to_owned()
    })
}

/// A checkpoint with the kernels and biases that seed 0 draws, which masked methods share: without a learning rate, the
/// first iteration leaves them as they were.
fn drawn(dense: bool) -> &'static Path {
    static DRAWN: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    DRAWN[usize::from(dense)].get_or_init(|| {
        let method = if dense { "dense" } else { "scratch" };
        let out = folder().join(method);
        let run = ["--method", method, "--data", data(), "--out", out.to_str().unwrap()];
        let still = ["--steps", "1", "--lr", "0", "--batch-size", "32"];
        rigl_xla(&[&["train"], &run[..], &still].concat());
        out.join("ckpt-1.safetensors")
    })
}

/// Checks all cases, so that a failure does not hide others.
fn check(cases: &[Case]) {
    let failed = |case: &&Case| std::panic::catch_unwind(|| case.check()).is_err();
    assert_eq!(cases.iter().filter(failed).count(), 0);
}

const ONCE_IN_A_WHILE: &[u64] = &[1, 4, 7, 10, 13];
const ALWAYS: &[u64] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
];

#[test]
fn numpy_replays_every_method() {
    let prune = &["prune.begin_step=2", "prune.end_step=15", "prune.frequency_steps=3"];
    let cases = [
        Case::new("dense", &[], 24),
        Case::new("scratch", &[], 24),
        Case::new("static", ONCE_IN_A_WHILE, 24),
        Case::new("set", ONCE_IN_A_WHILE, 24),
        Case::new("snfs", ONCE_IN_A_WHILE, 24),
        Case::new("rigl", &[1, 5, 9, 13, 17], 19),
        Case::new("rigl-inverted", &[1, 5, 9, 13, 17], 19),
        Case::new("rigl-itop", &[1, 5, 9, 13, 17], 19).with(&["mask_update.drop_fraction=0.3"]),
        Case::new("rigl", &[1, 5, 9, 13, 17], 19).with(&["method.gradient_batches=2"]),
        Case::new("rigl", &[4, 8, 12, 16], 20).with(&["method.gradient_batches=3", "mask_update.begin_step=3"]),
        Case::new("snip", &[1], 23),
        Case::new("grasp", &[1], 23),
        Case::new("dnw", ALWAYS, 24),
        // Its last update starts at 0 and not at minus the frequency, so that step 2 is too early.
        Case::new("prune", &[3, 6, 9, 12, 15], 24).with(prune),
    ];
    check(&cases);
}

/// Other optimizers, schedules and starts of new connections, and layers that are dense or have one connection.
#[test]
fn numpy_replays_choices() {
    let cases = [
        Case::new("rigl", &[1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23], 12).with(&[
            "mask_update.frequency_steps=1",
            "mask_update.end_step=-1",
            "mask_update.anneal=constant",
            "method.grow_init=grad_scale_10",
            "optimizer.name=sgd",
        ]),
        Case::new("rigl", &[3, 7, 11, 15, 19], 19).with(&[
            "mask_update.begin_step=2",
            "mask_update.anneal=exponential_2",
            "optimizer.name=adam",
            "learning_rate.base=0.001",
        ]),
        Case::new("rigl", &[1, 5, 9, 13, 17], 19).with(&[
            "mask_update.drop_fraction=1",
            "method.grow_init=grad_sign_100",
            "method.initial_accumulator_scale=0.5",
            "optimizer.nesterov=false",
            "sparsity.target=0.3",
            "sparsity.layers.layer2=0.99999",
        ]),
        Case::new("set", ALWAYS, 24).with(&[
            "mask_update.frequency_steps=1",
            "mask_update.end_step=-1",
            "mask_update.anneal=constant",
            "optimizer.name=adam",
            "learning_rate.base=0.001",
        ]),
        Case::new("set", ONCE_IN_A_WHILE, 24).with(&["mask_update.drop_fraction=0", "sparsity.layers.layer1=0"]),
        Case::new("snfs", &[3, 6, 9, 12], 24).with(&[
            "mask_update.begin_step=3",
            "mask_update.anneal=exponential",
            "method.ema_momentum=0.5",
            "optimizer.name=adam",
            "learning_rate.base=0.001",
        ]),
        Case::new("static", &[1, 2, 3, 4, 5], 24).with(&[
            "mask_update.frequency_steps=1",
            "mask_update.end_step=5",
            "mask_update.anneal=constant",
            "mask_update.drop_fraction=1",
            "optimizer.name=sgd",
        ]),
        Case::new("snip", &[1], 23).with(&[
            "sparsity.layers.layer1=0",
            "sparsity.layers.layer2=0.99999",
            "optimizer.name=adam",
            "learning_rate.base=0.001",
        ]),
        Case::new("dnw", ALWAYS, 24).with(&[
            "sparsity.target=0.5",
            "sparsity.layers.layer2=0.99999",
            "optimizer.name=sgd",
        ]),
        Case::new("prune", &[2, 3, 4, 5, 6, 7, 8], 24).with(&[
            "prune.begin_step=2",
            "prune.end_step=8",
            "prune.frequency_steps=1",
            "prune.initial_sparsity=0.2",
            "prune.exponent=2",
            "optimizer.name=adam",
            "learning_rate.base=0.001",
        ]),
    ];
    check(&cases);
}

/// Kernels full of equal values, or of zeros. Without a learning rate they stay so where updates come after steps.
#[test]
fn numpy_replays_ties() {
    let still = &["learning_rate.base=0"];
    let adam = &["optimizer.name=adam", "learning_rate.base=0.001"];
    let cases = [
        // Active weights of 0 tie with inactive ones, which are kept in their place as they were.
        Case::new("rigl", &[1, 5, 9], 9)
            .from("quantised")
            .with(&["mask_update.drop_fraction=0"]),
        Case::new("rigl", &[1, 5, 9], 9).from("zero-layer2").with(adam),
        Case::new("rigl-inverted", &[1, 5, 9], 9)
            .from("equal")
            .with(&["mask_update.select=topk"]),
        Case::new("set", &[1, 4, 7, 10], 12).from("quantised").with(still),
        Case::new("snfs", &[1, 4, 7, 10], 12)
            .from("equal")
            .with(&["learning_rate.base=0", "mask_update.select=sort"]),
        Case::new("static", &[1, 4, 7, 10], 12).from("quantised").with(still),
        Case::new("snip", &[1], 11).from("zero-layer2"),
        Case::new("dnw", &ALWAYS[..12], 12).from("quantised").with(still),
        Case::new("prune", &[4, 8, 12], 12).from("quantised").with(&[
            "prune.begin_step=0",
            "prune.end_step=12",
            "prune.frequency_steps=4",
            "learning_rate.base=0",
        ]),
    ];
    check(&cases);
}
