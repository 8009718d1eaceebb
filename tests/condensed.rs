//! `train --condensed`: the device keeps connections alone, and trains the same.
#![allow(clippy::unwrap_used)]

mod common;

use common::rigl_xla;
use common::runs::Runs;
use hlo::Literal;
use rigl_xla::config::Layers;
use rigl_xla::train::{condensed, state};

/// Updates at gradient steps 0, 10 and 20.
const STEPS: u64 = 30;

const SHORT: [&str; 5] = ["--batch-size", "32", "--steps", "30", "--allow-incomplete-schedule"];

/// Masks and counters equal; weights and slots equal at the connections, and 0 elsewhere in `condensed`.
fn assert_condensed(runs: &Runs, what: &str, whole: &str, condensed: &str) {
    let (whole, condensed) = (runs.tensors(whole, STEPS), runs.tensors(condensed, STEPS));
    assert!(whole.keys().eq(condensed.keys()), "{what}");
    for (name, array) in &condensed {
        let layer = name.split("/weights").next().unwrap();
        let mask = condensed.get(&format!("{layer}/mask")).and_then(Literal::to_bools);
        let mask = mask.filter(|mask| name.contains("/weights") && mask.contains(&false));
        let Some(mask) = mask else {
            assert!(array == &whole[name], "{what}: {name}");
            continue;
        };
        let [values, want] = [array, &whole[name]].map(|a| a.to_vec::<f32>().unwrap());
        for (i, one) in mask.iter().enumerate() {
            let want = if *one { want[i] } else { 0.0 };
            assert_eq!(values[i], want, "{what}: {name}, element {i}");
        }
    }
}

#[test]
fn methods_train_the_same_connections() {
    let runs = Runs::new();
    for method in ["rigl", "set", "static", "scratch", "rigl-itop"] {
        let names = ["whole", "condensed"].map(|form| format!("{method}-{form}"));
        let flags = ["--method", method, "--execution", "sparse"];
        runs.train(&names[0], &[&SHORT[..], &flags].concat());
        runs.train(&names[1], &[&SHORT[..], &flags, &["--condensed"]].concat());
        assert_condensed(&runs, method, &names[0], &names[1]);
    }
}

/// A run may be resumed in the other form, and replicas keep equal masks.
#[test]
fn resumes_and_replicas_train_the_same_connections() {
    let runs = Runs::new();
    let sparse = ["--execution", "sparse"];
    runs.train("whole", &[&SHORT[..], &sparse].concat());
    for (name, first, then) in [
        (
            "to-whole",
            &["--condensed"][..],
            &["--set", "device.condensed=false"][..],
        ),
        ("to-condensed", &[], &["--condensed"]),
    ] {
        let half = ["--batch-size", "32", "--steps", "15", "--allow-incomplete-schedule"];
        runs.train(name, &[&half[..], &sparse, first].concat());
        runs.train(name, &[&SHORT[..], &sparse, &["--resume"], then].concat());
        let [one, other] = [runs.tensors("whole", STEPS), runs.tensors(name, STEPS)];
        for (mask, array) in one.iter().filter(|(name, _)| name.ends_with("mask")) {
            assert!(array == &other[mask], "{name}: {mask}");
        }
    }
    let two = ["--replicas", "2"];
    runs.train("two", &[&SHORT[..], &sparse, &two].concat());
    runs.train("two-condensed", &[&SHORT[..], &sparse, &two, &["--condensed"]].concat());
    assert_condensed(&runs, "replicas", "two", "two-condensed");
}

#[test]
fn refuses_what_it_cannot_condense() {
    for (flags, reason) in [
        (&["--method", "prune"][..], "changes the number of connections"),
        (&["--method", "snip"], "changes the number of connections"),
        (&["--method", "rigl-inverted"], "grows weights that stay 0"),
        (&["--method", "snfs"], "averages gradients of all weights"),
        (&["--execution", "masked"], "device.execution is masked"),
        (&["--device", "tpu"], "device.kind is tpu"),
        (
            &["--set", "method.grow_init=random_normal"],
            "reads weights that are not connections",
        ),
    ] {
        let run = rigl_xla(
            &[
                &["plan", "mnist-rigl", "--condensed", "--allow-incomplete-schedule"],
                flags,
            ]
            .concat(),
        );
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{flags:?}: {text}");
        assert!(
            text.contains("device.condensed") && text.contains(reason),
            "{flags:?}: {text}"
        );
    }
}

/// The state of ResNet-50 at 90 % takes at most 0.3 of the bytes.
#[test]
fn condensed_state_is_small() {
    let bytes = |condensed: bool| {
        let preset = Layers::preset("resnet50-rigl").unwrap();
        let layers = preset.set("test", &["sparsity", "target"], 0.9).unwrap();
        let layers = layers.set("test", &["sparsity", "distribution"], "uniform").unwrap();
        let layers = layers.set("test", &["train", "batch_size"], 16).unwrap();
        let layers = layers.set("test", &["device", "execution"], "sparse").unwrap();
        let layers = layers.set("test", &["device", "condensed"], condensed).unwrap();
        let plan = layers.plan().unwrap();
        let of = |specs: Vec<(String, hlo::Shape)>| specs.iter().map(|(_, shape)| shape.bytes()).sum::<usize>();
        (of(condensed::specs(&plan)), of(state::specs(&plan)))
    };
    let (condensed, whole) = bytes(true);
    assert!(condensed * 10 < whole * 3, "{condensed} of {whole}");
    assert_eq!(bytes(false), (whole, whole));
}
