//! Predictions from connections alone agree with masked ones.
#![allow(clippy::unwrap_used)]

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::sync::OnceLock;

use checkpoints::Arrays;
use common::runs::{Runs, small_mnist};
use common::{error, json};
use cpu::Threads;
use hlo::{DType, Literal, MatmulPrecision};
use models::{Model, Options, Precision};
use pjrt::DeviceKind;
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::config::SparseLayers;
use rigl_xla::data::pixels::Preprocessing;
use rigl_xla::device::Device;
use rigl_xla::prediction::SparsePredictor;
use rigl_xla::train::eval::Inference;
use rigl_xla::train::inference::predict;
use rigl_xla::train::state::inference_specs;
use sparse::Distribution;

fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(DeviceKind::Cpu, None).unwrap())
}

static NONE: SparseLayers = SparseLayers::new();

fn inference(model: &dyn Model) -> Inference<'_> {
    Inference {
        model,
        preprocessing: Preprocessing::of(models::Family::from_name(model.name()).unwrap()),
        pixels: hlo::DType::U8,
        precision: Precision::F32,
        matmul_precision: MatmulPrecision::default(),
        label_smoothing: 0.0,
        replicas: 1,
        sparse: &NONE,
    }
}

fn ordered(model: &dyn Model, mut arrays: Arrays) -> Vec<Literal> {
    let specs = inference_specs(&model.declaration());
    specs.iter().map(|(name, _)| arrays.remove(name).unwrap()).collect()
}

fn pixels(model: &dyn Model, batch: usize) -> Literal {
    let dims = [vec![batch], model.input_dims()].concat();
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let bytes: Vec<u8> = (0..dims.iter().product()).map(|_| next()).collect();
    Literal::new(&dims, &bytes)
}

/// Largest difference over the largest logit.
fn difference(a: &Literal, b: &Literal) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let largest = a.to_f64_vec().iter().fold(1e-3f64, |most, v| most.max(v.abs()));
    let apart = a.to_f64_vec().into_iter().zip(b.to_f64_vec());
    apart.fold(0.0, |most: f64, (a, b)| {
        let apart = (a - b).abs() / largest;
        if apart > most || apart.is_nan() { apart } else { most }
    })
}

fn agrees(name: &str, width: f64, image_size: usize, sparsities: &[f64], batches: &[usize]) {
    for &sparsity in sparsities {
        let options = Options {
            width: Some(width).filter(|&width| width != 1.0),
            image_size: Some(image_size).filter(|&size| size > 0),
            ..Options::new(name, true)
        };
        let budgets = checkpoints::budgets(&options, Distribution::Uniform, sparsity);
        let model = options.build().unwrap();
        let weights = ordered(&*model, checkpoints::random(&options, &budgets));
        let network = inference(&*model);
        let sparse = SparsePredictor::new(network, &weights).unwrap();
        assert!(sparse.density() < 1.0);
        for &batch in batches {
            let images = pixels(&*model, batch);
            let masked = predict(device(), network, &weights, &images).unwrap();
            let apart = difference(&masked, &sparse.logits(&images).unwrap());
            assert!(apart < 1e-4, "{name} at {sparsity}, batch {batch}: {apart}");
        }
    }
}

#[test]
fn mnist_fc_agrees_with_masked() {
    agrees("mnist-fc", 1.0, 0, &[0.5, 0.9, 0.98], &[1, 5, 16, 70]);
}

#[test]
fn residual_networks_agree_with_masked() {
    agrees("resnet18", 0.125, 64, &[0.5, 0.9, 0.98], &[1, 5, 16]);
    agrees("resnet50", 0.125, 64, &[0.5, 0.9, 0.98], &[1, 5]);
    // Images of one pixel in the last layers.
    agrees("resnet50", 0.125, 32, &[0.9], &[1, 5]);
}

#[test]
fn mobile_networks_agree_with_masked() {
    agrees("mobilenet-v1", 0.25, 64, &[0.5, 0.9, 0.98], &[1, 5, 16]);
    agrees("mobilenet-v2", 0.25, 64, &[0.5, 0.9, 0.98], &[1, 5]);
}

