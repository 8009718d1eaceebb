//! Runs that cannot reach what they are asked for, resumed runs, and the notes on both.
#![allow(clippy::unwrap_used)]

mod common;

use common::runs::{Runs, object, saved};
use common::{error, json, rigl_xla};

/// Gradual pruning over the small data set, from step 10 to 40.
const PRUNE: &[&str] = &[
    "--method",
    "prune",
    "--set",
    "prune.begin_step=10",
    "--set",
    "prune.end_step=40",
    "--set",
    "prune.frequency_steps=5",
];

/// Standard error of `train --json ARGS` into folder `run`, which is to succeed.
fn notes(runs: &Runs, run: &str, args: &[&str]) -> String {
    let output = runs.command(run, args).output().unwrap();
    let notes = String::from_utf8(output.stderr.clone()).unwrap();
    object(output);
    notes
}

#[test]
fn refuses_pruning_that_ends_before_its_sparsity() {
    for (args, reached) in [
        // Dense to the end, as no update comes within the run.
        (
            &["--steps", "600"][..],
            "sparsity 0.0000 (266200 of 266200 connections)",
        ),
        (
            &["--multiplier", "0.01"],
            "sparsity 0.0000 (266200 of 266200 connections)",
        ),
        (&["--steps", "7000"], "sparsity 0.4"),
        // A single update long before the end of the range.
        (&["--set", "prune.frequency_steps=20000"], "sparsity 0.92"),
    ] {
        let message = error(&[&["train", "mnist-prune"], args].concat(), 2);
        for part in [
            reached,
            "expected 0.9653 (9244)",
            "train.iterations",
            "prune.begin_step, prune.end_step, prune.frequency_steps",
            "--allow-incomplete-schedule",
        ] {
            assert!(message.contains(part), "{args:?}, {part}: {message}");
        }
    }
    // Intervals that do not divide the range reach all but a few connections of the target.
    let plan = json(&["plan", "mnist-prune", "--set", "prune.frequency_steps=900"]);
    assert!(plan.get("incomplete").is_none(), "{plan}");
}

#[test]
fn refuses_a_method_that_never_updates_its_masks() {
    for method in ["rigl", "set", "snfs", "static", "rigl-inverted", "set-itop"] {
        let late = ["--steps", "600", "--set", "mask_update.begin_step=700"];
        let message = error(&[&["train", "--method", method], &late[..]].concat(), 2);
        assert!(
            message.contains("without a mask update") && message.contains("mask_update.begin_step"),
            "{message}"
        );
        let plan = json(&[&["plan", "--method", method], &late[..]].concat());
        assert_eq!(plan["mask_updates"], 0);
        assert!(plan["incomplete"].is_string());
    }
    // Short trials update at their beginning; one-shot and fixed masks do not depend on the length.
    for method in ["rigl", "set", "snip", "grasp", "dnw", "scratch", "dense"] {
        let plan = json(&["plan", "--method", method, "--steps", "20"]);
        assert!(plan.get("incomplete").is_none(), "{method}: {plan}");
    }
}

#[test]
fn plan_and_cost_show_the_sparsity_reached() {
    let short = ["mnist-prune", "--steps", "600"];
    let text = String::from_utf8(rigl_xla(&[&["plan"], &short[..]].concat()).stdout).unwrap();
    assert!(
        text.contains("mask updates    0, sparsity reached 0 of 0.9652"),
        "{text}"
    );
    let plan = json(&[&["plan"], &short[..]].concat());
    assert_eq!((&plan["sparsity"], &plan["nonzeros"]), (&0.0.into(), &266_200.into()));
    assert_eq!(plan["layers"][0]["nonzeros"], 784 * 300);
    assert_eq!(plan["target_sparsity"], 1.0 - 9244.0 / 266_200.0);
    let cost = json(&[&["cost"], &short[..]].concat());
    assert_eq!(cost["total"]["inference_flops"]["plain"]["ratio"], 1.0);
    assert!(cost["incomplete"].is_string());
    let cut = json(&["plan", "mnist-prune", "--steps", "7000"]);
    let last = cut["pruning"].as_array().unwrap().last().unwrap();
    assert_eq!((&cut["nonzeros"], &last["step"]), (&last["nonzeros"], &7000.into()));
    // A complete run is as published.
    let whole = json(&["plan", "mnist-prune"]);
    assert_eq!(
        (&whole["nonzeros"], &whole["layers"][0]["sparsity"]),
        (&9244.into(), &0.98.into())
    );
}

