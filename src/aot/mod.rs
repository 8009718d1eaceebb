//! Compiling ahead of time, for devices that are not here: whether a run's programs compile, what they need and what they
//! would cost.

pub mod chips;
pub mod figures;
pub mod gpu;
pub mod programs;
pub mod search;

use crate::pjrt::{self, Compiled, OptionValue, Topology};
use crate::report::{self, units};
use crate::{config, data};
use chips::Grid;
use hlo::{Alias, Computation};
use sparse::names::Unknown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use figures::Figures;
pub use programs::Graph;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such chips.
    #[error("--topology: {0}")]
    Generation(Unknown),
    /// No such grid of them.
    #[error(
        "--topology {found}: expected GENERATION:SIDES with a side for each axis, of at least one chip, such as {example}"
    )]
    Sides {
        /// As given.
        found: String,
        /// One that is right.
        example: String,
    },
    /// A program that needs more memory than a device has, though the compiler let it pass.
    #[error(
        "the program needs {} of memory on each device of {grid}; expected at most {}",
        units::bytes(*needed as f64),
        units::bytes(*available as f64)
    )]
    Memory {
        /// Bytes that it needs at its peak.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// The devices.
        grid: String,
    },
    /// The device's.
    #[error(transparent)]
    Device(#[from] pjrt::Error),
    /// The run's.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The data set's.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A graph that cannot be built.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
}

impl Error {
    /// True for a flag that the user got wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Generation(_) | Error::Sides { .. } | Error::Config(_) => true,
            Error::Device(device) => device.is_usage(),
            Error::Memory { .. } | Error::Data(_) | Error::Graph(_) => false,
        }
    }

    /// True for a program that does not fit, and would with a smaller batch.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Error::Memory { .. } => true,
            Error::Device(device) => device.is_out_of_memory(),
            _ => false,
        }
    }
}

/// A compiler for devices that are not here.
pub struct Machine {
    /// Which chips.
    pub grid: Grid,
    /// Devices as programs see them: a chip, or each of its cores.
    pub devices: usize,
    /// File of the plugin that compiles.
    pub plugin: PathBuf,
    topology: Topology,
}

impl Machine {
    /// Finds, or fetches, the plugin for such chips and describes `grid` to it.
    ///
    /// # Errors
    /// What keeps the plugin from being found or loaded, or a grid that it does not know.
    pub fn open(grid: Grid, plugin: Option<&str>) -> Result<Self, Error> {
        let started = Instant::now();
        let plugin = pjrt::open_compiler(grid.generation.device(), plugin)?;
        let topology = plugin.topology(&grid.to_string(), &grid.options())?;
        let kinds = topology.device_kinds()?;
        report::detail(|| {
            let kind = kinds.first().map_or("?", String::as_str);
            format!(
                "{grid}: {} devices, {kind}, after {:.2?}",
                kinds.len(),
                started.elapsed()
            )
        });
        Ok(Machine {
            grid,
            devices: kinds.len(),
            plugin: plugin.path().to_owned(),
            topology,
        })
    }

    /// Devices of a chip.
    pub fn devices_per_chip(&self) -> usize {
        (self.devices / self.grid.chips()).max(1)
    }

    /// Memory of one device, in bytes: its share of the chip's.
    pub fn memory_bytes(&self) -> u64 {
        self.grid.generation.memory_bytes / self.devices_per_chip() as u64
    }

    /// Compiles a graph for all devices, a replica on each, and says how long that took. `effort` is how hard the
    /// compiler tries, from 0 to 3; `None` leaves that to it.
    ///
    /// # Errors
    /// The compiler's.
    pub fn compile(
        &self,
        computation: &Computation,
        aliases: &[Alias],
        effort: Option<u8>,
    ) -> Result<(Compiled, Duration), Error> {
        let started = Instant::now();
        let bytes = crate::engine::module(lowering::Target::Any, computation, aliases)?;
        let mut options = crate::engine::options(self.grid.generation.device());
        options.num_replicas = self.devices;
        options.device_ids = Some((0..self.devices as i64).collect());
        if let Some(effort) = effort {
            let level = OptionValue::Str(format!("EFFORT_O{effort}"));
            options.xla_flags.insert("xla_optimization_level".into(), level);
        }
        let compiled = self.topology.compile(&bytes, &options)?;
        Ok((compiled, started.elapsed()))
    }
}
