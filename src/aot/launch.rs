//! What a compiler made of a launch: whether the state stays in place, and what its loop copies or exchanges with the host.

use std::collections::{BTreeMap, BTreeSet};

use hlo::proto::{Computation, Instruction, Module, Shape};
use serde::Serialize;

/// Scope of the operators that every iteration begins with ([`crate::train::launch`]).
const ITERATION: &str = "batch";
/// Number of the host's memory in layouts.
const HOST_MEMORY: i64 = 5;

/// Arrays as large as one of the state that are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// Copies within a memory, also into another layout.
    pub copies: usize,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Transfers between main memory and the chip's own, in the background.
    pub moves: usize,
    /// Their bytes.
    pub moved_bytes: u64,
}

/// The state in a compiled launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaunchProgram {
    /// Arrays whose results take the memory of a parameter: the state.
    pub in_place: usize,
    /// In each iteration.
    pub iteration: Copies,
    /// Around each mask update.
    pub update: Copies,
    /// Before and after the loop.
    pub once: Copies,
    /// Instructions that exchange data with the host. Inputs and outputs of the program are none.
    pub host_transfers: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Once,
    Update,
    Iteration,
}

impl LaunchProgram {
    /// Reads an optimized launch.
    pub fn of(module: &Module) -> Self {
        let computations: BTreeMap<i64, &Computation> = module.computations.iter().map(|c| (c.id, c)).collect();
        let entries = module.input_output_alias.iter().flat_map(|alias| &alias.entries);
        let donated: BTreeSet<i64> = entries.map(|entry| entry.parameter_number).collect();
        let entry = computations.get(&module.entry_computation_id).copied();
        let parameters = entry.iter().flat_map(|c| &c.instructions);
        let state = parameters.filter(|i| i.opcode == "parameter" && donated.contains(&i.parameter_number));
        let mut reader = Reader {
            state: state
                .filter_map(|i| i.shape.as_ref())
                .filter(|s| s.elements() > 1)
                .map(key)
                .collect(),
            found: LaunchProgram {
                in_place: donated.len(),
                ..LaunchProgram::default()
            },
            seen: BTreeSet::new(),
            computations,
        };
        reader.read(module.entry_computation_id, Place::Once);
        reader.found
    }
}

/// Element type and dimensions: arrays that agree in both have the same size.
type Key = (i32, Vec<i64>);

fn key(shape: &Shape) -> Key {
    (shape.element_type, shape.dimensions.clone())
}

struct Reader<'m> {
    computations: BTreeMap<i64, &'m Computation>,
    state: BTreeSet<Key>,
    found: LaunchProgram,
    seen: BTreeSet<i64>,
}

impl<'m> Reader<'m> {
    fn read(&mut self, id: i64, place: Place) {
        let Some(&computation) = self.computations.get(&id).filter(|_| self.seen.insert(id)) else {
            return;
        };
        for i in &computation.instructions {
            self.count(computation, i, place);
            let into = |of: &Self, called: i64| match i.opcode.as_str() {
                "while" if of.begins_iteration(called, false) => Place::Iteration,
                "while" if of.begins_iteration(called, true) => Place::Update,
                _ => place,
            };
            if matches!(i.opcode.as_str(), "while" | "call" | "conditional") {
                for &called in &i.called_computation_ids {
                    let place = into(self, called);
                    self.read(called, place);
                }
            }
        }
    }

    /// Whether a computation has operators of [`ITERATION`], in loops within it too if asked.
    fn begins_iteration(&self, id: i64, in_loops: bool) -> bool {
        let mut open = vec![id];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let Some(computation) = self.computations.get(&id).filter(|_| seen.insert(id)) else {
                continue;
            };
            for i in &computation.instructions {
                let scopes = i.metadata.as_ref().map_or("", |m| &m.op_name);
                if scopes.split('/').any(|scope| scope == ITERATION) {
                    return true;
                }
                if i.opcode != "while" || in_loops {
                    open.extend(&i.called_computation_ids);
                }
            }
        }
        false
    }

    fn count(&mut self, computation: &Computation, i: &Instruction, place: Place) {
        let operand = |i: &Instruction| {
            let id = i.operand_ids.first()?;
            computation
                .instructions
                .iter()
                .find(|other| other.id == *id)?
                .shape
                .as_ref()
        };
        let (copied, original) = match i.opcode.as_str() {
            "infeed" | "outfeed" | "send" | "recv" => {
                self.found.host_transfers += 1;
                return;
            }
            "copy" => (i.shape.as_ref(), operand(i)),
            // The result is the copy, the original and a semaphore.
            "copy-start" => (
                i.shape.as_ref().and_then(|shape| shape.tuple_shapes.first()),
                operand(i),
            ),
            "fusion" if self.only_copies(i) => (i.shape.as_ref(), operand(i)),
            _ => return,
        };
        let (Some(copied), Some(original)) = (copied, original) else {
            return;
        };
        let spaces = [copied.memory_space(), original.memory_space()];
        self.found.host_transfers += usize::from(spaces.contains(&HOST_MEMORY));
        if !self.state.contains(&key(copied)) {
            return;
        }
        let sum = match place {
            Place::Once => &mut self.found.once,
            Place::Update => &mut self.found.update,
            Place::Iteration => &mut self.found.iteration,
        };
        match i.opcode == "copy-start" && spaces[0] != spaces[1] {
            true => {
                sum.moves += 1;
                sum.moved_bytes += copied.bytes();
            }
            false => {
                sum.copies += 1;
                sum.copied_bytes += copied.bytes();
            }
        }
    }

    fn only_copies(&self, fusion: &Instruction) -> bool {
        let [called] = fusion.called_computation_ids[..] else {
            return false;
        };
        let Some(computation) = self.computations.get(&called) else {
            return false;
        };
        let has_copy = computation.instructions.iter().any(|i| i.opcode == "copy");
        let trivial = |i: &Instruction| matches!(i.opcode.as_str(), "parameter" | "copy" | "bitcast" | "transpose");
        has_copy && computation.instructions.iter().all(trivial)
    }
}

impl std::fmt::Display for LaunchProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |copies: &Copies| match copies.copies {
            0 => "none".to_owned(),
            n => format!("{n} ({})", crate::report::units::bytes(copies.copied_bytes as f64)),
        };
        write!(
            f,
            "{} arrays in place; copied: per iteration {}, per mask update {}, per launch {}; exchanges with the host: {}",
            self.in_place,
            of(&self.iteration),
            of(&self.update),
            of(&self.once),
            self.host_transfers
        )
    }
}
