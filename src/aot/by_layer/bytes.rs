//! Bytes that instructions read and write, counted as XLA's own cost analysis does: operands and results of every instruction
//! outside of fusions, each in the layout the compiler chose, and only the accessed part for slices.

use std::ops::AddAssign;

use hlo::proto::{Instruction, Shape};

use super::flops::DEEPEST;
use super::program::{Indexed, Program, shape};

/// Bytes that an instruction moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Moved {
    /// As the compiler counts, including padding, and in every memory.
    pub bytes: f64,
    /// The part of `bytes` that is padding of layouts.
    pub padding_bytes: f64,
    /// Bytes of the device's main memory (HBM), each array counted once per instruction.
    pub main_memory_bytes: f64,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.padding_bytes += other.padding_bytes;
        self.main_memory_bytes += other.main_memory_bytes;
    }
}

impl Moved {
    /// `times` accesses of an array, in the compiler's count.
    fn array(array: &Shape, times: f64) -> Self {
        let mut moved = Moved::default();
        if !array.tuple_shapes.is_empty() {
            array
                .tuple_shapes
                .iter()
                .for_each(|part| moved += Moved::array(part, times));
            return moved;
        }
        let stored = array.stored_bytes() as f64;
        Moved {
            bytes: times * stored,
            padding_bytes: times * (stored - array.bytes() as f64),
            main_memory_bytes: match array.memory_space() {
                0 => stored * times.min(1.0),
                _ => 0.0,
            },
        }
    }
}

/// Instructions that move nothing.
const FREE: [&str; 16] = [
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "add-dependency",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "copy-done",
    "async-done",
    "async-update",
    "all-reduce-done",
    "all-gather-done",
    "collective-permute-done",
];

/// Bytes that one instruction moves, without those of loops, conditionals and calls.
pub(super) fn moved(program: &Program<'_>, within: &Indexed<'_>, i: &Instruction) -> Moved {
    let mut sum = Moved::default();
    let mut result = |times| sum += Moved::array(shape(i), times);
    match i.opcode.as_str() {
        opcode if FREE.contains(&opcode) => {}
        "copy-start" => {
            // The parts are the copy, the original and a semaphore. The compiler counts the end of a copy like its start.
            let parts = shape(i).tuple_shapes.iter().take(2);
            parts.for_each(|part| sum += Moved::array(part, 2.0));
        }
        "slice" | "dynamic-slice" | "gather" => {
            result(1.0);
            sum += of_part(within.operand(i, 0), shape(i));
        }
        // Copies that were made in parts, seen as one array.
        "custom-call" if i.custom_call_target == "ConcatBitcast" => {
            result(1.0);
            sum.main_memory_bytes = 0.0;
        }
        "dynamic-update-slice" => {
            let part = within.operand(i, 1).map_or(shape(i), shape);
            sum += Moved::array(part, 1.0);
            sum += of_part(Some(i), part);
        }
        "fusion" => {
            if let Some(called) = program.called(i, 0) {
                sum += fusion(program, within, i, called);
            }
        }
        _ => {
            result(1.0);
            within
                .operands(i)
                .for_each(|operand| sum += Moved::array(shape(operand), 1.0));
        }
    }
    sum
}

/// An access of a part of `array`.
fn of_part(array: Option<&Instruction>, part: &Shape) -> Moved {
    let mut moved = Moved::array(part, 1.0);
    let in_main = array.is_none_or(|array| shape(array).memory_space() == 0);
    moved.main_memory_bytes = if in_main { moved.bytes } else { 0.0 };
    moved
}

fn fusion(program: &Program<'_>, within: &Indexed<'_>, i: &Instruction, called: &Indexed<'_>) -> Moved {
    let mut sum = Moved::default();
    for (number, operand) in within.operands(i).enumerate() {
        let array = shape(operand);
        let Some(parameter) = called.parameter(number as i64) else {
            continue;
        };
        let mut read = read_parameter(program, called, parameter, 0);
        // Memory spaces are those outside of the fusion.
        read.main_memory_bytes = match array.memory_space() {
            0 => read.bytes.min(array.stored_bytes() as f64),
            _ => 0.0,
        };
        sum += read;
    }
    let results = match shape(i).tuple_shapes.is_empty() {
        true => vec![(shape(i), called.root())],
        false => {
            let root = called.root();
            let part = |(n, part)| {
                (
                    part,
                    root.filter(|r| r.opcode == "tuple").and_then(|r| called.operand(r, n)),
                )
            };
            shape(i).tuple_shapes.iter().enumerate().map(part).collect()
        }
    };
    for (array, root) in results {
        let update = root
            .filter(|r| r.opcode == "dynamic-update-slice")
            .and_then(|r| called.operand(r, 1));
        let mut written = Moved::array(update.map_or(array, shape), 1.0);
        if array.memory_space() != 0 {
            written.main_memory_bytes = 0.0;
        }
        sum += written;
    }
    sum
}

/// Bytes that a fusion reads of a parameter: all of it once, or each slice; once more for every broadcast and in every fusion
/// inside, as the compiler counts.
fn read_parameter(program: &Program<'_>, fused: &Indexed<'_>, parameter: &Instruction, depth: usize) -> Moved {
    let mut sum = Moved::default();
    if depth > DEEPEST {
        return sum;
    }
    let whole = Moved::array(shape(parameter), 1.0);
    let mut seen = false;
    for user in fused.users(parameter) {
        let first = user.operand_ids.first() == Some(&parameter.id);
        match user.opcode.as_str() {
            "fusion" => {
                let inside = program.called(user, 0);
                let places = user
                    .operand_ids
                    .iter()
                    .enumerate()
                    .filter(|(_, id)| **id == parameter.id);
                for (number, _) in places {
                    if let Some((inside, inner)) = inside.and_then(|c| Some((c, c.parameter(number as i64)?))) {
                        sum += read_parameter(program, inside, inner, depth + 1);
                    }
                }
            }
            "slice" => sum += Moved::array(shape(user), 1.0),
            "dynamic-slice" if first => sum += Moved::array(shape(user), 1.0),
            // Overwritten in place.
            "dynamic-update-slice" if first => {}
            "broadcast" | "reshape" => sum += whole,
            _ if !seen => {
                seen = true;
                sum += whole;
            }
            _ => {}
        }
    }
    sum
}
