//! The emitted `HloModuleProto`: it round-trips, is well formed, and is deterministic.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::proto::{self, Instruction, Module};
use hlo::{Alias, Computation, DType, Graph, Shape, grad};
use hlo_cases as cases;
use prost::Message;
use std::collections::BTreeSet;

/// A small training step: scopes, a gradient, a loop, a branch, a sort, and returned state.
fn step() -> Computation {
    let shape = Shape::new(DType::F32, [3, 2]);
    let parameters = ["layer/w", "x: 1%"].map(|n| (n.to_string(), shape.clone()));
    Graph::function("one step/twice", &parameters, |g, p| {
        let _scope = g.scope("train");
        let loss = (p[0] * p[1]).tanh().reduce_sum_all();
        let moved = p[0] - grad(loss, &[p[0]])[0] * 0.1;
        let looped = g.repeat(g.scalar(3i32), &[moved], |g, i, s| {
            g.conditional(i.lt(1.0), s, |_, s| vec![s[0] * 2.0], |_, s| vec![s[0] * 0.5])
        });
        let order = looped[0].sort_with(&[g.iota(Shape::new(DType::S32, [3, 2]), 0)], 0, true);
        vec![looped[0], loss, order[1]]
    })
    .unwrap()
}

fn modules() -> Vec<(String, Module)> {
    let mut modules: Vec<_> = cases::all()
        .iter()
        .map(|c| (c.title(), c.computation().unwrap().to_proto(&[])))
        .collect();
    modules.push((
        "step".into(),
        step().to_proto(&[Alias {
            output: 0,
            parameter: 0,
        }]),
    ));
    modules
}

#[test]
fn bytes_decode_to_the_module_that_was_emitted() {
    for (title, module) in modules() {
        // Compare bytes too, because a NaN is not equal to itself.
        let bytes = module.encode_to_vec();
        let decoded = Module::decode(&bytes[..]).unwrap();
        assert_eq!(decoded.encode_to_vec(), bytes, "{title}");
        if !format!("{module:?}").contains("NaN") {
            assert_eq!(decoded, module, "{title}");
        }
    }
}

#[test]
fn the_same_graph_gives_the_same_bytes() {
    let aliases = [Alias {
        output: 0,
        parameter: 0,
    }];
    assert_eq!(step().to_bytes(&aliases), step().to_bytes(&aliases));
    for (first, second) in cases::all().iter().zip(cases::all()) {
        assert_eq!(
            first.computation().unwrap().to_bytes(&[]),
            second.computation().unwrap().to_bytes(&[]),
            "{}",
            first.title()
        );
    }
}

/// Checks the name of an instruction, that its operands are `before` it, and that the computations that it calls are
/// `finished`.
fn assert_instruction(what: &str, instruction: &Instruction, before: &BTreeSet<i64>, finished: &BTreeSet<i64>) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    assert!(instruction.name.chars().all(allowed), "{what}");
    let operands = &instruction.operand_ids;
    assert!(
        operands.iter().all(|id| before.contains(id)),
        "{what}: operand after its user"
    );
    let called = &instruction.called_computation_ids;
    assert!(
        called.iter().all(|id| finished.contains(id)),
        "{what}: calls a later one"
    );
    assert_laid_out(what, instruction.shape.as_ref().unwrap());
}

fn assert_well_formed(title: &str, module: &Module) {
    let mut ids = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut finished: BTreeSet<i64> = BTreeSet::new();
    for computation in &module.computations {
        assert!(
            ids.insert(computation.id),
            "{title}: computation id {} is used twice",
            computation.id
        );
        assert!(
            names.insert(computation.name.clone()),
            "{title}: {} is named twice",
            computation.name
        );
        let mut before = BTreeSet::new();
        for instruction in &computation.instructions {
            let what = format!("{title}: {}", instruction.name);
            assert!(
                ids.insert(instruction.id),
                "{what}: id {} is used twice",
                instruction.id
            );
            assert!(names.insert(instruction.name.clone()), "{what} is named twice");
            assert_instruction(&what, instruction, &before, &finished);
            before.insert(instruction.id);
        }
        assert!(
            before.contains(&computation.root_id),
            "{title}: {} has no root",
            computation.name
        );
        assert_signature(title, computation);
        finished.insert(computation.id);
    }
    let entry = module.computations.last().unwrap();
    assert_eq!(
        (module.entry_computation_id, &module.entry_computation_name),
        (entry.id, &entry.name),
        "{title}"
    );
    assert_eq!(module.host_program_shape, entry.program_shape, "{title}");
}

/// Row-major layouts everywhere.
fn assert_laid_out(what: &str, shape: &proto::Shape) {
    shape.tuple_shapes.iter().for_each(|s| assert_laid_out(what, s));
    if shape.tuple_shapes.is_empty() && shape.element_type != 13 {
        let rank = shape.dimensions.len() as i64;
        assert_eq!(
            shape.layout.as_ref().unwrap().minor_to_major,
            (0..rank).rev().collect::<Vec<_>>(),
            "{what}"
        );
        assert_eq!(shape.is_dynamic_dimension.len(), shape.dimensions.len(), "{what}");
    }
}

