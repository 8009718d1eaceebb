//! Exported networks give this program's logits in ONNX Runtime, PyTorch and JAX.
#![allow(clippy::unwrap_used)]

#[path = "common/checkpoints.rs"]
mod checkpoints;
mod common;

use std::path::Path;

use half::bf16;
use hlo::Literal;
use models::{Options, Variant};
use rigl_xla::checkpoint::{Metadata, load, save};
use sparse::Distribution;

const JAX: &[&str] = &["jax==0.4.38", "numpy==2.2.6", "safetensors==0.5.3"];

/// Each network with its name in files.
fn networks() -> Vec<(&'static str, Options)> {
    let of = |name: &str, image_size, variant| Options {
        image_size,
        variant,
        ..Options::new(name, true)
    };
    let small = |options: Options| Options {
        width: Some(0.25),
        classes: Some(10),
        ..options
    };
    vec![
        ("mnist", of("mnist-fc", None, None)),
        ("wrn", of("wrn-10-1", Some(32), None)),
        ("resnet50", of("resnet50", Some(64), None)),
        ("resnet18", small(of("resnet18", Some(64), Some(Variant::Torchvision)))),
        ("mobilenet", of("mobilenet-v2", Some(64), Some(Variant::Torchvision))),
        ("depthwise", small(of("mobilenet-v1", Some(64), None))),
        ("vgg", small(of("vgg-a", Some(64), None))),
    ]
}

fn rounded(array: &Literal) -> Literal {
    let values: Vec<f32> = array.to_vec::<f32>().unwrap();
    let values: Vec<f32> = values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
    Literal::new(array.dims(), &values)
}

#[test]
fn exported_networks_give_our_logits_in_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: String| folder.path().join(file).to_str().unwrap().to_owned();
    let mut names = vec![];
    for (name, options) in networks() {
        names.push(name);
        let network = options.build().unwrap();
        let mut arrays = checkpoints::random(&options, &checkpoints::budgets(&options, Distribution::Uniform, 0.8));
        // Gains near 1, so that logits neither vanish nor grow.
        for (name, array) in &mut arrays {
            if let [.., inputs, _] = array.dims()
                && array.to_vec::<f32>().is_some()
            {
                let window: usize = array.dims()[..array.dims().len() - 2].iter().product();
                let inputs = if name.contains("depthwise") {
                    window
                } else {
                    window * inputs
                };
                let scale = 6.0 / (inputs as f32 * 0.2).sqrt();
                let values: Vec<f32> = array
                    .to_vec::<f32>()
                    .unwrap()
                    .iter()
                    .map(|value| value * scale)
                    .collect();
                *array = Literal::new(array.dims(), &values);
            }
        }
        let mut metadata = Metadata::new(network.name(), 0, "");
        if let Some(variant) = options.variant {
            metadata.extra.insert("variant".into(), variant.name().into());
        }
        let size = network.input_dims();
        let checkpoint = at(format!("{name}-checkpoint.safetensors"));
        save(Path::new(&checkpoint), &arrays, &metadata).unwrap();
        let pixels: Vec<u8> = (0..3 * size.iter().product::<usize>())
            .map(|i| (i * i / 7 % 251) as u8)
            .collect();
        let pixels = Literal::new(&[vec![3], size.clone()].concat(), &pixels);
        let images = at(format!("{name}-pixels.safetensors"));
        save(Path::new(&images), &[("images".to_owned(), pixels)].into(), &metadata).unwrap();
        let classes = at(format!("{name}-classes.txt"));
        let list: Vec<String> = (0..network.classes()).map(|i| format!("class{i}")).collect();
        std::fs::write(&classes, list.join("\n")).unwrap();
        let side = size[0].to_string();
        let of_size: &[&str] = if size.len() == 3 { &["--image-size", &side] } else { &[] };
        let run = |command: &[&str], checkpoint: &str, output: &str| {
            let files = ["--checkpoint", checkpoint, "--output", output];
            common::json(&[command, &files, of_size].concat())
        };
        let predict = ["predict", "--input", &images];
        run(&predict, &checkpoint, &at(format!("{name}-logits.safetensors")));
        let kernels = |(name, array): (&String, &Literal)| {
            let kernel = array.dims().len() > 1 && array.to_vec::<f32>().is_some();
            (name.clone(), if kernel { rounded(array) } else { array.clone() })
        };
        let halved = at(format!("{name}-halved.safetensors"));
        save(Path::new(&halved), &arrays.iter().map(kernels).collect(), &metadata).unwrap();
        run(&predict, &halved, &at(format!("{name}-bf16-logits.safetensors")));
        let export = ["export", "--classes", &classes, "--format"];
        for (kind, flags) in [
            ("folded", &[][..]),
            ("norm", &["--keep-batch-norm"]),
            ("sparse", &["--sparse-initializers"]),
            ("bf16", &["--bf16-weights", "--keep-batch-norm"]),
            (
                "bf16-sparse",
                &["--bf16-weights", "--sparse-initializers", "--keep-batch-norm"],
            ),
        ] {
            run(
                &[&export[..], &["onnx"], flags].concat(),
                &checkpoint,
                &at(format!("{name}-{kind}.onnx")),
            );
        }
        let stablehlo = [&export[..], &["stablehlo", "--batch-size", "3", "--weights"]].concat();
        for weights in ["baked", "inputs"] {
            run(
                &[&stablehlo[..], &[weights]].concat(),
                &checkpoint,
                &at(format!("{name}-{weights}.mlir")),
            );
        }
        run(
            &[&export[..], &["pytorch"]].concat(),
            &checkpoint,
            &at(format!("{name}.safetensors")),
        );
        let logits: Vec<f32> = load(Path::new(&at(format!("{name}-logits.safetensors"))))
            .unwrap()
            .tensors["logits"]
            .to_vec()
            .unwrap();
        assert!(logits.iter().any(|logit| logit.abs() > 1e-2), "{name}: {logits:?}");
    }
    let root = folder.path().to_str().unwrap();
    let arguments = [&[root], &names[..]].concat();
    common::python::run(common::python::TORCH, "onnx_exports.py", &arguments);
    common::python::run(JAX, "stablehlo_exports.py", &arguments);
}
