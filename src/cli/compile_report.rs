//! Output of `rigl-xla compile`.

use std::fmt::Display;
use std::path::Path;

use serde::Serialize;

use crate::aot::by_layer::Profile;
use crate::aot::chips::Generation;
use crate::aot::launch::LaunchProgram;
use crate::aot::scale::Input;
use crate::aot::{Error, Figures, Graph, Machine};
use crate::report::units;

/// Output of `compile`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    /// Always true: a program that does not fit has another report.
    pub(super) compiles: bool,
    pub(super) fits: bool,
    pub(super) topology: String,
    pub(super) chip: &'static Generation,
    pub(super) chips: usize,
    /// Number of devices, each with a replica: chips, or cores of chips.
    pub(super) devices: usize,
    pub(super) plugin: &'a Path,
    pub(super) graph: Graph,
    pub(super) model: &'a str,
    pub(super) method: &'a str,
    /// Fraction of zeros over the maskable layers, after rounding.
    pub(super) sparsity: f64,
    pub(super) precision: &'a str,
    /// Examples per device.
    pub(super) batch_per_device: usize,
    /// Optimization effort; `None` for the compiler's default.
    pub(super) effort: Option<u8>,
    pub(super) compile_s: f64,
    /// Most examples per second on all devices together, by the lower bound of the time: what the hosts must decode and send.
    /// `None` for graphs without examples.
    pub(super) examples_per_s: Option<f64>,
    /// Number of instructions before compilation.
    pub(super) graph_instructions: usize,
    #[serde(flatten)]
    pub(super) figures: &'a Figures,
    /// The input that each host must supply, if the examples are sent to the devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<Input>,
    /// The state in a launch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) launch: Option<LaunchProgram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by_layer: Option<Profile>,
}

/// Output of `compile --compiled`.
#[derive(Serialize)]
pub(super) struct ReadProgram {
    pub(super) instructions: usize,
    pub(super) collective_bytes: u64,
    pub(super) by_layer: Profile,
}

/// Output of `compile` for a program that exceeds a device's memory.
#[derive(Serialize)]
pub(super) struct TooLarge {
    pub(super) fits: bool,
    pub(super) topology: String,
    pub(super) graph: Graph,
    /// Examples per device of the program that does not fit.
    pub(super) batch_per_device: usize,
    /// Memory of a device, in bytes.
    pub(super) device_bytes: u64,
    /// Memory that the program needs, in bytes, if the compiler reported it.
    pub(super) needed_bytes: Option<u64>,
    /// The compiler's message, or ours.
    pub(super) reason: String,
    /// Maximum examples per device that fit; `None` if not even one does, or if the graph has no batch.
    pub(super) largest_batch: Option<usize>,
}

impl TooLarge {
    pub(super) fn new(machine: &Machine, graph: Graph, batch: usize, error: &Error) -> Self {
        TooLarge {
            fits: false,
            topology: machine.grid.to_string(),
            graph,
            batch_per_device: batch,
            device_bytes: machine.memory_bytes(),
            needed_bytes: match error {
                Error::Memory { needed, .. } => Some(*needed),
                _ => None,
            },
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
            largest_batch: None,
        }
    }
}

impl Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = |what: &str, value: String| writeln!(f, "{what:<20}{value}");
        line("fits", format!("no: {}", self.reason))?;
        line(
            "devices",
            format!(
                "each with {} of {}",
                units::bytes(self.device_bytes as f64),
                self.topology
            ),
        )?;
        line("batch per device", self.batch_per_device.to_string())?;
        match (self.graph, self.largest_batch) {
            (Graph::Update, _) => Ok(()),
            (_, Some(batch)) => line("largest that fits", batch.to_string()),
            (_, None) => line("largest that fits", "none: not even a batch of 1 fits".to_owned()),
        }
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures = self.figures;
        let share = 100.0 * figures.peak_bytes as f64 / figures.device_bytes as f64;
        let estimate = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4e}"));
        let mut line = |what: &str, value: String| writeln!(f, "{what:<20}{value}");
        line("compiles", format!("yes, in {:.1} s", self.compile_s))?;
        line(
            "devices",
            format!("{} on {} chips of {}", self.devices, self.chips, self.topology),
        )?;
        line("batch per device", self.batch_per_device.to_string())?;
        line(
            "peak memory",
            format!(
                "{} of {} ({share:.1} %)",
                units::bytes(figures.peak_bytes as f64),
                units::bytes(figures.device_bytes as f64)
            ),
        )?;
        line("operations", figures.flops.map_or("-".to_owned(), units::count))?;
        line(
            "bytes accessed",
            figures.bytes_accessed.map_or("-".to_owned(), units::bytes),
        )?;
        line("main memory", units::bytes(figures.main_memory_bytes))?;
        line("operations per byte", estimate(figures.intensity))?;
        line("collective bytes", units::bytes(figures.collective_bytes as f64))?;
        line(
            "instructions",
            format!("{} of {} in the graph", figures.instructions, self.graph_instructions),
        )?;
        if let Some(cycles) = figures.cycles {
            line("cycles, estimated", units::count(cycles))?;
        }
        let time = figures.estimate;
        line(
            "time, estimated",
            format!(
                "{:.4e} s at least, bound by {} (peak rates: {})",
                time.time_s, time.bound, self.chip.source
            ),
        )?;
        if figures.collective_bytes > 0 {
            let hidden = figures
                .overlap
                .map(|share| format!(", {:.0} % of its bytes beside other work", 100.0 * share));
            line(
                "all-reduce",
                format!(
                    "{:.3} ms at least{}",
                    1e3 * time.collective_s,
                    hidden.unwrap_or_default()
                ),
            )?;
        }
        if let Some(launch) = &self.launch {
            line("state", launch.to_string())?;
        }
        match (&self.input, self.examples_per_s) {
            (Some(input), _) => line("input", format!("at most {input}")),
            (None, Some(rate)) => line(
                "input",
                format!(
                    "at most {} examples/s for all devices, which keep the examples",
                    units::count(rate.round())
                ),
            ),
            (None, None) => Ok(()),
        }
    }
}
