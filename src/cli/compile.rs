//! `rigl-xla compile`: ahead-of-time compilation for devices that are not attached.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::by_layer;
use super::compile_report::{ReadProgram, Report, TooLarge};
use super::run_args::{RunArgs, pair};
use crate::aot::by_layer::{Profile, Reported};
use crate::aot::chips::Grid;
use crate::aot::figures::Rates;
use crate::aot::launch::LaunchProgram;
use crate::aot::overlap::{self, Collectives};
use crate::aot::scale::Input;
use crate::aot::{Error, Figures, Graph, Machine, search};
use crate::cli::error::{Context, Result, Usage, bail};
use crate::config::Plan;
use crate::named::Named;
use crate::report::escape;
use crate::report::table::Style;
use pjrt::{Compiled, DeviceKind};

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
    /// Examples per device, or auto for the maximum that fits [default: --batch-size, which is the batch of all devices,
    /// divided among them]
    #[arg(long, value_name = "N|auto")]
    batch_per_device: Option<Batch>,
    /// Optimization effort of the compiler, from 0 to 3 [default: the compiler's]. At 0 large programs compile several
    /// times faster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    effort: Option<u8>,
    /// Reduce gradients beside the backward pass, where the compiler can (v5e)
    #[arg(long)]
    overlap: bool,
    /// An option of XLA, e.g. xla_tpu_enable_latency_hiding_scheduler=true; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair::<String>)]
    xla_option: Vec<(String, String)>,
    /// Write the compiled program to this file, a binary HloModuleProto
    #[arg(long, value_name = "FILE")]
    save_hlo: Option<PathBuf>,
    /// Write the executable to this file; the same plugin can load it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Show the operations and bytes of the compiled program by layer and phase: forward, normalisation, backward,
    /// optimizer, …
    #[arg(long)]
    by_layer: bool,
    /// With --by-layer: print the layers as comma-separated values
    #[arg(long, requires = "by_layer")]
    csv: bool,
    /// With --by-layer: draw the layers as a treemap in this file, an HTML page
    #[arg(long, value_name = "FILE", requires = "by_layer")]
    treemap: Option<PathBuf>,
    /// With --by-layer: read a compiled program, as --save-hlo writes it, instead of compiling one
    #[arg(long, value_name = "FILE", requires = "by_layer",
        conflicts_with_all = ["save", "save_hlo", "batch_per_device", "effort"])]
    compiled: Option<PathBuf>,
}

/// Value of `--batch-per-device`.
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

/// A compiled program and its inputs.
struct Outcome {
    plan: Plan,
    graph: Graph,
    effort: Option<u8>,
    compiled: Compiled,
    compile_s: f64,
    graph_instructions: usize,
    figures: Figures,
    /// For [`Graph::Train`].
    launch: Option<LaunchProgram>,
}

/// A compiled program, or the report that it does not fit.
type Answer = Result<Outcome, TooLarge>;

