//! Sparse checkpoints through the real program: `compact --format`, `convert --format`, and everything that reads them.
#![allow(clippy::unwrap_used)]

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::fs;
use std::path::Path;

use ::sparse::rng::stream;
use ::sparse::{
    Budget,
    Distribution::{self, Erk, Uniform},
};
use checkpoints::{Arrays, budgets, lengths, random};
use common::runs::{Runs, small_mnist};
use common::{error, json};
use hlo::Literal;
use models::cost::{Cost, Kept};
use models::{Kind, Layer, Options};
use rigl_xla::checkpoint::sparse::{self, Format};
use rigl_xla::checkpoint::{self, Metadata, load};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `mnist-fc` with a dense last layer, values for dropped weights that no result may depend on, and arrays of training.
fn mnist() -> Arrays {
    let network = Options::new("mnist-fc", true);
    let mut shares = budgets(&network, Uniform, 0.9);
    let last = shares.last_mut().unwrap();
    (last.nonzeros, last.zeros) = (last.zeros + last.nonzeros, 0);
    let mut arrays = random(&network, &shares);
    let weights = arrays["layer1/weights"].clone();
    arrays.insert("layer1/weights/Momentum".into(), weights);
    arrays.insert("layer1/threshold".into(), Literal::scalar(0f32));
    arrays.insert("global_step".into(), Literal::scalar(7i64));
    arrays
}

/// `arrays` as a reader returns them: dropped weights are 0.
fn without_dropped(mut arrays: Arrays) -> Arrays {
    let scopes: Vec<String> = arrays
        .keys()
        .filter_map(|name| Some(name.strip_suffix("/mask")?.to_owned()))
        .collect();
    for scope in scopes {
        let (name, mask) = (
            format!("{scope}/weights"),
            arrays[&format!("{scope}/mask")].to_bools().unwrap(),
        );
        let values: Vec<f32> = arrays[&name].to_vec().unwrap();
        let kept: Vec<f32> = values
            .iter()
            .zip(mask)
            .map(|(&w, one)| if one { w } else { 0.0 })
            .collect();
        arrays.insert(name.clone(), Literal::new(arrays[&name].dims(), &kept));
    }
    arrays
}

fn save(path: &Path, arrays: &Arrays) {
    checkpoint::save(path, arrays, &Metadata::new("mnist-fc", 7, "")).unwrap();
}

fn convert(input: &Path, output: &Path, flags: &[&str]) -> Value {
    json(&[&["convert", "--overwrite", text(input), text(output)], flags].concat())
}

fn predict(runs: &Runs, checkpoint: &Path, images: &Literal) -> Vec<f32> {
    let [input, output] = ["images", "logits"].map(|name| runs.path(name));
    checkpoint::save(
        &input,
        &[("images".into(), images.clone())].into(),
        &Metadata::new("", 0, ""),
    )
    .unwrap();
    let size = images.dims()[1].to_string();
    let mut args = vec![
        "predict",
        "--overwrite",
        "--checkpoint",
        text(checkpoint),
        "--input",
        text(&input),
        "--output",
        text(&output),
    ];
    if images.dims().len() == 4 {
        args.extend(["--image-size", &size]);
    }
    json(&args);
    load(&output).unwrap().tensors["logits"].to_vec().unwrap()
}

fn random_images(dims: &[usize]) -> Literal {
    let mut rng = stream(0, "test", "images", 0);
    let pixels: Vec<f32> = (0..dims.iter().product()).map(|_| rng.normal() as f32).collect();
    Literal::new(dims, &pixels)
}

