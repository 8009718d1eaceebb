//! Compiled programs by layer: `compile --by-layer` and `cost --compiled --by-layer`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compiles, error, json, stdout};
use serde_json::Value;

/// `compile --by-layer` of a step of MNIST. Sums over rows are those of the program.
fn by_layer(extra: &[&str]) -> Value {
    let args = [&["mnist-rigl", "--by-layer"][..], extra].concat();
    let report = compiles(&args);
    let profile = report["by_layer"].clone();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"));
    for key in [
        "kernels",
        "flops",
        "bytes",
        "padding_bytes",
        "main_memory_bytes",
        "time_s",
    ] {
        for rows in ["rows", "phases"] {
            let sum: f64 = profile[rows]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| number(row, key))
                .sum();
            let total = number(&profile["total"], key);
            assert!(
                (sum - total).abs() <= 1e-6 * total,
                "{key} of {rows}: {sum}, in all {total}"
            );
        }
    }
    assert!(number(&profile, "unknown_share") < 0.02, "{}", profile["phases"]);
    profile
}

fn names<'a>(profile: &'a Value, rows: &str, key: &str) -> Vec<&'a str> {
    let rows = profile[rows].as_array().unwrap().iter();
    rows.map(|row| row[key].as_str().unwrap()).collect()
}

#[test]
fn layers_of_a_compiled_program_add_up_to_the_compilers_figures() {
    let profile = by_layer(&["--topology", "v5e:1x1"]);
    for (ours, theirs, part) in [("flops", "flops", 1e-3), ("bytes", "bytes", 0.01)] {
        let (counted, reported) = (&profile["total"][ours], &profile["compiler"][theirs]);
        let ratio = counted.as_f64().unwrap() / reported.as_f64().unwrap();
        assert!(
            (ratio - 1.0).abs() < part,
            "{ours}: {counted} counted, {reported} by the compiler"
        );
    }
    assert!(
        profile["total"]["cycles"].as_f64().unwrap() > 0.0,
        "{}",
        profile["total"]
    );
    for layer in ["layer1", "layer2", "layer3"] {
        assert!(names(&profile, "rows", "layer").contains(&layer), "{layer}");
    }
    for phase in ["forward", "backward"] {
        assert!(names(&profile, "phases", "phase").contains(&phase), "{phase}");
    }
}

#[test]
fn layers_of_a_gpus_program_and_of_the_cpus() {
    let profile = by_layer(&["--topology", "h200:1"]);
    assert!(names(&profile, "rows", "layer").contains(&"layer1"));
    let report = json(&["cost", "mnist-rigl", "--compiled", "--by-layer"]);
    let programs = report["compiled"].as_array().unwrap();
    assert_eq!(programs.len(), 2);
    for program in programs {
        let profile = &program["by_layer"];
        assert!(names(profile, "rows", "layer").contains(&"layer1"), "{program}");
        let ratio = profile["total"]["flops"].as_f64().unwrap() / program["flops"].as_f64().unwrap();
        assert!((0.9..1.1).contains(&ratio), "{ratio}: {}", profile["total"]);
    }
}

#[test]
fn layers_are_written_as_text_csv_and_a_treemap() {
    let folder = tempfile::tempdir().unwrap();
    let [hlo, page] = ["step.hlo", "layers.html"].map(|name| folder.path().join(name));
    let (hlo, page) = (hlo.to_str().unwrap(), page.to_str().unwrap());
    let step = ["compile", "mnist-rigl", "--topology", "v5e:1x1", "--by-layer"];
    let text = stdout(&[&step[..], &["--treemap", page, "--save-hlo", hlo]].concat());
    for expected in ["total", "layer1", "by the compiler", "in no layer or known phase"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("\"layer\":\"layer1\"") && !page.contains("src=") && page.ends_with("</html>\n"));
    // The saved program has the same layers.
    let read = ["compile", "--topology", "v5e:1x1", "--by-layer", "--compiled", hlo];
    let [compiled, saved] = [&step[..], &read].map(|args| stdout(&[args, &["--csv"]].concat()));
    assert_eq!(compiled, saved);
    assert!(saved.starts_with("layer,phase,kernels,FLOPs,accessed,share"), "{saved}");
    let message = error(
        &[
            "compile",
            "--topology",
            "v5e:1x1",
            "--by-layer",
            "--compiled",
            "Cargo.toml",
        ],
        1,
    );
    assert!(message.contains("Cargo.toml"), "{message}");
}
