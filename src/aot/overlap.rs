//! Collectives of an optimized program, and how much of them runs beside other work.

use std::collections::BTreeSet;

use hlo::proto::{Computation, Instruction, Module, Shape};

use super::chips::Generation;

/// Options of XLA that run the all-reduce of gradients beside the backward pass: large arrays are reduced by themselves as soon
/// as they exist, within the kernels that follow. The compiler of libtpu 0.0.52 refuses them for all other generations.
const OF_V5E: [(&str, &str); 5] = [
    ("xla_jf_crs_combiner_threshold_in_bytes", "100000"),
    ("xla_enable_async_all_reduce", "true"),
    ("xla_tpu_enable_async_collective_fusion", "true"),
    ("xla_tpu_enable_async_collective_fusion_fuse_all_reduce", "true"),
    ("xla_tpu_enable_async_collective_fusion_multiple_steps", "true"),
];

/// The options for a generation; `None` if its compiler has none.
pub fn options(chip: &Generation) -> Option<&'static [(&'static str, &'static str)]> {
    (chip.name == "v5e").then_some(&OF_V5E)
}

const COLLECTIVES: [&str; 5] = [
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
];

/// Instructions that take no time.
const FREE: [&str; 6] = [
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy-done",
];

/// A collective that TPUs compute in parts within other kernels: names of the fusions that begin and end it, and of the
/// computations between.
const STARTS: &str = "async-collective-start";
const ENDS: &str = "async-collective-done";
const BETWEEN: &str = "async_collective_fusion";

/// Bytes of the collectives of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collectives {
    /// Bytes of all operands, each collective counted once.
    pub bytes: u64,
    /// The part in asynchronous collectives with work scheduled between start and end.
    pub hidden: u64,
}

impl Collectives {
    /// Reads a scheduled program, as compilers return it.
    pub fn of(module: &Module) -> Self {
        let instructions = || module.computations.iter().flat_map(|c| &c.instructions);
        let is_part = |i: &&Instruction| i.name.starts_with(STARTS) || i.name.starts_with(ENDS);
        let parts: BTreeSet<i64> = instructions()
            .filter(is_part)
            .flat_map(|i| i.called_computation_ids.iter().copied())
            .collect();
        let whole = |c: &&Computation| !parts.contains(&c.id) && !c.name.starts_with(BETWEEN);
        let mut found = Collectives::default();
        for computation in module.computations.iter().filter(whole) {
            for (at, i) in computation.instructions.iter().enumerate() {
                let starts = i.name.starts_with(STARTS)
                    || i.opcode
                        .strip_suffix("-start")
                        .is_some_and(|opcode| COLLECTIVES.contains(&opcode));
                if starts || COLLECTIVES.contains(&i.opcode.as_str()) {
                    let bytes = operand_bytes(computation, i);
                    found.bytes += bytes;
                    found.hidden += if starts && has_work(computation, at) { bytes } else { 0 };
                }
            }
        }
        found
    }

    /// The hidden share; `None` without collectives.
    pub fn overlap(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.hidden as f64 / self.bytes as f64)
    }
}

fn operand_bytes(computation: &Computation, i: &Instruction) -> u64 {
    let shape = |id: &i64| computation.instructions.iter().find(|i| i.id == *id)?.shape.as_ref();
    i.operand_ids.iter().filter_map(shape).map(Shape::bytes).sum()
}

/// Whether work is scheduled between the start at this position and its end.
fn has_work(computation: &Computation, at: usize) -> bool {
    let start = &computation.instructions[at];
    let end = start.name.strip_prefix(STARTS).map(|number| format!("{ENDS}{number}"));
    let ends = |i: &&Instruction| match &end {
        Some(end) => i.name != *end,
        None => !i.operand_ids.contains(&start.id),
    };
    let between = computation.instructions[at + 1..].iter().take_while(ends);
    let is_work = |i: &&Instruction| !FREE.contains(&i.opcode.as_str()) && !i.opcode.ends_with("-start");
    between.filter(is_work).count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(id: i64, opcode: &str, operand_ids: Vec<i64>) -> Instruction {
        let shape = hlo::proto::Shape {
            element_type: 11,
            dimensions: vec![10],
            ..hlo::proto::Shape::default()
        };
        Instruction {
            id,
            opcode: opcode.into(),
            operand_ids,
            shape: Some(shape),
            ..Instruction::default()
        }
    }

    fn share(instructions: Vec<Instruction>) -> Option<f64> {
        let module = Module {
            computations: vec![Computation {
                instructions,
                ..Computation::default()
            }],
            ..Module::default()
        };
        Collectives::of(&module).overlap()
    }

    #[test]
    fn only_asynchronous_collectives_with_work_between_overlap() {
        let first = || instruction(1, "parameter", vec![]);
        assert_eq!(share(vec![first()]), None);
        assert_eq!(share(vec![first(), instruction(2, "all-reduce", vec![1])]), Some(0.0));
        let between = |opcode| {
            share(vec![
                first(),
                instruction(2, "all-reduce-start", vec![1]),
                instruction(3, opcode, vec![1]),
                instruction(4, "all-reduce-done", vec![2]),
                instruction(5, "all-reduce", vec![4]),
            ])
        };
        assert_eq!([between("bitcast"), between("fusion")], [Some(0.0), Some(0.5)]);
    }
}
