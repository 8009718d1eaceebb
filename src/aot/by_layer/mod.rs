//! A compiled program by layer: which layers and parts of an iteration its operations and bytes belong to.
//!
//! The scopes of the graph travel through the compiler as names of operators. A *kernel* is an instruction outside of fusions.
//! It counts as a whole for the layer of its convolution or matrix product, if it has one, or else for the layer of the
//! operator that the compiler named it after.

mod bytes;
mod flops;
mod place;
mod profile;
mod program;

use std::collections::{BTreeSet, VecDeque};

use hlo::proto::{Instruction, Module};
use serde::Serialize;

pub use bytes::Moved;
pub use place::{Phase, Place};
pub use profile::{Profile, Reported, Row, Sums};
use program::{Indexed, Program, shape};

/// An instruction outside of fusions.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// Name in the optimized program.
    pub name: String,
    /// Opcode; `fusion` for a fusion.
    pub opcode: String,
    /// Layer and phase.
    #[serde(flatten)]
    pub place: Place,
    /// Operations.
    pub flops: f64,
    /// Bytes.
    #[serde(flatten)]
    pub moved: Moved,
    /// The compiler's estimate of the processor cycles, where it makes one (TPUs).
    pub cycles: Option<f64>,
    /// The kind of a kernel that only moves data: `copy`, `transpose` or `prefetch`.
    pub moves: Option<&'static str>,
    /// Shape of the result.
    pub result: String,
}

/// The kernels of a program, in its order. Those of a loop count once; of a conditional, those of the branch with the most bytes.
///
/// `module` is an optimized program, as [`Compiled::optimized_hlo`](pjrt::Compiled::optimized_hlo) returns it.
pub fn kernels(module: &Module) -> Vec<Kernel> {
    let program = Program::new(module);
    let mut found = vec![];
    if let Some(entry) = program.entry() {
        collect(&program, entry, None, 0, &mut found);
    }
    found
}

/// Adds the kernels of a computation; those without a place get `outer`, the caller's.
fn collect(program: &Program<'_>, within: &Indexed<'_>, outer: Option<&Place>, depth: usize, found: &mut Vec<Kernel>) {
    if depth > flops::DEEPEST {
        return;
    }
    let places = Places::new(program, within);
    for i in &within.computation.instructions {
        let place = places.of(i).or_else(|| outer.cloned());
        match i.opcode.as_str() {
            "while" | "call" | "async-start" => {
                for called in program.all_called(i) {
                    collect(program, called, place.as_ref(), depth + 1, found);
                }
            }
            "conditional" => {
                let branch = |called| {
                    let mut of_branch = vec![];
                    collect(program, called, place.as_ref(), depth + 1, &mut of_branch);
                    of_branch
                };
                let bytes = |kernels: &Vec<Kernel>| kernels.iter().map(|k| k.moved.bytes).sum::<f64>();
                let largest = program
                    .all_called(i)
                    .map(branch)
                    .max_by(|a, b| bytes(a).total_cmp(&bytes(b)));
                found.extend(largest.unwrap_or_default());
            }
            _ => {
                let (moved, flops) = (bytes::moved(program, within, i), flops::flops(program, within, i, 0));
                if moved != Moved::default() || flops > 0.0 {
                    found.push(Kernel {
                        name: i.name.clone(),
                        opcode: i.opcode.clone(),
                        place: place.unwrap_or_else(Place::unknown),
                        flops,
                        moved,
                        cycles: cycles(i),
                        moves: moves(program, i),
                        result: hlo::text::show_shape(shape(i)),
                    });
                }
            }
        }
    }
}

/// The compiler's estimate in an instruction's configuration, which is JSON for TPUs.
fn cycles(i: &Instruction) -> Option<f64> {
    let config: serde_json::Value = serde_json::from_slice(&i.backend_config).ok()?;
    let cycles = config.get("window_config")?.get("estimated_cycles")?;
    cycles.as_str()?.parse().ok()
}

