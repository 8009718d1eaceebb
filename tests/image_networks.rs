//! Networks with convolutions, small, through the real program: training, resuming, evaluating, predicting.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::runs::{Runs, ones};
use common::{error, json, under};
use hlo::{DType, Literal};
use rigl_xla::checkpoint::{self, Metadata, save};
use rigl_xla::data::{Split, synthetic};
use serde_json::{Value, json as value};
use sparse::METHODS;

/// WRN-10-1 on random images of 16 x 16, dropping out and augmenting; masks are updated at gradient steps 0, 2 and 4.
const WIDE: &[&str] = &[
    "cifar10-rigl",
    "--set",
    "model={name='wrn-10-1',image_size=16}",
    "--batch-size",
    "8",
    "--set",
    "data.examples=24",
];

/// Every network of another family, as small as it gets.
const OTHERS: [(&str, &str); 4] = [
    (
        "resnet50-rigl",
        "model={name='resnet18',width=0.0625,image_size=16,classes=10}",
    ),
    (
        "mobilenet-v1-rigl",
        "model={name='mobilenet-v1',width=0.0625,image_size=16,classes=10}",
    ),
    (
        "mobilenet-v2-rigl",
        "model={name='mobilenet-v2',width=0.0625,image_size=16,classes=10}",
    ),
    (
        "vgg-16-rigl",
        "model={name='vgg-a',width=0.0625,image_size=16,classes=10}",
    ),
];

/// Flags of runs whose rhythms do not divide each other.
const RHYTHM: &[&str] = &[
    "--data",
    "synthetic",
    "--set",
    "mask_update.frequency_steps=2",
    "--set",
    "mask_update.end_step=5",
    "--set",
    "train.eval_interval=5",
    "--set",
    "train.keep_checkpoints=100",
];

fn train(runs: &Runs, run: &str, network: &[&str], more: &[&str]) -> Value {
    let out = runs.path(run);
    let own = ["train", "--out", out.to_str().unwrap()];
    json(&[&own, network, &under(RHYTHM, more)].concat())
}

/// Random numbers of an iteration are its own: neither the launches nor a stop in between change a bit.
#[test]
fn launches_and_resuming_change_no_bit() {
    let runs = Runs::new();
    let three = ["--steps-per-launch", "3"];
    let whole = train(&runs, "whole", WIDE, &[&three[..], &["--steps", "6"]].concat());
    assert_eq!(
        (&whole["steps"], &whole["global_step"], &whole["mask_updates"]),
        (&9.into(), &6.into(), &3.into())
    );
    train(&runs, "one", WIDE, &["--steps-per-launch", "1", "--steps", "6"]);
    train(&runs, "halves", WIDE, &[&three[..], &["--steps", "2"]].concat());
    train(
        &runs,
        "halves",
        WIDE,
        &[&three[..], &["--steps", "6", "--resume"]].concat(),
    );
    for other in ["one", "halves"] {
        assert!(runs.tensors("whole", 9) == runs.tensors(other, 9), "{other}");
    }
    // The seed matters only with dropout or augmentation.
    let without_dropout = |arg: &&'static str| match arg.strip_suffix('}') {
        Some(model) => format!("{model},dropout=0.0}}"),
        None => (*arg).to_owned(),
    };
    let network: Vec<String> = WIDE.iter().map(without_dropout).collect();
    let network: Vec<&str> = network.iter().map(String::as_str).collect();
    let still = ["--set", "data.augment=false", "--steps-per-launch", "3"];
    train(&runs, "still", &network, &[&still[..], &["--steps", "6"]].concat());
    assert!(runs.tensors("whole", 9) != runs.tensors("still", 9));
}

fn floats(array: &Literal) -> Vec<f32> {
    array.to_vec().unwrap()
}

/// Reference 2.3: statistics move on every iteration, weights not on one that updates masks, but for new connections.
#[test]
fn statistics_move_while_masks_are_updated() {
    let runs = Runs::new();
    let every = [
        "--set",
        "train.checkpoint_interval=1",
        "--steps-per-launch",
        "1",
        "--steps",
        "6",
    ];
    train(&runs, "run", WIDE, &every);
    let states: Vec<_> = (1..=9).map(|i| runs.tensors("run", i)).collect();
    let mut updates = 0;
    for (before, after) in states.iter().zip(&states[1..]) {
        let update = before["global_step"] == after["global_step"];
        updates += usize::from(update);
        for (name, array) in after.iter().filter(|(_, array)| array.dtype() == DType::F32) {
            let moved = *array != before[name];
            if name.ends_with("moving_mean") || name.ends_with("moving_variance") {
                assert!(moved, "{name}");
            } else if name.ends_with("gamma") {
                assert_eq!(moved, !update, "{name}");
            }
        }
        let mask = "resnet_model/conv_4_0_2/mask";
        let [old, new] = [before, after].map(|state| ones(&state[mask]));
        assert_eq!((old.len(), old != new), (new.len(), update));
        if update {
            let weights = "resnet_model/conv_4_0_2/weights";
            let [was, is] = [before, after].map(|state| floats(&state[weights]));
            let grown = |i: &usize| new.contains(i) && !old.contains(i);
            assert!((0..was.len()).all(|i| if grown(&i) { is[i] == 0.0 } else { is[i] == was[i] }));
        }
    }
    // The first one lies before the first checkpoint.
    assert_eq!(updates, 2);
}

