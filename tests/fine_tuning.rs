//! Runs that begin with trained weights: one-shot pruning, frozen layers, another classifier; clipped gradients.
#![allow(clippy::unwrap_used)]

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::collections::BTreeMap;

use common::rigl_xla;
use common::runs::{Runs, ones, small_mnist};
use hlo::Literal;
use models::Options;
use rigl_xla::checkpoint::{Metadata, save};

/// A run folder with a dense network.
fn dense(runs: &Runs) -> String {
    runs.train("dense", &["--method", "dense", "--steps", "25"]);
    runs.path("dense").to_str().unwrap().to_owned()
}

fn f32s(tensors: &BTreeMap<String, Literal>, name: &str) -> Vec<f32> {
    tensors[name].to_vec().unwrap()
}

/// Indices of the `n` largest magnitudes, ascending.
fn largest(weights: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()));
    order.truncate(n);
    order.sort();
    order
}

#[test]
fn one_shot_pruning_keeps_the_largest_weights() {
    let runs = Runs::new();
    let init = dense(&runs);
    let before = runs.tensors("dense", 25);
    let kernels = ["layer1", "layer2"].map(|layer| f32s(&before, &format!("{layer}/kernel")));
    let both = [235_200usize, 30_000];
    for how in ["layer", "global"] {
        let flags = [
            "--method",
            "scratch",
            "--steps",
            "25",
            "--init",
            &init,
            "--init-prune",
            how,
        ];
        runs.train(how, &flags);
        let after = runs.tensors(how, 25);
        let masks = ["layer1", "layer2"].map(|layer| ones(&after[&format!("{layer}/mask")]));
        let counts = masks.each_ref().map(Vec::len);
        match how {
            "layer" => {
                for (mask, kernel) in masks.iter().zip(&kernels) {
                    assert_eq!(*mask, largest(kernel, mask.len()));
                }
            }
            _ => {
                let together = largest(&kernels.concat(), counts.iter().sum());
                let second = masks[1].iter().map(|i| i + both[0]);
                assert_eq!(together, masks[0].iter().copied().chain(second).collect::<Vec<_>>());
            }
        }
        let layer3 = ones(&after["layer3/mask"]).len();
        // The published sparsities of the recipe: 0.98 and 0.882, and a dense classifier.
        assert_eq!((counts.iter().sum::<usize>(), layer3), (4704 + 3540, 1000), "{how}");
    }
    for (flags, expected) in [
        (&["--init", &init, "--init-prune", "some"][..], "global"),
        (
            &["--init", &init, "--init-prune", "layer", "--method", "prune"],
            "begins with sparse masks",
        ),
        (&["--init-prune", "layer"], "--init"),
    ] {
        let output = rigl_xla(&[&["train", "--data", small_mnist()], flags].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn frozen_layers_keep_weights_and_masks() {
    let runs = Runs::new();
    let init = dense(&runs);
    let flags = [
        "--steps",
        "40",
        "--init",
        &init,
        "--init-prune",
        "layer",
        "--freeze",
        "layer1/*",
        "--freeze",
        "*biases",
    ];
    runs.train("frozen", &flags);
    let (start, end) = (runs.tensors("dense", 25), runs.tensors("frozen", 40));
    assert_eq!(f32s(&start, "layer1/kernel"), f32s(&end, "layer1/weights"));
    assert_eq!(f32s(&start, "layer2/bias"), f32s(&end, "layer2/biases"));
    assert_eq!(ones(&end["layer1/mask"]), largest(&f32s(&start, "layer1/kernel"), 4704));
    assert_ne!(ones(&end["layer2/mask"]), largest(&f32s(&start, "layer2/kernel"), 3540));
    assert!(!end.contains_key("layer1/weights/Momentum") && end.contains_key("layer2/weights/Momentum"));
    let plan = common::json(&["plan", "--freeze", "layer1/*"]);
    assert_eq!(plan["frozen"], 235_200 + 300);
    for pattern in ["layer9/*", "*"] {
        let output = rigl_xla(&["plan", "--freeze", pattern]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && message.contains("freeze"),
            "{message}"
        );
    }
}

#[test]
fn a_classifier_of_other_classes_is_drawn_anew() {
    let runs = Runs::new();
    let options = Options {
        classes: Some(7),
        ..Options::new("mnist-fc", false)
    };
    let path = runs.path("seven.safetensors");
    let arrays = checkpoints::random(&options, &[]);
    save(&path, &arrays, &Metadata::new("mnist-fc", 0, "")).unwrap();
    let flags = [
        "--method",
        "static",
        "--steps",
        "25",
        "--init",
        path.to_str().unwrap(),
        "--freeze",
        "layer1/*",
        "--freeze",
        "layer2/*",
    ];
    let output = runs.command("run", &flags).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && message.contains("has 7 classes, not 10: drawn anew"),
        "{message}"
    );
    let end = runs.tensors("run", 25);
    assert_eq!(f32s(&end, "layer2/weights"), f32s(&arrays, "layer2/kernel"));
    assert_eq!(end["layer3/weights"].dims(), [100, 10]);
}

#[test]
fn a_clipped_step_has_the_norm_of_the_limit() {
    let runs = Runs::new();
    let init = dense(&runs);
    let limit = 0.05;
    let set = [
        "optimizer.name=sgd",
        "optimizer.weight_decay=0.0",
        "optimizer.clip_norm=0.05",
    ];
    let set = set.iter().flat_map(|key| ["--set", key]);
    let flags = ["--method", "dense", "--steps", "1", "--lr", "1", "--init", &init]
        .into_iter()
        .chain(set);
    runs.train("clipped", &flags.collect::<Vec<_>>());
    let (start, end) = (runs.tensors("dense", 25), runs.tensors("clipped", 1));
    let squares = ["layer1", "layer2", "layer3"].into_iter().flat_map(|layer| {
        ["kernel", "bias"].map(|part| {
            let name = format!("{layer}/{part}");
            let pairs = f32s(&start, &name).into_iter().zip(f32s(&end, &name));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        })
    });
    let norm = squares.sum::<f64>().sqrt();
    assert!((norm - limit).abs() < 1e-4, "{norm}");
}

#[test]
fn evaluations_use_the_average_of_weights() {
    let runs = Runs::new();
    let init = dense(&runs);
    let decay = 0.75;
    let set = [
        "optimizer.ema_decay=0.75",
        "train.checkpoint_interval=1",
        "train.keep_checkpoints=9",
        "train.eval_interval=6",
    ];
    let set = set.iter().flat_map(|key| ["--set", key]);
    let flags = [
        "--method",
        "dense",
        "--steps",
        "6",
        "--steps-per-launch",
        "1",
        "--init",
        &init,
    ]
    .into_iter()
    .chain(set);
    runs.train("average", &flags.collect::<Vec<_>>());
    let weights = |run: &str, iteration| f32s(&runs.tensors(run, iteration), "layer2/kernel");
    let mut average: Vec<f64> = weights("dense", 25).into_iter().map(f64::from).collect();
    for iteration in 1..=6 {
        let after = weights("average", iteration);
        average
            .iter_mut()
            .zip(after)
            .for_each(|(average, w)| *average += (f64::from(w) - *average) * (1.0 - decay));
    }
    let found = f32s(&runs.tensors("average", 6), "layer2/kernel/WeightAverage");
    assert!(
        found
            .iter()
            .zip(&average)
            .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6)
    );
    assert_ne!(found, weights("average", 6));
    let path = runs.path("average");
    let eval = common::json(&["eval", "--checkpoint", path.to_str().unwrap()]);
    let during = runs
        .metrics("average")
        .into_iter()
        .rev()
        .find_map(|line| line.get("eval").cloned())
        .unwrap();
    let loss = |scores: &serde_json::Value| scores["loss"].as_f64().unwrap();
    assert!((loss(&eval) - loss(&during)).abs() < 1e-5);
    // Stripped files have the average as weights.
    let stripped = runs.path("stripped.safetensors");
    common::json(&[
        "convert",
        path.to_str().unwrap(),
        stripped.to_str().unwrap(),
        "--strip-training",
    ]);
    let stripped = rigl_xla::checkpoint::load(&stripped).unwrap().tensors;
    assert_eq!(f32s(&stripped, "layer2/kernel"), found);
    assert!(!stripped.contains_key("layer2/kernel/WeightAverage"));

    // A grown connection begins with an average of 0, as its weight.
    let sparse = [
        "--steps",
        "25",
        "--set",
        "optimizer.ema_decay=0.75",
        "--set",
        "train.checkpoint_interval=1",
    ];
    runs.train(
        "grown",
        &[&sparse[..], &["--set", "train.keep_checkpoints=30"]].concat(),
    );
    let states: Vec<_> = (1..=25).map(|iteration| runs.tensors("grown", iteration)).collect();
    let grown = states.windows(2).map(|pair| {
        let [was, is] = [&pair[0], &pair[1]].map(|state| state["layer2/mask"].to_bools().unwrap());
        let average = f32s(&pair[1], "layer2/weights/WeightAverage");
        let grown: Vec<usize> = (0..is.len()).filter(|&i| is[i] && !was[i]).collect();
        assert!(grown.iter().all(|&i| average[i] == 0.0));
        grown.len()
    });
    assert!(grown.sum::<usize>() > 0);
}
