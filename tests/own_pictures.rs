//! Published recipes on other pictures: classes, size, batches and schedules come from the folder.
#![allow(clippy::unwrap_used)]

#[path = "common/records.rs"]
mod records;

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::runs::{Runs, object};
use common::{error, json, rigl_xla};
use records::{png, record, write_records};
use rigl_xla::data::{Split, fetch, mnist};
use serde_json::{Value, json as value};

const CLASSES: [&str; 4] = ["t-shirt", "trouser", "pullover", "dress"];

/// A folder with 160 training and 40 test pictures of four kinds of clothes, in sizes from 34 x 36 to 38 x 36, and the list
/// of the classes.
fn clothes() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (split, set, count) in [(Split::Train, "train", 160), (Split::Test, "validation", 40)] {
            let fashion = mnist::load(&fetch::ensure("fashion-mnist").unwrap(), split).unwrap();
            let labels: Vec<i32> = fashion.labels.to_vec().unwrap();
            let pictures = fashion.images.bytes().chunks(mnist::SIDE * mnist::SIDE).zip(labels);
            let kept = pictures
                .filter(|(_, label)| (*label as usize) < CLASSES.len())
                .take(count);
            let records: Vec<_> = kept
                .enumerate()
                .map(|(i, (pixels, label))| record(&png(pixels, 34 + i % 5, 36), i64::from(label) + 1))
                .collect();
            write_records(folder.path(), set, 2, &records);
        }
        fs::write(folder.path().join("classes.txt"), CLASSES.join("\n") + "\n").unwrap();
        folder
    });
    folder.path()
}

fn plan(args: &[&str]) -> Value {
    json(&[&["plan", "--data", clothes().to_str().unwrap()], args].concat())
}

#[test]
fn the_recipe_follows_the_pictures() {
    let plan = plan(&["--model", "resnet18", "--width", "0.25"]);
    let config = &plan["config"];
    assert_eq!(
        (&config["model"]["classes"], &config["model"]["image_size"]),
        (&4.into(), &64.into())
    );
    // 102.3 epochs of 20 batches, as the recipe has 102.3 epochs of ImageNet.
    let train = &config["train"];
    assert_eq!((&train["batch_size"], &train["iterations"]), (&8.into(), &2046.into()));
    assert_eq!(plan["gradient_steps"], 2046);
    let rate = &plan["learning_rate"];
    // The warm-up takes 5 epochs, and the drops are at 30, 70 and 90.
    assert_eq!(config["learning_rate"]["examples_per_epoch"], 160);
    assert_eq!(rate["boundaries"], value!([599, 1399, 1799, 2399]));
    assert_eq!(rate["values"][0].as_f64().unwrap() as f32, 0.1 * 8.0 / 256.0);
    // Mask updates end after the same share of the run, about 50 of them.
    let update = &config["mask_update"];
    assert_eq!(
        (&update["end_step"], &update["frequency_steps"]),
        (&1599.into(), &31.into())
    );
    assert_eq!(plan["mask_updates"], 52);
    let note = plan["notes"][0].as_str().unwrap();
    for part in [
        "160 training pictures of 4 classes",
        "train.batch_size=8",
        "model.classes=4",
    ] {
        assert!(note.contains(part), "{note}");
    }
    assert!(plan.get("incomplete").is_none());
}

#[test]
fn given_values_win_over_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.toml");
    fs::write(&file, "[mask_update]\nend_step = 77\n").unwrap();
    let plan = plan(&[
        "resnet50-rigl",
        "--config",
        file.to_str().unwrap(),
        "--batch-size",
        "32",
        "--steps",
        "90",
        "--set",
        "model={name='resnet18',classes=4,image_size=32}",
    ]);
    let config = &plan["config"];
    assert_eq!(
        (&config["mask_update"]["end_step"], &config["model"]["image_size"]),
        (&77.into(), &32.into())
    );
    assert_eq!(
        (&config["train"]["batch_size"], &config["train"]["iterations"]),
        (&32.into(), &90.into())
    );
    // The remaining values follow from the pictures: epochs of 5 batches.
    assert_eq!(plan["learning_rate"]["boundaries"], value!([149, 349, 449, 599]));
}

