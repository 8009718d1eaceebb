//! `eval`, `predict` and `dump-hlo` with the real program.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::runs::{Runs, small_mnist};
use common::{error, json, rigl_xla};
use hlo::Literal;
use rigl_xla::checkpoint::{Metadata, load, save};
use rigl_xla::data::{Split, mnist};
use serde_json::{Value, json as value};

#[test]
fn eval_and_predict_agree_with_training() {
    let runs = Runs::new();
    for method in ["rigl", "dense"] {
        let flags = ["--method", method, "--execution", "masked", "--steps", "60"];
        let done = runs.train(method, &flags);
        let (folder, newest) = (runs.path(method), runs.checkpoint_path(method, 60));
        // By file and by folder; in one batch and in many, the last of them short.
        for (which, batch) in [(&newest, "1000"), (&folder, "1000"), (&newest, "77")] {
            let which = which.to_str().unwrap();
            let args = [
                "eval",
                "--checkpoint",
                which,
                "--data",
                small_mnist(),
                "--batch-size",
                batch,
            ];
            let report = json(&args);
            let near = |key: &str| {
                let [here, there] = [&report[key], &done["eval"][key]].map(|v| v.as_f64().unwrap());
                // Sparse kernels, and short batches, add in another order.
                here == there || key == "loss" && (here / there - 1.0).abs() < 1e-5
            };
            assert!(["top1", "top5", "loss"].into_iter().all(near), "{report} and {done}");
            assert_eq!(
                (&report["model"], &report["iteration"]),
                (&"mnist-fc".into(), &60.into())
            );
            assert_eq!(
                (&report["examples"], report["checkpoint"].as_str()),
                (&300.into(), newest.to_str())
            );
            let masks = if method == "dense" {
                [Value::Null, Value::Null]
            } else {
                [9244.into(), 266_200.into()]
            };
            assert_eq!([&report["nonzeros"], &report["maskable"]], [&masks[0], &masks[1]]);
        }
        predictions_agree(&runs, method, done["eval"]["top1"].as_f64().unwrap());
    }
}

