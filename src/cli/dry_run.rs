//! `rigl-xla train --dry-run`: compiles a run's programs and shows what it needs, without a run folder.

use std::fmt;

use pjrt::{DeviceKind, MemoryStats};
use serde::Serialize;

use super::error::{Result, Usage};
use super::run_args::RunArgs;
use crate::aot::chips::Grid;
use crate::aot::scale::Input;
use crate::aot::{self, Figures, Graph, Machine};
use crate::config::{Layers, Plan};
use crate::named::Named;
use crate::report::units;
use crate::train::DryRun;

/// Output of a dry run.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    /// Always true.
    pub dry_run: bool,
    device: DeviceKind,
    /// Devices, each with a replica.
    replicas: usize,
    /// Absent chips that the programs are compiled for.
    #[serde(skip_serializing_if = "Option::is_none")]
    topology: Option<String>,
    /// The engine's name of each device.
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<String>,
    /// Memory of a device, in bytes.
    device_bytes: Option<u64>,
    programs: Vec<Program>,
    state_bytes: usize,
    batch_size: usize,
    iterations: u64,
    /// Iterations that the run has done already.
    done: u64,
    launch_iterations: u64,
    /// Bytes of images sent to the devices for a full launch.
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_image_bytes: Option<usize>,
    /// Lower bound of the seconds of an iteration's all-reduce.
    #[serde(skip_serializing_if = "Option::is_none")]
    all_reduce_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Input>,
    run_dir: &'a std::path::Path,
}