#[test]
fn notes_schedules_beyond_the_run() {
    let noted = |args: &[&str], part: &str| {
        let plan = json(&[&["plan"], args].concat());
        let notes: Vec<_> = plan["notes"].as_array().into_iter().flatten().collect();
        let found = notes.iter().any(|note| note.as_str().unwrap().contains(part));
        assert!(found, "{args:?}: {notes:?}");
    };
    noted(&["--steps", "1000"], "mask updates end with the run, at step 900");
    noted(
        &["--steps", "1000"],
        "2 of 2 learning-rate drops lie beyond the 990 gradient steps",
    );
    noted(
        &["resnet50-rigl", "--steps", "100"],
        "the learning rate is still rising at the end of the run",
    );
    let cosine = [
        "--set",
        "learning_rate.schedule=cosine",
        "--set",
        "learning_rate.decay_steps=200000",
    ];
    noted(&cosine, "instead of 0: learning_rate.decay_steps is 200000");
    noted(
        &[
            "resnet50-rigl",
            "--set",
            "learning_rate.schedule=sgdr",
            "--steps",
            "100",
        ],
        "within the first cycle (learning_rate.cycle_epochs)",
    );
    noted(&["--set", "mask_update.end_step=-1"], "mask updates move no connection");
    // The recipe for MNIST ends within its run.
    assert!(json(&["plan"]).get("notes").is_none());
}

#[test]
fn trains_and_resumes_an_allowed_incomplete_run() {
    let runs = Runs::new();
    let refused = runs
        .command("run", &[PRUNE, &["--steps", "8"]].concat())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(!runs.path("run").exists());
    let allow = ["--allow-incomplete-schedule"];
    let done = runs.train("run", &[PRUNE, &["--steps", "8"], &allow[..]].concat());
    assert_eq!((&done["nonzeros"], &done["sparsity"]), (&266_200.into(), &0.0.into()));
    assert_eq!(done["target_sparsity"], 0.98);
    // The run's configuration remembers it.
    let out = runs.path("run");
    let resumed = rigl_xla(&[
        "train",
        "--json",
        "--resume",
        "--steps",
        "20",
        "--out",
        out.to_str().unwrap(),
    ]);
    let resumed = object(resumed);
    assert_eq!(resumed["steps"], 20);
    let sparsity = resumed["sparsity"].as_f64().unwrap();
    assert!(0.1 < sparsity && sparsity < 0.9, "{resumed}");
    // To its end it is the run that was never cut.
    let done = runs.train("run", &[PRUNE, &["--steps", "45", "--resume"]].concat());
    runs.train("whole", &[PRUNE, &["--steps", "45"]].concat());
    assert_eq!(
        (&done["nonzeros"], &done["sparsity"]),
        (&9244.into(), &(1.0 - 9244.0 / 266_200.0).into())
    );
    assert!(runs.tensors("run", 45) == runs.tensors("whole", 45));
}

#[test]
fn the_header_and_the_result_count_the_same_weights() {
    let runs = Runs::new();
    let notes = notes(&runs, "run", &["--steps", "10"]);
    assert!(
        notes.contains("rigl at sparsity 0.98, layer2 0.882, layer3 dense (sparsity.layers); in all 9244 of 266200 maskable weights, sparsity 0.9653"),
        "{notes}"
    );
    assert!(notes.contains("note: mask updates end with the run"), "{notes}");
}

