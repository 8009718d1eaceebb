//! Pictures in TFRecords through the program: training, resuming, evaluating, dumping, and corrupt records.
#![allow(clippy::unwrap_used)]

#[path = "common/records.rs"]
mod records;

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use common::runs::{Runs, object};
use common::{error, json, under};
use hlo::Literal;
use records::{CLASSES, damage, offset, record, write, write_records};
use rigl_xla::checkpoint;
use rigl_xla::data::{fetch, mnist};
use serde_json::Value;

const TRAINING: usize = 96;
const TESTING: usize = 30;

/// A folder with 96 training examples in four files and 30 test examples in two, shared by the tests.
fn pictures() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train", 4, TRAINING);
        write(folder.path(), "validation", 2, TESTING);
        folder
    });
    folder.path()
}

/// A copy of [`pictures`] that may be damaged.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(pictures()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// WRN-10-1 for pictures of 16 x 16; masks are updated at gradient steps 0, 2 and 4; an epoch has 12 iterations.
const NETWORK: &[&str] = &[
    "train",
    "cifar10-rigl",
    "--json",
    "--set",
    "model={name='wrn-10-1',image_size=16,dropout=0.0}",
    "--execution",
    "masked",
    "--set",
    "data.preprocessing=imagenet",
    "--batch-size",
    "8",
    "--lr",
    "0.05",
    "--set",
    "train.eval_batch_size=8",
    "--set",
    "mask_update.frequency_steps=2",
    "--set",
    "mask_update.end_step=5",
    "--set",
    "train.eval_interval=40",
    "--set",
    "train.checkpoint_interval=8",
    "--set",
    "train.keep_checkpoints=100",
];

/// Command line of a run into folder `run`.
fn arguments<'a>(data: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let (start, network) = NETWORK.split_at(3);
    [start, &own, &under(network, more)].concat()
}

fn train(runs: &Runs, run: &str, data: &Path, more: &[&str]) -> Value {
    object(common::rigl_xla(&arguments(data, &runs.path(run), more)))
}

/// Standard error of a run that fails with this exit code, with one error, no result and no panic.
fn complaint(data: &Path, more: &[&str], code: i32) -> String {
    let runs = Runs::new();
    let output = common::rigl_xla(&arguments(data, &runs.path("run"), more));
    refusal(output, code)
}

fn refusal(output: Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty() && !message.contains("panicked"), "{message}");
    assert_eq!(
        message.lines().filter(|line| line.starts_with("error: ")).count(),
        1,
        "{message}"
    );
    message
}

fn first_loss(runs: &Runs, run: &str) -> f64 {
    runs.metrics(run)[0]["cross_entropy"].as_f64().unwrap()
}

