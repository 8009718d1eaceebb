//! Image networks on real pictures: Fashion-MNIST in 32 x 32 and three colours, and the same in CIFAR-10's files.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::runs::{Runs, first, write_split};
use common::{json, rigl_xla};
use rigl_xla::data::{Dataset, Split, cifar, fetch, mnist, resize};
use serde_json::Value;

/// Training and test examples.
const EXAMPLES: [usize; 2] = [600, 200];

/// Folders `idx` and `cifar` with the first pictures of Fashion-MNIST, shared by the tests of this process.
fn pictures() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [idx, bin] = ["idx", "cifar"].map(|name| folder.path().join(name));
        for dir in [&idx, &bin] {
            fs::create_dir(dir).unwrap();
        }
        let source = fetch::ensure("fashion-mnist").unwrap();
        for (split, examples) in [Split::Train, Split::Test].into_iter().zip(EXAMPLES) {
            let whole = mnist::load(&source, split).unwrap();
            write_split(&idx, split, &first(&whole, examples));
            write_cifar(
                &bin,
                split,
                &resize::fit(mnist::load(&idx, split).unwrap(), &[32, 32, 3]),
            );
        }
        folder
    });
    folder.path()
}

/// Records of CIFAR-10, in two files for training.
fn write_cifar(folder: &Path, split: Split, set: &Dataset) {
    let labels: Vec<i32> = set.labels.to_vec().unwrap();
    let images = set.images.bytes().chunks(cifar::RECORD - 1);
    let record = |(image, &label): (&[u8], &i32)| {
        let plane = |colour: usize| image.iter().skip(colour).step_by(3).copied();
        [label as u8]
            .into_iter()
            .chain((0..3).flat_map(plane))
            .collect::<Vec<u8>>()
    };
    let records: Vec<Vec<u8>> = images.zip(&labels).map(record).collect();
    let files = match split {
        Split::Train => records
            .chunks(records.len() / 2)
            .zip(["data_batch_1.bin", "data_batch_2.bin"])
            .collect(),
        Split::Test => vec![(&records[..], "test_batch.bin")],
    };
    for (records, name) in files {
        fs::write(folder.join(name), records.concat()).unwrap();
    }
}

fn train(runs: &Runs, run: &str, data: [&str; 2], more: &[&str]) -> Value {
    let (out, folder) = (runs.path(run), pictures().join(data[1]));
    let dir = format!("data.dir={}", folder.display());
    let network = [
        "--set",
        "model={name='wrn-10-1'}",
        "--batch-size",
        "16",
        "--steps-per-launch",
        "10",
    ];
    let own = [
        "train",
        "cifar10-rigl",
        "--data",
        data[0],
        "--set",
        &dir,
        "--out",
        out.to_str().unwrap(),
    ];
    json(&[&own, &network[..], &["--set", "train.eval_batch_size=100"], more].concat())
}

/// The recipe learns from either form of the pictures, in the same bits.
#[test]
fn the_cifar_recipe_learns_clothes() {
    let runs = Runs::new();
    // The rate falls to 0 at the end, so that the moving statistics match the final weights.
    let schedule = [
        "--set",
        "mask_update.frequency_steps=20",
        "--set",
        "mask_update.end_step=60",
        "--set",
        "learning_rate.schedule=cosine",
        "--lr",
        "0.05",
        "--sparsity",
        "0.8",
    ];
    let steps = [&schedule[..], &["--steps", "80"]].concat();
    let done = train(&runs, "cifar", ["cifar10", "cifar"], &steps);
    assert_eq!((&done["steps"], &done["mask_updates"]), (&84.into(), &4.into()));
    let top1 = done["eval"]["top1"].as_f64().unwrap();
    assert!(top1 > 0.4, "{done}");
    let same = train(&runs, "idx", ["fashion-mnist", "idx"], &steps);
    assert_eq!(same["eval"], done["eval"]);
    assert!(runs.tensors("cifar", 84) == runs.tensors("idx", 84));
    // All test examples are evaluated; the form of a folder is detected.
    let checkpoint = runs.path("cifar");
    for folder in ["cifar", "idx"] {
        let folder = pictures().join(folder);
        let data = ["--data", folder.to_str().unwrap(), "--batch-size", "77"];
        let report = json(&[&["eval", "--checkpoint", checkpoint.to_str().unwrap()], &data[..]].concat());
        assert_eq!(
            (&report["examples"], &report["top1"]),
            (&200.into(), &done["eval"]["top1"])
        );
    }
}

