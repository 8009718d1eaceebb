//! `rigl-xla cost`: published figures to the printed digit, forms of output, and the compiler's own count.
#![allow(clippy::unwrap_used)]

mod common;

use common::{error, json, rigl_xla};
use serde_json::Value;

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{path} of {value}"))
}

/// A value with as many decimals as `printed` has.
fn rounded(value: f64, printed: &str) -> String {
    let decimals = printed.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    format!("{value:.decimals$}")
}

/// The README's rows of ResNet-50, from the network that trains: inference, training, size.
#[test]
fn resnet50_costs_match_the_readme() {
    for (sparsity, distribution, multiplier, [training, inference, size]) in [
        ("0.8", "erk", "5", ["2.09", "0.42", "23.683"]),
        ("0.8", "uniform", "5", ["1.14", "0.23", "23.729"]), // the README prints the size of another row
        ("0.9", "erk", "5", ["1.23", "0.24", "13.499"]),
        ("0.9", "uniform", "5", ["0.66", "0.13", "13.532"]),
        ("0.95", "erk", "5", ["0.63", "0.12", "8.399"]),
        ("0.95", "uniform", "5", ["0.42", "0.08", "8.433"]),
        ("0.965", "erk", "5", ["0.45", "0.09", "6.868"]), // likewise
        ("0.965", "uniform", "5", ["0.34", "0.07", "6.904"]),
        ("0.8", "erk", "1", ["0.42", "0.42", "23.683"]),
        ("0.95", "erk", "1", ["0.13", "0.12", "8.399"]),
    ] {
        let flags = [
            "cost",
            "--model",
            "resnet50",
            "--method",
            "rigl",
            "--rounding",
            "ceil",
            "--sparsity",
            sparsity,
            "--distribution",
            distribution,
            "--multiplier",
            multiplier,
        ]; // the mask-update interval is 100 in the default recipe too
        let cost = json(&flags);
        let shown = |path: &str, printed: &str| assert_eq!(rounded(number(&cost, path), printed), printed, "{flags:?}");
        shown("/total/training_run_flops/published/ratio", training);
        shown("/total/inference_flops/published/ratio", inference);
        let megabytes = number(&cost, "/total/bytes/published/sparse") / 1e6;
        assert_eq!(rounded(megabytes, size), size, "{flags:?}");
        let dense = number(&cost, "/total/inference_flops/published/dense") / 1e6;
        assert_eq!(rounded(dense, "8202.341"), "8202.341");
    }
    // 99 %: the first layer dense.
    let flags = [
        "cost",
        "--model",
        "resnet50",
        "--sparsity",
        "0.99",
        "--distribution",
        "erk",
        "--rounding",
        "ceil",
    ];
    let cost = json(&[&flags[..], &["--set", "sparsity.first_layer=0"]].concat());
    assert_eq!(
        rounded(number(&cost, "/total/inference_flops/published/ratio"), "0.05478"),
        "0.05478"
    );
}

/// 3.2e18 operations for a dense run of the recipe, independent of the sparse run.
#[test]
fn dense_run_costs_match_the_readme() {
    for preset in ["resnet50-dense", "resnet50-rigl-erk-0.8"] {
        for multiplier in ["1", "5"] {
            let cost = json(&["cost", preset, "--multiplier", multiplier]);
            let dense = number(&cost, "/total/training_run_flops/published/dense");
            assert_eq!(rounded(dense / 1e18, "3.225"), "3.225", "{preset} {multiplier}");
        }
    }
}

/// Training costs of the methods, relative to the dense run (reference 5.5), by their own formula.
#[test]
fn costs_of_methods_follow_their_formulas() {
    let costs = |method: &str, settings: &[&str]| {
        let flags = [
            "cost",
            "--model",
            "resnet50",
            "--method",
            method,
            "--sparsity",
            "0.8",
            "--distribution",
            "uniform",
        ];
        let cost = json(&[&flags[..], settings].concat());
        let inference = number(&cost, "/total/inference_flops/published/ratio");
        (inference, number(&cost, "/total/training_flops/published/ratio"))
    };
    for method in ["scratch", "static", "set", "snip", "set-itop"] {
        let (inference, training) = costs(method, &[]);
        assert!((training - inference).abs() < 1e-12, "{method}: {training}");
    }
    for method in ["snfs", "dnw"] {
        let (f, training) = costs(method, &[]);
        assert!((training - (2.0 * f + 1.0) / 3.0).abs() < 1e-12, "{method}: {training}");
    }
    for (batches, interval) in [(1.0, 100.0), (7.0, 50.0)] {
        let settings = [
            format!("method.gradient_batches={batches}"),
            format!("mask_update.frequency_steps={interval}"),
        ];
        let (f, training) = costs("rigl", &["--set", &settings[0], "--set", &settings[1]]);
        let want = (3.0 * f * (interval + 1.0 - batches) + batches * (2.0 * f + 1.0)) / (interval + 1.0) / 3.0;
        assert!((training - want).abs() < 1e-12, "{training}, {want}");
    }
    // Dense to the first update that prunes, the final network after the last.
    let schedule = |begin: i64, end: i64| [format!("prune.begin_step={begin}"), format!("prune.end_step={end}")];
    let prune = |begin, end| {
        let [begin, end] = schedule(begin, end);
        costs(
            "prune",
            &["--set", &begin, "--set", &end, "--set", "prune.frequency_steps=1"],
        )
    };
    let (f, early) = prune(0, 1);
    assert!((early - f).abs() < 1e-4, "{early}, {f}");
    assert!((prune(119_998, 119_999).1 - 1.0).abs() < 1e-4);
    let (_, between) = prune(0, 120_000);
    assert!(between > f + 0.1 && between < 0.9, "{between}");
}

