//! `rigl-xla train`.

use super::dry_run;
use super::process_args::ProcessArgs;
use super::run_args::RunArgs;
use super::sweep::{JobArgs, run_seeds};
use super::table_args::TableArgs;
use crate::checkpoint::Mode;
use crate::cli::error::{Error, Result, Usage};
use crate::config::{Layers, Plan};
use crate::distributed::Group;
use crate::report::table::{Style, Table};
use crate::signals::{self, Stop};
use crate::sweep::Seeds;
use crate::train::{self, BestCheckpoint, Summary, profile::Profile};
use std::sync::Arc;

/// Arguments of `train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    processes: ProcessArgs,
    /// Continue from the newest checkpoint in the run folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Delete the run in the run folder first
    #[arg(long)]
    overwrite: bool,
    /// Train once with each seed, 0..4 (0 to 4) or 1,5,7, and print mean and deviation; goes on where it was interrupted
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["seed", "process_id", "profile"])]
    seeds: Option<Seeds>,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    table: TableArgs,
    /// With --dry-run: compile for chips that are not here, such as v5e:2x2, with a replica on each device
    #[arg(long, value_name = "NAME", requires = "dry_run", conflicts_with_all = ["seeds", "resume", "overwrite", "process_id"])]
    topology: Option<String>,
    /// Profile N launches, after the first of this session: write host timings to profile.jsonl in the run folder and a
    /// summary at the end. If the plugin has a profiler (TPU and NVIDIA), also write its trace to the run folder for
    /// TensorBoard
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    profile: Option<u64>,
}

/// Runs `train`, as one of several processes if so configured.
///
/// # Errors
/// Anything that prevents the run from finishing.
pub fn run(args: Args, json: bool, stop: &Stop) -> Result<()> {
    if args.seeds.is_none() && (args.jobs.is_given() || args.table.is_given()) {
        let message = "--jobs, --devices, --retry-failed, --csv and --markdown are for several runs: give --seeds";
        return Err(Usage(message.into()).into());
    }
    if let Some(seeds) = &args.seeds {
        let (how, table) = ((&args.jobs, args.overwrite), (&args.table, json));
        return run_seeds(&args.run.layers()?, args.run.out.as_deref(), seeds, how, table, stop);
    }
    if let Some(topology) = &args.topology {
        return dry_run::ahead(&args.run, topology, |report| print_dry_run(report, json));
    }
    let plan = args.plan()?;
    plan.check_complete()?;
    plan.run.data.set.check(&plan.run.data.dir)?;
    let group = args.processes.join(&plan)?;
    let starting = group.clone().map(leave_on_signal);
    let done = run_in(&args, &plan, group.clone(), json, stop);
    drop(starting);
    let Some(group) = group else { return done };
    // A process that stopped on a signal has not failed.
    let done = match done {
        Err(error) if matches!(error, Error::Stopped(_)) => {
            group.end(None)?;
            return Err(error);
        }
        done => done,
    };
    let failure = done.as_ref().err().map(ToString::to_string);
    let ended = group.end(failure.as_deref());
    // Report the first error.
    done.and(ended.map_err(Into::into))
}

/// Until dropped, a terminating signal also notifies the other processes, which would otherwise wait for a timeout.
fn leave_on_signal(group: Arc<Group>) -> signals::Undone {
    let leave = move || {
        // Processes that cannot be notified time out by themselves.
        let _ = group.leave("stopped by a signal, without saving");
    };
    let made: Result<_, std::convert::Infallible> = signals::undone(|| Ok(()), |()| leave);
    match made {
        Ok(((), undone)) => undone,
        Err(never) => match never {},
    }
}

/// Trains. The process that writes the run folder prints the summary.
fn run_in(args: &Args, plan: &Plan, group: Option<Arc<Group>>, json: bool, stop: &Stop) -> Result<()> {
    let mode = match (args.resume, args.overwrite) {
        (true, _) => Mode::Resume,
        (_, true) => Mode::Overwrite,
        _ => Mode::Fresh,
    };
    let first = group.as_ref().is_none_or(|group| group.process() == 0);
    if first {
        announce(plan);
    }
    if args.jobs.is_dry_run() {
        let found = train::dry_run(plan, mode, group)?;
        let report = dry_run::Report::here(plan, &found)?;
        return if first { print_dry_run(&report, json) } else { Ok(()) };
    }
    let summary = match train::train(plan, mode, args.profile, stop, group) {
        Err(error @ train::Error::Unscored { .. }) if stop.signal().is_some() => {
            crate::report::note!("{error}");
            return Err(Error::stopped(stop));
        }
        trained => trained?,
    };
    if first {
        print_summary(&summary, json)?;
    }
    match summary.interrupted {
        true => Err(Error::stopped(stop)),
        false => Ok(()),
    }
}

fn print_dry_run(report: &dry_run::Report<'_>, json: bool) -> Result<()> {
    match json {
        true => super::print_json(report),
        false => super::print(&report.to_string()),
    }
}

/// Prints the summary of a run.
fn print_summary(summary: &Summary, json: bool) -> Result<()> {
    if summary.interrupted {
        crate::report::note!(
            "stopped after {} iterations, saved in {}; go on with --resume",
            summary.steps,
            summary.checkpoint.display()
        );
    }
    if let Some(reason) = summary.stopped_by {
        crate::report::note!("stopped after {} iterations by {}", summary.steps, reason.key());
    }
    if let Some(compressed) = &summary.compressed {
        crate::report::note!("{compressed}");
    }
    match json {
        true => super::print_json(summary),
        false => {
            let profile = summary.profile.as_ref().map(profile_text).unwrap_or_default();
            super::print(&(text(summary) + &profile))
        }
    }
}