/// Budgets, counters and scores of every family. Its network is inferred from checkpoints with and without metadata.
#[test]
fn every_family_trains_evaluates_and_predicts() {
    let runs = Runs::new();
    for (preset, model) in OTHERS {
        let network = [
            preset,
            "--set",
            model,
            "--batch-size",
            "8",
            "--set",
            "data.examples=16",
            "--execution",
            "masked",
        ];
        let more = [
            "--steps",
            "3",
            "--steps-per-launch",
            "2",
            "--set",
            "train.label_smoothing=0.1",
        ];
        let done = train(&runs, preset, &network, &more);
        let plan = json(&[&["plan"], &network[..], &under(RHYTHM, &more)].concat());
        for (planned, trained) in [
            ("iterations", "steps"),
            ("gradient_steps", "global_step"),
            ("mask_updates", "mask_updates"),
            ("nonzeros", "nonzeros"),
            ("maskable", "maskable"),
        ] {
            assert_eq!(plan[planned], done[trained], "{preset}: {planned}");
        }
        assert_eq!((&done["steps"], &done["mask_updates"]), (&5.into(), &2.into()));
        let found = checkpoint::load(done["checkpoint"].as_str().unwrap().as_ref()).unwrap();
        for layer in plan["layers"].as_array().unwrap() {
            let mask = &found.tensors[&format!("{}/mask", layer["name"].as_str().unwrap())];
            assert_eq!(
                ones(mask).len() as u64,
                layer["nonzeros"].as_u64().unwrap(),
                "{preset}: {layer}"
            );
        }
        known_again(&runs, preset, &done, &found.tensors);
    }
}

/// Our checkpoint and the same as converted from the original's: masks in float32, nothing of ours.
fn known_again(runs: &Runs, preset: &str, done: &Value, tensors: &BTreeMap<String, Literal>) {
    let own = runs.path(preset);
    let evaluate = |checkpoint: &str, more: &[&str]| {
        let own = [
            "eval",
            "--checkpoint",
            checkpoint,
            "--data",
            "synthetic",
            "--execution",
            "masked",
        ];
        json(&[&own, more].concat())
    };
    let report = evaluate(own.to_str().unwrap(), &[]);
    for key in ["top1", "top5", "loss", "smoothed_loss"] {
        assert_eq!(report[key], done["eval"][key], "{preset}: {key}");
    }
    assert!(report["smoothed_loss"].as_f64() != report["loss"].as_f64());
    let foreign = tensors.iter().map(|(name, array)| {
        let mask = array
            .to_bools()
            .map(|mask| mask.iter().map(|&m| f32::from(m)).collect::<Vec<_>>());
        let array = mask.map_or(array.clone(), |mask| Literal::new(array.dims(), &mask));
        (name.clone(), array)
    });
    let path = runs.path(&format!("{preset}.safetensors"));
    let plain: Vec<u8> = {
        save(&path, &foreign.collect(), &Metadata::new("", 0, "")).unwrap();
        fs::read(&path).unwrap()
    };
    fs::write(&path, without_metadata(&plain)).unwrap();
    let foreign = evaluate(path.to_str().unwrap(), &["--image-size", "16"]);
    assert_eq!(
        (&foreign["model"], &foreign["iteration"]),
        (&report["model"], &Value::Null)
    );
    assert_eq!(
        (&foreign["nonzeros"], &foreign["maskable"]),
        (&done["nonzeros"], &done["maskable"])
    );
    let named = foreign["model"].as_str().unwrap();
    let again = evaluate(path.to_str().unwrap(), &["--image-size", "16", "--model", named]);
    assert_eq!(again["loss"], foreign["loss"]);
    if preset == OTHERS[0].0 {
        predicts(runs, &[own.to_str().unwrap(), path.to_str().unwrap()]);
    }
}

/// The same file of arrays with an empty header of metadata.
fn without_metadata(file: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__");
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], &file[8 + length..]].concat()
}

