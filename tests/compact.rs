//! `rigl-xla compact`: the smaller checkpoint is the same network to `eval` and `predict`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::runs::{Runs, small_mnist};
use common::{error, json};
use hlo::{DType, Literal, Shape};
use rigl_xla::checkpoint::{Checkpoint, Metadata, load, save};
use rigl_xla::data::{Split, mnist};
use rigl_xla::train::state::inference_specs;
use serde_json::{Value, json as value};
use sparse::dead_units::{Connections, LiveSize, Passes, live_size};
use sparse::rng::stream;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `compact --json` on the small test set, into `output` in the folder of the runs.
fn compact(runs: &Runs, checkpoint: &Path, output: &str, flags: &[&str]) -> (Value, PathBuf) {
    let output = runs.path(output);
    let args = [
        "compact",
        "--overwrite",
        "--checkpoint",
        text(checkpoint),
        "--output",
        text(&output),
    ];
    (json(&[&args[..], flags].concat()), output)
}

/// Logits of the small test set as `predict` gives them.
fn logits(runs: &Runs, checkpoint: &Path) -> Vec<f32> {
    let [input, output] = ["images", "logits"].map(|name| runs.path(&format!("{name}.safetensors")));
    let images = mnist::load(small_mnist().as_ref(), Split::Test).unwrap().images;
    save(&input, &[("images".into(), images)].into(), &Metadata::new("", 0, "")).unwrap();
    let files = ["--input", text(&input), "--output", text(&output)];
    json(
        &[
            &["predict", "--overwrite", "--checkpoint", text(checkpoint)],
            &files[..],
        ]
        .concat(),
    );
    load(&output).unwrap().tensors["logits"].to_vec().unwrap()
}

fn eval(checkpoint: &Path) -> Value {
    json(&["eval", "--checkpoint", text(checkpoint), "--data", small_mnist()])
}

fn assert_same_logits(before: &[f32], after: &[f32]) {
    let largest = before.iter().fold(1.0, |a: f32, b| a.max(b.abs()));
    assert_eq!(before.len(), after.len());
    for (a, b) in before.iter().zip(after) {
        assert!((a - b).abs() <= 1e-5 * largest, "{a} and {b}, of at most {largest}");
    }
}

/// The original's report, from the masks of a checkpoint.
fn counted(tensors: &BTreeMap<String, Literal>, passes: Passes) -> LiveSize {
    let layer = |i: usize| {
        let mask = &tensors[&format!("layer{i}/mask")];
        Connections::new(mask.dims()[0], mask.dims()[1], mask.to_bools().unwrap()).unwrap()
    };
    live_size(&[1, 2, 3].map(layer), passes).unwrap()
}

#[test]
fn compacting_keeps_the_results_of_a_trained_network() {
    let runs = Runs::new();
    let sparse = ["--sparsity", "0.995", "--custom", "layer2=0.98", "--steps", "300"];
    let done = runs.train("run", &sparse);
    let newest = runs.checkpoint("run", 300);
    let (before, scores) = (logits(&runs, &newest.path), eval(&newest.path));
    assert_reported(&runs, &done, &counted(&newest.tensors, Passes::One));
    for (flags, passes) in [(&[][..], Passes::One), (&["--fixpoint"], Passes::Fixpoint)] {
        let data = ["--data", small_mnist(), "--batch-size", "128"];
        let (report, small) = compact(&runs, &runs.path("run"), "small.safetensors", &[flags, &data].concat());
        let mut sizes = counted(&newest.tensors, passes).sizes;
        assert!(sizes[0] < 784 && sizes[1] < 300, "{sizes:?}");
        sizes[3] = 10; // the original's rule drops classes that nothing leads to
        assert_report(&report, &sizes);
        assert_arrays(&load(&small).unwrap(), &newest, &sizes);
        assert_same_logits(&before, &logits(&runs, &small));
        let again = eval(&small);
        for key in ["model", "iteration", "examples", "top1", "top5"] {
            assert_eq!(again[key], scores[key], "{key}");
        }
        let nonzeros = [&report["before"], &report["after"]].map(|network| &network["nonzeros"]);
        assert_eq!(nonzeros, [&scores["nonzeros"], &again["nonzeros"]]);
        // Compacts again: pixel indices still refer to the images, and after all passes nothing more is removed.
        let (_, twice) = compact(&runs, &small, "twice.safetensors", flags);
        assert_same_logits(&before, &logits(&runs, &twice));
        if passes == Passes::Fixpoint {
            assert!(load(&twice).unwrap().tensors == load(&small).unwrap().tensors);
        }
    }
}