#[test]
fn eval_reports_and_compares_costs() {
    let runs = Runs::new();
    let done = ["rigl", "dense"].map(|method| runs.train(method, &["--method", method, "--steps", "60"]));
    let checkpoints = ["rigl", "dense"].map(|method| runs.checkpoint_path(method, 60));
    let [sparse, dense] = [0, 1].map(|i| checkpoints[i].to_str().unwrap());
    let data = ["--data", small_mnist()];
    let reports = json(
        &[
            &["eval", "--label-smoothing", "0.1", "--compare", sparse, dense],
            &data[..],
        ]
        .concat(),
    );
    assert_eq!(reports.as_array().unwrap().len(), 2);
    for (report, done) in reports.as_array().unwrap().iter().zip(&done) {
        assert_eq!(report["top1"], done["eval"]["top1"]);
        let [plain, smoothed] = ["loss", "smoothed_loss"].map(|key| report[key].as_f64().unwrap());
        assert!(smoothed > 0.0 && smoothed != plain, "{report}");
    }
    // The planned figures, up to rounding to whole connections.
    let planned = json(&["cost", "mnist-rigl"]);
    let [found, planned] = [&reports[0]["flops"], &planned["total"]["inference_flops"]];
    for convention in ["published", "plain"] {
        let [a, b] = [found, planned].map(|flops| flops[convention]["ratio"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-4, "{found} and {planned}");
        assert_eq!(reports[1]["flops"][convention]["ratio"], 1.0);
        assert_eq!(reports[1]["bytes"][convention]["ratio"], 1.0);
    }
    let plan = json(&["plan", "mnist-rigl"]);
    for (layer, planned) in reports[0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(plan["layers"].as_array().unwrap())
    {
        assert_eq!(
            [&layer["name"], &layer["nonzeros"]],
            [&planned["name"], &planned["nonzeros"]]
        );
    }
    assert_eq!(reports[0]["sparsity"], 1.0 - 9244.0 / 266_200.0);
    let table = rigl_xla(&[&["eval", "--compare", sparse, dense], &data[..]].concat());
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    let text = rigl_xla(&[&["eval", "--checkpoint", sparse], &data[..]].concat());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("layer1") && text.contains("x dense"), "{text}");
    let both = [&["eval", "--checkpoint", sparse, "--compare", dense], &data[..]].concat();
    assert!(error(&both, 2).contains("cannot be used with"));
    assert!(error(&[&["eval"], &data[..]].concat(), 2).contains("--checkpoint <FILE>"));
    let too_smooth = [&["eval", "--checkpoint", sparse, "--label-smoothing", "1"], &data[..]].concat();
    assert!(error(&too_smooth, 2).contains("less than 1"));
}

/// Predicts the test set from u8 pixels and from scaled f32 ones and counts correct images.
fn predictions_agree(runs: &Runs, run: &str, top1: f64) {
    let set = mnist::load(small_mnist().as_ref(), Split::Test).unwrap();
    let scaled: Vec<f32> = set
        .images
        .bytes()
        .iter()
        .map(|&p| f32::from(p) * (1.0 / 255.0))
        .collect();
    let labels: Vec<i32> = set.labels.to_vec().unwrap();
    let checkpoint = runs.path(run);
    let logits = [
        Literal::new(&[300, 28, 28], set.images.bytes()),
        Literal::new(&[300, 784], &scaled),
    ]
    .map(|images| {
        let [input, output] = ["input", "output"].map(|name| runs.path(&format!("{name}.safetensors")));
        save(
            &input,
            &[("images".to_string(), images)].into(),
            &Metadata::new("", 0, ""),
        )
        .unwrap();
        let report = json(&[
            "predict",
            "--overwrite",
            "--checkpoint",
            checkpoint.to_str().unwrap(),
            "--input",
            input.to_str().unwrap(),
            "--output",
            output.to_str().unwrap(),
        ]);
        let expected = value!({ "output": output, "model": "mnist-fc", "logits": [300, 10] });
        assert_eq!(report, expected);
        load(&output).unwrap().tensors["logits"].to_vec::<f32>().unwrap()
    });
    assert_eq!(logits[0], logits[1]);
    let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i32;
    let correct = logits[0]
        .chunks(10)
        .zip(&labels)
        .filter(|(row, label)| best(row) == **label);
    assert_eq!(correct.count() as f64 / 300.0, top1);
}

#[test]
fn dumps_every_graph_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("graph");
    let output = path.to_str().unwrap();
    // Per graph, an operator that it must have as built.
    for (graph, operator) in [("step", "while"), ("update", "select"), ("eval", "dot")] {
        for optimized in [false, true] {
            let args = |format| {
                let mut args = vec!["dump-hlo", "--graph", graph, "--format", format];
                args.extend(optimized.then_some("--optimized"));
                args
            };
            let [text, proto, dot] = ["text", "proto", "dot"].map(|format| {
                let report = json(&[&args(format)[..], &["--output", output]].concat());
                let bytes = fs::read(&path).unwrap();
                assert_eq!(
                    (report["output"].as_str(), &report["bytes"]),
                    (Some(output), &bytes.len().into())
                );
                assert!(report["instructions"].as_u64().unwrap() > 20);
                bytes
            });
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.contains(if optimized { "fusion" } else { operator }),
                "{graph} {optimized}: {text}"
            );
            let module = hlo::text::read_module(&proto).unwrap();
            assert!(!module.computations.is_empty());
            if optimized {
                assert_eq!(hlo::text::dump_module(&module), text);
            }
            let dot = String::from_utf8(dot).unwrap();
            assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}') && dot.contains(" -> "));
        }
    }
    // Without --output the graph itself is the output.
    fs::remove_file(&path).unwrap();
    json(&["dump-hlo", "--graph", "eval", "--output", output]);
    assert_eq!(
        rigl_xla(&["dump-hlo", "--graph", "eval"]).stdout,
        fs::read(&path).unwrap()
    );
    assert!(error(&["dump-hlo", "--graph", "update", "--method", "scratch"], 2).contains("scratch has no mask update"));
    assert!(error(&["dump-hlo", "--json"], 2).contains("--output"));
}
