//! The command line as people expect it: help, completions, man pages, presets, colours, quiet and tables.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;

use common::runs::{RHYTHM, Runs, small_mnist};
use common::{error, json, stdout};

#[test]
fn help_is_grouped_short_or_long_and_has_an_example() {
    let (short, long) = (stdout(&["train", "-h"]), stdout(&["train", "--help"]));
    assert!(2 * short.lines().count() < long.lines().count());
    for heading in [
        "Network:",
        "Sparsity:",
        "Data:",
        "Training:",
        "Several runs:",
        "Device:",
    ] {
        assert!(short.contains(&format!("\n{heading}\n")), "{heading} {short}");
    }
    assert!(
        long.contains("--power-scale") && !short.contains("--power-scale"),
        "{short}"
    );
    for help in [&short, &long] {
        assert!(help.contains("Example: rigl-xla train "), "{help}");
        assert!(help.contains("[default: from the recipe]"), "{help}");
        for method in sparse::METHODS {
            assert!(help.contains(method.name), "{}", method.name);
        }
    }
    for command in [&["eval"][..], &["data", "dump"]] {
        let help = stdout(&[command, &["--help"]].concat());
        for set in rigl_xla::data::sets::DATA_SETS {
            assert!(help.contains(set.name), "{command:?} {}", set.name);
        }
    }
}

/// Completions that bash offers after these words.
fn completed(words: &str) -> Vec<String> {
    let script = format!(
        "source <({} completions bash)\nCOMP_WORDS=({words} '')\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         _rigl__xla rigl-xla '' \"${{COMP_WORDS[COMP_CWORD-1]}}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        env!("CARGO_BIN_EXE_rigl-xla")
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn shells_complete_commands_flags_and_names_of_tables() {
    let commands = completed("rigl-xla");
    assert!(commands.contains(&"sweep".to_owned()), "{commands:?}");
    let flags = completed("rigl-xla train");
    assert!(flags.contains(&"--keep-best".to_owned()), "{flags:?}");
    let methods = completed("rigl-xla train --method");
    let expected: Vec<&str> = sparse::METHODS.iter().map(|method| method.name).collect();
    assert_eq!(methods, expected);
    for shell in ["zsh", "fish", "nushell"] {
        let script = stdout(&["completions", shell]);
        assert!(
            script.contains("keep-best") && script.contains("rigl-inverted"),
            "{shell}"
        );
    }
    let message = error(&["completions", "tcsh"], 2);
    assert!(message.contains("bash, zsh, fish, nushell"), "{message}");
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", folder.path().to_str().unwrap()]);
    for page in ["rigl-xla", "rigl-xla-train", "rigl-xla-sweep", "rigl-xla-data-fetch"] {
        let page = fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn presets_are_listed_with_what_they_reproduce() {
    let all = json(&["presets"]);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), rigl_xla::config::PRESETS.len());
    assert!(
        all.iter().all(|preset| preset["what"].as_str().unwrap().len() > 20),
        "{all:?}"
    );
    let listed = stdout(&["presets", "mnist"]);
    assert!(listed.starts_with("mnist-fc on mnist\n  mnist-rigl "), "{listed}");
    assert!(!listed.contains("resnet50"));
    assert_eq!(stdout(&["presets", "--csv"]).lines().count(), all.len() + 1);
    // A preset prints as a configuration that gives the same run.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    fs::write(&file, stdout(&["presets", "cifar10-set"])).unwrap();
    let same = json(&["plan", "--config", file.to_str().unwrap()]);
    assert_eq!(same["config"], json(&["plan", "cifar10-set"])["config"]);
    assert!(error(&["presets", "mnist-rigel"], 2).contains("did you mean"));
}

#[test]
fn quiet_is_silent_and_verbose_says_more() {
    let runs = Runs::new();
    let train = |run: &str, flag: &[&str]| {
        let output = runs
            .command(run, &[&["--steps", "10"], flag].concat())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(train("quiet", &["--quiet"]), "");
    let usual = train("usual", &[]);
    let verbose = train("verbose", &["-v"]);
    assert!(!usual.is_empty() && !usual.contains("[optimizer]"), "{usual}");
    assert!(verbose.contains("[optimizer]"), "{verbose}");
    assert!(train("more", &["-vv"]).lines().count() >= verbose.lines().count());
    error(&["plan", "-q", "-v"], 2);
    assert!(error(&["plan", "-q", "no-such-preset"], 2).contains("no-such-preset"));
}

#[test]
fn colours_follow_the_environment() {
    // Errors of the parser and of commands alike.
    for args in [
        &["plan", "--no-such-flag"][..],
        &["plan", "no-such-preset"],
        &["train", "--help"],
    ] {
        let shown = |name: &str, value: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
            command.args(args).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
            let output = command.env(name, value).output().unwrap();
            let both = [output.stdout, output.stderr].concat();
            both.contains(&0x1b)
        };
        assert!(shown("CLICOLOR_FORCE", "1"), "{args:?}");
        assert!(!shown("NO_COLOR", "1"), "{args:?}");
        assert!(!shown("CLICOLOR", "1"), "{args:?}: not a terminal");
    }
}

#[test]
fn every_table_has_three_forms() {
    let runs = Runs::new();
    runs.train("run", &[&["--steps", "10"], RHYTHM].concat());
    let run = runs.path("run");
    let eval = ["eval", "--data", small_mnist(), "--checkpoint", run.to_str().unwrap()];
    let compare = ["eval", "--data", small_mnist(), "--compare", run.to_str().unwrap()];
    let verify = ["verify", run.to_str().unwrap()];
    for (args, header) in [
        (&eval[..], "layer,shape,sparsity"),
        (&compare, "checkpoint,model,iteration"),
        (&verify, "check,result,found"),
        (&["plan"], "layer,shape,sparsity"),
        (&["cost"], "layer,shape,output"),
        (&["presets"], "preset,model,data"),
        (&["plugin", "list"], "device,package,version"),
    ] {
        let csv = stdout(&[args, &["--csv"]].concat());
        assert!(csv.starts_with(header), "{args:?}: {csv}");
        let columns = header.split(',').next().unwrap();
        let markdown = stdout(&[args, &["--markdown"]].concat());
        assert!(markdown.contains(&format!("| {columns}")), "{args:?}: {markdown}");
        let message = error(&[args, &["--csv", "--json"]].concat(), 2);
        assert!(message.contains("one form at a time"), "{args:?}: {message}");
    }
}
