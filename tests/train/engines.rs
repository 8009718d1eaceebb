//! `--engine`: the same run through the trait's implementations.

use std::collections::BTreeMap;
use std::fs;

use hlo::{DType, Literal};
use rigl_xla::config::Run;
use rigl_xla::engine::EngineKind;

use crate::common::runs::{Runs, small_mnist};
use crate::common::{json, rigl_xla};

/// Two mask updates and three gradient steps of MNIST. The first layer has no zeros, so that the interpreter, which takes
/// long over a mask update, has little to rank.
const SHORT: &[&str] = &[
    "--steps",
    "5",
    "--steps-per-launch",
    "3",
    "--custom",
    "layer1=0",
    "--set",
    "mask_update.frequency_steps=2",
];

fn tensors(runs: &Runs, run: &str, iteration: u64) -> BTreeMap<String, Literal> {
    rigl_xla::checkpoint::load(&runs.checkpoint_path(run, iteration))
        .unwrap()
        .tensors
}

/// The masks to the bit, everything else within rounding, and reported values too, within rounding.
#[test]
fn interpreter_matches_the_plugin() {
    let runs = Runs::new();
    let engines = ["pjrt", "interpreter"];
    let done = engines.map(|engine| runs.train(engine, &[SHORT, &["--engine", engine]].concat()));
    let [plugin, interpreter] = engines.map(|engine| tensors(&runs, engine, 5));
    assert_eq!(
        plugin.keys().collect::<Vec<_>>(),
        interpreter.keys().collect::<Vec<_>>()
    );
    let mut moved = 0;
    for (name, there) in &plugin {
        let here = &interpreter[name];
        if there.dtype() != DType::F32 {
            assert!(here == there, "{name} differs");
            continue;
        }
        let [here, there] = [here, there].map(Literal::to_f64_vec);
        let largest = there.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let apart = here.iter().zip(&there).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f64::max) <= 1e-5 * largest, "{name} is another");
        moved += usize::from(largest > 0.0);
    }
    assert!(moved >= 6, "weights, and momenta of two layers at least, are not 0");
    assert_eq!(done[0]["mask_updates"], 2);
    for key in ["global_step", "mask_updates", "nonzeros", "maskable"] {
        assert_eq!(done[0][key], done[1][key], "{key}");
    }
    let [there, here] = done.map(|done| done["eval"]["loss"].as_f64().unwrap());
    assert!((here / there - 1.0).abs() < 1e-5, "{here} and {there}");
}

/// The configuration records the engine, but another engine may resume the run or evaluate it.
#[test]
fn records_the_engine_which_may_change() {
    let runs = Runs::new();
    runs.train("run", &[SHORT, &["--engine", "pjrt"]].concat());
    let engine = || {
        let text = fs::read_to_string(runs.path("run").join("config.toml")).unwrap();
        Run::from_toml(&text, "config.toml").unwrap().device.engine
    };
    assert_eq!(engine(), Some(EngineKind::Pjrt));
    let more = ["--engine", "interpreter", "--steps", "6", "--resume"];
    let done = runs.train("run", &[&SHORT[2..], &more].concat());
    assert_eq!((&done["steps"], engine()), (&6.into(), Some(EngineKind::Interpreter)));
    let checkpoint = runs.checkpoint_path("run", 6);
    let eval = |engine| {
        let which = ["eval", "--checkpoint", checkpoint.to_str().unwrap(), "--engine", engine];
        json(&[&which[..], &["--data", small_mnist(), "--batch-size", "150"]].concat())
    };
    let [plugin, interpreter] = ["pjrt", "interpreter"].map(eval);
    assert_eq!(plugin["top1"], interpreter["top1"]);
    assert_eq!(interpreter["top1"], done["eval"]["top1"]);
}

/// Missing features are reported with the engine's name, before anything is computed.
#[test]
fn engines_report_missing_features() {
    let runs = Runs::new();
    let refused = |args: &[&str], code, expected: &str| {
        let output = runs.command("refused", args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    };
    #[cfg(not(feature = "xla-extension"))]
    refused(
        &["--engine", "xla"],
        2,
        "engine xla: this program was built without it; expected `cargo build --release --features xla-extension`",
    );
    for engine in ["xla", "interpreter"] {
        refused(
            &["--engine", engine, "--plugin", "libtpu"],
            2,
            &format!("engine {engine}: the plugin 'libtpu' was given; expected none, or engine pjrt"),
        );
    }
    let interpreter = ["--engine", "interpreter"];
    let with = |more: &[&'static str]| [&interpreter, more].concat();
    refused(
        &with(&["--device", "gpu"]),
        2,
        "engine interpreter: the device is gpu; expected cpu",
    );
    refused(
        &with(&["--replicas", "2"]),
        1,
        "2 replicas: the interpreter client has 1 addressable devices; expected one for each replica",
    );
    for command in [
        &["cost", "--compiled"][..],
        &["dump-hlo", "--optimized"],
        &["compile", "--topology", "v5e:2x2"],
    ] {
        let output = rigl_xla(&[command, &interpreter].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
        let expected = "comes from a PJRT plugin, and engine interpreter was asked for; expected engine pjrt";
        assert!(stderr.contains(expected), "{command:?}: {stderr}");
    }
}
