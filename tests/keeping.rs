//! Best checkpoints, early stopping, budgets and validation splits, as a user asks for them.
#![allow(clippy::unwrap_used)]

#[path = "common/records.rs"]
mod records;

mod common;

use std::fs;

use common::runs::{Runs, saved, small_mnist, start_until};
use common::{error, failed};
use rigl_xla::data::held_out::hold_out;
use rigl_xla::data::sets::{ExampleSpec, Examples, IMAGENET};
use rigl_xla::data::{Split, imagenet};
use serde_json::Value;

/// Evaluations in `metrics.jsonl`: iteration and scores.
fn evaluations(runs: &Runs, run: &str, kind: &str) -> Vec<(u64, Value)> {
    let records = runs.metrics(run).into_iter();
    let scores = records.filter(|record| record.get(kind).is_some());
    scores
        .map(|record| (record["iteration"].as_u64().unwrap(), record[kind].clone()))
        .collect()
}

/// The iteration with the best value; the earlier of equal ones.
fn best(of: &[(u64, Value)], key: &str, rises: bool) -> (u64, f64) {
    let values = of.iter().map(|(at, scores)| (*at, scores[key].as_f64().unwrap()));
    let better = |a: (u64, f64), b: (u64, f64)| if (b.1 > a.1) == rises && b.1 != a.1 { b } else { a };
    values.reduce(better).unwrap()
}

#[test]
fn the_best_and_every_kth_checkpoint_stay() {
    let runs = Runs::new();
    let keep = ["--keep-best", "loss", "--keep-checkpoints", "1", "--keep-every", "50"];
    let args = [&keep[..], &["--lr", "1.5", "--steps", "130", "--validation", "200"]].concat();
    let summary = runs.train("run", &args);
    let validation = evaluations(&runs, "run", "validation");
    assert_eq!(validation.len(), 7);
    assert_eq!(validation[0].1["examples"], 200);
    let (at, value) = best(&validation, "loss", false);
    let chosen = &summary["best"];
    assert_eq!(
        (chosen["iteration"].as_u64(), chosen["value"].as_f64()),
        (Some(at), Some(value))
    );
    // The test set is used once, at the end.
    let test = evaluations(&runs, "run", "eval");
    assert_eq!(test.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [130]);
    assert_eq!(test[0].1, summary["eval"]);
    let mut kept = vec![50, 100, 130, at];
    kept.sort();
    kept.dedup();
    assert_eq!(saved(&runs.path("run")), kept);
    let link = runs.path("run").join("best.safetensors");
    assert_eq!(fs::read(&link).unwrap(), runs.bytes("run", at));
    let evaluated = common::json(&["eval", "--checkpoint", link.to_str().unwrap(), "--data", small_mnist()]);
    let of_file = evaluated.get(0).unwrap_or(&evaluated);
    assert_eq!(of_file["top1"], chosen["eval"]["top1"], "{evaluated}");
}

#[test]
fn patience_stops_and_a_kill_changes_nothing() {
    let runs = Runs::new();
    // Nothing moves: no evaluation is better than the first.
    let args = [
        "--lr",
        "0",
        "--steps",
        "400",
        "--patience",
        "3",
        "--validation",
        "0.1",
        "--method",
        "scratch",
    ];
    let args = [&args[..], &["--set", "data.validation_seed=5", "--keep-best", "top1"]].concat();
    let whole = runs.train("whole", &args);
    assert_eq!(
        (whole["steps"].as_u64(), &whole["stopped_by"]),
        (Some(80), &"patience".into())
    );
    assert_eq!(whole["interrupted"], false);
    let ready = || saved(&runs.path("killed")).contains(&50);
    let mut child = start_until(runs.command("killed", &args), ready);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = runs.train("killed", &[&args[..], &["--resume"]].concat());
    assert_eq!(resumed["steps"], whole["steps"]);
    assert_eq!(resumed["best"]["iteration"], whole["best"]["iteration"]);
    assert_eq!(
        evaluations(&runs, "killed", "validation"),
        evaluations(&runs, "whole", "validation")
    );
    assert!(runs.bytes("killed", 80) == runs.bytes("whole", 80));
    // Once more: it has stopped already.
    let again = runs.train("killed", &[&args[..], &["--resume"]].concat());
    assert_eq!(
        (&again["steps"], &again["stopped_by"]),
        (&whole["steps"], &whole["stopped_by"])
    );
    // With more patience it goes on.
    let longer = args.iter().map(|&arg| if arg == "3" { "4" } else { arg });
    let longer: Vec<&str> = longer.chain(["--resume"]).collect();
    assert_eq!(runs.train("killed", &longer)["steps"], 100);
}