/// Names what a kernel does if it only moves data.
fn moves(program: &Program<'_>, i: &Instruction) -> Option<&'static str> {
    match i.opcode.as_str() {
        "copy" => Some("copy"),
        "copy-start" => Some("prefetch"),
        "slice" if shape(i).memory_space() != 0 => Some("prefetch"),
        "transpose" => Some("transpose"),
        "fusion" => {
            let inner = &program.called(i, 0)?.computation.instructions;
            let mut kind = None;
            for inner in inner {
                match inner.opcode.as_str() {
                    "transpose" => kind = Some("transpose"),
                    "copy" => kind = kind.or(Some("copy")),
                    "parameter" | "bitcast" | "reshape" | "tuple" | "constant" => {}
                    _ => return None,
                }
            }
            kind
        }
        _ => None,
    }
}

/// Places of the instructions of a computation.
struct Places<'p, 'm> {
    program: &'p Program<'m>,
    within: &'p Indexed<'m>,
}

impl<'p, 'm> Places<'p, 'm> {
    fn new(program: &'p Program<'m>, within: &'p Indexed<'m>) -> Self {
        Places { program, within }
    }

    /// The place of an instruction: its own, or else that of the nearest user or operand that has one.
    fn of(&self, i: &Instruction) -> Option<Place> {
        own(self.program, i, 0)
            .or_else(|| self.nearest(i, |i| self.within.users(i).to_vec()))
            .or_else(|| {
                self.nearest(i, |i| {
                    i.operand_ids.iter().filter_map(|&id| self.within.get(id)).collect()
                })
            })
    }

    /// Breadth-first search, over a few hundred instructions at most.
    fn nearest(&self, start: &Instruction, next: impl Fn(&Instruction) -> Vec<&'m Instruction>) -> Option<Place> {
        const MOST: usize = 200;
        let mut todo: VecDeque<&Instruction> = next(start).into();
        let mut seen = BTreeSet::new();
        while let Some(i) = todo.pop_front() {
            if !seen.insert(i.id) || seen.len() > MOST {
                continue;
            }
            if let Some(place) = own(self.program, i, 0) {
                return Some(place);
            }
            todo.extend(next(i));
        }
        None
    }
}

/// The place of an instruction by its own name and those of the instructions inside.
fn own(program: &Program<'_>, i: &Instruction, depth: usize) -> Option<Place> {
    let named = || Place::of_name(&i.metadata.as_ref()?.op_name);
    if i.opcode != "fusion" || depth > flops::DEEPEST {
        return named();
    }
    let Some(called) = program.called(i, 0) else {
        return named();
    };
    main_product(program, called, depth).or_else(named).or_else(|| {
        let largest = |a: &&Instruction, b: &&Instruction| shape(a).elements().cmp(&shape(b).elements());
        let with_place = called
            .computation
            .instructions
            .iter()
            .filter(|i| own(program, i, depth + 1).is_some());
        own(program, with_place.max_by(largest)?, depth + 1)
    })
}

/// The place of the convolution or matrix product with the most operations inside a fusion.
fn main_product(program: &Program<'_>, fused: &Indexed<'_>, depth: usize) -> Option<Place> {
    let mut best: Option<(f64, Place)> = None;
    for i in &fused.computation.instructions {
        let found = match i.opcode.as_str() {
            "convolution" | "dot" => {
                let place = i.metadata.as_ref().and_then(|m| Place::of_name(&m.op_name));
                place.map(|place| (flops::flops(program, fused, i, 0), place))
            }
            "fusion" if depth <= flops::DEEPEST => {
                let inside = program.called(i, 0).and_then(|c| main_product(program, c, depth + 1));
                inside.map(|place| (flops::flops(program, fused, i, 0), place))
            }
            _ => None,
        };
        if let Some(found) = found
            && best.as_ref().is_none_or(|best| found.0 > best.0)
        {
            best = Some(found);
        }
    }
    best.map(|(_, place)| place)
}