/// Parameters are numbered without gaps and have the shapes of the signature; the root has the result's shape.
fn assert_signature(title: &str, computation: &proto::Computation) {
    let signature = computation.program_shape.as_ref().unwrap();
    let mut parameters: Vec<_> = computation
        .instructions
        .iter()
        .filter(|i| i.opcode == "parameter")
        .collect();
    parameters.sort_by_key(|i| i.parameter_number);
    let numbers: Vec<i64> = parameters.iter().map(|i| i.parameter_number).collect();
    assert_eq!(numbers, (0..numbers.len() as i64).collect::<Vec<_>>(), "{title}");
    let shapes: Vec<_> = parameters.iter().map(|i| i.shape.clone().unwrap()).collect();
    assert_eq!(shapes, signature.parameters, "{title}: {}", computation.name);
    let root = computation
        .instructions
        .iter()
        .find(|i| i.id == computation.root_id)
        .unwrap();
    assert_eq!(root.shape, signature.result, "{title}: {}", computation.name);
}

#[test]
fn modules_are_well_formed() {
    for (title, module) in modules() {
        assert_well_formed(&title, &module);
    }
}

#[test]
fn names_are_sanitised_for_hlo() {
    let module = step().to_proto(&[]);
    assert_eq!(module.name, "one_step.twice");
    let entry = module.computations.last().unwrap();
    let parameters: Vec<_> = entry.instructions.iter().filter(|i| i.opcode == "parameter").collect();
    assert!(
        parameters[0].name.starts_with("layer.w.") && parameters[1].name.starts_with("x__1_."),
        "{parameters:?}"
    );
}

#[test]
fn metadata_has_scopes_inside_bodies_too() {
    let module = step().to_proto(&[]);
    let named = |computation: &proto::Computation, op: &str| {
        let names = computation
            .instructions
            .iter()
            .filter(|i| i.opcode == op)
            .filter_map(|i| i.metadata.clone());
        names.map(|m| m.op_name).collect::<Vec<_>>()
    };
    assert!(named(module.computations.last().unwrap(), "tanh").contains(&"train/tanh".to_string()));
    let body = module
        .computations
        .iter()
        .find(|c| c.name.starts_with("body."))
        .unwrap();
    assert!(
        named(body, "conditional").contains(&"train/conditional".to_string()),
        "{:?}",
        body.name
    );
}

#[test]
fn aliases_tie_an_output_to_a_parameter() {
    let module = step().to_proto(&[
        Alias {
            output: 0,
            parameter: 0,
        },
        Alias {
            output: 2,
            parameter: 1,
        },
    ]);
    let entries = module.input_output_alias.unwrap().entries;
    let ties: Vec<_> = entries
        .iter()
        .map(|e| (e.output_shape_index.clone(), e.parameter_number))
        .collect();
    assert_eq!(ties, [(vec![0], 0), (vec![2], 1)]);
    assert!(
        entries
            .iter()
            .all(|e| e.parameter_shape_index.is_empty() && e.kind == 1)
    );
}

/// The order among equals is part of the operator, so the emission may not leave it to the platform.
#[test]
fn sorts_are_stable_and_in_total_order() {
    for (title, module) in modules() {
        for (computation, instruction) in module
            .computations
            .iter()
            .flat_map(|c| c.instructions.iter().map(move |i| (c, i)))
        {
            if instruction.opcode == "sort" {
                assert!(instruction.is_stable, "{title}");
            }
            if instruction.opcode == "topk" {
                let operand = computation
                    .instructions
                    .iter()
                    .find(|i| i.id == instruction.operand_ids[0])
                    .unwrap();
                let longest = *operand.shape.as_ref().unwrap().dimensions.last().unwrap();
                assert!(instruction.largest && instruction.k < longest, "{title}");
            }
            let float = |c: &str| ["FLOAT", "TOTALORDER"].contains(&c);
            if computation.name.starts_with("compare.") && float(&instruction.comparison_type) {
                assert_eq!(instruction.comparison_type, "TOTALORDER", "{title}");
            }
        }
    }
}

/// A module whose last computation calls, `calls` times each, a chain of `depth` others.
fn chained(depth: i64, calls: i64, dims: &[i64]) -> Vec<u8> {
    let shape = proto::Shape {
        element_type: 11,
        dimensions: dims.to_vec(),
        is_dynamic_dimension: vec![false; dims.len()],
        ..Default::default()
    };
    let mut id = 0;
    let mut instruction = |opcode: &str, called: Vec<i64>| {
        id += 1;
        proto::Instruction {
            name: format!("{opcode}.{id}"),
            opcode: opcode.into(),
            shape: Some(shape.clone()),
            id,
            called_computation_ids: called,
            ..Default::default()
        }
    };
    let computation = |number: i64| {
        let called = (0..calls).map(|_| instruction("call", vec![number - 1]));
        let instructions: Vec<_> = match number {
            1 => vec![instruction("constant", vec![])],
            _ => called.collect(),
        };
        proto::Computation {
            name: format!("c.{number}"),
            root_id: instructions[0].id,
            instructions,
            id: number,
            ..Default::default()
        }
    };
    let module = proto::Module {
        name: "chain".into(),
        computations: (1..=depth).map(computation).collect(),
        entry_computation_id: depth,
        ..Default::default()
    };
    module.encode_to_vec()
}

#[test]
fn refuses_modules_that_compilers_cannot_take() {
    let read = |depth, calls, dims: &[i64]| hlo::Module::read(&chained(depth, calls, dims)).map(|_| ());
    read(20, 2, &[2, 2]).unwrap();
    for (depth, calls, dims, expected) in [
        (60, 2, &[2][..], "instructions with all of them written out"),
        (300, 1, &[2], "calls 257 deep"),
        (1, 1, &[1 << 20, 1 << 20], "expected at most 68719476736 elements"),
        (1, 1, &[1 << 40, 1 << 40], "expected at most"),
        (1, 1, &[-1], "an array of dimensions [-1]"),
    ] {
        let message = read(depth, calls, dims).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