#[test]
fn bitmask_files_hold_connections_alone_and_convert_back() {
    let runs = Runs::new();
    let [full, packed, back, again] =
        ["full", "packed", "back", "again"].map(|name| runs.path(&format!("{name}.safetensors")));
    let mut arrays = mnist();
    save(&full, &arrays);
    let report = convert(&full, &packed, &["--format", "bitmask"]);
    assert_eq!(
        report["stripped"],
        serde_json::json!(["global_step", "layer1/threshold", "layer1/weights/Momentum"])
    );
    let connections = [23_520, 3_000, 1_000];
    assert_eq!(
        (&report["masked_layers"], &report["connections"]),
        (&3.into(), &27_520.into())
    );
    let bits = [784 * 300 / 8, 300 * 100 / 8, 0];
    let biases = 4 * (300 + 100 + 10);
    let bytes = 4 * connections.iter().sum::<u64>() + bits.iter().sum::<u64>() + biases;
    let [header, data] = lengths(&packed);
    assert_eq!(
        (data, &report["bytes"], &report["file_bytes"]),
        (bytes, &bytes.into(), &(header + bytes).into())
    );
    let report = convert(&packed, &back, &[]);
    assert_eq!(report["format"], "complete");
    for name in ["global_step", "layer1/threshold", "layer1/weights/Momentum"] {
        arrays.remove(name);
    }
    let back = load(&back).unwrap();
    assert!(back.tensors == without_dropped(arrays));
    assert_eq!(back.metadata, Some(Metadata::new("mnist-fc", 7, "")));
    // The same state gives the same bytes, from either form.
    convert(&packed, &again, &["--format", "bitmask"]);
    assert!(fs::read(&packed).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn predictions_and_evaluations_do_not_depend_on_the_format() {
    let runs = Runs::new();
    let [full, packed, small, units] =
        ["full", "packed", "small", "units"].map(|name| runs.path(&format!("{name}.safetensors")));
    save(&full, &mnist());
    convert(&full, &packed, &["--format", "bitmask"]);
    let compact = |output: &Path, flags: &[&str]| {
        let args = [
            "compact",
            "--checkpoint",
            text(&packed),
            "--output",
            text(output),
            "--format",
            "bitmask",
            "--overwrite",
        ];
        json(&[&args[..], flags].concat())
    };
    assert_eq!(compact(&small, &[])["folded"], 0);
    assert!(fs::read(&packed).unwrap() == fs::read(&small).unwrap());
    let images = random_images(&[5, 784]);
    let expected = predict(&runs, &full, &images);
    assert_eq!(predict(&runs, &packed, &images), expected);
    let eval = |path: &Path| json(&["eval", "--checkpoint", text(path), "--data", small_mnist()]);
    let [mut full, mut sparse] = [&full, &packed].map(|path| eval(path));
    for report in [&mut full, &mut sparse] {
        for key in ["checkpoint", "file_bytes"] {
            report.as_object_mut().unwrap().remove(key);
        }
        // The counter is not in the file, and the original's L2 term counts dropped weights.
        for key in ["global_step", "loss", "reg_loss"] {
            report["eval_once"].as_object_mut().unwrap().remove(key);
        }
    }
    assert_eq!(full, sparse);
    // With units removed, in the same format.
    let report = compact(&units, &["--remove-units", "--data", small_mnist()]);
    assert_eq!(
        (&report["format"], &report["before"]["sizes"][1]),
        (&"bitmask".into(), &300.into())
    );
    assert!(sparse::is_sparse(&units).unwrap());
    assert_eq!(eval(&units)["nonzeros"], report["after"]["nonzeros"]);
}

#[test]
fn training_begins_with_a_sparse_file() {
    let runs = Runs::new();
    runs.train("first", &["--steps", "20"]);
    let [packed, back] = ["packed", "back"].map(|name| runs.path(&format!("{name}.safetensors")));
    convert(&runs.path("first"), &packed, &["--format", "bitmask"]);
    convert(&packed, &back, &[]);
    for (run, file) in [("sparse", &packed), ("complete", &back)] {
        runs.train(run, &["--steps", "20", "--init", text(file), "--init-masks"]);
    }
    assert!(runs.tensors("sparse", 20) == runs.tensors("complete", 20));
    assert!(runs.tensors("sparse", 20) != runs.tensors("first", 20));
}

#[test]
fn rejects_arrays_of_types_that_would_be_left_out() {
    let runs = Runs::new();
    let [input, output] = ["input", "output"].map(|name| runs.path(&format!("{name}.safetensors")));
    let header = br#"{"w":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&input, [&length[..], header, &[0; 2]].concat()).unwrap();
    let message = error(&["convert", text(&input), text(&output), "--format", "bitmask"], 1);
    assert!(message.contains("tensor 'w' has type I16"), "{message}");
    assert!(!output.exists());
}

/// Folded normalisations change logits by rounding alone, in networks that normalise after convolutions and before them.
#[test]
fn folding_batch_normalisation_keeps_logits() {
    let runs = Runs::new();
    let narrow = |name: &str| Options {
        width: Some(0.25),
        classes: Some(10),
        ..Options::new(name, true)
    };
    for (network, folded) in [
        (
            Options {
                mask_first: Some(true),
                ..narrow("resnet18")
            },
            21,
        ),
        (narrow("mobilenet-v1"), 27),
        (narrow("mobilenet-v2"), 52),
        (Options::new("wrn-10-1", true), 3),
    ] {
        let [full, packed, kept, back] =
            ["full", "packed", "kept", "back"].map(|name| runs.path(&format!("{name}.safetensors")));
        let arrays = random(&network, &budgets(&network, Erk, 0.5));
        sparse::save(&full, arrays.clone(), None, Format::Complete).unwrap();
        let compact = |output: &Path, flags: &[&str]| {
            let args = [
                "compact",
                "--checkpoint",
                text(&full),
                "--output",
                text(output),
                "--format",
                "bitmask",
                "--overwrite",
            ];
            json(&[&args[..], flags].concat())
        };
        assert_eq!(compact(&packed, &[])["folded"], folded, "{}", network.name);
        let images = random_images(&[4, 32, 32, 3]);
        let expected = predict(&runs, &full, &images);
        let largest = expected.iter().fold(1.0, |a: f32, b| a.max(b.abs()));
        for (found, expected) in predict(&runs, &packed, &images).iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-5 * largest,
                "{}: {found} {expected}",
                network.name
            );
        }
        compact(&kept, &["--keep-batch-norm"]);
        assert!(load(&kept).unwrap().tensors == without_dropped(arrays));
        // Folding again, from the packed file or from its complete form, changes no bit.
        convert(&packed, &back, &[]);
        for input in [&packed, &back] {
            convert(input, &kept, &["--format", "bitmask", "--fold-batch-norm"]);
            assert!(fs::read(&packed).unwrap() == fs::read(&kept).unwrap());
        }
    }
}

