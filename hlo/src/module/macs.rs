//! Multiply-adds of a module, by the parameter whose values they multiply.

use super::Module;
use crate::proto;
use std::collections::BTreeMap;

/// Maximum number of instructions to walk through, those of called computations as often as they are called.
const MAX_STEPS: usize = 1 << 22;

/// Multiply-adds of dot products and convolutions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Macs {
    /// Those that read a parameter of the entry computation, by its number.
    pub of_parameters: BTreeMap<usize, f64>,
    /// Those between two computed arrays.
    pub others: f64,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// A parameter of the entry, perhaps converted, sliced or transposed.
    Parameter(usize),
    Computed,
    Tuple(Vec<Source>),
}

impl Source {
    fn element(&self, index: i64) -> Source {
        match self {
            Source::Tuple(elements) => elements.get(index.max(0) as usize).cloned().unwrap_or(Source::Computed),
            Source::Parameter(_) | Source::Computed => Source::Computed,
        }
    }

    /// The source that both have; `Computed` where they differ.
    fn common(self, other: Source) -> Source {
        match (self, other) {
            (Source::Tuple(a), Source::Tuple(b)) => {
                Source::Tuple(a.into_iter().zip(b).map(|(a, b)| a.common(b)).collect())
            }
            (a, b) if a == b => a,
            _ => Source::Computed,
        }
    }
}

impl Module {
    /// Multiply-adds of one execution. Loops count with their number of rounds where a constant bounds them, else once; of
    /// branches the first counts.
    pub fn macs(&self) -> Macs {
        let by_id = self.message.computations.iter().map(|c| (c.id, c)).collect();
        let mut walk = Walk {
            by_id,
            macs: Macs::default(),
            steps: 0,
        };
        let arguments: Vec<Source> = (0..self.parameters.len()).map(Source::Parameter).collect();
        walk.computation(self.message.entry_computation_id, &arguments, 1.0);
        walk.macs
    }
}

struct Walk<'m> {
    by_id: BTreeMap<i64, &'m proto::Computation>,
    macs: Macs,
    steps: usize,
}

impl Walk<'_> {
    /// Adds a computation that runs `times` times. Returns the source of its result.
    fn computation(&mut self, id: i64, arguments: &[Source], times: f64) -> Source {
        let Some(&computation) = self.by_id.get(&id) else {
            return Source::Computed;
        };
        let mut sources: BTreeMap<i64, Source> = BTreeMap::new();
        let shapes: BTreeMap<i64, &proto::Shape> = computation
            .instructions
            .iter()
            .filter_map(|i| Some((i.id, i.shape.as_ref()?)))
            .collect();
        for instruction in &computation.instructions {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                break;
            }
            let of = |i: usize| instruction.operand_ids.get(i).and_then(|id| sources.get(id)).cloned();
            let operand = |i: usize| of(i).unwrap_or(Source::Computed);
            let all = || (0..instruction.operand_ids.len()).map(operand).collect::<Vec<_>>();
            let called = |i: usize| instruction.called_computation_ids.get(i).copied().unwrap_or_default();
            let source = match instruction.opcode.as_str() {
                "parameter" => arguments.get(instruction.parameter_number.max(0) as usize).cloned(),
                "tuple" => Some(Source::Tuple(all())),
                "get-tuple-element" => Some(operand(0).element(instruction.tuple_index)),
                "call" => Some(self.computation(called(0), &all(), times)),
                "conditional" => Some(self.computation(called(0), &[operand(1)], times)),
                "while" => {
                    let rounds = times * self.rounds(called(1));
                    let after = self.computation(called(0), &[operand(0)], rounds);
                    Some(operand(0).common(after))
                }
                "convert" | "reshape" | "transpose" | "copy" | "bitcast" | "slice" | "dynamic-slice" | "broadcast"
                | "reverse" | "opt-barrier" | "reduce-precision" => Some(operand(0)),
                "dot" | "convolution" => {
                    let operands =
                        [0, 1].map(|i| instruction.operand_ids.get(i).and_then(|id| shapes.get(id)).copied());
                    self.add([operand(0), operand(1)], times * product(instruction, operands));
                    None
                }
                _ => None,
            };
            sources.insert(instruction.id, source.unwrap_or(Source::Computed));
        }
        sources.remove(&computation.root_id).unwrap_or(Source::Computed)
    }

    fn add(&mut self, [lhs, rhs]: [Source; 2], macs: f64) {
        match (rhs, lhs) {
            (Source::Parameter(i), _) | (_, Source::Parameter(i)) => {
                *self.macs.of_parameters.entry(i).or_default() += macs;
            }
            _ => self.macs.others += macs,
        }
    }

    /// Rounds of a loop that counts from 0 up to a constant.
    fn rounds(&self, condition: i64) -> f64 {
        let rounds = || {
            let condition = self.by_id.get(&condition)?;
            let find = |id: i64| condition.instructions.iter().find(|i| i.id == id);
            let root = find(condition.root_id).filter(|root| root.comparison_direction == "LT")?;
            let bound = find(*root.operand_ids.get(1)?)?.literal.as_ref()?;
            let bound = bound
                .s32s
                .first()
                .map(|&n| i64::from(n))
                .or(bound.s64s.first().copied())?;
            Some(bound.max(0) as f64)
        };
        rounds().unwrap_or(1.0)
    }
}

fn elements(shape: &proto::Shape) -> f64 {
    shape.dimensions.iter().map(|&d| d as f64).product()
}

/// Multiply-adds of a dot product or convolution with operands of these shapes.
fn product(instruction: &proto::Instruction, [lhs, rhs]: [Option<&proto::Shape>; 2]) -> f64 {
    let (Some(result), Some(lhs), Some(rhs)) = (&instruction.shape, lhs, rhs) else {
        return 0.0;
    };
    let dim = |shape: &proto::Shape, axis: i64| shape.dimensions.get(axis.max(0) as usize).map_or(1.0, |&d| d as f64);
    let summed = match (
        &instruction.dot_dimension_numbers,
        &instruction.convolution_dimension_numbers,
    ) {
        (Some(dims), _) => dims
            .lhs_contracting_dimensions
            .iter()
            .map(|&axis| dim(lhs, axis))
            .product(),
        (None, Some(dims)) => elements(rhs) / dim(rhs, dims.kernel_output_feature_dimension).max(1.0),
        // A dot product of vectors or matrices contracts the last axis of the first.
        (None, None) => dim(lhs, lhs.dimensions.len() as i64 - 1),
    };
    elements(result) * summed
}
