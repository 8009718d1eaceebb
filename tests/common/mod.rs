//! The real program, run as a user runs it.
#![allow(dead_code)] // each test file uses its own part

pub mod folder;
pub mod python;
pub mod runs;
pub mod stand_in;

use std::process::{Command, Output};

/// Runs `rigl-xla` with these arguments.
pub fn rigl_xla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .args(args)
        .output()
        .unwrap()
}

/// `base`, pairs of a flag and its value, followed by `args`, without the pairs that `args` override: a value given twice is a usage
/// error. Pairs of `--set` are compared by key.
pub fn under<'a>(base: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
    let key = |pair: &[&'a str]| match pair {
        ["--set", value] => value.split_once('=').map(|(key, _)| key),
        _ => None,
    };
    let given: Vec<_> = args.windows(2).filter_map(key).collect();
    let kept = base.chunks(2).filter(|pair| match key(pair) {
        Some(key) => !given.contains(&key),
        None => !args.contains(&pair[0]),
    });
    kept.flatten().chain(args).copied().collect()
}

/// Standard output of a successful `rigl-xla ARGS`.
pub fn stdout(args: &[&str]) -> String {
    let output = rigl_xla(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The one JSON object that a successful `rigl-xla --json ARGS` prints.
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&[args, &["--json"]].concat())).unwrap()
}

/// The report of `compile` with these arguments on a program that compiles and fits.
pub fn compiles(args: &[&str]) -> serde_json::Value {
    let report = json(&[&["compile"], args].concat());
    assert_eq!(report["compiles"], true, "{args:?}");
    let bytes = |key: &str| report[key].as_f64().unwrap();
    assert!(
        0.0 < bytes("peak_bytes") && bytes("peak_bytes") <= bytes("device_bytes"),
        "{report}"
    );
    report
}

/// Standard error of `rigl-xla ARGS`, which starts with an error. The command must end with this exit code and print nothing.
pub fn error(args: &[&str], code: i32) -> String {
    let message = failed(args, code);
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    message
}

/// Standard error of `rigl-xla ARGS`, which contains an error. The command must end with this exit code and print nothing.
pub fn failed(args: &[&str], code: i32) -> String {
    let output = rigl_xla(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}: {:?}", output.stdout);
    assert!(message.contains("error: "), "{args:?}: {message}");
    message
}
