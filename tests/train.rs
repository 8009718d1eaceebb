//! Training end to end with the real program: resuming, determinism, counters, and what each subcommand prints.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "train/engines.rs"]
mod engines;
#[path = "train/profile.rs"]
mod profile;

use std::fs;
use std::io::Write;
use std::process::Command;

use common::runs::{Runs, last_iteration, object, ones, saved, small_mnist, start_until};
use common::{json, rigl_xla};
use rigl_xla::checkpoint::Checkpoint;
use serde_json::{Value, json as value};

/// Whether a line of metrics is an evaluation.
fn is_eval(record: &Value) -> bool {
    record.get("eval").is_some()
}

/// Runs whose states differ: a method, with settings over it.
const STATES: [(&str, &[&str]); 11] = [
    ("rigl", &[]),
    ("set", &[]),
    ("scratch", &[]),
    ("dense", &[]),
    ("snfs", &[]),
    ("snip", &[]),
    ("dnw", &[]),
    ("rigl-itop", &[]),
    (
        "prune",
        &[
            "prune.begin_step=3",
            "prune.end_step=45",
            "prune.frequency_steps=7",
            "prune.threshold_decay=0.4",
        ],
    ),
    // The interruption at 27 falls between two batches that are averaged.
    ("rigl", &["method.gradient_batches=9", "mask_update.end_step=45"]),
    ("static", &["optimizer.name=adam", "learning_rate.base=0.001"]),
];

#[test]
fn stopping_and_resuming_changes_no_byte() {
    let runs = Runs::new();
    for (i, (method, settings)) in STATES.into_iter().enumerate() {
        let (straight, halves) = (format!("{i}-straight"), format!("{i}-halves"));
        let settings: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        let args = [&["--method", method][..], &settings].concat();
        let whole = runs.train(&straight, &[&args[..], &["--steps", "60"]].concat());
        // Gradual pruning that stops halfway is refused otherwise.
        let half = ["--steps", "27", "--allow-incomplete-schedule"];
        runs.train(&halves, &[&args[..], &half].concat());
        let mut resumed = runs.train(&halves, &[&args[..], &["--steps", "60", "--resume"]].concat());
        for iteration in [50, 60] {
            assert!(
                runs.bytes(&straight, iteration) == runs.bytes(&halves, iteration),
                "{method}: checkpoints at {iteration} differ"
            );
        }
        for key in ["train_s", "steps_per_s", "startup_s", "checkpoint", "run_dir"] {
            resumed[key] = whole[key].clone();
        }
        assert_eq!(resumed, whole);
        // Iteration 27 adds an evaluation, and splits the launches between the checkpoint before and the evaluation after.
        let same = |record: &Value| {
            let at = record["iteration"].as_u64().unwrap();
            if is_eval(record) {
                at != 27
            } else {
                !(26..=40).contains(&at)
            }
        };
        let kept = |run| -> Vec<Value> { runs.metrics(run).into_iter().filter(same).collect() };
        assert_eq!(kept(&straight), kept(&halves), "{method}");
        assert_eq!(kept(&straight).iter().filter(|r| is_eval(r)).count(), 3);
    }
}

/// The share of weights that were ever active starts at the density and grows with the updates.
#[test]
fn exploring_methods_report_the_explored_share() {
    let runs = Runs::new();
    let done = runs.train("itop", &["--method", "set-itop", "--steps", "60"]);
    let shares: Vec<f64> = runs
        .metrics("itop")
        .iter()
        .filter_map(|r| r["explored"].as_f64())
        .collect();
    let density = done["nonzeros"].as_f64().unwrap() / done["maskable"].as_f64().unwrap();
    assert_eq!(shares.len(), 3);
    assert!(
        shares[0] > density && shares.is_sorted() && shares[2] > 1.3 * density,
        "{shares:?}"
    );
    assert_eq!(done["explored"].as_f64(), shares.last().copied());
    let plain = runs.train("set", &["--method", "set", "--steps", "20"]);
    assert!(plain.get("explored").is_none());
}