/// Bytes of the arrays of a network's file as `compact --format bitmask` writes it, checked against the layers' sizes; and
/// the published count, which takes sparsities before they are rounded to whole connections.
fn packed_bytes(runs: &Runs, network: &Options, distribution: Distribution, sparsity: f64) -> (u64, f64) {
    let [full, packed] = ["full", "packed"].map(|name| runs.path(&format!("{name}.safetensors")));
    let shares = budgets(network, distribution, sparsity);
    sparse::save(&full, random(network, &shares), None, Format::Complete).unwrap();
    let output = ["--output", text(&packed)];
    let report = json(
        &[
            &[
                "compact",
                "--checkpoint",
                text(&full),
                "--format",
                "bitmask",
                "--overwrite",
            ],
            &output[..],
        ]
        .concat(),
    );
    let layers = network.build().unwrap().layers();
    let share = |layer: &Layer| shares.iter().find(|share| share.name == layer.name);
    let expected = layers.iter().map(|layer| {
        let n = layer.weights();
        let channels = match layer.kind {
            Kind::Dense => layer.dims[1],
            Kind::Conv => layer.dims[3],
            Kind::Depthwise => layer.dims[2],
        };
        let sparse = share(layer).filter(|share| share.zeros > 0);
        sparse.map_or(4 * n, |share| 4 * share.nonzeros + n.div_ceil(8)) + 4 * channels
    });
    let [_, data] = lengths(&packed);
    assert_eq!(data, expected.sum::<usize>() as u64, "{}", network.name);
    // The published count of the masks differs by bits rounded up to bytes and by the biases of depthwise layers.
    let depthwise = layers.iter().filter(|layer| layer.kind == Kind::Depthwise);
    let biases: usize = depthwise.map(|layer| 4 * (layer.dims[2] - 1)).sum();
    let counted = report["published_bytes"].as_f64().unwrap() + biases as f64;
    assert!((data as f64 - counted).abs() < layers.len() as f64, "{data} {counted}");
    let kept = |layer: &Layer| {
        let kept = |share: &Budget| Kept {
            sparsity: share.sparsity,
            nonzeros: share.nonzeros,
        };
        share(layer).map_or(Kept::all(layer), kept)
    };
    (data, Cost::new(&layers, kept).total.published_bits / 8.0)
}

/// Whole connections are up to 4 bytes a layer less than the published count has.
#[test]
fn resnet50_sizes_match_the_published_ones() {
    let runs = Runs::new();
    for (distribution, sparsity, printed, bytes) in [
        (Erk, 0.8, "23.683", 23_683_320),
        (Erk, 0.9, "13.499", 13_498_540),
        (Erk, 0.95, "8.399", 8_398_480),
        (Uniform, 0.9, "13.532", 13_531_860),
    ] {
        let mask_first = Some(distribution == Erk);
        let network = Options {
            mask_first,
            ..Options::new("resnet50", true)
        };
        let (data, published) = packed_bytes(&runs, &network, distribution, sparsity);
        assert_eq!((data, format!("{:.3}", published / 1e6).as_str()), (bytes, printed));
        assert!(
            (0.0..4.0 * 54.0).contains(&(published - data as f64)),
            "{data} {published}"
        );
    }
}

