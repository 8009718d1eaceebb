//! Checks of a module of another program, so that a compiler is given consistent references only.

use super::array;
use crate::error::{Error, Result};
use crate::proto;
use crate::shape::Shape;
use std::collections::{BTreeMap, BTreeSet};

/// Operators that other devices cannot run, or that communicate, by opcode.
const REFUSED: [&str; 24] = [
    "custom-call",
    "infeed",
    "outfeed",
    "send",
    "send-done",
    "recv",
    "recv-done",
    "all-gather",
    "all-gather-start",
    "all-gather-done",
    "all-reduce",
    "all-reduce-start",
    "all-reduce-done",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
    "collective-permute",
    "collective-permute-start",
    "collective-permute-done",
    "reduce-scatter",
    "partition-id",
    "replica-id",
    "async-start",
    "after-all",
];

/// Largest number of a name that ids are kept away from, so that they fit into 32 bits.
const MAX_NUMBER: u32 = 1 << 30;

/// Maximum number of instructions: a hundred times those of the largest exported networks.
const MAX_INSTRUCTIONS: usize = 4 << 20;

/// Maximum number of instructions where every call is written out, as compilers inline them.
const MAX_INLINED: u64 = 1 << 26;

/// Maximum depth of calls within calls. Compilers follow them recursively.
const MAX_CALL_DEPTH: usize = 256;

/// Maximum number of elements of an array: 256 GiB of f32, more than a device holds.
const MAX_ELEMENTS: usize = 1 << 36;

fn broken<T>(message: String) -> Result<T> {
    Err(Error::Proto(message))
}

/// Checks a module and returns its entry computation.
pub(super) fn check(module: &proto::Module) -> Result<&proto::Computation> {
    let mut computations = BTreeMap::new();
    let mut instructions = BTreeSet::new();
    // Instructions with all calls written out, and depth of calls, of each computation.
    let mut inlined: Vec<(u64, usize)> = vec![];
    for (position, computation) in module.computations.iter().enumerate() {
        if computations.insert(computation.id, position).is_some() {
            return broken(format!("two computations have the id {}", computation.id));
        }
        body(computation, &mut instructions)?;
        let (mut size, mut depth) = (computation.instructions.len() as u64, 1);
        for instruction in &computation.instructions {
            for id in &instruction.called_computation_ids {
                // Callees come first, so calls cannot be circular.
                if computations.get(id).is_none_or(|&callee| callee >= position) {
                    return broken(format!(
                        "instruction '{}' calls computation {id}, which does not come before it",
                        name(instruction)
                    ));
                }
                let callee = computations.get(id).and_then(|&callee| inlined.get(callee));
                let (more, below) = callee.copied().unwrap_or_default();
                (size, depth) = (size.saturating_add(more), depth.max(below + 1));
            }
        }
        if size > MAX_INLINED || depth > MAX_CALL_DEPTH {
            return broken(format!(
                "computation {} has calls {depth} deep and {size} instructions with all of them written out, expected at \
                 most {MAX_CALL_DEPTH} and {MAX_INLINED}",
                computation.id
            ));
        }
        inlined.push((size, depth));
    }
    let entry = computations.get(&module.entry_computation_id);
    match entry.and_then(|&position| module.computations.get(position)) {
        Some(entry) => Ok(entry),
        None => broken(format!(
            "no computation has the id {} of the entry",
            module.entry_computation_id
        )),
    }
}

/// Checks the instructions of a computation. `known` are the ids of all instructions so far.
fn body(computation: &proto::Computation, known: &mut BTreeSet<i64>) -> Result<()> {
    let mut own = BTreeSet::new();
    for instruction in &computation.instructions {
        if REFUSED.contains(&instruction.opcode.as_str()) {
            return Err(refused(instruction));
        }
        if let Some(id) = instruction.operand_ids.iter().find(|id| !own.contains(*id)) {
            return broken(format!(
                "operand {id} of instruction '{}' does not come before it",
                name(instruction)
            ));
        }
        match &instruction.shape {
            None => return broken(format!("instruction '{}' has no shape", name(instruction))),
            Some(shape) => bounded(shape, MAX_DEPTH)
                .map_err(|why| Error::Proto(format!("instruction '{}' has {why}", name(instruction))))?,
        }
        own.insert(instruction.id);
        if instruction.id <= 0 || !known.insert(instruction.id) || known.len() > MAX_INSTRUCTIONS {
            return broken(format!("instruction '{}' has no id of its own", name(instruction)));
        }
    }
    match own.contains(&computation.root_id) {
        true => Ok(()),
        false => broken(format!("the root of computation {} is not in it", computation.id)),
    }
}

