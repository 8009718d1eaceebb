//! Plugins, transfers, compilation and execution, on each of the three CPU plugin packages.
//!
//! Two copies of (0, 115)LA must not share a process, so each package's test runs itself again in a process of its own. A
//! package that cannot be had fails its test: nothing is skipped.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use hlo::{DType, Literal, Shape};
use rigl_xla::pjrt::probe::Module;
use rigl_xla::pjrt::{self, Arg, Client, ClientOptions, CompileOptions, DeviceKind, Package};

const CHILD: &str = "RIGL_(0, 115)LA_TEST_CHILD";

#[test]
fn xla_cpu_pjrt() {
    in_own_process("xla_cpu_pjrt", "xla-cpu-pjrt", (0, 81));
}

#[test]
fn lammps_jax_pjrt_cpu() {
    in_own_process("lammps_jax_pjrt_cpu", "lammps-jax-pjrt-cpu", (0, 115));
}

#[test]
fn fastatomstruct_xla_cpu() {
    in_own_process("fastatomstruct_xla_cpu", "fastatomstruct-xla-cpu", (0, 106));
}

fn in_own_process(test: &str, package: &str, version: (i32, i32)) {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return suite(package, version);
    }
    let path = pjrt::fetch(Package::named(package).unwrap()).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, test)
        .env("RIGL_(0, 115)LA_PLUGIN", path)
        .status()
        .unwrap();
    assert!(status.success(), "{package}: {status}");
}

fn suite(package: &str, version: (i32, i32)) {
    let plugin = pjrt::open(DeviceKind::Cpu, None).unwrap();
    assert_eq!(plugin.api_version(), version, "{package}");
    let client = plugin
        .client(&ClientOptions::for_device(DeviceKind::Cpu).with_cpu_devices(8))
        .unwrap();
    matmul(&client);
}

fn matmul(client: &Client) {
    let (a, b, c) = (
        Shape::new(DType::F32, [2, 3]),
        Shape::new(DType::F32, [3, 2]),
        Shape::new(DType::F32, [2, 2]),
    );
    let mut module = Module::new("matmul");
    let (x, y) = (module.parameter(&a), module.parameter(&b));
    let product = module.dot(&c, x, y);
    let program = module.finish(&[product]);
    let executable = client.compile(&program, &CompileOptions::default()).unwrap();
    let x = client
        .to_device(&Literal::new(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]), 0)
        .unwrap();
    let y = client
        .to_device(&Literal::new(&[3, 2], &[1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0]), 0)
        .unwrap();
    let out = executable.execute(vec![Arg::Keep(&x), Arg::Donate(y)]).unwrap();
    assert_eq!(
        out[0].to_literal().unwrap(),
        Literal::new(&[2, 2], &[4.0f32, 5.0, 10.0, 11.0])
    );
}