/// Batches depend only on their numbers: threads, launches, stops and read-ahead change no bit.
#[test]
fn threads_launches_and_resuming_do_not_change_results() {
    let runs = Runs::new();
    let three = ["--steps-per-launch", "3"];
    let with = |more: &[&'static str]| [&three[..], more].concat();
    let whole = train(
        &runs,
        "whole",
        pictures(),
        &with(&["--data-threads", "1", "--steps", "14"]),
    );
    assert_eq!((&whole["steps"], &whole["global_step"]), (&17.into(), &14.into()));
    assert_eq!(whole["eval"]["examples"], TESTING);
    let one = ["--steps-per-launch", "1", "--data-threads", "4", "--steps", "14"];
    train(&runs, "one", pictures(), &one);
    let two = ["--data-threads", "2", "--set", "data.prefetch=1"];
    let halves = |steps, more: &[&'static str]| [&with(&two)[..], &["--steps", steps], more].concat();
    train(&runs, "halves", pictures(), &halves("6", &[]));
    train(&runs, "halves", pictures(), &halves("14", &["--resume"]));
    for other in ["one", "halves"] {
        for iteration in [8, 16, 17] {
            assert!(
                runs.tensors("whole", iteration) == runs.tensors(other, iteration),
                "{other}, {iteration}"
            );
        }
    }
    let other_seed = with(&["--steps", "14", "--seed", "1"]);
    train(&runs, "seed", pictures(), &other_seed);
    let still = with(&["--steps", "14", "--set", "data.augment=false"]);
    train(&runs, "still", pictures(), &still);
    let first = ["whole", "seed", "still"].map(|run| first_loss(&runs, run));
    assert!(first[0] != first[1] && first[0] != first[2], "{first:?}");
}

/// Replicas with synchronised batch normalisation match one device up to rounding; each gets its part of every batch.
#[test]
fn replicas_share_each_batch() {
    let runs = Runs::new();
    // Dropout is each replica's own.
    let short = ["--steps-per-launch", "1", "--steps", "3", "--sync-bn"];
    let [one, two] = ["1", "2"].map(|replicas| {
        let more = [&short[..], &["--replicas", replicas]].concat();
        train(&runs, replicas, pictures(), &more)
    });
    assert_eq!(
        (&two["steps"], &two["eval"]["examples"]),
        (&one["steps"], &TESTING.into())
    );
    let difference = |key: &str| one["eval"][key].as_f64().unwrap() - two["eval"][key].as_f64().unwrap();
    assert!(difference("loss").abs() < 1e-3, "{one} {two}");
    let losses = ["1", "2"].map(|run| first_loss(&runs, run));
    assert!((losses[0] - losses[1]).abs() < 1e-5, "{losses:?}");
}

/// The network learns, and `eval` and `predict` agree with training.
#[test]
fn learns_evaluates_and_predicts_pictures() {
    let runs = Runs::new();
    let long = [
        "--steps-per-launch",
        "3",
        "--steps",
        "150",
        "--set",
        "train.eval_interval=51",
    ];
    let done = train(&runs, "run", pictures(), &long);
    let losses: Vec<f64> = runs
        .metrics("run")
        .iter()
        .filter_map(|m| m["cross_entropy"].as_f64())
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (early, late) = (mean(&losses[..8]), mean(&losses[losses.len() - 8..]));
    assert!(late < 0.9 * early, "{early} {late}");

    let run = runs.path("run");
    let data = pictures().to_str().unwrap();
    let evaluate = |more: &[&str]| {
        let own = [
            "eval",
            "--checkpoint",
            run.to_str().unwrap(),
            "--data",
            data,
            "--execution",
            "masked",
        ];
        json(&[&own, more].concat())
    };
    let report = evaluate(&["--batch-size", "8"]);
    for key in ["top1", "top5", "loss", "examples"] {
        assert_eq!(report[key], done["eval"][key], "{key}");
    }
    // Another batch size sums in another order.
    let other = evaluate(&["--batch-size", "64", "--data-threads", "3"]);
    assert_eq!((&other["top1"], &other["examples"]), (&report["top1"], &TESTING.into()));
    let difference = other["loss"].as_f64().unwrap() - report["loss"].as_f64().unwrap();
    assert!(difference.abs() < 1e-4, "{difference}");

    let [dumped, logits] = ["dump", "logits"].map(|name| runs.path(name).with_extension("safetensors"));
    let (dumped, logits) = (dumped.to_str().unwrap(), logits.to_str().unwrap());
    dump(pictures(), "test", dumped, &["--normalised", "--image-size", "16"]);
    let predict = [
        "predict",
        "--checkpoint",
        run.to_str().unwrap(),
        "--input",
        dumped,
        "--output",
        logits,
    ];
    json(&predict);
    let labels = tensor(dumped, "labels").to_vec::<i32>().unwrap();
    let logits: Vec<f32> = tensor(logits, "logits").to_vec().unwrap();
    let right = logits.chunks(CLASSES as usize).zip(labels).filter(|(logits, label)| {
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        logits[*label as usize] == best
    });
    let top1 = report["top1"].as_f64().unwrap() * TESTING as f64;
    assert_eq!(right.count(), top1.round() as usize);
}

fn dump(data: &Path, split: &str, output: &str, more: &[&str]) -> Value {
    let own = ["data", "dump", "--data", data.to_str().unwrap(), "--split", split];
    json(&[&own[..], &["--output", output], more].concat())
}

fn tensor(file: &str, name: &str) -> Literal {
    checkpoint::load(file.as_ref()).unwrap().tensors[name].clone()
}

/// Dumps contain the examples of the files, in the order of evaluation or of the first epoch.
#[test]
fn dumps_contain_the_inputs_of_the_network() {
    let runs = Runs::new();
    let path = |name: &str| runs.path(name).to_str().unwrap().to_owned();
    let report = dump(pictures(), "validation", &path("test"), &["--image-size", "24"]);
    assert_eq!((&report["examples"], &report["skipped"]), (&TESTING.into(), &0.into()));
    let fashion = mnist::load(&fetch::ensure("fashion-mnist").unwrap(), rigl_xla::data::Split::Test).unwrap();
    // The first file has the even ones.
    let order: Vec<usize> = (0..TESTING).step_by(2).chain((1..TESTING).step_by(2)).collect();
    let wanted = fashion.labels.to_vec::<i32>().unwrap();
    let labels: Vec<i32> = tensor(&path("test"), "labels").to_vec().unwrap();
    assert_eq!(labels, order.iter().map(|&i| wanted[i]).collect::<Vec<_>>());
    let images = tensor(&path("test"), "images");
    assert_eq!(images.shape().to_string(), "f32[30,24,24,3]");
    let values: Vec<f32> = images.to_vec().unwrap();
    // Grey pictures, the JPEGs apart; their centre is seen, whose brightest point is bright.
    let first = &values[..24 * 24 * 3];
    assert!(first.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
    let brightest = first.iter().copied().fold(f32::MIN, f32::max);
    assert!((100.0..300.0).contains(&brightest), "{brightest}");

    let offsets: Vec<i64> = tensor(&path("test"), "offset").to_vec().unwrap();
    let files = tensor(&path("test"), "file").to_vec::<i32>().unwrap();
    let second = pictures().join("validation-00001-of-00002");
    assert_eq!((files[0], files[15], offsets[17] as u64), (0, 1, offset(&second, 2)));

    // Normalised as in the graph: less the mean, times the reciprocal of the deviation, each rounded to float32.
    dump(
        pictures(),
        "test",
        &path("normal"),
        &["--image-size", "24", "--normalised", "--limit", "3"],
    );
    let normal: Vec<f32> = tensor(&path("normal"), "images").to_vec().unwrap();
    for (i, &got) in normal.iter().enumerate() {
        let [mean, deviation] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]].map(|of| (of[i % 3] * 255.0f64) as f32);
        assert_eq!(got, (values[i] - mean) * (1.0 / deviation), "{i}");
    }

    let of = |name: &str, more: &[&str]| {
        dump(
            pictures(),
            "train",
            &path(name),
            &[&["--image-size", "24", "--limit", "40"], more].concat(),
        );
        tensor(&path(name), "images").into_bytes()
    };
    let train = of("train", &["--data-threads", "1"]);
    assert!(train == of("again", &["--data-threads", "3"]));
    for other in [&["--seed", "1"][..], &["--no-augment"], &["--pictures", "antialiased"]] {
        assert!(train != of("other", other), "{other:?}");
    }
    assert_eq!(
        json(&[
            "data",
            "dump",
            "--data",
            "mnist",
            "--split",
            "train",
            "--limit",
            "7",
            "--output",
            &path("mnist")
        ])["images"],
        "u8[7,784]"
    );
    let message = error(
        &["data", "dump", "--data", "mnist", "--split", "half", "--output", "x"],
        2,
    );
    assert!(message.contains("train, test"), "{message}");
}

/// A record whose picture or checksum is damaged ends the run where it is, or is left out if that is allowed.
#[test]
fn reports_or_skips_corrupt_records() {
    let folder = copy();
    let file = folder.path().join("train-00002-of-00004");
    let place = offset(&file, 5);
    damage(&file, place + 40);
    let steps = ["--steps-per-launch", "3", "--steps", "14"];
    let message = complaint(folder.path(), &steps, 1);
    let wanted = format!("train-00002-of-00004: record at byte {place}: checksum of the data");
    assert!(message.contains(&wanted), "{message}");

    let runs = Runs::new();
    let skip = |n| [&steps[..], &["--skip-corrupt", n]].concat();
    let done = train(&runs, "run", folder.path(), &skip("1"));
    assert_eq!(done["skipped_records"], 1);
    // A stopped and resumed run sees the same pictures.
    let short = [
        "--steps-per-launch",
        "3",
        "--steps",
        "6",
        "--skip-corrupt",
        "2",
        "--data-threads",
        "3",
    ];
    train(&runs, "halves", folder.path(), &short);
    train(
        &runs,
        "halves",
        folder.path(),
        &[&skip("2")[..], &["--resume"]].concat(),
    );
    assert!(runs.tensors("run", 17) == runs.tensors("halves", 17));

    // A damaged length takes the rest of its file along, which counts as one.
    let test = folder.path().join("validation-00001-of-00002");
    let place = offset(&test, 10);
    damage(&test, place);
    let data = folder.path().to_str().unwrap();
    let run = runs.path("run");
    let evaluate = ["eval", "--checkpoint", run.to_str().unwrap(), "--data", data];
    let message = error(&evaluate, 1);
    let wanted = format!("validation-00001-of-00002: record at byte {place}: checksum of the length");
    assert!(message.contains(&wanted), "{message}");
    damage(&test, 30);
    let message = refusal(common::rigl_xla(&[&evaluate[..], &["--skip-corrupt", "1"]].concat()), 1);
    assert!(
        message.contains("validation-00001-of-00002: record at byte 0: checksum of the data"),
        "{message}"
    );
    let report = json(&[&evaluate[..], &["--skip-corrupt", "2"]].concat());
    assert_eq!(
        (&report["examples"], &report["skipped"]),
        (&(TESTING - 5 - 1).into(), &2.into())
    );
}

/// Files whose training records are these, in one file; their test records are good.
fn with_training(training: &[Vec<u8>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_records(folder.path(), "train", 1, training);
    write(folder.path(), "validation", 1, 8);
    folder
}

#[test]
fn reports_invalid_records() {
    let good = |label| record(&records::png(&[9; 784], 32, 32), label);
    let set = |bad: Vec<u8>| [vec![good(1); 10], vec![bad; 2]].concat();
    let no_label = rigl_xla::data::tfrecord::example::encode(&[]);
    let truncated = {
        let jpeg = records::jpeg(0);
        record(&jpeg[..jpeg.len() / 2], 3)
    };
    for (bad, wanted) in [
        (good(0), "class 0, expected 1 to 1000"),
        (good(1001), "class 1001, expected 1 to 1000"),
        (no_label, "no feature 'image/encoded'"),
        (record(b"no picture", 3), "record at byte "),
        (truncated, "record at byte "),
        (b"no example".to_vec(), "not a tf.train.Example"),
    ] {
        let folder = with_training(&set(bad));
        let data = folder.path().to_str().unwrap();
        let dump = ["data", "dump", "--split", "train", "--output", "never", "--data", data];
        let message = error(&dump, 1);
        let file = folder.path().join("train-00000-of-00001");
        assert!(
            message.contains(wanted) && message.contains(file.to_str().unwrap()),
            "{wanted}: {message}"
        );
    }
}

#[test]
fn reports_missing_files() {
    let folder = copy();
    fs::remove_file(folder.path().join("train-00001-of-00004")).unwrap();
    let message = complaint(folder.path(), &[], 1);
    assert!(
        message.contains("shard train-00001-of-00004 is missing: 3 of 4 are there"),
        "{message}"
    );

    let empty = tempfile::tempdir().unwrap();
    let message = complaint(empty.path(), &["--set", "data.name=imagenet"], 1);
    assert!(
        message.contains("no TFRecord files named train-00000-of-00001"),
        "{message}"
    );

    let nothing = with_training(&[]);
    let message = complaint(nothing.path(), &[], 1);
    assert!(message.contains("found no record in 1 files"), "{message}");

    let few = with_training(&vec![record(&records::png(&[9; 784], 32, 32), 1); 7]);
    let message = complaint(few.path(), &["--steps-per-launch", "3"], 1);
    assert!(
        message.contains("batch size 8, expected 1 to the number of examples, 7"),
        "{message}"
    );

    let out = few.path().join("run");
    let plain = [
        "train",
        "--data",
        pictures().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let message = refusal(common::rigl_xla(&plain), 1);
    assert!(
        message.contains("examples of dimensions [784], expected [size, size, 3]"),
        "{message}"
    );
    let message = complaint(pictures(), &["--data-threads", "0"], 2);
    assert!(
        message.contains("--data-threads: data.threads is 0, expected a whole number from 1"),
        "{message}"
    );
    let message = complaint(pictures(), &["--set", "data.pictures=best"], 2);
    assert!(message.contains("original, antialiased"), "{message}");
}

/// Folders within the folder, one per split, are found; `null` stands in for pictures.
#[test]
fn splits_may_have_their_own_folders() {
    let folder = tempfile::tempdir().unwrap();
    for set in ["train", "validation"] {
        let within: PathBuf = folder.path().join(set);
        fs::create_dir(&within).unwrap();
        write(&within, set, 1, 16);
    }
    let report = dump(
        folder.path(),
        "train",
        folder.path().join("x").to_str().unwrap(),
        &["--image-size", "8"],
    );
    assert_eq!(report["images"], "f32[16,8,8,3]");

    let runs = Runs::new();
    let out = runs.path("null");
    let own = ["--data", "null", "--out", out.to_str().unwrap()];
    let done = object(common::rigl_xla(
        &[NETWORK, &own, &["--steps", "14", "--steps-per-launch", "3"]].concat(),
    ));
    assert_eq!(
        (&done["eval"]["top1"], &done["eval"]["examples"]),
        (&1.0.into(), &16.into())
    );
}
