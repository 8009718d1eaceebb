//! The conformance table of the graph crate on each of the three CPU plugin packages: outputs match the table, and
//! thus the evaluator, from HLO and from StableHLO.
//!
//! Each package runs in a separate process, because two copies of XLA must not share one. A package that is unavailable
//! fails its test: nothing is skipped.
#![allow(clippy::unwrap_used)]

#[path = "common/plugins.rs"]
mod plugins;

use hlo::{Graph, Literal};
use hlo_cases::{self as cases, Case};
use pjrt::{Arg, Client, ClientOptions, CompileOptions, DeviceKind, OptionValue};

use plugins::in_own_process;

/// Starting a compilation costs more than compiling a case.
const CASES_PER_MODULE: usize = 32;

/// A form of a program.
#[derive(Clone, Copy, Debug)]
enum Form {
    Hlo,
    StableHlo,
}

#[test]
fn xla_cpu_pjrt() {
    in_own_process("xla_cpu_pjrt", "xla-cpu-pjrt", every_case_has_its_value);
}

#[test]
fn lammps_jax_pjrt_cpu() {
    in_own_process("lammps_jax_pjrt_cpu", "lammps-jax-pjrt-cpu", every_case_has_its_value);
}

#[test]
fn fastatomstruct_xla_cpu() {
    in_own_process(
        "fastatomstruct_xla_cpu",
        "fastatomstruct-xla-cpu",
        every_case_has_its_value,
    );
}

fn every_case_has_its_value() {
    let plugin = rigl_xla::plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    // XLA's own default on the CPU lets a maximum or minimum drop a NaN.
    let exact = ("xla_cpu_enable_fast_min_max".to_owned(), OptionValue::Bool(false));
    let options = CompileOptions {
        xla_flags: [exact].into(),
        ..CompileOptions::default()
    };
    let cases = cases::all();
    let all = |form| {
        let chunks = cases.chunks(CASES_PER_MODULE);
        let failures = chunks.flat_map(|cases| run(&client, &options, form, cases));
        failures
            .map(|failure| format!("{form:?}: {failure}"))
            .collect::<Vec<_>>()
    };
    let failures = [Form::Hlo, Form::StableHlo].map(all).concat();
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Failures of cases that share a module; when it cannot be run, of each case alone.
fn run(client: &Client, options: &CompileOptions, form: Form, cases: &[Case]) -> Vec<String> {
    match (outputs(client, options, form, cases), cases) {
        (Ok(mut outputs), _) => {
            let check = |case: &Case| case.check(&outputs.drain(..case.want.len()).collect::<Vec<_>>()).err();
            cases.iter().filter_map(check).collect()
        }
        (Err(error), [case]) => vec![format!("{}: {error}", case.title())],
        (Err(_), _) => cases
            .chunks(1)
            .flat_map(|case| run(client, options, form, case))
            .collect(),
    }
}

/// The outputs of all `cases`, one after the other, from one program.
fn outputs(client: &Client, options: &CompileOptions, form: Form, cases: &[Case]) -> pjrt::Result<Vec<Literal>> {
    let inputs = || cases.iter().flat_map(|case| &case.inputs);
    let parameters: Vec<_> = inputs().map(|input| ("x".to_string(), input.shape().clone())).collect();
    let module = Graph::function("cases", &parameters, |g, mut x| {
        let mut outputs = vec![];
        for case in cases {
            let (own, rest) = x.split_at(case.inputs.len());
            outputs.extend((case.build)(g, own));
            x = rest;
        }
        outputs
    });
    let module = module.unwrap();
    let code = match form {
        Form::Hlo => module.to_bytes(&[]),
        Form::StableHlo => module.to_stablehlo(&[]).into_bytes(),
    };
    let program = client.compile(&code, options)?;
    let arguments = inputs()
        .map(|input| client.to_device(input, 0).map(Arg::Donate))
        .collect::<pjrt::Result<Vec<_>>>()?;
    program
        .execute(arguments)?
        .iter()
        .map(|output| output.to_literal())
        .collect()
}
