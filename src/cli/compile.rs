//! `rigl-xla compile`: ahead-of-time compilation for devices that are not attached.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::run_args::RunArgs;
use crate::aot::chips::{Generation, Grid};
use crate::aot::{Error, Figures, Graph, Machine, search};
use crate::cli::error::{Context, Result, Usage, bail};
use crate::config::Plan;
use crate::pjrt::{self, Compiled, DeviceKind};
use crate::report::{escape, units};

/// Arguments of `compile`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Devices, as GENERATION:SIDES: TPUs v2:2x2, v3:4x4, v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, tpu7x:2x2x1, …, or the
    /// GPUs of one machine a100:8, h100:8, h200:8, b200:8, …
    #[arg(long, value_name = "NAME")]
    topology: String,
    /// Graph to compile
    #[arg(long, value_enum, default_value_t)]
    graph: Graph,
    /// Examples per device, or auto for the maximum that fits [default: the run's batch divided among the devices]
    #[arg(long, value_name = "N|auto")]
    batch: Option<Batch>,
    /// Optimization effort of the compiler, from 0 to 3 [default: the compiler's]. At 0 large programs compile several
    /// times faster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    effort: Option<u8>,
    /// Write the compiled program to this file, a binary HloModuleProto
    #[arg(long, value_name = "FILE")]
    save_hlo: Option<PathBuf>,
    /// Write the executable to this file; the same plugin can load it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// Value of `--batch`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Batch {
    /// The maximum that fits.
    Auto,
    /// A fixed number.
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

/// Batches are multiples of this, or lanes of a TPU or GPU would be idle.
const BATCH_GRID: usize = 8;
/// Maximum batch per device to try.
const BATCH_LIMIT: usize = 1 << 16;

/// Output of `compile`.
#[derive(Serialize)]
struct Report<'a> {
    /// Always true: a program that does not fit has another report.
    compiles: bool,
    fits: bool,
    topology: String,
    chip: &'static Generation,
    chips: usize,
    /// Number of devices, each with a replica: chips, or cores of chips.
    devices: usize,
    plugin: &'a Path,
    graph: Graph,
    model: &'a str,
    method: &'a str,
    /// Fraction of zeros over the maskable layers, after rounding.
    sparsity: f64,
    precision: &'a str,
    /// Examples per device.
    batch: usize,
    /// Optimization effort; `None` for the compiler's default.
    effort: Option<u8>,
    compile_s: f64,
    /// Number of instructions before compilation.
    graph_instructions: usize,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// A compiled program and its inputs.
struct Outcome {
    plan: Plan,
    graph: Graph,
    effort: Option<u8>,
    compiled: Compiled,
    compile_s: f64,
    graph_instructions: usize,
    figures: Figures,
}

/// Output of `compile` for a program that exceeds a device's memory.
#[derive(Serialize)]
struct TooLarge {
    fits: bool,
    topology: String,
    graph: Graph,
    /// Examples per device of the program that does not fit.
    batch: usize,
    /// Memory of a device, in bytes.
    device_bytes: u64,
    /// Memory that the program needs, in bytes, if the compiler reported it.
    needed_bytes: Option<u64>,
    /// The compiler's message, or ours.
    reason: String,
    /// Maximum examples per device that fit; `None` if not even one does, or if the graph has no batch.
    largest_batch: Option<usize>,
}