#[test]
fn wide_residual_networks_agree_with_masked() {
    agrees("wrn-10-1", 1.0, 32, &[0.5, 0.9, 0.98], &[1, 5, 16]);
    agrees("wrn-16-2", 1.0, 32, &[0.9], &[5]);
}

#[test]
fn vgg_agrees_with_masked() {
    agrees("vgg-a", 0.125, 32, &[0.5, 0.9, 0.98], &[1, 5, 16]);
}

/// A small MNIST network with masks.
fn small() -> (Box<dyn Model>, Arrays) {
    let options = Options::new("mnist-fc", true);
    let budgets = checkpoints::budgets(&options, Distribution::Uniform, 0.9);
    (options.build().unwrap(), checkpoints::random(&options, &budgets))
}

#[test]
fn nan_stays_nan() {
    let (model, arrays) = small();
    let weights = ordered(&*model, arrays);
    let sparse = SparsePredictor::new(inference(&*model), &weights).unwrap();
    for batch in [1, 20] {
        let mut values = vec![0.5f32; batch * 784];
        values[..784].fill(f32::NAN);
        let logits = sparse.logits(&Literal::new(&[batch, 784], &values)).unwrap();
        let logits: Vec<f32> = logits.to_vec().unwrap();
        assert!(logits[..10].iter().all(|v| v.is_nan()), "{logits:?}");
        assert!(logits[10..].iter().all(|v| v.is_finite()));
    }
}

#[test]
fn threads_share_a_predictor_loaded_from_a_checkpoint() {
    let (model, arrays) = small();
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("network.safetensors");
    save(&path, &arrays, &Metadata::new("mnist-fc", 0, "")).unwrap();
    let predictor = SparsePredictor::load(&path).unwrap();
    let images = pixels(&*model, 33);
    let expected = predictor.logits(&images).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let threads = Threads::new(1);
                for _ in 0..10 {
                    assert_eq!(predictor.logits_on(&images, &threads).unwrap(), expected);
                }
            });
        }
    });
    let wrong = Literal::zeros(hlo::Shape::new(DType::F32, [2, 783]));
    assert!(predictor.logits(&wrong).unwrap_err().to_string().contains("783"));
}

#[test]
fn eval_scores_agree_between_executions() {
    let runs = Runs::new();
    runs.train("rigl", &["--steps", "60"]);
    let checkpoint = runs.checkpoint_path("rigl", 60);
    let checkpoint = checkpoint.to_str().unwrap();
    let report = |execution: &str, batch: &str| {
        json(&[
            "eval",
            "--checkpoint",
            checkpoint,
            "--data",
            small_mnist(),
            "--execution",
            execution,
            "--batch-size",
            batch,
            "--label-smoothing",
            "0.1",
        ])
    };
    let masked = report("masked", "1000");
    for (execution, batch) in [("sparse", "1000"), ("sparse", "77"), ("auto", "1000")] {
        let sparse = report(execution, batch);
        for key in ["top1", "top5", "examples", "sparsity"] {
            assert_eq!(masked[key], sparse[key], "{key}");
        }
        for key in ["loss", "smoothed_loss"] {
            let [a, b] = [&masked, &sparse].map(|report| report[key].as_f64().unwrap());
            assert!((a / b - 1.0).abs() < 1e-5, "{key}: {a} and {b}");
        }
    }
    for (flags, expected) in [
        (["--precision", "bf16"], "precision is bf16, expected f32"),
        (["--engine", "interpreter"], "--engine is interpreter"),
        (["--device", "gpu"], "--device is gpu, expected cpu"),
        (["--plugin", "xla-cpu-pjrt"], "--plugin is xla-cpu-pjrt"),
    ] {
        let args = [
            &[
                "eval",
                "--checkpoint",
                checkpoint,
                "--data",
                small_mnist(),
                "--execution",
                "sparse",
            ][..],
            &flags,
        ];
        let message = error(&args.concat(), 2);
        assert!(message.contains(expected), "{message}");
    }
}