#[test]
fn a_resumed_run_reports_its_start() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "30"]);
    let ended = notes(&runs, "run", &["--steps", "30", "--resume"]);
    let checkpoint = runs.checkpoint_path("run", 30);
    let done = format!(
        "already done: {} has all 30 iterations; only evaluating",
        checkpoint.display()
    );
    assert!(ended.contains(&done), "{ended}");
    let longer = notes(&runs, "run", &["--steps", "40", "--resume"]);
    let from = format!("resuming from {}, after 30 of 40 iterations", checkpoint.display());
    assert!(longer.contains(&from), "{longer}");
    for at in saved(&runs.path("run")) {
        std::fs::remove_file(runs.checkpoint_path("run", at)).unwrap();
    }
    let fresh = notes(&runs, "run", &["--steps", "40", "--resume"]);
    let start = format!(
        "no checkpoint yet in {}: training starts at the first iteration",
        runs.path("run").display()
    );
    assert!(fresh.contains(&start), "{fresh}");
    // A run that is not resumed prints no such note.
    let first = notes(&runs, "other", &["--steps", "10"]);
    assert!(!first.contains("checkpoint"), "{first}");
}

#[test]
fn the_default_folder_is_named_after_differences_from_the_recipe() {
    let folder = |args: &[&str]| {
        let plan = json(&[&["plan"], args].concat());
        plan["run_dir"].as_str().unwrap().to_owned()
    };
    assert_eq!(folder(&[]), "runs/mnist-rigl-0.98-seed0");
    assert_eq!(
        folder(&["--lr", "0.1", "--steps", "600"]),
        "runs/mnist-rigl-0.98-seed0-lr=0.1-steps=600"
    );
    assert_eq!(
        folder(&["--set", "mask_update.drop_fraction=0.5"]),
        "runs/mnist-rigl-0.98-seed0-drop_fraction=0.5"
    );
    assert_eq!(
        folder(&["--model", "resnet18", "--width", "0.5"]),
        "runs/imagenet-rigl-0.9-seed0-resnet18-width=0.5"
    );
    // Where and how it runs makes no other run.
    let elsewhere = [
        "--replicas",
        "2",
        "--steps-per-launch",
        "7",
        "--set",
        "train.eval_interval=50",
    ];
    assert_eq!(folder(&elsewhere), folder(&[]));
    // A digest distinguishes values that a name cannot show.
    let different: [&[&str]; 6] = [
        &[],
        &["--set", "learning_rate.boundaries=[1, 2]"],
        &["--set", "learning_rate.boundaries=[1, 3]"],
        &["--custom", "layer1=0.5"],
        &["--data", "/data/a"],
        &["--data", "/data/b"],
    ];
    let mut names = different.map(folder);
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}

#[test]
fn eval_uses_the_data_of_the_run() {
    let runs = Runs::new();
    let done = runs.train("run", &["--steps", "10"]);
    let [run, alone] = ["run", "alone.safetensors"].map(|name| runs.path(name));
    std::fs::copy(runs.checkpoint_path("run", 10), &alone).unwrap();
    // From the configuration next to the checkpoint, and from the one in it.
    for checkpoint in [&run, &alone] {
        let report = json(&["eval", "--checkpoint", checkpoint.to_str().unwrap()]);
        assert_eq!(
            (&report["examples"], &report["top1"]),
            (&done["eval"]["examples"], &done["eval"]["top1"])
        );
        // The size that is published is not that of the file.
        let size = std::fs::metadata(&alone).unwrap().len();
        assert_eq!(report["file_bytes"], size);
        assert!(report["bytes"]["published"]["sparse"].as_f64().unwrap() < size as f64 / 10.0);
    }
    let text = rigl_xla(&["eval", "--checkpoint", run.to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("if only the connections were stored"), "{text}");
    assert!(
        text.contains("MB, with whole arrays, masks and the state of training"),
        "{text}"
    );
    // Another program's file does not name its data.
    let bytes = std::fs::read(&alone).unwrap();
    let ours = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    safetensors::serialize_to_file(ours.tensors(), None, &alone).unwrap();
    let message = error(&["eval", "--checkpoint", alone.to_str().unwrap()], 2);
    assert!(message.contains("give a name or a folder with --data"), "{message}");
}
