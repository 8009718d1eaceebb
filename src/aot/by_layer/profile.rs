//! Sums of a program's kernels by layer and phase, beside the compiler's own.

use std::collections::BTreeMap;

use hlo::proto::Module;
use serde::Serialize;

use super::{Kernel, Moved, Phase, Place, kernels};
use crate::aot::Error;
use crate::aot::figures::Rates;
use hlo::text;
use pjrt::Compiled;

/// Sums over kernels.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Kernels.
    pub kernels: usize,
    /// Operations.
    pub flops: f64,
    /// Bytes.
    #[serde(flatten)]
    pub moved: Moved,
    /// The compiler's estimate of processor cycles; 0 where it makes none.
    pub cycles: f64,
    /// Lower bound of the time: of each kernel, its operations at the peak rate or its bytes of main memory, whichever takes
    /// longer. In seconds; `None` for a device whose rates are not known.
    pub time_s: Option<f64>,
}

impl Sums {
    pub(in crate::aot) fn of<'k>(kernels: impl IntoIterator<Item = &'k Kernel>, rates: Option<Rates>) -> Self {
        let mut sums = Sums {
            time_s: rates.map(|_| 0.0),
            ..Sums::default()
        };
        for kernel in kernels {
            sums.kernels += 1;
            sums.flops += kernel.flops;
            sums.moved += kernel.moved;
            sums.cycles += kernel.cycles.unwrap_or(0.0);
            if let (Some(time), Some(rates)) = (&mut sums.time_s, rates) {
                *time += (kernel.flops / rates.flops).max(kernel.moved.main_memory_bytes / rates.memory);
            }
        }
        sums
    }
}

/// Sums of one layer and phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Layer and phase.
    #[serde(flatten)]
    pub place: Place,
    /// Sums.
    #[serde(flatten)]
    pub sums: Sums,
    /// Share of the bytes of the program.
    pub share: f64,
}

/// The compiler's own sums of a program; `None` for what its plugin does not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Reported {
    /// Operations.
    pub flops: Option<f64>,
    /// Bytes.
    pub bytes: Option<f64>,
}

/// A compiled program by layer and phase.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// All kernels together.
    pub total: Sums,
    /// The compiler's sums.
    pub compiler: Reported,
    /// Share of the bytes that belongs to no layer and no known phase.
    pub unknown_share: f64,
    /// By phase, in the order of an iteration; phases without kernels are left out.
    pub phases: Vec<Row>,
    /// By layer, in the order of the program, and phase.
    pub rows: Vec<Row>,
    /// The kernels, in the order of the program.
    pub kernels: Vec<Kernel>,
}

impl Profile {
    /// Profile of a compiled program. `rates` are those of one device.
    ///
    /// # Errors
    /// The plugin fails to answer, or returns a malformed program.
    pub fn of(compiled: &Compiled, rates: Option<Rates>) -> Result<Self, Error> {
        let costs = compiled.cost_analysis()?.unwrap_or_default();
        let number = |key: &str| costs.get(key)?.as_f64().filter(|&value| value > 0.0);
        let reported = Reported {
            flops: number("flops"),
            bytes: number("bytes accessed"),
        };
        let module = text::read_module(&compiled.optimized_hlo()?)?;
        Ok(Profile::of_module(&module, reported, rates))
    }

    /// Profile of an optimized program.
    pub fn of_module(module: &Module, compiler: Reported, rates: Option<Rates>) -> Self {
        let kernels = kernels(module);
        let total = Sums::of(&kernels, rates);
        let row = |place: Place, kernels: &[&Kernel]| {
            let sums = Sums::of(kernels.iter().copied(), rates);
            Row {
                share: sums.moved.bytes / total.moved.bytes.max(1.0),
                place,
                sums,
            }
        };
        let of_phase = |phase| {
            let kernels: Vec<&Kernel> = kernels.iter().filter(|k| k.place.phase == phase).collect();
            let layer = String::new();
            (!kernels.is_empty()).then(|| row(Place { layer, phase }, &kernels))
        };
        let unknown = kernels.iter().filter(|k| k.place == Place::unknown());
        Profile {
            unknown_share: Sums::of(unknown, None).moved.bytes / total.moved.bytes.max(1.0),
            phases: Phase::ALL.into_iter().filter_map(of_phase).collect(),
            rows: by_place(&kernels)
                .into_values()
                .map(|(place, k)| row(place, &k))
                .collect(),
            compiler,
            total,
            kernels,
        }
    }

    /// Kernels that only move data, those with the most bytes first.
    pub fn moves(&self) -> Vec<&Kernel> {
        let mut moves: Vec<&Kernel> = self.kernels.iter().filter(|k| k.moves.is_some()).collect();
        moves.sort_by(|a, b| b.moved.bytes.total_cmp(&a.moved.bytes));
        moves
    }
}

/// Kernels by layer, in the order of the program, and phase.
fn by_place(kernels: &[Kernel]) -> BTreeMap<(usize, Phase), (Place, Vec<&Kernel>)> {
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows: BTreeMap<(usize, Phase), (Place, Vec<&Kernel>)> = BTreeMap::new();
    for kernel in kernels {
        let next = order.len();
        let position = *order.entry(&kernel.place.layer).or_insert(next);
        let row = rows.entry((position, kernel.place.phase));
        row.or_insert_with(|| (kernel.place.clone(), vec![])).1.push(kernel);
    }
    rows
}