/// The summary of a run and its evaluations report the compacted sizes.
fn assert_reported(runs: &Runs, done: &Value, expected: &LiveSize) {
    let compressed = &done["compressed"];
    assert_eq!(compressed["sizes"], value!(expected.sizes));
    let sparsities = compressed["sparsities"].as_array().unwrap();
    assert_eq!(sparsities.len(), 3);
    for (found, expected) in sparsities.iter().zip(&expected.sparsities) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{found} {expected}");
    }
    let metrics = runs.metrics("run");
    let mut evaluations = metrics.iter().filter(|record| record["eval"].is_object());
    assert_eq!(evaluations.next_back().unwrap()["compressed"], *compressed);
    assert!(evaluations.all(|record| record["compressed"]["sizes"].is_array()));
}

/// 784-300-100-10 before, `sizes` after, on the small test set.
fn assert_report(report: &Value, sizes: &[usize]) {
    let (before, after) = (&report["before"], &report["after"]);
    assert_eq!(
        (&before["sizes"], &after["sizes"]),
        (&value!([784, 300, 100, 10]), &value!(sizes))
    );
    let parameters: usize = sizes.windows(2).map(|s| (s[0] + 1) * s[1]).sum();
    assert_eq!(
        (&before["parameters"], &after["parameters"]),
        (&266_610.into(), &parameters.into())
    );
    assert_eq!((&report["images"], &report["batch_size"]), (&300.into(), &128.into()));
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    for figure in ["nonzeros", "flops", "dense_flops", "bytes"] {
        let [before, after] = [before, after].map(|network| number(network, figure));
        assert!(0.0 < after && after <= before, "{figure}: {report}");
    }
    assert!(number(before, "batch_ms") > 0.0 && number(after, "batch_ms") > 0.0);
    assert!(number(report, "largest_difference") <= 1e-5 * number(report, "largest_logit").max(1.0));
}

/// `small` has the arrays of a network of `sizes`, with the metadata of `large`.
fn assert_arrays(small: &Checkpoint, large: &Checkpoint, sizes: &[usize]) {
    let mut expected = BTreeMap::from([("layer1/input_indices".into(), Shape::new(DType::S32, [sizes[0]]))]);
    for i in 1..=3 {
        let dims = [sizes[i - 1], sizes[i]];
        expected.insert(format!("layer{i}/weights"), Shape::new(DType::F32, dims));
        expected.insert(format!("layer{i}/mask"), Shape::new(DType::Pred, dims));
        expected.insert(format!("layer{i}/biases"), Shape::new(DType::F32, [sizes[i]]));
    }
    let shapes = small
        .tensors
        .iter()
        .map(|(name, array)| (name.clone(), array.shape().clone()));
    assert_eq!(shapes.collect::<BTreeMap<_, _>>(), expected);
    let mut metadata = large.metadata.clone().unwrap();
    metadata.extra.insert("compacted_from".into(), "784-300-100-10".into());
    assert_eq!(small.metadata.as_ref(), Some(&metadata));
}

