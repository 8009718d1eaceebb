//! The compiler's figures of a program, and the estimated time on a chip.

use super::by_layer::{Sums, kernels};
use super::chips::Generation;
use super::overlap::Collectives;
use super::{Error, Machine};
use hlo::proto::Module;
use hlo::text;
use pjrt::{Compiled, MemoryStats};
use serde::Serialize;

/// Memory and work of one execution on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Memory that the program needs on a device, in bytes.
    pub memory: MemoryStats,
    /// Peak memory: as the compiler reports, or else the sum of all buffers.
    pub peak_bytes: u64,
    /// Memory of a device: its share of the chip's.
    pub device_bytes: u64,
    /// The compiler's count of operations, with one iteration per loop. `None` if the plugin gives no estimate, as below.
    pub flops: Option<f64>,
    /// Its count of bytes that instructions read and write. On a TPU they include those of the chip's own memory, and arrays
    /// that are fetched into it in advance count several times.
    pub bytes_accessed: Option<f64>,
    /// Bytes of the device's main memory (HBM) that instructions read and write, counted in the optimized program.
    pub main_memory_bytes: f64,
    /// Operations per byte.
    pub intensity: Option<f64>,
    /// Bytes that a device contributes to collective operations, in the optimized program.
    pub collective_bytes: u64,
    /// Share of those bytes in asynchronous collectives that other work runs beside; `None` without collectives.
    pub overlap: Option<f64>,
    /// Lower bound of the time.
    pub estimate: Roofline,
    /// The compiler's estimate of the processor cycles of all kernels together, where it makes one (TPUs).
    pub cycles: Option<f64>,
    /// Instructions of the optimized program.
    pub instructions: usize,
}

/// Lower bound of the time from a chip's limits, in seconds. Real programs use neither compute nor memory without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Operations at the chip's peak in bf16.
    pub compute_s: f64,
    /// Bytes of the main memory at its peak rate.
    pub memory_s: f64,
    /// Collectives at the peak rate of the links that the grid's worst chip has ([`Grid::all_reduce_s`](super::chips::Grid::all_reduce_s)).
    pub collective_s: f64,
    /// The longest of the three, which overlap at best.
    pub time_s: f64,
    /// The limit that determines it: `compute`, `memory` or `links`.
    pub bound: &'static str,
}

impl Figures {
    /// Reads the figures of a program that was compiled for `machine`.
    ///
    /// # Errors
    /// The plugin has no figures, or returns a malformed program.
    pub fn of(compiled: &Compiled, machine: &Machine) -> Result<Self, Error> {
        Figures::of_module(compiled, &text::read_module(&compiled.optimized_hlo()?)?, machine)
    }

    /// [`Figures::of`] with the optimized program.
    ///
    /// # Errors
    /// The plugin has no figures.
    pub fn of_module(compiled: &Compiled, module: &Module, machine: &Machine) -> Result<Self, Error> {
        let costs = compiled.cost_analysis()?.unwrap_or_default();
        let number = |key: &str| costs.get(key)?.as_f64();
        let (flops, bytes_accessed) = (number("flops"), number("bytes accessed"));
        let collectives = Collectives::of(module);
        let collective_bytes = collectives.bytes;
        let sums = Sums::of(&kernels(module), None);
        let memory = compiled.memory_stats()?;
        Ok(Figures {
            peak_bytes: memory.needed_bytes(),
            memory,
            device_bytes: machine.memory_bytes(),
            flops,
            bytes_accessed,
            intensity: flops.zip(bytes_accessed).map(|(flops, bytes)| flops / bytes.max(1.0)),
            main_memory_bytes: sums.moved.main_memory_bytes,
            collective_bytes,
            overlap: collectives.overlap(),
            estimate: Roofline::new(
                machine,
                flops.unwrap_or(sums.flops),
                sums.moved.main_memory_bytes,
                collective_bytes as f64,
            ),
            cycles: (sums.cycles > 0.0).then_some(sums.cycles),
            instructions: module.computations.iter().map(|c| c.instructions.len()).sum(),
        })
    }

    /// Checks that the program fits into memory.
    ///
    /// # Errors
    /// It does not fit.
    pub fn check(&self, machine: &Machine) -> Result<(), Error> {
        match self.peak_bytes > self.device_bytes {
            true => Err(Error::Memory {
                needed: self.peak_bytes,
                available: self.device_bytes,
                grid: machine.grid.to_string(),
            }),
            false => Ok(()),
        }
    }
}

/// Peak rates of one device, per second: a chip, or its share of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Operations in bf16.
    pub flops: f64,
    /// Bytes of the main memory.
    pub memory: f64,
    /// Bytes sent over all links together.
    pub links: f64,
}

impl Rates {
    /// Rates of a device of `machine`.
    pub fn of(machine: &Machine) -> Self {
        Rates::of_share(machine.grid.generation, 1.0 / machine.devices_per_chip() as f64)
    }

    /// Rates of a whole chip.
    pub fn of_chip(chip: &Generation) -> Self {
        Rates::of_share(chip, 1.0)
    }

    fn of_share(chip: &Generation, share: f64) -> Self {
        Rates {
            flops: chip.flops * share,
            memory: chip.memory_rate * share,
            links: chip.link_rate * share,
        }
    }
}

impl Roofline {
    fn new(machine: &Machine, flops: f64, bytes: f64, collective_bytes: f64) -> Self {
        let rates = Rates::of(machine);
        let times = [
            (flops / rates.flops, "compute"),
            (bytes / rates.memory, "memory"),
            (machine.grid.all_reduce_s(collective_bytes), "links"),
        ];
        let longest = times
            .into_iter()
            .fold((0.0, "compute"), |a, b| if b.0 > a.0 { b } else { a });
        Roofline {
            compute_s: times[0].0,
            memory_s: times[1].0,
            collective_s: times[2].0,
            time_s: longest.0,
            bound: longest.1,
        }
    }
}