impl TooLarge {
    fn new(machine: &Machine, graph: Graph, batch: usize, error: &Error) -> Self {
        TooLarge {
            fits: false,
            topology: machine.grid.to_string(),
            graph,
            batch,
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

/// A compiled program, or the report that it does not fit.
type Answer = Result<Outcome, TooLarge>;

/// Runs `compile`.
///
/// # Errors
/// A run that cannot be built, an unknown topology, a program that does not compile, or a file that cannot be written.
/// A program that does not fit is an error only if it was to be saved.
pub fn run(args: Args, json: bool) -> Result<()> {
    for path in [&args.save_hlo, &args.save].into_iter().flatten() {
        super::check_output(path)?;
    }
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
    plan.engine().only_pjrt("a program for devices that are not here")?;
    let machine = Machine::open(grid, plan.plugin())?;
    let outcome = match args.batch {
        Some(Batch::Auto) => args.auto(&machine, &plan)?,
        Some(Batch::Of(batch)) => args.asked(&machine, &plan, Some(batch))?,
        None => args.asked(&machine, &plan, None)?,
    };
    match outcome {
        Ok(outcome) => {
            save(args.save_hlo.as_deref(), || outcome.compiled.optimized_hlo())?;
            save(args.save.as_deref(), || outcome.compiled.serialize())?;
            print(&outcome.report(&machine), json)
        }
        Err(too_large) => {
            print(&too_large, json)?;
            match args.save_hlo.as_deref().or(args.save.as_deref()) {
                Some(path) => bail!("{}: not written, as the program does not fit", escape::path(path)),
                None => Ok(()),
            }
        }
    }
}

fn print(report: &(impl Serialize + Display), json: bool) -> Result<()> {
    match json {
        true => super::print_json(report),
        false => super::print(&report.to_string()),
    }
}

fn save(path: Option<&Path>, bytes: impl FnOnce() -> pjrt::Result<Vec<u8>>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    super::write_file(path, &bytes()?)
}

impl Args {
    fn check(&self, plan: &Plan) -> Result<(), Usage> {
        if self.graph != Graph::Update {
            return Ok(());
        }
        let method = plan.method.name;
        match self.batch {
            _ if !plan.method.updates_masks() => {
                Err(Usage(format!("--graph update: method {method} has no mask update")))
            }
            Some(Batch::Auto) => Err(Usage("--batch auto: a mask update has no batch".into())),
            _ => Ok(()),
        }
    }

    /// Compiles with `batch` examples per device; by default the run's batch divided among the devices.
    fn compile(&self, machine: &Machine, plan: &Plan, batch: Option<usize>) -> Result<Outcome, Error> {
        let mut plan = plan.clone();
        let (train, devices) = (&mut plan.run.train, machine.devices);
        match self.graph {
            Graph::Eval => train.eval_batch_size = batch.unwrap_or(train.eval_batch_size),
            // A mask update has no batch of its own; its gradients are already summed.
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

    /// Compiles with a fixed number of examples per device. If they do not fit, searches for the maximum that does.
    fn asked(&self, machine: &Machine, plan: &Plan, batch: Option<usize>) -> Result<Answer, Error> {
        let error = match self.compile(machine, plan, batch) {
            Err(error) if error.is_out_of_memory() => error,
            compiled => return compiled.map(Ok),
        };
        let train = &plan.run.train;
        let batch = batch.unwrap_or(match self.graph {
            Graph::Eval => train.eval_batch_size,
            Graph::Update => train.batch_size,
            Graph::Step | Graph::Train => train.batch_size.div_ceil(machine.devices),
        });
        let mut refusal = TooLarge::new(machine, self.graph, batch, &error);
        if self.graph != Graph::Update {
            crate::report::note!("{batch} examples per device do not fit; looking for the most that do");
            let found = self.largest(machine, plan, Some(batch), |_, _| ())?;
            refusal.largest_batch = found.map(|(batch, _)| batch);
        }
        Ok(Err(refusal))
    }

    /// Compiles with the maximum number of examples per device that fit.
    fn auto(&self, machine: &Machine, plan: &Plan) -> Result<Answer> {
        let mut refusal = None;
        let found = self.largest(machine, plan, None, |batch, error| {
            refusal = Some(TooLarge::new(machine, self.graph, batch, error));
        })?;
        match found {
            Some((_, outcome)) => Ok(Ok(outcome)),
            None => refusal.map(Err).context("--batch auto: no batch was tried"),
        }
    }

    /// Finds the maximum number of examples per device that fit, below `refused` if that is known not to fit, and their
    /// program. Calls `not_fitting` with each batch that does not fit.
    fn largest(
        &self,
        machine: &Machine,
        plan: &Plan,
        refused: Option<usize>,
        mut not_fitting: impl FnMut(usize, &Error),
    ) -> Result<Option<(usize, Outcome)>, Error> {
        let mut fits = |batch| match self.compile(machine, plan, Some(batch)) {
            Err(error) if error.is_out_of_memory() => {
                crate::report::detail(|| format!("{batch} examples do not fit"));
                not_fitting(batch, &error);
                Ok(None)
            }
            compiled => compiled.map(Some),
        };
        let found = search::largest(BATCH_GRID, BATCH_LIMIT, refused, &mut fits)?;
        if found.is_some() {
            return Ok(found);
        }
        // A few examples use a device badly, but fit.
        let few = (1..BATCH_GRID).rev().filter(|batch| batch.is_power_of_two());
        for batch in few.filter(|&batch| refused.is_none_or(|refused| batch < refused)) {
            if let Some(outcome) = fits(batch)? {
                return Ok(Some((batch, outcome)));
            }
        }
        Ok(None)
    }
}

impl Outcome {
    fn report<'a>(&'a self, machine: &'a Machine) -> Report<'a> {
        let train = &self.plan.run.train;
        Report {
            compiles: true,
            fits: true,
            topology: machine.grid.to_string(),
            chip: machine.grid.generation,
            chips: machine.grid.chips(),
            devices: machine.devices,
            plugin: &machine.plugin,
            graph: self.graph,
            model: &self.plan.run.model.name,
            method: self.plan.method.name,
            sparsity: self.plan.sparsity(),
            precision: train.precision.name(),
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
        line("batch per device", self.batch.to_string())?;
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
        line("batch per device", self.batch.to_string())?;
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
        line("operations per byte", estimate(figures.intensity))?;
        line("collective bytes", units::bytes(figures.collective_bytes as f64))?;
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