/// Replaces arrays of the checkpoint of a short run, and saves it as `name`.
fn altered(runs: &Runs, name: &str, change: impl Fn(&mut BTreeMap<String, Literal>)) -> PathBuf {
    if !runs.path("short").exists() {
        runs.train("short", &["--steps", "20"]);
    }
    let mut checkpoint = runs.checkpoint("short", 20);
    change(&mut checkpoint.tensors);
    let path = runs.path(name);
    save(&path, &checkpoint.tensors, checkpoint.metadata.as_ref().unwrap()).unwrap();
    path
}

/// Units of both hidden layers without inputs, with biases of both signs, and a class without inputs.
#[test]
fn units_without_inputs_become_biases() {
    let runs = Runs::new();
    let path = altered(&runs, "constant.safetensors", |tensors| {
        let mut rng = stream(0, "test", "biases", 0);
        for (layer, inputs, outputs, dead) in [(1, 784, 300, 0..40), (2, 300, 100, 0..60), (3, 100, 10, 4..5)] {
            let name = format!("layer{layer}/mask");
            let mut mask = tensors[&name].to_bools().unwrap();
            (0..inputs * outputs)
                .filter(|i| dead.contains(&(i % outputs)))
                .for_each(|i| mask[i] = false);
            tensors.insert(name, Literal::from_bools(&[inputs, outputs], &mask));
            let biases: Vec<f32> = (0..outputs).map(|_| rng.normal() as f32).collect();
            tensors.insert(format!("layer{layer}/biases"), Literal::new(&[outputs], &biases));
        }
    });
    let (report, small) = compact(&runs, &path, "small.safetensors", &[]);
    let sizes: Vec<u64> = report["after"]["sizes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s.as_u64().unwrap())
        .collect();
    assert!(sizes[1] <= 260 && sizes[2] <= 40 && sizes[3] == 10, "{sizes:?}");
    let [before, after] = [&path, &small].map(|checkpoint| logits(&runs, checkpoint));
    assert_same_logits(&before, &after);
    let biases = |path: &Path| load(path).unwrap().tensors["layer3/biases"].to_vec::<f32>().unwrap();
    let [before, after] = [biases(&path), biases(&small)];
    assert_eq!(before[4], after[4]);
    assert!(
        (0..10).filter(|&class| before[class] != after[class]).count() == 9,
        "{before:?} {after:?}"
    );
}

/// Without connections in the middle, logits are the same for every image; the arrays have no elements then.
#[test]
fn an_empty_layer_leaves_constant_logits() {
    let runs = Runs::new();
    let path = altered(&runs, "empty.safetensors", |tensors| {
        tensors.insert(
            "layer2/mask".into(),
            Literal::zeros(Shape::new(DType::Pred, [300, 100])),
        );
    });
    let before = logits(&runs, &path);
    for (flags, inputs) in [(&[][..], 784), (&["--fixpoint"], 0)] {
        let (report, small) = compact(&runs, &path, "small.safetensors", flags);
        assert_eq!(
            &report["after"]["sizes"].as_array().unwrap()[1..],
            &[0.into(), 0.into(), Value::from(10)]
        );
        assert!(report["after"]["sizes"][0].as_u64().unwrap() <= inputs);
        assert_same_logits(&before, &logits(&runs, &small));
        assert_eq!(eval(&small)["top1"], eval(&path)["top1"]);
    }
}

#[test]
fn prints_a_table() {
    let runs = Runs::new();
    let path = altered(&runs, "same.safetensors", |_| {});
    let output = runs.path("small.safetensors");
    let shown = common::rigl_xla(&["compact", "--checkpoint", text(&path), "--output", text(&output)]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let words: Vec<String> = shown
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(words[0], "before after");
    assert!(words[1].starts_with("sizes 784-300-100-10 7"), "{shown}");
    assert!(
        words.contains(&"sparsity of layer3 0.000000 0.000000".into()),
        "{shown}"
    );
    assert!(words.iter().any(|line| line.starts_with("ms per batch ")), "{shown}");
    assert!(
        shown.contains("batches of 1000; 1000 random images:\nlogits differ by at most "),
        "{shown}"
    );
    assert!(
        shown.ends_with(&format!("smaller checkpoint in {}\n", output.display())),
        "{shown}"
    );
}

#[test]
fn rejects_bad_inputs_and_outputs_without_writing() {
    let runs = Runs::new();
    let good = altered(&runs, "good.safetensors", |_| {});
    let output = runs.path("out.safetensors");
    let refused = |checkpoint: &str, output: &str, code: i32, expected: &str| {
        let message = error(&["compact", "--checkpoint", checkpoint, "--output", output], code);
        assert!(message.contains(expected), "{message}");
    };
    refused("no/such.safetensors", text(&output), 1, "no/such.safetensors: ");
    refused(
        text(&good),
        "no/such/out.safetensors",
        1,
        "no/such/out.safetensors: there is no folder no/such; make it first",
    );
    refused(
        text(&good),
        text(&good),
        2,
        "is the checkpoint itself, expected another file",
    );
    refused(
        text(&good),
        text(runs.0.path()),
        1,
        "a folder, expected the path of a file to write",
    );

    runs.train("dense", &["--method", "dense", "--steps", "20"]);
    refused(
        text(&runs.path("dense")),
        text(&output),
        1,
        "no masks, expected a checkpoint of sparse training",
    );
    let other = runs.path("other.safetensors");
    save(&other, &load(&good).unwrap().tensors, &Metadata::new("lenet-5", 3, "")).unwrap();
    refused(text(&other), text(&output), 1, "model 'lenet-5', expected 'mnist-fc'");
    let network = models::find("wrn-10-1", true).unwrap();
    let arrays = inference_specs(&network.declaration())
        .into_iter()
        .map(|(name, shape)| (name, Literal::zeros(shape)));
    save(&other, &arrays.collect(), &Metadata::new("wrn-10-1", 3, "")).unwrap();
    refused(text(&other), text(&output), 1, "model 'wrn-10-1', expected 'mnist-fc'");
    let missing = altered(&runs, "missing.safetensors", |tensors| {
        tensors.remove("layer2/weights");
    });
    refused(
        text(&missing),
        text(&output),
        1,
        "'layer2/weights' is missing, expected f32[300,100]",
    );

    // An inactive weight before a NaN multiplies it by 0, which is NaN: a smaller network would be another one.
    let nan = altered(&runs, "nan.safetensors", |tensors| {
        tensors.insert("layer1/biases".into(), Literal::new(&[300], &[f32::NAN; 300]));
    });
    refused(
        text(&nan),
        text(&output),
        1,
        "logits of the smaller network differ by NaN",
    );
    assert!(!output.exists());
    // An existing file is replaced, as by `predict`.
    fs::write(&output, "old").unwrap();
    compact(&runs, &good, "out.safetensors", &[]);
    assert!(load(&output).is_ok());
}

#[test]
fn rejects_pixels_out_of_range() {
    let runs = Runs::new();
    let good = altered(&runs, "good.safetensors", |_| {});
    let (_, small) = compact(&runs, &good, "small.safetensors", &[]);
    let checkpoint = load(&small).unwrap();
    for pixel in [-1, 784] {
        let mut tensors = checkpoint.tensors.clone();
        let mut indices: Vec<i32> = tensors["layer1/input_indices"].to_vec().unwrap();
        indices[3] = pixel;
        tensors.insert("layer1/input_indices".into(), Literal::new(&[indices.len()], &indices));
        save(&small, &tensors, checkpoint.metadata.as_ref().unwrap()).unwrap();
        let message = error(&["eval", "--checkpoint", text(&small), "--data", small_mnist()], 1);
        let expected = format!("'layer1/input_indices' has pixel {pixel}, expected pixels from 0 to 783");
        assert!(message.contains(&expected), "{message}");
    }
}