#[test]
fn every_recipe_is_fitted() {
    // 250 epochs in steps, as CIFAR-10's recipe counts.
    let wide = plan(&["--model", "wrn-10-1"]);
    assert_eq!(
        (&wide["config"]["train"]["batch_size"], &wide["gradient_steps"]),
        (&8.into(), &5000.into())
    );
    assert_eq!(wide["learning_rate"]["boundaries"], value!([1536, 3072, 4608]));
    assert_eq!(wide["config"]["model"]["classes"], 4);
    // The rate is in proportion to the batch size, as ImageNet's.
    assert_eq!(
        wide["learning_rate"]["values"][0].as_f64().unwrap() as f32,
        0.1 * 8.0 / 128.0
    );
    let given = plan(&["--model", "wrn-10-1", "--lr", "0.05"]);
    assert_eq!(given["learning_rate"]["values"][0].as_f64().unwrap() as f32, 0.05);
    // Gradual pruning reaches its sparsity.
    let pruned = plan(&["--model", "resnet18", "--width", "0.25", "--method", "prune"]);
    assert!(pruned.get("incomplete").is_none(), "{}", pruned["incomplete"]);
    assert!(pruned["mask_updates"].as_u64().unwrap() > 40);
    let replicas = plan(&["--model", "resnet18", "--replicas", "3"]);
    assert_eq!(replicas["config"]["train"]["batch_size"], 6);
    let cost = json(&["cost", "--model", "resnet18", "--data", clothes().to_str().unwrap()]);
    let classifier = cost["layers"].as_array().unwrap().last().unwrap();
    assert_eq!(classifier["shape"], value!([512, 4]));
}

#[test]
fn the_published_recipe_stays_without_other_pictures() {
    let published = json(&["plan", "resnet50-rigl"]);
    assert_eq!(published["config"]["train"]["batch_size"], 4096);
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("train-00000-of-00001"), "").unwrap();
    let missing = empty.path().join("missing");
    for (folder, reason) in [
        (empty.path(), "not fitted: no training pictures in"),
        (&missing, "missing: no such folder"),
    ] {
        let plan = json(&["plan", "resnet50-rigl", "--data", folder.to_str().unwrap()]);
        assert_eq!(plan["config"]["train"], published["config"]["train"]);
        let note = plan["notes"][0].as_str().unwrap();
        assert!(note.contains(reason), "{note}");
    }
}

#[test]
fn refuses_a_batch_larger_than_the_set() {
    let data = clothes().to_str().unwrap();
    for command in ["train", "plan"] {
        let message = error(&[command, "resnet50-rigl", "--data", data, "--batch-size", "161"], 2);
        assert!(
            message.contains("--batch-size: train.batch_size is 161, expected at most 160, the training pictures in"),
            "{message}"
        );
    }
}

#[test]
fn refuses_data_with_another_number_of_classes() {
    let runs = Runs::new();
    let (data, out) = (clothes().to_str().unwrap(), runs.path("run"));
    let train = [
        "train",
        "--model",
        "wrn-10-1",
        "--data",
        data,
        "--out",
        out.to_str().unwrap(),
    ];
    let message = error_after_notes(&[&train[..], &["--set", "model.classes=10"]].concat());
    assert!(
        message.contains("the data set has 4 classes, but the network wrn-10-1 has 10"),
        "{message}"
    );
    let short = ["--steps", "3", "--json", "--overwrite"];
    let done = object(rigl_xla(&[&train[..], &short].concat()));
    let checkpoint = done["checkpoint"].as_str().unwrap();
    let other = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, other.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(other.path().join("classes.txt"), "a\nb\nc\nd\ne\n").unwrap();
    let eval = [
        "eval",
        "--checkpoint",
        checkpoint,
        "--data",
        other.path().to_str().unwrap(),
    ];
    let message = error_after_notes(&eval);
    assert!(
        message.contains("the data set has 5 classes, but the network wrn-10-1 has 4"),
        "{message}"
    );
}

/// Standard error of a command that fails with exit code 1.
fn error_after_notes(args: &[&str]) -> String {
    let output = rigl_xla(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    message
}

/// The defaults learn: here over 7.5 of the recipe's 250 epochs.
#[test]
fn the_fitted_recipe_learns_and_resumes() {
    let runs = Runs::new();
    let data = clothes().to_str().unwrap();
    let out = runs.path("run");
    let own = ["--data", data, "--out", out.to_str().unwrap(), "--json"];
    let train = [&["train", "--model", "wrn-10-1", "--multiplier", "0.03"], &own[..]].concat();
    let done = object(rigl_xla(&train));
    assert_eq!(
        (&done["global_step"], &done["eval"]["examples"]),
        (&150.into(), &40.into())
    );
    let top1 = done["eval"]["top1"].as_f64().unwrap();
    assert!(top1 > 0.5, "{done}");
    // The run keeps its fitted values, even if the folder has other pictures by then.
    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(
        config.contains("classes = 4") && config.contains("batch_size = 8"),
        "{config}"
    );
    let again = object(rigl_xla(&[
        "train",
        "--resume",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ]));
    assert_eq!((&again["steps"], &again["eval"]), (&done["steps"], &done["eval"]));
}