/// Maximum depth of tuples within tuples.
const MAX_DEPTH: usize = 16;

/// Checks that the arrays of a shape can be stored.
fn bounded(shape: &proto::Shape, depth: usize) -> std::result::Result<(), String> {
    if depth == 0 {
        return Err(format!("tuples nested more than {MAX_DEPTH} deep"));
    }
    let elements = shape.dimensions.iter().try_fold(1usize, |n, &dim| {
        let dim = usize::try_from(dim).ok()?;
        n.checked_mul(dim)
    });
    if elements.is_none_or(|n| n > MAX_ELEMENTS) {
        return Err(format!(
            "an array of dimensions {:?}, expected at most {MAX_ELEMENTS} elements",
            shape.dimensions
        ));
    }
    shape.tuple_shapes.iter().try_for_each(|part| bounded(part, depth - 1))
}

fn name(instruction: &proto::Instruction) -> String {
    let short: String = instruction.name.chars().take(60).collect();
    short.escape_debug().to_string()
}

fn refused(instruction: &proto::Instruction) -> Error {
    let op = match instruction.custom_call_target.as_str() {
        "" => instruction.opcode.clone(),
        target => format!("{} '{}'", instruction.opcode, target.escape_debug()),
    };
    let source = instruction
        .metadata
        .as_ref()
        .map(|metadata| metadata.op_name.escape_debug().to_string());
    let source = source.filter(|source| !source.is_empty());
    Error::Module {
        op,
        source_name: source.unwrap_or_else(|| name(instruction)),
    }
}

/// Newer versions of XLA put the number of the computation into the high half of an instruction's id, and look at the low half
/// of all ids.
const LOCAL: i64 = 0xffff_ffff;

/// Largest id in a module, without the number of its computation, and largest number at the end of a name. Names are distinct in
/// a program, and end in the ids here.
pub(super) fn last_id(module: &proto::Module) -> i64 {
    let numbers = module.computations.iter().flat_map(|computation| {
        let own = computation.instructions.iter();
        let own = own.flat_map(|instruction| [instruction.id & LOCAL, number_of(&instruction.name)]);
        own.chain([computation.id & LOCAL, number_of(&computation.name)])
    });
    numbers.max().unwrap_or(0)
}

/// The number after the last dot of a name; 0 without one, or for one that no id reaches.
fn number_of(name: &str) -> i64 {
    let number = name.rsplit('.').next().and_then(|number| number.parse::<u32>().ok());
    number.filter(|&number| number <= MAX_NUMBER).map_or(0, i64::from)
}

/// Shapes of parameters and results, and whether the results form a tuple.
pub(super) fn interface(entry: &proto::Computation) -> Result<(Vec<Shape>, Vec<Shape>, bool)> {
    let mut parameters = BTreeMap::new();
    let mut root = None;
    for instruction in &entry.instructions {
        let Some(shape) = &instruction.shape else { continue };
        if instruction.id == entry.root_id {
            root = Some(shape);
        }
        if instruction.opcode != "parameter" {
            continue;
        }
        let number = instruction.parameter_number;
        let shape = array(shape).map_err(|why| Error::Proto(format!("parameter {number}: {why}")))?;
        if parameters.insert(number, shape).is_some() {
            return broken(format!("two parameters have the number {number}"));
        }
    }
    if !parameters.keys().copied().eq(0..parameters.len() as i64) {
        return broken("parameter numbers have a gap".into());
    }
    let Some(root) = root else {
        return broken("no root".into());
    };
    let tuple = root.element_type == crate::emit::TUPLE;
    let results = if tuple {
        &root.tuple_shapes[..]
    } else {
        std::slice::from_ref(root)
    };
    let result = |(i, shape)| array(shape).map_err(|why| Error::Proto(format!("result {i}: {why}")));
    let results = results.iter().enumerate().map(result).collect::<Result<_>>()?;
    Ok((parameters.into_values().collect(), results, tuple))
}
