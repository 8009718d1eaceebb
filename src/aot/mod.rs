//! Compiles a run's programs for devices that are not attached: checks that they compile and fit, and estimates their cost.

pub mod by_layer;
pub mod chips;
pub mod figures;
pub mod gpu;
pub mod launch;
pub mod overlap;
pub mod programs;
pub mod scale;
pub mod search;

use crate::plugins;
use crate::report::{self, units};
use crate::{config, data};
use chips::Grid;
use hlo::{Alias, Computation};
use pjrt::{Compiled, OptionValue, Topology};
use sparse::names::Unknown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use figures::Figures;
pub use programs::Graph;

/// Error of compiling ahead of time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unknown chips.
    #[error("--topology: {0}")]
    Generation(Unknown),
    /// A grid that these chips do not form.
    #[error(
        "--topology {found}: expected GENERATION:SIDES with a side for each axis, of at least one chip, such as {example}"
    )]
    Sides {
        /// The grid given.
        found: String,
        /// A valid example.
        example: String,
    },
    /// A program that compiles, but needs more memory than a device has.
    #[error(
        "the program needs {} of memory on each device of {grid}; expected at most {}",
        units::bytes(*needed as f64),
        units::bytes(*available as f64)
    )]
    Memory {
        /// Peak memory, in bytes.
        needed: u64,
        /// Available memory, in bytes.
        available: u64,
        /// The devices.
        grid: String,
    },
    /// The plugin cannot be found or loaded.
    #[error(transparent)]
    Plugins(#[from] plugins::Error),
    /// Error of the compiler.
    #[error(transparent)]
    Compiler(#[from] pjrt::Error),
    /// The program cannot be lowered for the device.
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
    /// Error of the configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Error of the data set.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A graph that cannot be built.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
}

impl Error {
    /// Whether flags or configuration are wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Generation(_) | Error::Sides { .. } | Error::Config(_) => true,
            Error::Plugins(error) => error.is_usage(),
            Error::Engine(error) => error.is_usage(),
            Error::Compiler(_) | Error::Memory { .. } | Error::Data(_) | Error::Graph(_) => false,
        }
    }

    /// Whether a program does not fit, but might with a smaller batch.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Error::Memory { .. } => true,
            Error::Compiler(error) => error.is_out_of_memory(),
            _ => false,
        }
    }
}

/// A compiler for devices that are not attached.
pub struct Machine {
    /// The chips.
    pub grid: Grid,
    /// Devices as programs see them: a chip, or each of its cores.
    pub devices: usize,
    /// The plugin's file.
    pub plugin: PathBuf,
    topology: Topology,
}

impl Machine {
    /// Finds or fetches the plugin for the chips, and describes `grid` to it.
    ///
    /// # Errors
    /// The plugin is not found or cannot be loaded, or does not know the grid.
    pub fn open(grid: Grid, plugin: Option<&str>) -> Result<Self, Error> {
        let started = Instant::now();
        let plugin = plugins::open_compiler(grid.generation.device(), plugin)?;
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

    /// Compiles a graph with a replica on each device; also returns the duration. `effort` is the compiler's optimization
    /// effort from 0 to 3; `None` is its default. `xla_options` are further options of XLA by name.
    ///
    /// # Errors
    /// Errors of the compiler.
    pub fn compile(
        &self,
        computation: &Computation,
        aliases: &[Alias],
        effort: Option<u8>,
        xla_options: &[(String, String)],
    ) -> Result<(Compiled, Duration), Error> {
        let started = Instant::now();
        let bytes = crate::engine::module(
            crate::engine::target(self.grid.generation.device()),
            computation,
            aliases,
        )?;
        let mut options = crate::engine::options(self.grid.generation.device());
        options.num_replicas = self.devices;
        options.device_ids = Some((0..self.devices as i64).collect());
        if let Some(effort) = effort {
            let level = OptionValue::Str(format!("EFFORT_O{effort}"));
            options.xla_flags.insert("xla_optimization_level".into(), level);
        }
        let given = xla_options.iter().cloned();
        options
            .xla_flags
            .extend(given.map(|(name, value)| (name, OptionValue::Str(value))));
        let compiled = self.topology.compile(&bytes, &options)?;
        Ok((compiled, started.elapsed()))
    }
}
