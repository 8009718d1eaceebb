//! The conformance table of the graph crate on each of the three CPU plugin packages: a plugin yields what the table
//! says, and so what the evaluator yields.
//!
//! Each package runs in a process of its own, because two copies of XLA must not share one. A package that cannot be had
//! fails its test: nothing is skipped.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use hlo::cases::{self, Case};
use rigl_xla::pjrt::{self, Arg, Client, ClientOptions, CompileOptions, DeviceKind, OptionValue, Package};

const CHILD: &str = "RIGL_XLA_TEST_CHILD";

#[test]
fn xla_cpu_pjrt() {
    in_own_process("xla_cpu_pjrt", "xla-cpu-pjrt");
}

#[test]
fn lammps_jax_pjrt_cpu() {
    in_own_process("lammps_jax_pjrt_cpu", "lammps-jax-pjrt-cpu");
}

#[test]
fn fastatomstruct_xla_cpu() {
    in_own_process("fastatomstruct_xla_cpu", "fastatomstruct-xla-cpu");
}

fn in_own_process(test: &str, package: &str) {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return every_case_has_its_value();
    }
    let path = pjrt::fetch(Package::named(package).unwrap()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, test)
        .env("RIGL_XLA_PLUGIN", path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{package}: {}\n{text}", output.status);
}

fn every_case_has_its_value() {
    let plugin = pjrt::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    // XLA's own default on the CPU lets a maximum or minimum drop a NaN.
    let exact = ("xla_cpu_enable_fast_min_max".to_owned(), OptionValue::Bool(false));
    let options = CompileOptions {
        xla_flags: [exact].into(),
        ..CompileOptions::default()
    };
    let failures: Vec<String> = cases::all()
        .iter()
        .filter_map(|case| run(&client, &options, case).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn run(client: &Client, options: &CompileOptions, case: &Case) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", case.title());
    let computation = case.computation().map_err(|e| told(&e))?;
    let program = client
        .compile(&computation.to_bytes(&[]), options)
        .map_err(|e| told(&e))?;
    let upload = |input| client.to_device(input, 0).map(Arg::Donate);
    let arguments = case
        .inputs
        .iter()
        .map(upload)
        .collect::<pjrt::Result<Vec<_>>>()
        .map_err(|e| told(&e))?;
    let outputs = program.execute(arguments).map_err(|e| told(&e))?;
    let got = outputs
        .iter()
        .map(|o| o.to_literal())
        .collect::<pjrt::Result<Vec<_>>>()
        .map_err(|e| told(&e))?;
    case.check(&got)
}