#[test]
fn budgets_of_flops_and_time_end_a_run() {
    let runs = Runs::new();
    let dense = ["--method", "dense", "--sparsity", "0", "--steps", "100"];
    let cut = runs.train("dense", &[&dense[..], &["--stop-flops", "0.37x dense"]].concat());
    assert_eq!((cut["steps"].as_u64(), &cut["stopped_by"]), (Some(37), &"flops".into()));
    let timed = runs.train("timed", &["--steps", "1000000", "--stop-time", "1s"]);
    assert_eq!(timed["stopped_by"], "time");
    let seconds = timed["train_s"].as_f64().unwrap();
    assert!((0.9..20.0).contains(&seconds), "{seconds}");
}

#[test]
fn evaluations_follow_epochs() {
    let runs = Runs::new();
    // 900 examples in batches of 20 are 45 iterations.
    runs.train("run", &["--steps", "100", "--eval-epochs", "1", "--validation", "100"]);
    let at: Vec<u64> = evaluations(&runs, "run", "validation")
        .iter()
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(at, [45, 90, 100]);
}

#[test]
fn wrong_values_are_refused() {
    for (args, expected) in [
        (&["--keep-best", "top2"][..], "did you mean"),
        (&["--stop-flops", "1x"], "or '1.0x dense'"),
        (&["--stop-time", "soon"], "a time such as 90s"),
        (&["--keep-every", "7"], "a multiple of train.checkpoint_interval"),
        (&["--validation", "1.5"], "a share of the training examples"),
        (&["--patience", "0"], "at least 1"),
    ] {
        let message = error(&[&["plan", "mnist-rigl"], args].concat(), 2);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    let all = [
        "train",
        "--data",
        small_mnist(),
        "--validation",
        "1000",
        "--out",
        "no/such/run",
    ];
    let message = failed(&all, 2);
    assert!(
        message.contains("holds out 1000 of 1000 training examples"),
        "{message}"
    );
}

#[test]
fn records_in_files_are_held_out_too() {
    let folder = tempfile::tempdir().unwrap();
    records::write(folder.path(), "train", 3, 40);
    records::write(folder.path(), "validation", 1, 8);
    let dir = folder.path().to_str().unwrap();
    let spec = ExampleSpec {
        dims: &[16, 16, 3],
        classes: 10,
        examples: [0; 2],
        seed: 0,
        pictures: imagenet::Kind::default(),
        skip_corrupt: 0,
    };
    let all = IMAGENET.open(dir, Split::Train, &spec).unwrap();
    let places = |examples: &Examples| -> Vec<(String, u64)> {
        let Examples::Records(records) = examples else { panic!() };
        let place = |i| {
            let (file, offset) = records.place(i);
            (file.display().to_string(), offset)
        };
        (0..examples.len()).map(place).collect()
    };
    let [rest, held] = hold_out(&all, 10, 3).unwrap();
    assert_eq!((rest.len(), held.len()), (30, 10));
    assert!(rest.digest() != held.digest() && rest.digest() != all.digest());
    let mut both = [places(&rest), places(&held)].concat();
    both.sort();
    let mut expected = places(&all);
    expected.sort();
    assert_eq!(both, expected);
    // A run evaluates the ten, and trains on the thirty.
    let runs = Runs::new();
    let out = runs.path("run");
    let args = [
        "train",
        "cifar10-rigl",
        "--data",
        dir,
        "--out",
        out.to_str().unwrap(),
        "--validation",
        "0.25",
    ];
    let network = [
        "--set",
        "model={name='wrn-10-1',image_size=16,dropout=0.0}",
        "--execution",
        "masked",
    ];
    let length = [
        "--batch-size",
        "6",
        "--steps",
        "4",
        "--set",
        "data.preprocessing=imagenet",
    ];
    let rhythm = [
        "--eval-interval",
        "100",
        "--set",
        "mask_update.frequency_steps=2",
        "--set",
        "train.eval_batch_size=5",
    ];
    let summary = common::json(&[&args[..], &network, &length, &rhythm].concat());
    assert_eq!(summary["validation"]["examples"], 10);
    assert_eq!(summary["eval"]["examples"], 8);
    let certificate: Value = serde_json::from_slice(&fs::read(out.join("certificate.json")).unwrap()).unwrap();
    assert_eq!(certificate["origin"]["data"]["train"]["examples"], 30);
}