/// Both checkpoints give the same logits, for pixels and for the images that are made of them.
fn predicts(runs: &Runs, [own, foreign]: &[&str; 2]) {
    let pixels = synthetic::generate(&[16, 16, 3], 10, 5, Split::Test, 77).images;
    let means = [0.485, 0.456, 0.406].map(|m| (255.0 * m) as f32);
    let stds = [0.229, 0.224, 0.225].map(|s| (255.0 * s) as f32);
    let normalised = |(i, &p): (usize, &u8)| (f32::from(p) - means[i % 3]) * (1.0 / stds[i % 3]);
    let images: Vec<f32> = pixels.bytes().iter().enumerate().map(normalised).collect();
    let inputs = [pixels.clone(), Literal::new(pixels.dims(), &images)];
    let mut logits = vec![];
    for (checkpoint, more) in [(own, &[][..]), (foreign, &["--image-size", "16"])] {
        for images in &inputs {
            let [input, output] = ["input", "output"].map(|name| runs.path(&format!("{name}.safetensors")));
            let named = [("images".to_string(), images.clone())];
            save(&input, &named.into(), &Metadata::new("", 0, "")).unwrap();
            let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
            let report = json(
                &[
                    &["predict", "--overwrite", "--checkpoint", checkpoint],
                    &files[..],
                    more,
                ]
                .concat(),
            );
            assert_eq!(report["logits"], value!([5, 10]));
            logits.push(floats(&checkpoint::load(&output).unwrap().tensors["logits"]));
        }
    }
    let largest = logits[0].iter().fold(0f32, |a, b| a.max(b.abs()));
    for other in &logits[1..] {
        let pairs = logits[0].iter().zip(other);
        assert!(pairs.map(|(a, b)| (a - b).abs()).all(|d| d <= 1e-5 * largest));
    }
}

/// bf16 keeps f32 state and stays near the f32 run, but is not it.
#[test]
fn bf16_stays_near_f32() {
    let runs = Runs::new();
    let of = |run: &str, precision: &str| {
        let more = [
            "--precision",
            precision,
            "--steps",
            "6",
            "--steps-per-launch",
            "3",
            "--lr",
            "0.02",
        ];
        train(&runs, run, WIDE, &more);
        let losses = runs.metrics(run).into_iter().filter_map(|m| m["loss"].as_f64());
        (losses.collect::<Vec<f64>>(), runs.tensors(run, 9))
    };
    let (single, state) = of("f32", "f32");
    let (half, other) = of("bf16", "bf16");
    assert_eq!(single.len(), half.len());
    for (a, b) in single.iter().zip(&half) {
        assert!(a != b && (a / b - 1.0).abs() < 0.05, "{single:?} {half:?}");
    }
    let kinds = |state: &BTreeMap<String, Literal>| -> Vec<_> {
        state
            .iter()
            .map(|(name, array)| (name.clone(), array.shape().clone()))
            .collect()
    };
    assert_eq!(kinds(&state), kinds(&other));
    // Without --precision, evaluation uses the precision that the checkpoint was trained in.
    let eval = |more: &[&str]| {
        let run = runs.path("bf16");
        let own = ["eval", "--data", "synthetic", "--checkpoint", run.to_str().unwrap()];
        json(&[&own[..], more].concat())["loss"].as_f64().unwrap()
    };
    let [own, single] = [eval(&[]), eval(&["--precision", "f32"])];
    assert!(own != single && (own / single - 1.0).abs() < 0.02, "{own} {single}");
}

/// Every method's training graph of every family builds: no operator of it lacks a gradient, of first or second order.
#[test]
fn every_method_has_a_graph_on_every_family() {
    let output = tempfile::NamedTempFile::new().unwrap();
    let output = output.path().to_str().unwrap();
    let wide = ("cifar10-rigl", "model={name='wrn-10-1',image_size=16}");
    for (preset, model) in OTHERS.into_iter().chain([wide]) {
        for method in METHODS.iter().filter(|method| method.masked) {
            let command = [
                "dump-hlo",
                preset,
                "--set",
                model,
                "--method",
                method.name,
                "--data",
                "synthetic",
            ];
            let form = ["--batch-size", "2", "--format", "proto", "--output", output];
            // A maximum under a window has a first derivative only.
            if method.name == "grasp" && (preset.starts_with("resnet") || preset.starts_with("vgg")) {
                let message = error(&[&command[..], &form].concat(), 2);
                assert!(
                    message.contains("method.name is grasp, expected a method that differentiates once"),
                    "{message}"
                );
            } else {
                assert!(json(&[&command[..], &form].concat())["instructions"].as_u64().unwrap() > 500);
            }
        }
    }
}
