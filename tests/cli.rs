//! `plan` and the layers of configuration, through the program. Figures are the original's (reference 1.4-1.7, 2.3, 4.4).
#![allow(clippy::unwrap_used)]

mod common;

use common::{json, rigl_xla};
use serde_json::Value;

/// `(shape, how many layers of it)` as the value of `--layers`.
fn layers(shapes: &[(&str, usize)]) -> String {
    let all = shapes
        .iter()
        .flat_map(|(shape, count)| (0..*count).map(move |i| format!("l{shape}_{i}={shape}")));
    all.collect::<Vec<_>>().join(",")
}

fn plan(layers: &str, distribution: &str, sparsity: &str, more: &[&str]) -> Value {
    let what = [
        "plan",
        "--layers",
        layers,
        "--distribution",
        distribution,
        "--sparsity",
        sparsity,
    ];
    json(&[&what, more].concat())
}

/// Holds every layer's sparsity in `plan` to `want`, given per shape in their order, to six digits.
fn assert_sparsities(plan: &Value, shapes: &[(&str, usize)], want: &[f64]) {
    let wanted = shapes
        .iter()
        .zip(want)
        .flat_map(|(&(_, count), &want)| std::iter::repeat_n(want, count));
    let planned = plan["layers"].as_array().unwrap();
    assert_eq!(planned.len(), shapes.iter().map(|(_, count)| count).sum::<usize>());
    for (layer, want) in planned.iter().zip(wanted) {
        let found = layer["sparsity"].as_f64().unwrap();
        assert!(
            (found - want).abs() < 6e-7,
            "{}: {found}, expected {want}",
            layer["name"]
        );
    }
}

const RESNET50: [(&str, usize); 21] = [
    ("7x7x3x64", 1),
    ("1x1x64x64", 1),
    ("3x3x64x64", 3),
    ("1x1x64x256", 4),
    ("1x1x256x64", 2),
    ("1x1x256x128", 1),
    ("3x3x128x128", 4),
    ("1x1x128x512", 4),
    ("1x1x512x128", 3),
    ("1x1x256x512", 1),
    ("1x1x512x256", 1),
    ("3x3x256x256", 6),
    ("1x1x256x1024", 6),
    ("1x1x1024x256", 5),
    ("1x1x512x1024", 1),
    ("1x1x1024x512", 1),
    ("3x3x512x512", 3),
    ("1x1x512x2048", 3),
    ("1x1x2048x512", 2),
    ("1x1x1024x2048", 1),
    ("2048x1000", 1),
];

#[test]
fn erk_of_resnet50() {
    let layers = layers(&RESNET50);
    let at80 = [
        0.142805, 0.0, 0.638095, 0.0, 0.0, 0.0, 0.823099, 0.024680, 0.024680, 0.415112, 0.415112, 0.912562, 0.513099,
        0.513099, 0.707936, 0.707936, 0.956534, 0.756740, 0.756740, 0.854063, 0.851824,
    ];
    let at965 = [
        0.853113, 0.458523, 0.937985, 0.664701, 0.664701, 0.799029, 0.969687, 0.832871, 0.832871, 0.899775, 0.899775,
        0.985017, 0.916566, 0.916566, 0.949952, 0.949952, 0.992552, 0.958315, 0.958315, 0.974992, 0.974609,
    ];
    for (sparsity, ones, want) in [
        ("0.8", 5_100_630, Some(at80)),
        ("0.9", 2_550_353, None),
        ("0.965", 892_651, Some(at965)),
    ] {
        let plan = plan(&layers, "erk", sparsity, &[]);
        assert_eq!(
            (plan["nonzeros"].as_u64(), plan["maskable"].as_u64()),
            (Some(ones), Some(25_502_912)),
            "{sparsity}"
        );
        if let Some(want) = want {
            assert_sparsities(&plan, &RESNET50, &want);
        }
    }
    let unmasked_first = layers.split_once(',').unwrap().1;
    assert_eq!(plan(unmasked_first, "erk", "0.99", &[])["nonzeros"], 254_978);
    for (sparsity, ones) in [("0.8", 5_098_725), ("0.9", 2_549_377), ("0.99", 254_957)] {
        assert_eq!(
            plan(unmasked_first, "uniform", sparsity, &[])["nonzeros"],
            ones,
            "uniform {sparsity}"
        );
    }
}