/// Runs `compile`.
///
/// # Errors
/// A run that cannot be built, an unknown topology, a program that does not compile, or a file that cannot be written.
/// A program that does not fit is an error only if it was to be saved.
pub fn run(args: Args, json: bool) -> Result<()> {
    for path in [&args.save_hlo, &args.save, &args.treemap].into_iter().flatten() {
        super::check_output(path)?;
    }
    if json && args.csv {
        return Err(Usage("--json excludes --csv: one form at a time".into()).into());
    }
    let grid = Grid::parse(&args.topology)?;
    if let Some(path) = &args.compiled {
        return args.read(path, &grid, json);
    }
    if args.overlap && overlap::options(grid.generation).is_none() {
        let why = format!(
            "--overlap: the compiler for {} has no options for it; expected v5e",
            grid.generation.name
        );
        return Err(Usage(why).into());
    }
    let device = grid.generation.device();
    let asked = args.run.device.on.device.as_deref().unwrap_or(device.name());
    if DeviceKind::find(asked)? != device {
        let why = format!(
            "--device {asked}: expected {device} with --topology {grid}; `cost --compiled` compiles for a device that is here"
        );
        return Err(Usage(why).into());
    }
    let mut plan = args.run.layers()?.plan()?;
    plan.run.device.kind = device;
    args.check(&plan)?;
    plan.engine().only_pjrt("a program for devices that are not here")?;
    let machine = Machine::open(grid, plan.plugin())?;
    let outcome = match args.batch_per_device {
        Some(Batch::Auto) => args.auto(&machine, &plan)?,
        Some(Batch::Of(batch)) => args.asked(&machine, &plan, Some(batch))?,
        None => args.asked(&machine, &plan, None)?,
    };
    match outcome {
        Ok(outcome) => {
            save(args.save_hlo.as_deref(), || outcome.compiled.optimized_hlo())?;
            save(args.save.as_deref(), || outcome.compiled.serialize())?;
            args.print(
                outcome.report(&machine),
                outcome.profile(&machine, args.by_layer)?,
                json,
            )
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
    /// Prints the report of a compiled program, or its layers.
    fn print(&self, report: Report<'_>, profile: Option<Profile>, json: bool) -> Result<()> {
        let title = format!(
            "{} with {}, {}, {} per device of {}",
            report.model, report.method, report.precision, report.batch_per_device, report.topology
        );
        if let (Some(path), Some(profile)) = (&self.treemap, &profile) {
            by_layer::write_treemap(path, &title, profile)?;
        }
        match profile {
            Some(profile) if !json => super::print(&self.layers(&profile)),
            by_layer => print(&Report { by_layer, ..report }, json),
        }
    }

    fn layers(&self, profile: &Profile) -> String {
        by_layer::text(profile, if self.csv { Style::Csv } else { Style::Text })
    }

    /// The layers of a compiled program in a file.
    fn read(&self, path: &Path, grid: &Grid, json: bool) -> Result<()> {
        let bytes = std::fs::read(path).context(escape::path(path).to_string())?;
        let module = hlo::text::read_module(&bytes).context(escape::path(path).to_string())?;
        let profile = Profile::of_module(&module, Reported::default(), Some(Rates::of_chip(grid.generation)));
        if let Some(treemap) = &self.treemap {
            by_layer::write_treemap(treemap, &path.display().to_string(), &profile)?;
        }
        match json {
            true => super::print_json(&ReadProgram {
                instructions: module.computations.iter().map(|c| c.instructions.len()).sum(),
                collective_bytes: Collectives::of(&module).bytes,
                by_layer: profile,
            }),
            false => super::print(&self.layers(&profile)),
        }
    }

    fn check(&self, plan: &Plan) -> Result<(), Usage> {
        if self.graph != Graph::Update {
            return Ok(());
        }
        let method = plan.method.name;
        match self.batch_per_device {
            _ if !plan.method.updates_masks() => {
                Err(Usage(format!("--graph update: method {method} has no mask update")))
            }
            Some(Batch::Auto) => Err(Usage("--batch-per-device auto: a mask update has no batch".into())),
            _ => Ok(()),
        }
    }

    /// The options of `--overlap`, then the given ones.
    fn xla_options(&self, machine: &Machine) -> Vec<(String, String)> {
        let overlapping = overlap::options(machine.grid.generation).filter(|_| self.overlap);
        let overlapping = overlapping.into_iter().flatten();
        let overlapping = overlapping.map(|(name, value)| (name.to_string(), value.to_string()));
        overlapping.chain(self.xla_option.iter().cloned()).collect()
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
                // An exported model takes the batch of its export on each device.
                let parts = train.accumulate.unwrap_or(1);
                let exported = plan.exported.as_ref().map(|exported| parts * exported.manifest.batch);
                let each = exported.or(batch);
                train.batch_size = devices * each.unwrap_or(train.batch_size.div_ceil(devices));
                plan.run.device.replicas = Some(devices);
            }
        }
        let (computation, aliases) = self.graph.build(&plan)?;
        let (compiled, took) = machine.compile(&computation, &aliases, self.effort, &self.xla_options(machine))?;
        let module = hlo::text::read_module(&compiled.optimized_hlo()?)?;
        let figures = Figures::of_module(&compiled, &module, machine)?;
        let launch = (self.graph == Graph::Train).then(|| LaunchProgram::of(&module));
        crate::report::detail(|| format!("{} bytes at the peak, compiled in {took:.2?}", figures.peak_bytes));
        figures.check(machine)?;
        Ok(Outcome {
            compile_s: took.as_secs_f64(),
            graph_instructions: computation.instruction_count(),
            graph: self.graph,
            effort: self.effort,
            compiled,
            launch,
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
            None => refusal.map(Err).context("--batch-per-device auto: no batch was tried"),
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
            batch_per_device: self.batch_per_device(),
            effort: self.effort,
            compile_s: self.compile_s,
            examples_per_s: self.examples_per_s(machine),
            graph_instructions: self.graph_instructions,
            figures: &self.figures,
            input: self
                .examples_per_s(machine)
                .filter(|_| self.graph != Graph::Eval)
                .and_then(|rate| Input::new(&self.plan, &machine.grid, rate)),
            launch: self.launch.clone(),
            by_layer: None,
        }
    }

    /// The bound of one iteration or batch; a launch counts one turn of its loop.
    fn examples_per_s(&self, machine: &Machine) -> Option<f64> {
        let time = self.figures.estimate.time_s.max(f64::MIN_POSITIVE);
        (self.graph != Graph::Update).then(|| (self.batch_per_device() * machine.devices) as f64 / time)
    }

    fn batch_per_device(&self) -> usize {
        match self.graph {
            Graph::Eval => self.plan.run.train.eval_batch_size,
            Graph::Step | Graph::Train | Graph::Update => self.plan.replica_batch(),
        }
    }

    fn profile(&self, machine: &Machine, wanted: bool) -> Result<Option<Profile>> {
        let profile = || Profile::of(&self.compiled, Some(Rates::of(machine)));
        Ok(wanted.then(profile).transpose()?)
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
