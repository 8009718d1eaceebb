//! Launches and large grids of TPUs, compiled ahead of time: the state stays in place, nothing goes to the host, gradients can be
//! reduced beside the backward pass, and `plan` knows links and hosts.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compiles, error, json};
use serde_json::Value;

/// WRN-10-1 for pictures of 16 x 16 in TFRecords, which are sent with each launch.
const STREAMED: &[&str] = &[
    "cifar10-rigl",
    "--data",
    "imagenet",
    "--set",
    "model={name='wrn-10-1',image_size=16,dropout=0.0}",
    "--set",
    "data.preprocessing=imagenet",
    "--batch-size",
    "64",
    "--steps-per-launch",
    "7",
];

fn launch(args: &[&str], topology: &str) -> Value {
    let report = compiles(&[args, &["--graph", "train", "--topology", topology]].concat());
    let (launch, alias) = (
        report["launch"].clone(),
        report["memory"]["alias_bytes"].as_u64().unwrap(),
    );
    assert_eq!(launch["host_transfers"], 0, "{launch}");
    assert_eq!(launch["once"]["copies"], 0, "{launch}");
    assert!(alias > 0, "{report}");
    launch
}

/// On one chip the compiler fuses a kernel's gradient with its update, and copies the result of kernels whose old values it still
/// needs. The all-reduce comes between them on several.
#[test]
fn streamed_launches_keep_the_state_in_place() {
    let weights = 4 * 77_850;
    for (topology, copied) in [("v5e:1x1", weights), ("v5e:2x4", 0)] {
        let launch = launch(STREAMED, topology);
        assert!(
            launch["iteration"]["copied_bytes"].as_u64().unwrap() <= copied,
            "{launch}"
        );
        assert_eq!(launch["update"]["copies"], 0, "{launch}");
        // Weights, their momenta and masks, statistics, and counters.
        assert!(launch["in_place"].as_u64().unwrap() > 50, "{launch}");
    }
}

/// The first layer's weights, momentum, gradients and mask have their rows side by side in iterations, and their columns in an
/// update, which ranks in the order of positions.
#[test]
fn an_update_changes_layouts_once() {
    for topology in ["v5e:1x1", "v5e:2x4"] {
        let launch = launch(&["mnist-rigl"], topology);
        assert_eq!(launch["iteration"]["copies"], 0, "{launch}");
        let copied = launch["update"]["copied_bytes"].as_u64().unwrap();
        let layer = 784 * 300;
        assert!(copied <= (5 * 4 + 2) * layer, "{launch}");
        assert_eq!(launch["in_place"], 17, "{launch}");
    }
}

#[test]
fn grids_of_256_chips_compile() {
    for (topology, chips, seconds) in [
        ("v5e:16x16", 256, 2.0 * 255.0 / 256.0 / 200e9),
        ("v4:4x4x8", 128, 2.0 * 127.0 / 128.0 / 300e9),
        ("v5p:4x8x8", 256, 2.0 * 255.0 / 256.0 / 600e9),
    ] {
        let report = compiles(&["mnist-rigl", "--topology", topology]);
        assert_eq!(report["chips"], chips);
        let bytes = report["collective_bytes"].as_f64().unwrap();
        let expected = report["estimate"]["collective_s"].as_f64().unwrap();
        assert!((expected / (bytes * seconds) - 1.0).abs() < 1e-9, "{report}");
        assert_eq!(report["overlap"], 0.0, "{report}");
    }
}

#[test]
fn gradients_are_reduced_beside_the_backward_pass() {
    let network = [
        "mnist-dense",
        "--set",
        "model.hidden=[1024,1024,1024]",
        "--topology",
        "v5e:2x4",
        "--batch-size",
        "8192",
    ];
    let [plain, hidden] = [&[][..], &["--overlap"]].map(|more| compiles(&[&network[..], more].concat()));
    let [before, after] = [&plain, &hidden].map(|report| report["overlap"].as_f64().unwrap());
    assert!(before == 0.0 && after > 0.3, "{before} {after}");
    let [all, same] = [&plain, &hidden].map(|report| report["collective_bytes"].as_f64().unwrap());
    assert!((same / all - 1.0).abs() < 1e-3, "{all} {same}");
    let message = error(&["compile", "--topology", "v4:2x2x2", "--overlap"], 2);
    assert!(message.contains("expected v5e"), "{message}");
}

#[test]
fn plans_know_links_and_hosts() {
    let plan = json(&[
        "plan",
        "resnet50-rigl",
        "--batch-size",
        "16384",
        "--topology",
        "v5e:16x16",
    ]);
    let scale = &plan["scale"];
    assert_eq!((&scale["chips"], &scale["hosts"]), (&256.into(), &32.into()));
    let (reduce, compute) = (
        scale["all_reduce_s"].as_f64().unwrap(),
        scale["compute_s"].as_f64().unwrap(),
    );
    let sent = 2.0 * plan["replicas"]["all_reduced_bytes"].as_f64().unwrap() * 255.0 / 256.0;
    assert!((reduce / (sent / 200e9) - 1.0).abs() < 1e-9, "{scale}");
    // 64 pictures of 3 x 2 x 4.1e9 operations at 197e12 per second.
    assert!((0.007..0.009).contains(&compute), "{scale}");
    let input = &scale["input"];
    let needed = input["cores_needed"].as_f64().unwrap();
    assert!(
        (60.0..75.0).contains(&needed) && input["cores"] == 112 && input["is_limit"] == false,
        "{input}"
    );
    let message = error(
        &["plan", "--replicas", "3", "--batch-size", "99", "--topology", "v5e:2x2"],
        2,
    );
    assert!(message.contains("a multiple of the 4 chips"), "{message}");
}
