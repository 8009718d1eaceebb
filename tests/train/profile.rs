//! `train --profile`: where the time of launches goes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::rigl_xla;
use crate::common::runs::{Runs, object};
use crate::common::stand_in::{compile, cpu_plugin};
use crate::is_eval;

/// The lines of a file of the run folder, as written.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const PHASES: [&str; 8] = [
    "input",
    "transfer",
    "launch",
    "device",
    "host",
    "recording",
    "evaluation",
    "saving",
];

/// The clock of the profile against that of the metrics, which runs from before a launch to its record.
#[test]
fn profile_accounts_for_the_time_of_its_launches() {
    let runs = Runs::new();
    let done = runs.train("run", &["--steps", "60", "--profile", "6"]);
    let records = lines(&runs.path("run").join("profile.jsonl"));
    let of = |key: &str| -> Vec<u64> { records.iter().map(|r| r[key].as_u64().unwrap()).collect() };
    assert_eq!(of("launch"), [2, 3, 4, 5, 6, 7]);
    assert_eq!(of("iteration"), [14, 20, 25, 32, 39, 40]);
    assert_eq!(of("iterations"), [7, 6, 5, 7, 7, 1]);
    let metrics = lines(&runs.path("run").join("metrics.jsonl"));
    let mut totals = [0.0; PHASES.len()];
    for record in &records {
        let spent = PHASES.map(|phase| record[format!("{phase}_s")].as_f64().unwrap());
        let [input, transfer, launch, device, host, recording, evaluation, saving] = spent;
        let wall = record["wall_s"].as_f64().unwrap();
        assert!((spent.iter().sum::<f64>() - wall).abs() < 1e-6, "{record}");
        assert!(
            input.min(transfer).min(launch).min(device).min(host).min(recording) > 0.0,
            "every launch has all of these: {record}"
        );
        let at = &record["iteration"];
        assert_eq!((evaluation > 0.0, saving > 0.0), (*at == 20 || *at == 40, *at == 25));
        let trained = metrics.iter().find(|r| !is_eval(r) && r["iteration"] == *at).unwrap();
        let measured = record["iterations"].as_f64().unwrap() / trained["steps_per_s"].as_f64().unwrap();
        assert!(
            input + transfer + launch + device < measured + 1e-6,
            "{record} {trained}"
        );
        assert!(measured < wall - evaluation - saving + 1e-6, "{record} {trained}");
        totals.iter_mut().zip(spent).for_each(|(total, s)| *total += s);
    }
    let profile = &done["profile"];
    assert_eq!((&profile["launches"], &profile["iterations"]), (&6.into(), &33.into()));
    let wall = profile["wall_s"].as_f64().unwrap();
    assert!((totals.iter().sum::<f64>() - wall).abs() < 1e-6);
    for ((phase, total), time) in PHASES.iter().zip(totals).zip(profile["phases"].as_array().unwrap()) {
        assert_eq!(time["phase"], *phase);
        for (key, expected) in [("total_s", total), ("mean_s", total / 6.0), ("share", total / wall)] {
            assert!((time[key].as_f64().unwrap() - expected).abs() < 1e-6, "{key}: {time}");
        }
    }
    // Profiling does not change the checkpoints.
    let plain = runs.train("plain", &["--steps", "60"]);
    assert!(plain.get("profile").is_none() && !runs.path("plain").join("profile.jsonl").exists());
    assert!(runs.bytes("run", 60) == runs.bytes("plain", 60));
}

#[test]
fn profile_covers_one_session() {
    let runs = Runs::new();
    let profile = runs.path("run").join("profile.jsonl");
    let iterations = || -> Vec<Value> { lines(&profile).iter().map(|r| r["iteration"].clone()).collect() };
    runs.train("run", &["--steps", "20", "--profile", "100"]);
    assert_eq!(iterations(), [14, 20]);
    let resumed = runs.train("run", &["--steps", "45", "--resume", "--profile", "100"]);
    assert_eq!(
        (iterations(), &resumed["profile"]["launches"]),
        (vec![32.into(), 39.into(), 40.into(), 45.into()], &4.into())
    );
    // A session without a launch to record, one that asks for none, and a new run.
    let ended = runs.train("run", &["--resume", "--profile", "1", "--steps", "45"]);
    assert_eq!(
        (iterations(), &ended["profile"]["phases"][0]["share"]),
        (vec![], &0.0.into())
    );
    runs.train("run", &["--resume", "--steps", "46"]);
    assert!(profile.exists());
    runs.train("run", &["--overwrite", "--steps", "1"]);
    assert!(!profile.exists());

    let refused = runs.command("run", &["--profile", "0"]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr.contains("--profile <N>"), "{stderr}");
    let (config, out) = (runs.path("run").join("config.toml"), runs.path("shown"));
    let args = [
        "train",
        "--config",
        config.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let shown = rigl_xla(&[&args[..], &["--steps", "20", "--profile", "1"]].concat());
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("launches after the first: 1 recorded, of 7 iterations in all\nphase "),
        "{text}"
    );
    let rows = |phase: &&str| text.lines().any(|line| line.starts_with(phase) && line.ends_with(" %"));
    assert!(PHASES.iter().all(rows), "{text}");
}

/// A profiler that counts executions: the recorded launches, and the two of the evaluation between them.
#[test]
fn keeps_the_trace_of_the_plugin() {
    let runs = Runs::new();
    let plugin = compile("tests/train/traced.c", runs.0.path());
    let train = |run: &str, refuses: &str, profile: &str| {
        let args = [
            "--steps",
            "60",
            "--profile",
            profile,
            "--plugin",
            plugin.to_str().unwrap(),
        ];
        let mut command = runs.command(run, &args);
        let output = command
            .env("TRACED_PLUGIN", cpu_plugin())
            .env("TRACED_REFUSES", refuses)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (object(output)["profile"]["trace"].clone(), stderr)
    };
    // Launches end at 7, 14, 20, 25, 32, 39, 40, 47, 50, 54 and 60.
    let traced = |run: &str, iteration| {
        runs.path(run)
            .join(format!("plugins/profile/iteration-{iteration}/host.xplane.pb"))
    };
    let (trace, _) = train("some", "", "3");
    assert_eq!(trace, traced("some", 25).to_str().unwrap());
    let some = fs::read_to_string(traced("some", 25)).unwrap();
    let (trace, _) = train("all", "", "100");
    assert_eq!(trace, traced("all", 60).to_str().unwrap());
    let all = fs::read_to_string(traced("all", 60)).unwrap();
    assert_eq!([some, all], ["4 executions", "13 executions"]);
    for function in ["create", "start", "stop", "collect"] {
        let (trace, stderr) = train(function, function, "2");
        assert!(
            trace.is_null() && !runs.path(function).join("plugins").exists(),
            "{function}"
        );
        let expected = "no profile of the devices: PLUGIN_Profiler_";
        assert!(
            stderr.contains(expected) && stderr.contains(&format!(": {function} (unimplemented)")),
            "{stderr}"
        );
        assert!(runs.bytes(function, 60) == runs.bytes("all", 60), "{function}");
    }
}