#[derive(Serialize)]
struct Program {
    name: &'static str,
    /// Seconds that compiling took.
    seconds: f64,
    /// Memory on each device, in bytes, if the engine tells.
    needed_bytes: Option<u64>,
    #[serde(flatten)]
    memory: Option<MemoryStats>,
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, programs: Vec<Program>, device_bytes: Option<u64>) -> Self {
        Report {
            dry_run: true,
            device: plan.run.device.kind,
            replicas: plan.replicas(),
            topology: None,
            devices: None,
            device_bytes,
            programs,
            state_bytes: plan.state_bytes(),
            batch_size: plan.run.train.batch_size,
            iterations: plan.iterations,
            done: 0,
            launch_iterations: plan.launch_length(),
            launch_image_bytes: plan
                .streams()
                .then(|| plan.launch_length() as usize * plan.batch_bytes()),
            all_reduce_s: None,
            input: None,
            run_dir: &plan.output_dir,
        }
    }

    /// For the devices of this machine.
    pub(super) fn here(plan: &'a Plan, found: &DryRun) -> Result<Self, aot::Error> {
        let programs = found.programs.iter().map(|program| Program {
            name: program.name,
            seconds: program.seconds,
            needed_bytes: program.memory.as_ref().map(MemoryStats::needed_bytes),
            memory: program.memory,
        });
        let report = Report {
            done: found.done,
            devices: found.identity.get("devices").cloned(),
            ..Report::new(plan, programs.collect(), found.device_bytes)
        };
        report.check("each device")?;
        Ok(report)
    }

    /// Fails if a program does not fit.
    fn check(&self, devices: &str) -> Result<(), aot::Error> {
        let needed = self.programs.iter().filter_map(|program| program.needed_bytes).max();
        match (needed, self.device_bytes) {
            (Some(needed), Some(available)) if needed > available => Err(aot::Error::Memory {
                needed,
                available,
                grid: devices.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Compiles the programs of a run for chips that are not here, and calls `show` with the report.
///
/// # Errors
/// A topology or configuration that is wrong, programs that do not compile or fit, and errors of `show`.
pub(super) fn ahead(args: &RunArgs, topology: &str, show: impl FnOnce(&Report<'_>) -> Result<()>) -> Result<()> {
    let grid = Grid::parse(topology)?;
    let kind = grid.generation.device();
    let layers = args.layers()?;
    let asked = args.device.on.device.as_deref().unwrap_or(kind.name());
    if DeviceKind::find(asked)? != kind {
        return Err(Usage(format!("--device {asked}: expected {kind} with --topology {grid}")).into());
    }
    let layers = layers.set("--topology", &["device", "kind"], kind.name())?;
    let plan = layers.clone().plan()?;
    plan.engine().only_pjrt("a program for devices that are not here")?;
    let machine = Machine::open(grid, plan.plugin())?;
    let plan = on_all(args, layers, &plan, &machine)?;
    let mut programs = vec![];
    let mut launch = None;
    for (name, graph) in [("launch", Graph::Train), ("evaluation", Graph::Eval)] {
        let (computation, aliases) = graph.build(&plan)?;
        let (compiled, took) = machine.compile(&computation, &aliases, None, &[])?;
        let figures = Figures::of(&compiled, &machine)?;
        programs.push(Program {
            name,
            seconds: took.as_secs_f64(),
            needed_bytes: Some(figures.peak_bytes),
            memory: Some(figures.memory),
        });
        launch.get_or_insert(figures);
    }
    let mut report = Report::new(&plan, programs, Some(machine.memory_bytes()));
    report.topology = Some(machine.grid.to_string());
    report.check(&machine.grid.to_string())?;
    report.all_reduce_s = (plan.replicas() > 1).then(|| machine.grid.all_reduce_s(plan.all_reduced_bytes() as f64));
    let rate = launch.map(|figures| plan.run.train.batch_size as f64 / figures.estimate.time_s.max(f64::MIN_POSITIVE));
    report.input = rate.and_then(|rate| Input::new(&plan, &machine.grid, rate));
    show(&report)
}

/// The plan with a replica on each device of `machine`.
fn on_all(args: &RunArgs, layers: Layers, plan: &Plan, machine: &Machine) -> Result<Plan> {
    let (grid, devices) = (&machine.grid, machine.devices);
    match plan.run.device.replicas {
        Some(replicas) if replicas != devices => Err(Usage(format!(
            "--replicas {replicas}: {grid} has {devices} devices; expected as many, or a topology with {replicas}"
        ))
        .into()),
        Some(_) => Ok(args.plan(layers)?),
        None => {
            if devices > 1 {
                crate::report::note!(
                    "compiling for all {devices} devices of {grid}; train there with --replicas {devices}"
                );
            }
            Ok(args.plan(layers.set("--topology", &["device", "replicas"], devices as i64)?)?)
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |bytes: u64| units::bytes(bytes as f64);
        let mut line = |what: &str, value: String| writeln!(f, "{what:<16}{value}");
        let names = match (&self.topology, &self.devices) {
            (Some(topology), _) => format!(" of {topology}, which is not here"),
            (None, Some(names)) => format!(": {names}"),
            (None, None) => String::new(),
        };
        line("devices", format!("{} {}{names}", self.replicas, self.device))?;
        for program in &self.programs {
            let share = |needed: u64| match self.device_bytes {
                Some(all) => format!(" of {} ({:.1} %)", bytes(all), 100.0 * needed as f64 / all as f64),
                None => String::new(),
            };
            let needed = program
                .needed_bytes
                .map(|needed| format!(", {}{}", bytes(needed), share(needed)));
            line(
                program.name,
                format!("compiled in {:.1} s{}", program.seconds, needed.unwrap_or_default()),
            )?;
        }
        line("training state", units::bytes(self.state_bytes as f64))?;
        let each = self.batch_size / self.replicas.max(1);
        line("batch", format!("{}, {each} per device", self.batch_size))?;
        let already = match self.done {
            0 => String::new(),
            done => format!(", of which {done} are done"),
        };
        line("iterations", format!("{}{already}", self.iterations))?;
        let sent = self
            .launch_image_bytes
            .map(|sent| format!(", {} of images sent for each", units::bytes(sent as f64)));
        line(
            "launches",
            format!("{} iterations{}", self.launch_iterations, sent.unwrap_or_default()),
        )?;
        if let Some(seconds) = self.all_reduce_s {
            line("all-reduce", format!("{:.3} ms at least", 1e3 * seconds))?;
        }
        if let Some(input) = &self.input {
            line("input", format!("at most {input}"))?;
        }
        line("run folder", format!("{}, not created", self.run_dir.display()))
    }
}