/// The published table counts one bias per depthwise layer, and so 19 788 bytes less. Its ERK row (2.392) also takes the first
/// layer for a sparse one, which has no mask.
#[test]
fn mobilenet_v1_sizes_match_the_published_ones_but_for_depthwise_biases() {
    let runs = Runs::new();
    for (masked, distribution, printed) in [(false, Uniform, "16.864"), (true, Erk, "2.396")] {
        let network = Options::new("mobilenet-v1", masked);
        let (data, published) = packed_bytes(&runs, &network, distribution, 0.9);
        assert_eq!(format!("{:.3}", published / 1e6), printed);
        let difference = published + 19_788.0 - data as f64;
        assert!((0.0..4.0 * 28.0).contains(&difference), "{data} {published}");
    }
}

#[test]
fn tensorflow_checkpoints_convert_to_and_from_sparse_files() {
    let runs = Runs::new();
    let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1/mnist/model.ckpt-32000");
    let [full, packed, tf, back] = [
        "full.safetensors",
        "packed.safetensors",
        "tf/model.ckpt",
        "back.safetensors",
    ]
    .map(|name| runs.path(name));
    fs::create_dir(runs.path("tf")).unwrap();
    convert(&prefix, &full, &["--strip-training"]);
    let report = convert(&prefix, &packed, &["--format", "bitmask"]);
    assert_eq!(
        (report["input"].as_str(), &report["masked_layers"]),
        (Some(text(&prefix)), &3.into())
    );
    convert(&packed, &tf, &["--to-tf", "--bool-masks"]);
    convert(&tf, &back, &["--strip-training"]);
    let as_bool = |arrays: Arrays| -> Arrays {
        let bool = |array: Literal| match array.to_bools() {
            Some(_) => array,
            None => Literal::from_bools(
                array.dims(),
                &array.to_f64_vec().iter().map(|&v| v != 0.0).collect::<Vec<_>>(),
            ),
        };
        let convert = |(name, array): (String, Literal)| match name.ends_with("/mask") {
            true => (name, bool(array)),
            false => (name, array),
        };
        arrays.into_iter().map(convert).collect()
    };
    assert!(load(&back).unwrap().tensors == without_dropped(as_bool(load(&full).unwrap().tensors)));
}

#[test]
fn csr_files_hold_rows_of_output_channels() {
    let runs = Runs::new();
    let [full, csr] = ["full", "csr"].map(|name| runs.path(name));
    let arrays = [
        (
            "c/weights".to_owned(),
            Literal::new(&[1, 2, 1, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ),
        (
            "c/mask".to_owned(),
            Literal::from_bools(&[1, 2, 1, 3], &[true, false, true, true, false, false]),
        ),
        ("b".to_owned(), Literal::new(&[1], &[9f32])),
    ];
    sparse::save(&full, arrays.into(), None, Format::Complete).unwrap();
    let report = convert(&full, &csr, &["--format", "csr"]);
    assert_eq!((&report["arrays"], &report["connections"]), (&4.into(), &3.into()));
    let bytes = fs::read(&csr).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let i32s = |name: &str| -> Vec<i32> {
        let data = file
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()));
        data.collect()
    };
    assert_eq!(i32s("c/weights.crow_indices"), [0, 2, 2, 3]);
    assert_eq!(i32s("c/weights.col_indices"), [0, 1, 0]);
    let expected: Vec<u8> = [1f32, 4.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(file.tensor("c/weights.values").unwrap().data(), expected);
    assert!(file.tensor("b").is_ok());
    let message = error(&["eval", "--checkpoint", text(&csr), "--data", "synthetic"], 1);
    assert!(
        message.contains("stores masked layers as 'csr' of version 1, expected bitmask"),
        "{message}"
    );
}

#[test]
fn rejects_conflicting_flags() {
    let runs = Runs::new();
    let [full, other] = ["full.safetensors", "other.safetensors"].map(|name| runs.path(name));
    save(&full, &mnist());
    let (full, other) = (text(&full), text(&other));
    for (args, expected) in [
        (
            &["convert", full, full, "--format", "bitmask"][..],
            "is the checkpoint itself, expected another file",
        ),
        (
            &["convert", full, "--list"],
            "is not a TensorFlow checkpoint, whose variables it lists",
        ),
        (&["convert", full, other, "--format", "zip"], "unknown format 'zip'"),
        (
            &["convert", full, other, "--format", "csr", "--to-tf"],
            "cannot be used with",
        ),
        (
            &[
                "compact",
                "--checkpoint",
                full,
                "--output",
                other,
                "--format",
                "bitmask",
                "--data",
                "mnist",
            ],
            "--data compares logits after units are removed, expected --remove-units as well",
        ),
    ] {
        let message = error(args, 2);
        assert!(message.contains(expected), "{message}");
    }
    assert!(!Path::new(other).exists());
}