#[test]
fn killed_run_resumes_to_the_same_bytes() {
    let runs = Runs::new();
    let path = runs.path("killed");
    let mut child = start_until(runs.command("killed", &["--steps", "1000000"]), || {
        saved(&path).last().is_some_and(|&at| last_iteration(&path) > at)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (at, seen) = (*saved(&path).last().unwrap(), last_iteration(&path));
    let steps = (seen + 30).to_string();
    let resumed = runs.train("killed", &["--steps", &steps, "--resume"]);
    runs.train("straight", &["--steps", &steps]);
    assert_eq!(
        (&resumed["steps"], &resumed["interrupted"]),
        (&(seen + 30).into(), &false.into())
    );
    assert!(
        runs.bytes("killed", seen + 30) == runs.bytes("straight", seen + 30),
        "resumed at {at}"
    );
    assert_eq!(runs.metrics("killed"), runs.metrics("straight"), "resumed at {at}");
}

/// A signal saves the run and ends it well, SIGTERM as Ctrl-C.
#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_resuming_changes_no_byte() {
    for signal in ["INT", "TERM"] {
        let runs = Runs::new();
        let path = runs.path("stopped");
        let child = start_until(runs.command("stopped", &["--steps", "1000000"]), || {
            last_iteration(&path) > 30
        });
        let kill = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let code = if signal == "INT" { 130 } else { 143 };
        assert_eq!(output.status.code(), Some(code));
        let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
        let at = stopped["steps"].as_u64().unwrap();
        assert_eq!(
            (&stopped["interrupted"], saved(&runs.path("stopped")).last()),
            (&true.into(), Some(&at))
        );
        let steps = (at + 33).to_string();
        let resumed = runs.train("stopped", &["--steps", &steps, "--resume"]);
        assert_eq!(resumed["interrupted"], false);
        runs.train("straight", &["--steps", &steps]);
        assert!(
            runs.bytes("stopped", at + 33) == runs.bytes("straight", at + 33),
            "stopped at {at}"
        );
        let extra = |record: &Value| is_eval(record) && record["iteration"] == at && !at.is_multiple_of(20);
        let metrics = |run| -> Vec<Value> { runs.metrics(run).into_iter().filter(|r| !extra(r)).collect() };
        assert_eq!(metrics("stopped"), metrics("straight"), "stopped at {at}");
    }
}

/// The README's first command, stopped early: results on standard output, everything else on standard error.
#[test]
#[cfg(unix)]
fn default_run_trains_rigl_on_mnist() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("runs/mnist-rigl-0.98-seed0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command.arg("train").current_dir(&dir);
    let child = start_until(command, || last_iteration(&run) >= 600);
    let kill = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let at = *saved(&run).last().unwrap();
    let expect = |text: &str| assert!(stderr.contains(text), "{text}: {stderr}");
    expect(
        "mnist-fc on mnist: rigl at sparsity 0.98, layer2 0.882, layer3 dense (sparsity.layers); in all 9244 of 266200",
    );
    expect("iteration 600: test top-1 9");
    expect(&format!("stopped after {at} iterations, saved in "));
    expect(&format!("ckpt-{at}.safetensors; go on with --resume"));
    let shown: Vec<String> = stdout
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert!(
        shown.contains(&"connections 9244 of 266200 maskable weights (3.47 %), sparsity 0.9653".into()),
        "{stdout}"
    );
    assert!(
        shown.contains(&format!("iterations {at}")) && stdout.starts_with("test top-1 "),
        "{stdout}"
    );
}

#[test]
fn resuming_a_finished_run_changes_nothing_unless_it_is_longer() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "20"]);
    let (bytes, metrics) = (runs.bytes("run", 20), runs.metrics("run"));
    let again = runs.train("run", &["--resume"]);
    assert_eq!((&again["steps"], &again["steps_per_s"]), (&20.into(), &0.0.into()));
    assert_eq!((runs.bytes("run", 20), saved(&runs.path("run"))), (bytes, vec![20]));
    assert_eq!(runs.metrics("run"), metrics);
    // The longer length is now the run's own.
    runs.train("run", &["--steps", "30", "--resume"]);
    let out = runs.path("run");
    let plain = rigl_xla(&["train", "--json", "--resume", "--out", out.to_str().unwrap()]);
    assert_eq!(object(plain)["steps"], 30);
}

