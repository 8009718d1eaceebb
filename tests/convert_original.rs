//! `convert --to-tf` writes every variable of the original's checkpoints, with the names, types and dimensions of its graphs
//! (`models/tests/data/variables.csv`, and for SNFS graphs that the original built).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::json;
use hlo::Literal;
use rigl_xla::checkpoint::tf::{Bundle, DataType};
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::config::Layers;
use rigl_xla::train::state;

const VARIABLES: &str = include_str!("../models/tests/data/variables.csv");

/// Type and dimensions by name.
type Variables = BTreeMap<String, (String, Vec<usize>)>;

/// The variables of the original's graph, trained by RigL with momentum.
fn original(model: &str, first_layer: &str) -> Variables {
    let mut all = Variables::new();
    let mut add = |name: String, dtype: &str, dims: &[usize]| all.insert(name, (dtype.into(), dims.to_vec()));
    let fields = VARIABLES.lines().map(|line| line.split(',').collect::<Vec<_>>());
    for row in fields.filter(|f| f[0] == model && f[1] == first_layer) {
        let (name, role) = (row[2], row[4]);
        let dims: Vec<usize> = row[3].split('x').filter_map(|dim| dim.parse().ok()).collect();
        add(name.into(), "float32", &dims);
        if let Some(layer) = name.strip_suffix("/mask") {
            add(format!("{layer}/threshold"), "float32", &[]);
        }
        if ["kernel", "depthwise_kernel", "bias", "gamma", "beta"].contains(&role) {
            add(format!("{name}/Momentum"), "float32", &dims);
        }
    }
    add("global_step".into(), "int64", &[]);
    add("last_mask_update_step".into(), "int64", &[]);
    all
}

/// A state of zeros of a run with these flags, converted.
fn converted(dir: &Path, preset: &str, flags: &[&str]) -> (Variables, Bundle) {
    let mut layers = Layers::preset(preset).unwrap();
    for flag in flags {
        let (key, value) = flag.split_once('=').unwrap();
        let value: toml::Table = format!("v = {value}").parse().unwrap();
        let key: Vec<&str> = key.split('.').collect();
        layers = layers.set("--set", &key, value["v"].clone()).unwrap();
    }
    let plan = layers.plan().unwrap();
    let ours = dir.join("ours.safetensors");
    let metadata = Metadata::new(&plan.run.model.name, 0, plan.run.to_toml().unwrap());
    let zeros = state::specs(&plan)
        .into_iter()
        .map(|(name, shape)| (name, Literal::zeros(shape)));
    save(&ours, &zeros.collect(), &metadata).unwrap();
    let prefix = dir.join("model.ckpt-0");
    let paths = [&ours, &prefix].map(|path| path.to_str().unwrap());
    json(&["convert", "--to-tf", "--overwrite", paths[0], paths[1]]);
    let bundle = Bundle::open(&prefix).unwrap();
    let variable = |v: &rigl_xla::checkpoint::tf::Variable| (v.name.clone(), (v.dtype.to_string(), v.dims.clone()));
    (bundle.variables().iter().map(variable).collect(), bundle)
}

fn values(bundle: &Bundle, name: &str) -> Vec<f32> {
    let variable = bundle.variables().iter().find(|v| v.name == name).unwrap();
    assert_eq!(variable.dtype, DataType::FLOAT32);
    let mut bytes = vec![];
    let copy = &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    bundle.copy(variable, copy).unwrap();
    let number = |four: &[u8]| f32::from_le_bytes(four.try_into().unwrap());
    bytes.chunks(4).map(number).collect()
}

#[test]
fn every_variable_of_the_original_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for (preset, flags, model, first_layer) in [
        ("mnist-rigl", &[][..], "mnist_fc", ""),
        ("resnet50-rigl", &["sparsity.first_layer=0.0"], "resnet50", "unmasked"),
        ("resnet50-rigl", &["sparsity.first_layer=-1.0"], "resnet50", "masked"),
        ("mobilenet-v1-rigl", &[], "mobilenet_v1", ""),
        ("mobilenet-v1-rigl", &["model.name='mobilenet-v2'"], "mobilenet_v2", ""),
        ("cifar10-rigl", &[], "wrn22_2", "unmasked"),
    ] {
        let (found, bundle) = converted(dir.path(), preset, flags);
        assert_eq!(found, original(model, first_layer), "{model} {first_layer}");
        let thresholds = found.keys().filter(|name| name.ends_with("/threshold"));
        assert!(thresholds.into_iter().all(|name| values(&bundle, name) == [0.0]));
    }
}

#[test]
fn each_method_has_the_variables_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let average =
        |layer: &str| format!("gradients_1/{layer}/MatMul_grad/tuple/control_dependency_1/ExponentialMovingAverage");
    let mut common = original("mnist_fc", "");
    let last = common.remove_entry("last_mask_update_step").unwrap();
    let scalar = |name: &str, dtype: &str| (name.to_owned(), (dtype.to_owned(), vec![]));
    let averages: Vec<_> = [("layer1", 784, 300), ("layer2", 300, 100), ("layer3", 100, 10)]
        .map(|(layer, rows, columns)| (average(layer), ("float32".to_owned(), vec![rows, columns])))
        .into();
    for (preset, own) in [
        ("mnist-set", vec![last.clone()]),
        ("mnist-static", vec![last.clone()]),
        ("mnist-scratch", vec![]),
        ("mnist-snfs", [averages, vec![last]].concat()),
        ("mnist-snip", vec![scalar("is_snipped", "bool")]),
        ("mnist-dnw", vec![]),
        (
            "mnist-prune",
            vec![scalar("model_pruning/last_mask_update_step", "int32")],
        ),
    ] {
        let want: Variables = common.clone().into_iter().chain(own).collect();
        assert_eq!(converted(dir.path(), preset, &[]).0, want, "{preset}");
    }
}

/// The original builds ImageNet's networks with masks of ones for its baseline, those for MNIST and CIFAR-10 without masks.
#[test]
fn a_dense_network_gets_the_masks_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let (found, bundle) = converted(dir.path(), "mobilenet-v1-dense", &[]);
    let mut want = original("mobilenet_v1", "");
    want.remove("last_mask_update_step");
    assert_eq!(found, want);
    let mask = values(&bundle, "resnet_model/contraction_1x1_0/mask");
    assert!(mask.len() == 32 * 64 && mask.iter().all(|&one| one == 1.0));
    for preset in ["mnist-dense", "cifar10-dense"] {
        let (found, _) = converted(dir.path(), preset, &[]);
        let trained = |name: &String| name.ends_with("/mask") || name.ends_with("/threshold");
        assert!(!found.keys().any(trained), "{preset}");
    }
}