#[test]
fn erk_of_wide_resnet_saturates_layers() {
    let shapes = [
        ("1x1x16x32", 1),
        ("3x3x16x32", 1),
        ("3x3x32x32", 5),
        ("1x1x32x64", 1),
        ("3x3x32x64", 1),
        ("3x3x64x64", 5),
        ("1x1x64x128", 1),
        ("3x3x64x128", 1),
        ("3x3x128x128", 5),
        ("128x10", 1),
    ];
    let layers = layers(&shapes);
    let at50 = plan(&layers, "erk", "0.5", &[]);
    assert_sparsities(
        &at50,
        &shapes,
        &[0.0, 0.0, 0.0, 0.0, 0.0, 0.237141, 0.0, 0.436395, 0.627110, 0.0],
    );
    let saturated = at50["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| layer["saturated"] == true)
        .count();
    assert_eq!(saturated, 11);
    let at95 = [
        0.0, 0.795075, 0.867179, 0.163225, 0.903230, 0.936435, 0.585882, 0.953038, 0.968929, 0.0,
    ];
    assert_sparsities(&plan(&layers, "erk", "0.95", &[]), &shapes, &at95);
}

#[test]
fn er_and_power_scale_and_custom_layers() {
    let shapes = [("3x3x16x32", 1), ("1x1x32x64", 1), ("64x10", 1)];
    let layers = layers(&shapes);
    let cases: [(&str, &[&str], [f64; 3]); 3] = [
        ("er", &[], [0.7726328904, 0.8863164452, 0.7195805648]),
        (
            "erk",
            &["--power-scale", "0.5"],
            [0.8642714831, 0.7257298649, 0.5736597538],
        ),
        ("uniform", &["--custom", "l64x10_0=0.25"], [0.8, 0.8, 0.25]),
    ];
    for (distribution, more, want) in cases {
        assert_sparsities(&plan(&layers, distribution, "0.8", more), &shapes, &want);
    }
    let pair = "a=8x6,b=4x3";
    assert_sparsities(
        &plan(pair, "er", "0.7", &[]),
        &[("", 1), ("", 1)],
        &[0.7361111111, 0.4722222222],
    );
}

#[test]
fn rounding_decides_the_odd_connection() {
    let zeros = |rounding| plan("a=3x5", "uniform", "0.5", &["--rounding", rounding])["layers"][0]["zeros"].clone();
    assert_eq!((zeros("floor"), zeros("ceil")), (7.into(), 8.into()));
}

#[test]
fn the_default_is_rigl_on_mnist() {
    let plan = json(&["plan"]);
    assert_eq!(
        (&plan["method"], &plan["nonzeros"], &plan["maskable"]),
        (&"rigl".into(), &9244.into(), &266_200.into())
    );
    let layer = |i: usize| {
        (
            plan["layers"][i]["name"].as_str().unwrap(),
            plan["layers"][i]["nonzeros"].as_u64().unwrap(),
        )
    };
    assert_eq!(
        [0, 1, 2].map(layer),
        [("layer1", 4704), ("layer2", 3540), ("layer3", 1000)]
    );
    assert_eq!(plan["layers"][0]["shape"], serde_json::json!([784, 300]));
    let steps: Vec<i64> = (0..=500).map(|i| 100 * i).collect();
    assert_eq!(plan["update_steps"], serde_json::json!(steps));
    assert_eq!(
        (&plan["mask_updates"], &plan["gradient_steps"]),
        (&501.into(), &119_499.into())
    );
    assert_eq!(plan["learning_rate"]["boundaries"], serde_json::json!([45000, 57000]));
}

#[test]
fn methods_choose_their_own_recipe() {
    let set = json(&["plan", "--method", "set", "--steps", "1000"]);
    assert_eq!(
        set["update_steps"],
        serde_json::json!([1, 101, 201, 301, 401, 501, 601, 701, 801, 901])
    );
    assert_eq!(set["gradient_steps"], 1000);
    let dense = json(&["plan", "--method", "dense"]);
    assert_eq!((&dense["sparsity"], &dense["mask_updates"]), (&0.0.into(), &0.into()));
    assert_eq!(
        dense["learning_rate"]["boundaries"],
        serde_json::json!([36000, 42000, 48000])
    );
    assert_eq!(json(&["plan", "mnist-scratch"])["method"], "scratch");
}

#[test]
fn counters_follow_the_reference_trace() {
    let schedule = [
        "--set",
        "mask_update.end_step=8",
        "--set",
        "mask_update.frequency_steps=3",
    ];
    let plan = json(
        &[
            &["plan", "--layers", "l=20x10", "--sparsity", "0.75", "--steps", "20"],
            &schedule[..],
        ]
        .concat(),
    );
    let replaced: Vec<_> = plan["replacements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["step"], &r["replaced"]))
        .collect();
    let want = [(0, 15), (3, 10), (6, 2)].map(|(step, replaced)| (Value::from(step), Value::from(replaced)));
    assert_eq!(
        replaced,
        want.iter().map(|(step, replaced)| (step, replaced)).collect::<Vec<_>>()
    );
}

#[test]
fn sparsity_moves_the_scaled_layer_too() {
    let plan = json(&["plan", "--sparsity", "0.9"]);
    let of = |i: usize| plan["layers"][i]["sparsity"].as_f64().unwrap();
    assert!((of(0) - 0.9).abs() < 1e-12 && (of(1) - 0.81).abs() < 1e-12 && of(2) == 0.0);
}

#[test]
fn multiplier_stretches_the_schedules_but_not_the_frequency() {
    let plan = json(&["plan", "--multiplier", "0.5"]);
    assert_eq!(
        (&plan["iterations"], &plan["mask_updates"]),
        (&60_000.into(), &251.into())
    );
    assert_eq!(plan["learning_rate"]["boundaries"], serde_json::json!([22500, 28500]));
    assert_eq!(plan["update_steps"][1], 100);
}

#[test]
fn flags_win_over_files_and_files_over_presets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    std::fs::write(&file, "[sparsity]\ntarget = 0.5\nlayers = {}\n[train]\nseed = 7\n").unwrap();
    let plan = json(&[
        "plan",
        "--config",
        file.to_str().unwrap(),
        "--seed",
        "9",
        "--data",
        "fashion-mnist",
    ]);
    let config = &plan["config"];
    assert_eq!(
        (&config["sparsity"]["target"], &config["train"]["seed"]),
        (&0.5.into(), &9.into())
    );
    assert_eq!(
        (&plan["nonzeros"], &config["train"]["batch_size"]),
        (&133_100.into(), &100.into())
    );
    // The file takes the preset's layers away, which only a digest can show.
    let folder = plan["run_dir"].as_str().unwrap();
    assert!(folder.starts_with("runs/fashion-mnist-rigl-0.5-seed9-"), "{folder}");
}

#[test]
fn plan_prints_a_table() {
    let output = rigl_xla(&["plan"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty());
    for line in [
        "layer2  300x100  0.882000  26460  3540  sparse  1.8x  custom",
        "mask updates  501 from step 0 to 50000",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(
            text.lines()
                .any(|found| found.split_whitespace().eq(words.iter().copied())),
            "{line}: {text}"
        );
    }
}

#[test]
fn verbose_prints_a_reusable_configuration() {
    let args = [
        "plan",
        "--json",
        "--method",
        "set",
        "--sparsity",
        "0.7",
        "--set",
        "output.dir=a b",
    ];
    let shown = rigl_xla(&[&args[..], &["-v"]].concat());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, &shown.stderr).unwrap();
    let again = rigl_xla(&["plan", "mnist-dense", "--json", "--config", file.to_str().unwrap()]);
    assert!(shown.status.success() && again.status.success());
    assert_eq!(shown.stdout, again.stdout);
}