#[test]
fn launch_length_and_selection_do_not_change_results() {
    let runs = Runs::new();
    let ways: [(&str, &[&str]); 5] = [
        ("seven", &[]),
        ("one", &["--steps-per-launch", "1"]),
        ("hundred", &["--steps-per-launch", "100"]),
        ("sort", &["--select", "sort"]),
        ("topk", &["--select", "topk"]),
    ];
    for (run, way) in ways {
        runs.train(run, &[way, &["--steps", "60"]].concat());
        assert!(runs.tensors(run, 60) == runs.tensors("seven", 60), "{run}");
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let runs = Runs::new();
    for method in ["rigl", "set"] {
        let train = |run: &str, seed: &str| {
            runs.train(
                run,
                &["--method", method, "--steps", "25", "--seed", seed, "--overwrite"],
            );
            (runs.bytes(run, 25), runs.metrics(run))
        };
        let first = train("a", "5");
        assert!(first == train("b", "5"), "{method}: two runs with one seed differ");
        train("c", "6");
        for array in [
            "layer1/weights",
            "layer1/mask",
            "layer1/biases",
            "layer2/weights/Momentum",
        ] {
            let [five, six] = ["a", "c"].map(|run| runs.tensors(run, 25)[array].clone());
            assert!(five != six, "{method}: {array} does not depend on the seed");
        }
    }
}

/// Reference 1.2: the masks of the original's MNIST driver.
#[test]
fn numpy_masks_match_the_original() {
    let runs = Runs::new();
    runs.train(
        "run",
        &[
            "--method",
            "scratch",
            "--mask-seed-compat",
            "numpy",
            "--seed",
            "0",
            "--steps",
            "1",
        ],
    );
    let golden = [
        (4704, [5, 9, 75, 83, 85, 183, 185, 285, 413, 433], 548_768_562),
        (3540, [3, 11, 12, 17, 22, 32, 33, 40, 46, 50], 52_862_081),
        (1000, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 499_500),
    ];
    let arrays = runs.tensors("run", 1);
    for (layer, (count, head, sum)) in golden.into_iter().enumerate() {
        let ones = ones(&arrays[&format!("layer{}/mask", layer + 1)]);
        assert_eq!(
            (ones.len(), &ones[..10], ones.iter().sum::<usize>()),
            (count, &head[..], sum)
        );
    }
}

/// Ones of every mask and the counters, as a checkpoint has them.
fn counted(checkpoint: &Checkpoint) -> (Vec<usize>, Option<i64>, Option<i64>) {
    let masks = checkpoint.tensors.iter().filter(|(name, _)| name.ends_with("/mask"));
    let counter = |name: &str| checkpoint.tensors.get(name).map(|c| c.item::<i64>().unwrap());
    (
        masks.map(|(_, mask)| ones(mask).len()).collect(),
        counter("global_step"),
        counter("last_mask_update_step"),
    )
}

#[test]
fn training_matches_the_plan() {
    let runs = Runs::new();
    // Per method: global steps after 300 iterations, updates, and the step of the last one.
    let cases: [(&str, i64, Value, Option<i64>); 4] = [
        ("rigl", 297, value!([0, 100, 200]), Some(200)),
        ("set", 300, value!([1, 101, 201]), Some(201)),
        ("scratch", 300, value!([]), None),
        ("dense", 300, value!([]), None),
    ];
    for (method, gs, updates, last) in cases {
        let preset = format!("mnist-{method}");
        let out = runs.path(method);
        let args = [
            &preset,
            "--data",
            small_mnist(),
            "--batch-size",
            "20",
            "--steps",
            "300",
            "--out",
            out.to_str().unwrap(),
        ];
        let plan = json(&[&["plan"], &args[..]].concat());
        let done = json(&[&["train"], &args[..]].concat());
        assert_eq!(plan["update_steps"], updates, "{method}");
        assert_eq!(done["global_step"], gs, "{method}");
        for (planned, trained) in [
            ("model", "model"),
            ("method", "method"),
            ("iterations", "steps"),
            ("gradient_steps", "global_step"),
            ("mask_updates", "mask_updates"),
            ("nonzeros", "nonzeros"),
            ("maskable", "maskable"),
            ("run_dir", "run_dir"),
        ] {
            assert_eq!(plan[planned], done[trained], "{method}: {planned}");
        }
        let nonzeros = if method == "dense" { 266_200 } else { 9244 };
        assert_eq!(
            (&done["nonzeros"], &done["maskable"]),
            (&nonzeros.into(), &266_200.into())
        );
        let (masks, global_step, last_update) = counted(&runs.checkpoint(method, 300));
        let planned = plan["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["nonzeros"].as_u64().unwrap() as usize);
        assert_eq!(
            masks,
            if method == "dense" { vec![] } else { planned.collect() },
            "{method}"
        );
        assert_eq!((global_step, last_update), (Some(gs), last), "{method}");
    }
}

#[test]
fn json_summary_matches_the_files() {
    let runs = Runs::new();
    let done = runs.train("run", &["--steps", "60"]);
    let text = |key: &str| done[key].as_str().unwrap();
    assert_eq!((text("model"), text("method")), ("mnist-fc", "rigl"));
    assert_eq!(
        (&done["target_sparsity"], &done["steps"], &done["mask_updates"]),
        (&0.98.into(), &60.into(), &5.into())
    );
    assert_eq!((&done["nonzeros"], &done["maskable"]), (&9244.into(), &266_200.into()));
    for key in ["train_s", "steps_per_s", "startup_s"] {
        assert!(done[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let rate = done["steps_per_s"].as_f64().unwrap() * done["train_s"].as_f64().unwrap();
    assert!((rate - 60.0).abs() < 1e-6);
    assert_eq!(text("run_dir"), runs.path("run").to_str().unwrap());
    assert_eq!(text("checkpoint"), runs.checkpoint_path("run", 60).to_str().unwrap());
    let mut files: Vec<_> = fs::read_dir(runs.path("run"))
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    files.sort();
    let expected = [
        ".lock",
        "certificate.json",
        "ckpt-25.safetensors",
        "ckpt-50.safetensors",
        "ckpt-60.safetensors",
        "config.toml",
        "events.out.tfevents.0.rigl-xla",
        "metrics.jsonl",
        "summary.json",
        "topology.journal",
    ];
    assert_eq!(files, expected);
    // Its own configuration starts the same run again.
    let (config, again) = (runs.path("run").join("config.toml"), runs.path("again"));
    json(&[
        "train",
        "--config",
        config.to_str().unwrap(),
        "--out",
        again.to_str().unwrap(),
    ]);
    assert!(runs.bytes("run", 60) == runs.bytes("again", 60));
    // Counters of the metrics: of 60 iterations those at 0, 11, 22, 33 and 44 update masks.
    let metrics = runs.metrics("run");
    let of = |key: &str| -> Vec<&Value> { metrics.iter().filter(|r| !is_eval(r)).map(|r| &r[key]).collect() };
    assert_eq!(of("iteration"), [7, 14, 20, 25, 32, 39, 40, 47, 50, 57, 60]);
    assert_eq!(of("mask_updates"), [1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]);
    assert_eq!(of("global_step"), [6, 12, 18, 22, 29, 35, 36, 42, 45, 52, 55]);
    let evals: Vec<_> = metrics.iter().filter(|r| is_eval(r)).collect();
    assert_eq!(evals.iter().map(|r| &r["iteration"]).collect::<Vec<_>>(), [20, 40, 60]);
    assert_eq!(evals[2]["eval"], done["eval"]);
}

/// One run of the whole MNIST: it learns, and fashion-mnist is as good a name.
#[test]
fn trains_on_both_data_sets_from_the_cache() {
    let runs = Runs::new();
    for (data, top1) in [("mnist", 0.9), ("fashion-mnist", 0.7)] {
        let out = runs.path(data);
        let args = [
            "train",
            "--data",
            data,
            "--steps",
            "400",
            "--out",
            out.to_str().unwrap(),
        ];
        let done = json(&args);
        let found = done["eval"]["top1"].as_f64().unwrap();
        assert!(found > top1 && found < 1.0, "{data}: {done}");
        assert!(done["eval"]["top5"].as_f64().unwrap() > found);
        let report = json(&["eval", "--checkpoint", out.to_str().unwrap(), "--data", data]);
        assert_eq!(
            (&report["top1"], &report["examples"]),
            (&done["eval"]["top1"], &10_000.into())
        );
    }
}

#[test]
fn gzipped_files_give_the_same_data() {
    let runs = Runs::new();
    let zipped = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(small_mnist()).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{}.gz", path.file_name().unwrap().to_str().unwrap());
        let file = fs::File::create(zipped.path().join(name)).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(&fs::read(path).unwrap()).unwrap();
        gzip.finish().unwrap();
    }
    let plain = runs.train("plain", &["--steps", "20"]);
    let out = runs.path("zipped");
    let config = runs.path("plain").join("config.toml");
    let args = [
        "train",
        "--config",
        config.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let done = json(&[&args[..], &["--data", zipped.path().to_str().unwrap()]].concat());
    assert_eq!(done["eval"], plain["eval"]);
    assert!(runs.tensors("plain", 20) == runs.tensors("zipped", 20));
}

#[test]
fn stablehlo_programs_give_the_same_bytes() {
    let runs = Runs::new();
    let train = |format: &str, replicas: &str| {
        let out = runs.path(&format!("{format}-{replicas}"));
        let output = Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
            .args(["train", "--data", "synthetic", "--steps", "30", "--json"])
            .args([
                "--set",
                "mask_update.frequency_steps=10",
                // StableHLO has no host functions: it computes sparse layers as masked ones.
                "--execution",
                "masked",
                "--replicas",
                replicas,
                "--out",
            ])
            .arg(&out)
            .env("RIGL_XLA_PROGRAM_FORMAT", format)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            stderr,
            fs::read(out.join("ckpt-30.safetensors")).ok(),
        )
    };
    for replicas in ["1", "2"] {
        let [hlo, stablehlo] = ["hlo", "stablehlo"].map(|format| train(format, replicas));
        assert_eq!((hlo.0, stablehlo.0), (Some(0), Some(0)), "{}{}", hlo.1, stablehlo.1);
        assert!(hlo.2.is_some() && hlo.2 == stablehlo.2, "{replicas}");
    }
    let (code, stderr, _) = train("text", "1");
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        stderr.contains("RIGL_XLA_PROGRAM_FORMAT=text: expected hlo or stablehlo"),
        "{stderr}"
    );
}
