//! `rigl-xla compile`: ahead of time, for devices that are not here.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use serde::Serialize;

use super::Usage;
use super::run_args::RunArgs;
use crate::aot::chips::{Generation, Grid};
use crate::aot::{Error, Figures, Graph, Machine, search};
use crate::config::Plan;
use crate::pjrt::{self, Compiled, DeviceKind};

/// Arguments of `compile`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Chips, as GENERATION:SIDES: TPUs v2:2x2, v3:4x4, v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, tpu7x:2x2x1, …, or the GPUs of
    /// a machine a100:8, h100:8, h200:8, b200:8, …
    #[arg(long, value_name = "NAME")]
    topology: String,
    /// Which graph
    #[arg(long, value_enum, default_value_t)]
    graph: Graph,
    /// Examples per device, or auto for the most that fit [default: those of the run, shared among the devices]
    #[arg(long, value_name = "N|auto")]
    batch: Option<Batch>,
    /// How hard the compiler tries, from 0 to 3 [default: its own]. At 0 large programs compile several times faster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    effort: Option<u8>,
    /// File for the program as compiled, a binary HloModuleProto
    #[arg(long, value_name = "FILE")]
    save_hlo: Option<PathBuf>,
    /// File for the executable, which the same plugin loads
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// `--batch`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Batch {
    /// The most that fit.
    Auto,
    /// So many.
    Of(usize),
}

impl FromStr for Batch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Batch::Auto),
            (_, Ok(batch)) if batch > 0 => Ok(Batch::Of(batch)),
            _ => Err("expected auto or a number above 0"),
        }
    }
}

/// Batches are multiples of this: the lanes that a TPU or GPU computes together would be idle otherwise.
const BATCH_GRID: usize = 8;
/// The largest batch per device that is tried.
const BATCH_LIMIT: usize = 1 << 16;

/// What `compile` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Else there is an error and no report.
    compiles: bool,
    topology: String,
    chip: &'static Generation,
    chips: usize,
    /// Devices as programs see them, a replica on each: a chip, or one of its cores.
    devices: usize,
    plugin: &'a Path,
    graph: Graph,
    model: &'a str,
    method: &'a str,
    /// Realised share of zeros over the maskable layers.
    sparsity: f64,
    precision: &'a str,
    /// Examples per device.
    batch: usize,
    /// How hard the compiler tried; `None` as it does by itself.
    effort: Option<u8>,
    compile_s: f64,
    /// Instructions of the graph before it is compiled.
    graph_instructions: usize,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// A compiled program and what it was made of.
struct Outcome {
    plan: Plan,
    graph: Graph,
    effort: Option<u8>,
    compiled: Compiled,
    compile_s: f64,
    graph_instructions: usize,
    figures: Figures,
}

/// Runs `compile`.
///
/// # Errors
/// A run that cannot be built, a topology that does not exist, a program that does not compile or does not fit, or a file
/// that cannot be written.
pub fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let grid = Grid::parse(&args.topology)?;
    let device = grid.generation.device();
    let asked = args.run.device.on.device.as_deref().unwrap_or(device.name());
    if asked.parse::<DeviceKind>()? != device {
        let why = format!(
            "--device {asked}: expected {device} with --topology {grid}; `cost --compiled` compiles for a device that is here"
        );
        return Err(Usage(why).into());
    }
    let plan = args.run.layers()?.plan()?;
    args.check(&plan)?;
    plan.engine()?.only_pjrt("a program for devices that are not here")?;
    let machine = Machine::open(grid, plan.plugin())?;
    let outcome = match args.batch {
        Some(Batch::Auto) => args.largest(&machine, &plan)?,
        Some(Batch::Of(batch)) => args.compile(&machine, &plan, Some(batch))?,
        None => args.compile(&machine, &plan, None)?,
    };
    save(args.save_hlo.as_deref(), || outcome.compiled.optimized_hlo())?;
    save(args.save.as_deref(), || outcome.compiled.serialize())?;
    let report = outcome.report(&machine);
    match json {
        true => super::print_json(&report),
        false => super::print(&report.to_string()),
    }
}

fn save(path: Option<&Path>, bytes: impl FnOnce() -> pjrt::Result<Vec<u8>>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, bytes()?).with_context(|| path.display().to_string())
}