/// Faults of a folder are reported before anything is compiled.
#[test]
fn reports_faults_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let out = folder.path().join("run");
    let message_of = || {
        let args = [
            "train",
            "cifar10-rigl",
            "--data",
            path,
            "--out",
            out.to_str().unwrap(),
            "--overwrite",
        ];
        let output = rigl_xla(&args);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(message_of().contains("found none of data_batch_1.bin, data_batch_2.bin"));
    let good = fs::read(pictures().join("cifar/test_batch.bin")).unwrap();
    let write = |bytes: &[u8]| fs::write(folder.path().join("data_batch_1.bin"), bytes).unwrap();
    write(&good);
    assert!(message_of().contains("found none of test_batch.bin"));
    fs::write(folder.path().join("test_batch.bin"), &good).unwrap();
    let records = "expected at least one record and nothing but whole records of 3073 bytes";
    let mut wrong = good.clone();
    wrong[3 * cifar::RECORD] = 10;
    for (bytes, expected) in [
        (
            &good[1..],
            format!("data_batch_1.bin: {} bytes, {records}", good.len() - 1),
        ),
        (&[][..], format!("data_batch_1.bin: 0 bytes, {records}")),
        (
            &wrong[..],
            "data_batch_1.bin: label 10 at index 3, expected less than 10".into(),
        ),
    ] {
        write(bytes);
        let message = message_of();
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn reports_data_sets_that_cannot_be_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let run = |preset: &str, more: &[&str]| {
        let out = cache.path().join("run");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        let output = command
            .args(["train", preset, "--overwrite", "--out", out.to_str().unwrap()])
            .args(more)
            .env("RIGL_XLA_CACHE", cache.path())
            .env(
                "RIGL_XLA_PLUGIN",
                rigl_xla::plugins::fetch(rigl_xla::plugins::Package::named("xla-cpu-pjrt").unwrap()).unwrap(),
            )
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let message = run("cifar10-rigl", &[]);
    assert!(
        message.contains("cifar10: no package has it") && message.contains("data/cifar10"),
        "{message}"
    );
    let message = run("resnet50-rigl", &[]);
    assert!(
        message.contains("imagenet: no package has it") && message.contains("data/imagenet"),
        "{message}"
    );
    // MNIST's own images are not made as large as ImageNet's.
    let idx = format!("data.dir={}", pictures().join("idx").display());
    let message = run(
        "resnet50-rigl",
        &["--data", "mnist", "--set", &idx, "--batch-size", "8"],
    );
    assert!(
        message.contains("images of dimensions [784], expected [224, 224, 3] for resnet50"),
        "{message}"
    );
}

/// A rate that falls over the whole run does not let the run become longer.
#[test]
fn a_cosine_over_the_run_fixes_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let idx = format!("data.dir={}", pictures().join("idx").display());
    let train = |more: &[&str]| {
        let own = [
            "train",
            "mnist-rigl",
            "--set",
            &idx,
            "--out",
            out,
            "--batch-size",
            "20",
            "--json",
        ];
        rigl_xla(&[&own, more].concat())
    };
    let cosine = ["--set", "learning_rate.schedule=cosine"];
    assert!(train(&[&cosine[..], &["--steps", "5"]].concat()).status.success());
    let longer = train(&[&cosine[..], &["--steps", "9", "--resume"]].concat());
    let message = String::from_utf8(longer.stderr).unwrap();
    assert!(
        !longer.status.success() && message.contains("train.iterations (it has 5, asked for 9)"),
        "{message}"
    );
    assert!(
        train(&[&cosine[..], &["--steps", "5", "--resume"]].concat())
            .status
            .success()
    );
}
