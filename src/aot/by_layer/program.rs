//! An optimized program, indexed for lookups.

use std::cell::Cell;
use std::collections::BTreeMap;

use hlo::proto::{Computation, Instruction, Module, Shape};

/// A computation with its instructions by id, and the users of each.
pub(super) struct Indexed<'m> {
    pub computation: &'m Computation,
    by_id: BTreeMap<i64, &'m Instruction>,
    users: BTreeMap<i64, Vec<&'m Instruction>>,
}

impl<'m> Indexed<'m> {
    fn new(computation: &'m Computation) -> Self {
        let mut users: BTreeMap<i64, Vec<&Instruction>> = BTreeMap::new();
        for instruction in &computation.instructions {
            for &operand in &instruction.operand_ids {
                let users = users.entry(operand).or_default();
                if users.last().is_none_or(|last| last.id != instruction.id) {
                    users.push(instruction);
                }
            }
        }
        Indexed {
            computation,
            by_id: computation.instructions.iter().map(|i| (i.id, i)).collect(),
            users,
        }
    }

    pub fn get(&self, id: i64) -> Option<&'m Instruction> {
        self.by_id.get(&id).copied()
    }

    pub fn root(&self) -> Option<&'m Instruction> {
        self.get(self.computation.root_id)
    }

    /// Operand `i` of `instruction`.
    pub fn operand(&self, instruction: &Instruction, i: usize) -> Option<&'m Instruction> {
        self.get(*instruction.operand_ids.get(i)?)
    }

    pub fn operands(&self, instruction: &'m Instruction) -> impl Iterator<Item = &'m Instruction> {
        instruction.operand_ids.iter().filter_map(|&id| self.get(id))
    }

    /// Instructions that use `instruction`, each once.
    pub fn users(&self, instruction: &Instruction) -> &[&'m Instruction] {
        self.users.get(&instruction.id).map_or(&[], Vec::as_slice)
    }

    /// The parameter with this number.
    pub fn parameter(&self, number: i64) -> Option<&'m Instruction> {
        let is_it = |i: &&Instruction| i.opcode == "parameter" && i.parameter_number == number;
        self.computation.instructions.iter().find(is_it)
    }
}

/// A module with its computations by id.
pub(super) struct Program<'m> {
    computations: BTreeMap<i64, Indexed<'m>>,
    entry: i64,
    /// Calls that may still be followed.
    budget: Cell<u32>,
}

/// Most calls that are followed. Programs of this crate take thousands; a hostile file, whose computations call each other, ends.
const MOST_CALLS: u32 = 5_000_000;

impl<'m> Program<'m> {
    pub fn new(module: &'m Module) -> Self {
        Program {
            computations: module.computations.iter().map(|c| (c.id, Indexed::new(c))).collect(),
            entry: module.entry_computation_id,
            budget: Cell::new(MOST_CALLS),
        }
    }

    /// Whether another call may be followed.
    fn spend(&self) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0
    }

    pub fn entry(&self) -> Option<&Indexed<'m>> {
        self.computations.get(&self.entry)
    }

    /// Computation `i` that `instruction` calls.
    pub fn called(&self, instruction: &Instruction, i: usize) -> Option<&Indexed<'m>> {
        let id = instruction.called_computation_ids.get(i)?;
        self.spend().then(|| self.computations.get(id)).flatten()
    }

    pub fn all_called(&self, instruction: &Instruction) -> impl Iterator<Item = &Indexed<'m>> {
        let ids = instruction.called_computation_ids.iter();
        ids.filter_map(|id| self.spend().then(|| self.computations.get(id)).flatten())
    }
}

static NO_SHAPE: Shape = Shape {
    element_type: 0,
    dimensions: vec![],
    tuple_shapes: vec![],
    layout: None,
    is_dynamic_dimension: vec![],
};

/// Shape of the result; an empty one if the module has none.
pub(super) fn shape(instruction: &Instruction) -> &Shape {
    instruction.shape.as_ref().unwrap_or(&NO_SHAPE)
}