impl Args {
    fn check(&self, plan: &Plan) -> Result<(), Usage> {
        if self.graph != Graph::Update {
            return Ok(());
        }
        let method = plan.method.name;
        match self.batch {
            _ if !plan.method.updates() => Err(Usage(format!("--graph update: method {method} has no mask update"))),
            Some(Batch::Auto) => Err(Usage("--batch auto: a mask update has no batch".into())),
            _ => Ok(()),
        }
    }

    /// Compiles with so many examples per device, by default those of the run shared among all.
    fn compile(&self, machine: &Machine, plan: &Plan, batch: Option<usize>) -> Result<Outcome, Error> {
        let mut plan = plan.clone();
        let (train, devices) = (&mut plan.run.train, machine.devices);
        match self.graph {
            Graph::Eval => train.eval_batch_size = batch.unwrap_or(train.eval_batch_size),
            // An update sees no batch of its own, and gradients that are summed up already.
            Graph::Update => train.batch_size = batch.unwrap_or(train.batch_size),
            Graph::Step | Graph::Train => {
                train.batch_size = devices * batch.unwrap_or(train.batch_size.div_ceil(devices));
                plan.run.device.replicas = Some(devices);
            }
        }
        let (computation, aliases) = self.graph.build(&plan)?;
        let (compiled, took) = machine.compile(&computation, &aliases, self.effort)?;
        let figures = Figures::of(&compiled, machine)?;
        crate::report::detail(|| format!("{} bytes at the peak, compiled in {took:.2?}", figures.peak_bytes));
        figures.check(machine)?;
        Ok(Outcome {
            compile_s: took.as_secs_f64(),
            graph_instructions: computation.instruction_count(),
            graph: self.graph,
            effort: self.effort,
            compiled,
            figures,
            plan,
        })
    }

    /// Compiles with the most examples that fit.
    fn largest(&self, machine: &Machine, plan: &Plan) -> anyhow::Result<Outcome> {
        let mut refusal = None;
        let found = search::largest(BATCH_GRID, BATCH_LIMIT, |batch| {
            match self.compile(machine, plan, Some(batch)) {
                Err(error) if error.is_out_of_memory() => {
                    crate::report::detail(|| format!("{batch} examples do not fit"));
                    refusal = Some(error);
                    Ok(None)
                }
                compiled => compiled.map(Some),
            }
        })?;
        let found = found.map(|(_, outcome)| outcome);
        let why = || format!("--batch auto: not even {BATCH_GRID} examples fit");
        match refusal {
            Some(error) => found.ok_or(error).with_context(why),
            None => found.with_context(why),
        }
    }
}

impl Outcome {
    fn report<'a>(&'a self, machine: &'a Machine) -> Report<'a> {
        let train = &self.plan.run.train;
        Report {
            compiles: true,
            topology: machine.grid.to_string(),
            chip: machine.grid.generation,
            chips: machine.grid.chips(),
            devices: machine.devices,
            plugin: &machine.plugin,
            graph: self.graph,
            model: &self.plan.run.model.name,
            method: self.plan.method.name,
            sparsity: self.plan.sparsity(),
            precision: &train.precision,
            batch: match self.graph {
                Graph::Eval => train.eval_batch_size,
                _ => self.plan.replica_batch(),
            },
            effort: self.effort,
            compile_s: self.compile_s,
            graph_instructions: self.graph_instructions,
            figures: &self.figures,
        }
    }
}

impl std::fmt::Display for Report<'_> {
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
        line("batch per device", self.batch.to_string())?;
        line(
            "peak memory",
            format!(
                "{} of {} bytes ({share:.1} %)",
                figures.peak_bytes, figures.device_bytes
            ),
        )?;
        line("operations", estimate(figures.flops))?;
        line("bytes accessed", estimate(figures.bytes_accessed))?;
        line("operations per byte", estimate(figures.intensity))?;
        line("collective bytes", figures.collective_bytes.to_string())?;
        line(
            "instructions",
            format!("{} of {} in the graph", figures.instructions, self.graph_instructions),
        )?;
        match figures.estimate {
            None => Ok(()),
            Some(time) => line(
                "time, estimated",
                format!(
                    "{:.4e} s at least, bound by {} (peak rates: {})",
                    time.time_s, time.bound, self.chip.source
                ),
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_numbers_or_auto() {
        assert_eq!("auto".parse(), Ok(Batch::Auto));
        assert_eq!("128".parse(), Ok(Batch::Of(128)));
        for wrong in ["0", "-1", "many", ""] {
            assert!(wrong.parse::<Batch>().is_err(), "{wrong}");
        }
    }
}
