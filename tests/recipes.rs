//! The recipes for image networks, through `plan`: lengths, learning rates, budgets. Figures are the original's (reference
//! 1.5 to 1.7, 2.3, 4.1, 4.3).
#![allow(clippy::unwrap_used)]

mod common;

use common::{error, json};
use serde_json::{Value, json as value};

fn plan(args: &[&str]) -> Value {
    json(&[&["plan"], args].concat())
}

/// Gradient steps after which the rate drops, and its values.
fn drops(plan: &Value) -> (Value, Vec<f32>) {
    let rate = &plan["learning_rate"];
    let values = rate["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32);
    (rate["boundaries"].clone(), values.collect())
}

#[test]
fn resnet50_on_imagenet() {
    let once = plan(&["resnet50-rigl-erk-0.9"]);
    // A mask update at every hundredth of the first 25000 gradient steps, and at the first.
    assert_eq!(
        (&once["gradient_steps"], &once["mask_updates"], &once["iterations"]),
        (&32_000.into(), &251.into(), &32_251.into())
    );
    assert_eq!(
        (&once["nonzeros"], &once["maskable"]),
        (&2_550_353.into(), &25_502_912.into())
    );
    assert_eq!(
        drops(&once),
        (
            value!([9383, 21_894, 28_150, 37_534]),
            vec![1.6, 0.16, 0.016, 0.0016, 0.00016]
        )
    );
    // The rate rises from 0 over five epochs; steps are epochs of 1281167 / 4096.
    assert_eq!(once["learning_rate"]["samples"][0], value!([0, 0.0]));
    let five = plan(&["resnet50-rigl-erk-0.9", "--multiplier", "5"]);
    assert_eq!(
        (&five["gradient_steps"], &five["mask_updates"]),
        (&160_000.into(), &1251.into())
    );
    assert_eq!(drops(&five).0, value!([46_917, 109_474, 140_753, 187_670]));
    // Another batch has another rate and other steps per epoch.
    let small = plan(&["resnet50-rigl-erk-0.9", "--batch-size", "256"]);
    assert_eq!(drops(&small).1[0], 0.1);
    assert_eq!(drops(&small).0[0], 150_136);
    let uniform = plan(&["resnet50-rigl-uniform-0.9"]);
    assert_eq!(
        (&uniform["nonzeros"], &uniform["maskable"]),
        (&2_549_377.into(), &25_493_504.into())
    );
    assert_eq!(plan(&["resnet50-rigl-erk-0.99"])["nonzeros"], 254_978);
}

#[test]
fn mobilenet_on_imagenet() {
    let plan = plan(&["mobilenet-v1-rigl-erk-0.75"]);
    assert_eq!(
        (&plan["maskable"], plan["layers"].as_array().unwrap().len()),
        (&4_163_584.into(), 14)
    );
    let sparsity = |shape: Value| {
        let layers = plan["layers"].as_array().unwrap();
        layers.iter().find(|l| l["shape"] == shape).unwrap()["sparsity"]
            .as_f64()
            .unwrap()
    };
    for (shape, want) in [
        (value!([1, 1, 128, 128]), 0.0),
        (value!([1, 1, 128, 256]), 0.037_391),
        (value!([1, 1, 1024, 1024]), 0.840_241),
        (value!([1024, 1000]), 0.838_481),
    ] {
        assert!((sparsity(shape.clone()) - want).abs() < 6e-7, "{shape}");
    }
    // Epochs 40, 75, 95 and 120.
    assert_eq!(drops(&plan).0, value!([12_511, 23_458, 29_714, 37_534]));
    assert_eq!(drops(&plan).1[4], 0.00048);
}

#[test]
fn wide_resnet_on_cifar10() {
    let once = plan(&["cifar10-rigl"]);
    assert_eq!(
        (&once["maskable"], once["layers"].as_array().unwrap().len()),
        (&1_076_480.into(), 22)
    );
    assert_eq!(
        (&once["gradient_steps"], &once["mask_updates"], &once["iterations"]),
        (&97_656.into(), &751.into(), &98_407.into())
    );
    assert_eq!(
        drops(&once),
        (value!([30_000, 60_000, 90_000]), vec![0.1, 0.02, 0.004, 0.0008])
    );
    let twice = plan(&["cifar10-rigl", "--multiplier", "2"]);
    assert_eq!(
        (&twice["gradient_steps"], &twice["mask_updates"]),
        (&195_312.into(), &1501.into())
    );
    assert_eq!(drops(&twice).0, value!([60_000, 120_000, 180_000]));
    // No update of SET takes a step's place.
    assert_eq!(plan(&["cifar10-set"])["iterations"], 97_656);
}

#[test]
fn a_network_brings_its_recipe() {
    for (model, method, data, target) in [
        ("wrn-16-4", "rigl", "cifar10", 0.9),
        ("wide_resnet", "dense", "cifar10", 0.0),
        ("resnet18", "set", "imagenet", 0.9),
        ("mobilenet_v2", "dense", "imagenet", 0.0),
        ("vgg-19", "rigl", "imagenet", 0.9),
        ("mnist-fc", "dense", "mnist", 0.0),
    ] {
        let config = plan(&["--model", model, "--method", method])["config"].clone();
        assert_eq!(
            (&config["data"]["name"], &config["sparsity"]["target"]),
            (&data.into(), &target.into()),
            "{model}"
        );
        assert_eq!(
            (&config["model"]["name"], &config["method"]["name"]),
            (&model.into(), &method.into())
        );
    }
    // The options of the recipe's own network are not another's.
    let other = plan(&["cifar10-rigl", "--model", "wrn-16-4"]);
    assert_eq!(other["config"]["model"], value!({ "name": "wrn-16-4" }));
    let same = plan(&["--model", "wide-resnet", "--width", "1", "--depth", "10"]);
    assert_eq!(
        (&same["maskable"], &same["config"]["model"]["dropout"]),
        (&76_928.into(), &0.3.into())
    );
}

#[test]
fn first_and_last_layer_have_sparsities_of_their_own() {
    let layers = |args: &[&str]| {
        let plan = plan(&[&["resnet50-rigl", "--set", "model.image_size=32"], args].concat());
        plan["layers"].as_array().unwrap().clone()
    };
    let all = layers(&[]);
    assert_eq!((all.len(), &all[0]["name"]), (54, &"resnet_model/initial_conv".into()));
    let dense = layers(&["--first-layer-sparsity", "0", "--last-layer-sparsity", "0"]);
    assert_eq!(dense.len(), 52);
    let own = layers(&["--first-layer-sparsity", "0.25", "--last-layer-sparsity", "0.5"]);
    assert_eq!(
        (&own[0]["sparsity"], &own[53]["sparsity"], &own[53]["custom"]),
        (&0.25.into(), &0.5.into(), &true.into())
    );
}

#[test]
fn other_schedules() {
    let samples = |args: &[&str]| {
        let rate = plan(args)["learning_rate"].clone();
        let values = rate["samples"].as_array().unwrap().iter();
        let values: Vec<(i64, f64)> = values
            .map(|s| (s[0].as_i64().unwrap(), s[1].as_f64().unwrap()))
            .collect();
        (rate["schedule"].clone(), values)
    };
    // RigL's 119499 gradient steps on MNIST: the cosine ends with them.
    let (name, cosine) = samples(&["--set", "learning_rate.schedule=cosine"]);
    assert_eq!((name, cosine[0], cosine[4].0), (value!("cosine"), (0, 0.2), 119_498));
    assert!((cosine[2].1 - 0.1).abs() < 1e-5 && cosine[4].1 < 1e-9, "{cosine:?}");
    let (_, early) = samples(&[
        "--set",
        "learning_rate.schedule=cosine",
        "--set",
        "learning_rate.decay_steps=50000",
    ]);
    assert_eq!(early[4].1, 0.0);
    // Cycles of 5, 7.5, 11.25, 16.875 and 25.3 epochs; the multiplier leaves them as they are.
    let (name, sgdr) = samples(&["resnet50-rigl", "--set", "learning_rate.schedule=sgdr"]);
    assert_eq!((name, sgdr[0].1), (value!("sgdr"), 1.6));
    let (_, longer) = samples(&[
        "resnet50-rigl",
        "--set",
        "learning_rate.schedule=sgdr",
        "--multiplier",
        "4",
    ]);
    let at = |samples: &[(i64, f64)], step: i64| samples.iter().find(|s| (s.0 - step).abs() < 2).map(|s| s.1);
    let (one, four) = (at(&sgdr, 31_999), at(&longer, 31_999));
    assert!((one.unwrap() - four.unwrap()).abs() < 1e-3, "{one:?} {four:?}");
}

#[test]
fn rejects_conflicting_settings() {
    for (args, expected) in [
        (
            &["--set", "data.examples=5"][..],
            "data.examples is 5, expected nothing: data set mnist has its own number",
        ),
        (
            &["--set", "data.preprocessing=imagenet"],
            "expected one that takes examples of dimensions [784]",
        ),
        (&["--set", "data.preprocessing=imagnet"], "did you mean 'imagenet'?"),
        (
            &["--set", "learning_rate.schedule=sgdr"],
            "learning_rate.examples_per_epoch is missing",
        ),
        (&["--set", "learning_rate.schedule=cosin"], "did you mean 'cosine'?"),
        (
            &["resnet50-rigl", "--set", "learning_rate.t_mul=0.5"],
            "learning_rate.t_mul is 0.5, expected a number of at least 1",
        ),
        (&["--precision", "bf17"], "did you mean 'bf16'?"),
        (
            &["--set", "train.label_smoothing=1"],
            "train.label_smoothing is 1, expected a number in [0, 1)",
        ),
        (&["--model", "wrn-22-2", "--width", "4"], "expected 2, as the name says"),
        (
            &["--model", "resnet50", "--depth", "18"],
            "expected 50, as the name says",
        ),
        (
            &["--model", "mobilenet-v1", "--first-layer-sparsity", "0.5"],
            "its first layer has no mask",
        ),
        (&["--width", "2"], "expected nothing: the network has no such option"),
    ] {
        let message = error(&[&["plan"], args].concat(), 2);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}