fn announce(plan: &Plan) {
    let processes = match plan.processes() {
        1 => String::new(),
        n => format!(", {n} processes"),
    };
    crate::report::note!(
        "{} on {}: {} at sparsity {}{}; in all {} of {} maskable weights, sparsity {:.4}; {} iterations, in {}{processes}",
        plan.run.model.name,
        plan.run.data.set.name,
        plan.method.name,
        plan.run.sparsity.target,
        own_sparsities(plan),
        plan.nonzeros(),
        plan.maskable(),
        plan.sparsity(),
        plan.iterations,
        plan.output_dir.display()
    );
    for note in plan.incomplete().into_iter().chain(plan.notes()) {
        crate::report::note!("note: {note}");
    }
}

/// Maximum number of layers with custom sparsities to list before training.
const NAMED_LAYERS: usize = 4;

/// Lists the layers with custom sparsities, e.g. `, layer3 dense (sparsity.layers)`.
fn own_sparsities(plan: &Plan) -> String {
    let own: Vec<_> = plan.budgets.iter().filter(|b| b.custom).collect();
    let mut text: String = own
        .iter()
        .take(NAMED_LAYERS)
        .map(|budget| match budget.sparsity {
            0.0 => format!(", {} dense", budget.name),
            sparsity => format!(", {} {sparsity}", budget.name),
        })
        .collect();
    if own.len() > NAMED_LAYERS {
        text += &format!(" and {} more", own.len() - NAMED_LAYERS);
    }
    if !own.is_empty() {
        text += " (sparsity.layers)";
    }
    text
}

impl Args {
    /// Layers of the configuration. A resumed run uses its own, unless a preset or a file is given.
    fn plan(&self) -> Result<Plan> {
        let asked = self.run.plan(self.run.layers()?)?;
        let stored = asked.output_dir.join("config.toml");
        if !self.resume || self.run.preset.is_some() || self.run.config.is_some() || !stored.is_file() {
            return Ok(asked);
        }
        let mut layers = Layers::preset(crate::config::DEFAULT_PRESET)?.file(&stored)?;
        let copy = asked.output_dir.join(crate::exported::FILE);
        if copy.is_file() {
            let copy = std::path::absolute(&copy).unwrap_or(copy);
            layers = layers.set("run folder", &["model", "file"], copy.to_string_lossy().into_owned())?;
        }
        Ok(self.run.plan(self.run.flags_over(layers)?)?)
    }
}

fn text(summary: &Summary) -> String {
    let density = 100.0 * summary.nonzeros as f64 / summary.maskable.max(1) as f64;
    let lines = [
        ("iterations", summary.steps.to_string()),
        ("gradient steps", summary.global_step.to_string()),
        ("mask updates", summary.mask_updates.to_string()),
        (
            "connections",
            format!(
                "{} of {} maskable weights ({density:.2} %), sparsity {:.4}",
                summary.nonzeros, summary.maskable, summary.sparsity
            ),
        ),
        (
            "training",
            format!("{:.1} s, {:.0} iterations/s", summary.train_s, summary.steps_per_s),
        ),
        ("start-up", format!("{:.2} s", summary.startup_s)),
        ("checkpoint", summary.checkpoint.display().to_string()),
    ];
    let scores: String = summary
        .eval
        .shown()
        .iter()
        .filter(|(what, _)| what != "top-5")
        .map(|(what, value)| format!("{:<16}{value}\n", format!("test {what}")))
        .collect();
    let explored = summary
        .explored
        .map(|share| ("ever active", format!("{:.2} %", 100.0 * share)));
    let validation = summary.validation.as_ref().map(|scores| {
        let shown = scores.shown().into_iter().filter(|(what, _)| what != "top-5");
        let shown: Vec<String> = shown.map(|(what, value)| format!("{what} {value}")).collect();
        ("validation", shown.join(", "))
    });
    let best = summary.best.as_ref().map(|best| ("best", best_text(best)));
    let skipped = summary
        .skipped_records
        .map(|n| ("left out", format!("{n} corrupt records")));
    let lines: String = lines
        .iter()
        .chain(&explored)
        .chain(&validation)
        .chain(&best)
        .chain(&skipped)
        .map(|(what, value)| format!("{what:<16}{value}\n"))
        .collect();
    scores + &lines
}

/// The best checkpoint, with its score on the test set.
fn best_text(best: &BestCheckpoint) -> String {
    let test = best
        .eval
        .as_ref()
        .and_then(|scores| scores.shown().into_iter().next())
        .map(|(what, value)| format!(", test {what} {value}"));
    let (metric, value, at) = (best.best.metric, best.best.value, best.best.iteration);
    format!("{metric} {value:.4} at iteration {at}{}", test.unwrap_or_default())
}

/// Formats milliseconds, the scale of launches.
fn profile_text(profile: &Profile) -> String {
    let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
    let mut table = Table::new(&["phase", "total ms", "mean ms", "share"]);
    for time in &profile.phases {
        let share = format!("{:.1} %", 100.0 * time.share);
        table.row([time.phase.into(), ms(time.total_s), ms(time.mean_s), share]);
    }
    let trace = profile.trace.as_ref();
    let trace = trace.map(|path| format!("devices: {}\n", path.display()));
    format!(
        "\nlaunches after the first: {} recorded, of {} iterations in all\n{}{}",
        profile.launches,
        profile.iterations,
        table.write(Style::Text),
        trace.unwrap_or_default()
    )
}