#[test]
fn layers_add_up_in_every_form() {
    let flags = ["cost", "--model", "mobilenet-v1", "--sparsity", "0.75"];
    let cost = json(&[&flags[..], &["--set", "model.width=0.5"]].concat());
    let layers = cost["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 28);
    for (each, total) in [
        ("/nonzeros", "/total/nonzeros"),
        ("/flops/published/sparse", "/total/inference_flops/published/sparse"),
        ("/flops/plain/dense", "/total/inference_flops/plain/dense"),
        ("/bytes/sparse", "/total/bytes/published/sparse"),
    ] {
        let sum: f64 = layers.iter().map(|layer| number(layer, each)).sum();
        let total = number(&cost, total);
        assert!((sum - total).abs() < 1e-6 * total, "{each}: {sum}, {total}");
    }
    let masked = layers.iter().filter(|l| l["masked"] == true).count();
    assert_eq!(masked, 14, "thirteen pointwise layers and the classifier");
    let text = |args: &[&str]| String::from_utf8(rigl_xla(args).stdout).unwrap();
    let csv = text(&["cost", "--csv"]);
    assert_eq!(csv.lines().count(), 5, "header, three layers, total");
    assert!(csv.lines().all(|line| line.split(',').count() == 9), "{csv}");
    let markdown = text(&["cost", "--markdown"]);
    assert!(
        markdown.contains("| layer1 ") && markdown.contains("| ---"),
        "{markdown}"
    );
    assert!(text(&["cost"]).contains("layer1  784x300"));
}

/// A dense program executes at most 2 % more operations than the plain convention counts.
#[test]
fn compiler_counts_agree() {
    let cost = json(&["cost", "--method", "dense", "--compiled"]);
    let plain = number(&cost, "/total/inference_flops/plain/dense");
    let compiled = number(&cost, "/compiled/0/flops_per_example");
    assert!((1.0..1.02).contains(&(compiled / plain)), "{compiled}, {plain}");
    // The gradient of the first layer's input is not needed.
    let step = number(&cost, "/compiled/1/flops_per_example");
    assert!((2.0..3.2).contains(&(step / plain)), "{step}, {plain}");
    assert!(number(&cost, "/compiled/1/peak_bytes") >= number(&cost, "/compiled/1/argument_bytes"));
}

/// Every masked layer in both executions, with the connections of the plan; batches that cannot be blocked have no sparse training.
#[test]
fn measured_layers_have_times_of_both_executions() {
    let cost = json(&["cost", "mnist-rigl", "--measured"]);
    let layers = cost["measured"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for (layer, known) in layers.iter().zip(cost["layers"].as_array().unwrap()) {
        assert_eq!(layer["name"], known["name"]);
        assert_eq!(number(layer, "/multiply_adds/0"), number(known, "/nonzeros"));
        for path in [
            "/training/masked",
            "/training/sparse",
            "/prediction/masked",
            "/prediction/sparse",
        ] {
            assert!((1e-9..1.0).contains(&number(layer, path)), "{path}: {layer}");
        }
        // Forward pass and the gradients of weights and, but for the first layer, of the input.
        let passes = number(layer, "/compiled_flops") / (2.0 * number(layer, "/multiply_adds/1"));
        assert!((1.9..3.3).contains(&passes), "{layer}");
    }
    let model = "model={name='wrn-10-1',image_size=8,dropout=0.0}";
    let odd = json(&[
        "cost",
        "cifar10-rigl",
        "--set",
        model,
        "--batch-size",
        "20",
        "--measured",
    ]);
    let convolution = odd["measured"]
        .as_array()
        .unwrap()
        .iter()
        .find(|layer| layer["name"] != "resnet_model/logits");
    assert!(convolution.unwrap()["training"].is_null());
}

#[test]
fn lists_and_marks_every_published_row() {
    let paper = json(&["cost", "--paper"]);
    let rows = paper["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 109);
    let figure = |row: &Value, column: &str| row[column].clone();
    let mut unexplained = 0;
    for row in rows {
        for column in ["training", "inference", "size"] {
            let figure = figure(row, column);
            if figure.is_object() && figure["agrees"] == false {
                unexplained += usize::from(figure["remark"].as_str().is_none_or(str::is_empty));
            }
        }
    }
    assert_eq!(unexplained, 0);
    let readme = rows
        .iter()
        .filter(|r| r["model"] == "resnet50" && r["table"].as_str().unwrap().starts_with("readme"));
    let agree = |column: &str| readme.clone().filter(|r| r[column]["agrees"] == true).count();
    assert_eq!([agree("inference"), agree("training"), agree("size")], [23, 21, 20]);
    let text = String::from_utf8(rigl_xla(&["cost", "--paper"]).stdout).unwrap();
    assert!(text.contains("misprint") && text.lines().count() > 110);
}

#[test]
fn rejects_wrong_requests() {
    for (args, expected) in [
        (&["cost", "--json", "--csv"][..], "one form at a time"),
        (&["cost", "--model", "resnet-51"], "resnet50"),
        (&["cost", "--model", "resnet50", "--set", "model.width=100"], "width"),
        (&["cost", "--csv", "--compiled"], "--compiled"),
        (
            &[
                "cost",
                "--model",
                "resnet50",
                "--distribution",
                "str",
                "--sparsity",
                "0.8",
            ],
            "0.7955",
        ),
        (
            &[
                "cost",
                "--model",
                "vgg-16",
                "--distribution",
                "str",
                "--sparsity",
                "0.7955",
            ],
            "ResNet-50",
        ),
    ] {
        assert!(error(args, 2).contains(expected), "{args:?}: {}", error(args, 2));
    }
}

/// Outputs of the MobileNet notebook (reference 5.3, 5.4): operations in millions, size in megabytes.
#[test]
fn mobilenet_counts_match_the_notebook() {
    const FIRST_DENSE: &[&str] = &["--first-layer-sparsity", "0"];
    const DEPTHWISE_DENSE: &[&str] = &["--depthwise-sparsity", "0"];
    const BOTH_DENSE: &[&str] = &["--first-layer-sparsity", "0", "--depthwise-sparsity", "0"];
    const LAST: &[&str] = &["--first-layer-sparsity", "0", "--last-layer-sparsity", "0.8"];
    for (sparsity, distribution, width, settings, [flops, size]) in [
        ("0.75", "erk", "1", DEPTHWISE_DENSE, ["599.144", "4.888"]),
        ("0.75", "uniform", "1", BOTH_DENSE, ["330.769", "4.894"]),
        ("0.9", "erk", "1", DEPTHWISE_DENSE, ["334.134", "2.392"]),
        ("0.9", "uniform", "1", BOTH_DENSE, ["168.614", "2.396"]),
        ("0.95", "erk", "1", DEPTHWISE_DENSE, ["205.281", "1.560"]),
        ("0.75", "erk", "1", FIRST_DENSE, ["588.355", "4.757"]),
        ("0.9", "erk", "1", FIRST_DENSE, ["312.956", "2.235"]),
        ("0.75", "erk", "1.98", FIRST_DENSE, ["2180.140", "16.723"]),
        ("0.75", "uniform", "1.98", LAST, ["1122.572", "15.863"]),
        ("0.95", "erk", "3.98", FIRST_DENSE, ["2132.954", "16.812"]),
        ("0", "uniform", "0.47", &[], ["266.539", "4.789"]),
        ("0", "uniform", "0.204", &[], ["56.617", "1.396"]),
    ] {
        let flags = [
            "cost",
            "--as-published",
            "--model",
            "mobilenet-v1",
            "--rounding",
            "ceil",
        ];
        let more = ["--sparsity", sparsity, "--distribution", distribution, "--width", width];
        let cost = json(&[&flags[..], &more, settings].concat());
        let shown = |path: &str, printed: &str| {
            let value = number(&cost, path) / 1e6;
            assert_eq!(
                rounded(value, printed),
                printed,
                "{sparsity} {distribution} {width} {settings:?}"
            );
        };
        shown("/total/inference_flops/published/sparse", flops);
        shown("/total/bytes/published/sparse", size);
        shown("/total/inference_flops/published/dense", "1141.544");
    }
    // Small-dense ResNet-50 of 80 % (reference 4.1, 5.6); the network itself rounds its channels like the counter.
    let small = ["cost", "resnet50-dense", "--as-published", "--width", "0.465"];
    let ratio = "/total/inference_flops/published/ratio";
    let training = "/total/training_flops/published/ratio";
    let cost = json(&small);
    assert_eq!(rounded(number(&cost, ratio), "0.2218"), "0.2218");
    assert_eq!(number(&cost, training), number(&cost, ratio));
}
