//! `--matmul-precision`: the precision of matrix products reaches compilers and configuration.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{compiles, error};
use hlo::text;
use rigl_xla::aot::Graph;
use rigl_xla::config::Layers;

const HIGHEST: [&str; 2] = ["--matmul-precision", "highest"];

#[test]
fn every_product_of_a_program_has_the_precision() {
    for (precision, number) in [("default", None), ("high", Some(1)), ("highest", Some(2))] {
        let layers = Layers::preset("cifar10-rigl").unwrap();
        let layers = layers.set("test", &["train", "matmul_precision"], precision).unwrap();
        let plan = layers.plan().unwrap();
        for graph in [Graph::Step, Graph::Eval, Graph::Train] {
            let (computation, aliases) = graph.build(&plan).unwrap();
            let lowered = lowering::lower(&computation, lowering::Target::Cpu).unwrap();
            for computation in [&computation, &lowered] {
                let module = text::read_module(&computation.to_bytes(&aliases)).unwrap();
                let instructions = module.computations.iter().flat_map(|c| &c.instructions);
                let products = instructions.filter(|i| ["dot", "convolution"].contains(&i.opcode.as_str()));
                let found: Vec<_> = products.map(|i| i.precision_config.clone()).collect();
                assert!(!found.is_empty(), "{graph:?}");
                for config in found {
                    let expected = number.map(|number| vec![number; 2]);
                    assert_eq!(config.map(|c| c.operand_precision), expected, "{graph:?} {precision}");
                }
            }
            let text = computation.to_stablehlo(&aliases);
            let named = format!("#stablehlo<precision {}>", precision.to_uppercase());
            assert_eq!(text.contains(&named), number.is_some(), "{graph:?} {precision}");
        }
        // Configurations of earlier versions stay as they are.
        assert_eq!(
            plan.run.to_toml().unwrap().contains("matmul_precision"),
            number.is_some()
        );
    }
}

/// A TPU multiplies f32 in bf16, or in several parts of it.
#[test]
fn a_tpu_takes_more_products_for_more_precision() {
    let cycles = |extra: &[&str]| {
        let step = [
            "cifar10-dense",
            "--topology",
            "v5e:1x1",
            "--batch-per-device",
            "16",
            "--effort",
            "0",
        ];
        compiles(&[&step[..], extra].concat())["cycles"].as_f64().unwrap()
    };
    let [least, most] = [&[][..], &HIGHEST].map(cycles);
    assert!(most > 1.2 * least, "{least} and {most} cycles");
}

#[test]
fn plugins_accept_it_in_both_formats() {
    for format in ["", "stablehlo"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
        command
            .args(["cost", "cifar10-dense", "--compiled", "--batch-size", "4"])
            .args(HIGHEST);
        if !format.is_empty() {
            command.env("RIGL_XLA_PROGRAM_FORMAT", format);
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{format}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn unknown_precisions_are_wrong_usage() {
    let message = error(&["plan", "--matmul-precision", "hihg"], 2);
    assert!(message.contains("did you mean 'high'"), "{message}");
}
