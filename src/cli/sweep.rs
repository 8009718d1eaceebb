//! `rigl-xla sweep`: many runs as one experiment. Also the runs of `train --seeds`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::input_args::DeviceArgs;
use super::run_args::{KeyFlags, RunArgs, pair};
use super::table_args::TableArgs;
use crate::checkpoint::CONFIG;
use crate::cli::error::{Context, Error, Result};
use crate::config::{Layers, Time};
use crate::report::table::Style;
use crate::report::{note, units};
use crate::signals::Stop;
use crate::sweep::estimate::{self, Estimate};
use crate::sweep::file::Spec;
use crate::sweep::outcome::{self, LOG, Outcome};
use crate::sweep::results::{self, Row};
use crate::sweep::schedule::{self, Event, Options};
use crate::sweep::{self, Job, Seeds};

/// Arguments of `sweep`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
The file is TOML. Every job is a combination of [grid], or an entry of [[list]], or a sample of [random], over [set], with each seed:

  preset = \"mnist-rigl\"         # default: the recipe for the network and method of each job
  seeds = \"0..2\"                # 0, 1 and 2
  out = \"runs/methods\"          # default: runs/ and the name of the file
  jobs = 1                      # at a time
  [set]
  train.iterations = 6000
  [grid]
  method.name = [\"set\", \"rigl\"]
  sparsity.target = [0.9, 0.98]
  [[list]]
  method.name = \"dense\"
  [random]
  samples = 10
  learning_rate.base = { from = 0.01, to = 1.0, scale = \"log\" }

Each job is a run folder, with its output in log.txt. The same command goes on after any interruption: finished jobs are not
repeated, and failed ones only with --retry-failed.")]
pub struct Args {
    /// File of the sweep
    file: PathBuf,
    /// Folder of the runs [default: from the file, or else runs/ and its name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seeds of each combination, 0..4 (0 to 4) or 1,5,7 [default: from the file]
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<Seeds>,
    /// Data set or folder of all runs
    #[arg(long, value_name = "NAME|DIR")]
    data: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// A configuration value of all runs, e.g. train.iterations=600; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<String>)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    how: JobArgs,
    #[command(flatten)]
    table: TableArgs,
}

/// How to run several jobs.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Several runs")]
pub struct JobArgs {
    /// Jobs at a time [default: from the file, or else one per device of --devices, or 1]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Numbers of the GPUs or TPU chips of this machine, of which each running job gets one, e.g. 0,1,2,3
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    devices: Vec<String>,
    /// Run jobs that failed before again
    #[arg(long)]
    retry_failed: bool,
    /// Compile the programs and show their memory, without a run folder; for several runs, only show their number, their FLOPs and their time, which is that of finished jobs or measured for a few seconds
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: do not measure
    #[arg(long, requires = "dry_run")]
    no_measure: bool,
}

impl JobArgs {
    /// Whether one of the flags is given.
    pub fn is_given(&self) -> bool {
        self.jobs.is_some() || !self.devices.is_empty() || self.retry_failed || self.no_measure
    }

    /// Whether nothing is to be run.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Runs `sweep`.
///
/// # Errors
/// A file or setting that is wrong; jobs that failed, after all have ended.
pub fn run(args: Args, json: bool, stop: &Stop) -> Result<()> {
    let mut spec = Spec::read(&args.file)?;
    if let Some(out) = &args.out {
        spec.out.clone_from(out);
    }
    spec.seeds = args.seeds.clone().or(spec.seeds);
    let flags = RunArgs {
        data: args.data.clone(),
        device: args.device.clone(),
        set: args.set.clone(),
        keys: KeyFlags::default(),
        ..RunArgs::default()
    };
    let jobs = sweep::jobs(&spec, &|layers| flags.flags_over(layers)?.fitted())?;
    let how = JobArgs {
        jobs: args.how.jobs.or(spec.jobs.and_then(|jobs| u16::try_from(jobs).ok())),
        ..args.how
    };
    drive(&jobs, Some(&spec.out), &how, false, &args.table, json, stop)
}

/// Runs `train --seeds`.
///
/// # Errors
/// As [`run`].
pub fn run_seeds(
    layers: &Layers,
    out: Option<&Path>,
    seeds: &Seeds,
    (how, overwrite): (&JobArgs, bool),
    (table, json): (&TableArgs, bool),
    stop: &Stop,
) -> Result<()> {
    let jobs = sweep::seeded(layers, out, seeds)?;
    drive(&jobs, out, how, overwrite, table, json, stop)
}

fn drive(
    jobs: &[Job],
    out: Option<&Path>,
    how: &JobArgs,
    overwrite: bool,
    table: &TableArgs,
    json: bool,
    stop: &Stop,
) -> Result<()> {
    let style = table.style(json)?;
    for job in jobs {
        job.plan.check_complete().context(format!("job {}", job.name))?;
    }
    let program = std::env::current_exe().context("the path of this program")?;
    if how.dry_run {
        let estimate = estimate(jobs, how, &program)?;
        return match json {
            true => super::print_json(&estimate),
            false => {
                let table = estimate.table(style).write(style);
                let totals = (style == Style::Text).then(|| totals(&estimate, how));
                super::print(&(table + &totals.unwrap_or_default()))
            }
        };
    }
    for data in jobs.iter().map(|job| &job.plan.run.data) {
        data.set.check(&data.dir)?;
    }
    stop.heed("stopping: the running jobs save and end");
    let options = Options {
        program,
        parallel: how.jobs.map_or(how.devices.len().max(1), usize::from),
        devices: how.devices.clone(),
        retry_failed: how.retry_failed,
        overwrite,
    };
    let mut progress = Progress::new(jobs.len());
    let (outcomes, stopped) = schedule::run(jobs, &options, stop, |event| progress.tell(&event))?;
    let report = Report::new(jobs, &outcomes);
    if let Some(out) = out.filter(|out| out.is_dir()) {
        super::write_file(&out.join("results.json"), &serde_json::to_vec(&report)?)?;
    }
    match json {
        true => super::print_json(&report)?,
        false => super::print(&results::table(&report.table, style).write(style))?,
    }
    report.list_failures();
    let failed = report.table.iter().map(|row| row.failed).sum::<usize>();
    match (stopped, failed) {
        (true, _) => Err(Error::stopped(stop)),
        (false, 0) => Ok(()),
        (false, n) => Err(Error::failure(format!(
            "{n} of {} jobs failed; --retry-failed runs them again",
            jobs.len()
        ))),
    }
}

/// Messages while jobs run.
struct Progress {
    jobs: usize,
    ended: usize,
    started: Instant,
}

impl Progress {
    fn new(jobs: usize) -> Self {
        Progress {
            jobs,
            ended: 0,
            started: Instant::now(),
        }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Started { job, resumed } => {
                let verb = if *resumed { "goes on" } else { "starts" };
                note!("{} {verb}", job.name);
            }
            Event::Ended { job, outcome, elapsed } => {
                self.ended += 1;
                let result = match outcome {
                    Outcome::Finished { summary } => {
                        let top1 = summary.pointer("/eval/top1").and_then(|value| value.as_f64());
                        format!("test top-1 {:.2} %", 100.0 * top1.unwrap_or(f64::NAN))
                    }
                    Outcome::Failed { failure } => format!("failed: {}", failure.error),
                    Outcome::Unfinished => "stopped".to_owned(),
                };
                let (elapsed, all) = (
                    units::time(elapsed.as_secs_f64()),
                    units::time(self.started.elapsed().as_secs_f64()),
                );
                note!(
                    "[{} of {} in {all}] {}: {result} ({elapsed})",
                    self.ended,
                    self.jobs,
                    job.name
                );
            }
        }
    }
}

/// Output of a sweep.
#[derive(Serialize)]
struct Report<'a> {
    jobs: Vec<JobReport<'a>>,
    table: Vec<Row>,
}

#[derive(Serialize)]
struct JobReport<'a> {
    name: &'a str,
    #[serde(serialize_with = "crate::report::path")]
    folder: &'a Path,
    seed: u64,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

impl<'a> Report<'a> {
    fn new(jobs: &'a [Job], outcomes: &'a [Outcome]) -> Self {
        let report = |(job, outcome): (&'a Job, &'a Outcome)| JobReport {
            name: &job.name,
            folder: &job.plan.output_dir,
            seed: job.seed,
            outcome,
        };
        Report {
            jobs: jobs.iter().zip(outcomes).map(report).collect(),
            table: results::rows(jobs, outcomes),
        }
    }

    fn list_failures(&self) {
        for job in &self.jobs {
            if let Outcome::Failed { failure } = job.outcome {
                let log = job.folder.join(LOG);
                note!("failed: {}: {} ({})", job.name, failure.error, log.display());
            }
        }
    }
}

/// Estimates the jobs; measures programs whose rate is unknown.
fn estimate(jobs: &[Job], how: &JobArgs, program: &Path) -> Result<Estimate> {
    let outcomes: Vec<Outcome> = jobs.iter().map(outcome::of).collect::<Result<_, sweep::Error>>()?;
    let measured = |job: &Job| match how.no_measure {
        true => Ok(None),
        false => measure(job, program).map(Some),
    };
    estimate::of(jobs, &outcomes, measured)
}

/// Time for which a job runs to measure its rate.
const MEASURED: Duration = Duration::from_secs(3);

/// Iterations per second of a job, measured in a folder that is deleted.
fn measure(job: &Job, program: &Path) -> Result<f64> {
    note!("measuring {} for {} s", job.name, MEASURED.as_secs());
    let (folder, _undone) = crate::signals::temporary(tempfile::tempdir).context("temporary folder")?;
    let config = folder.path().join(CONFIG);
    let mut run = job.plan.run.clone();
    run.stop = crate::config::Stop {
        time: Some(Time(MEASURED)),
        ..Default::default()
    };
    // Without evaluations and checkpoints in between.
    run.train.eval_interval = run.train.iterations;
    run.train.eval_epochs = None;
    std::fs::File::create(&config)?.write_all(run.to_toml()?.as_bytes())?;
    let mut command = Command::new(program);
    command.args(["train", "--json", "--config"]).arg(&config);
    command.arg("--out").arg(folder.path().join("run")).stdin(Stdio::null());
    crate::child::end_with_parent(&mut command, rustix::process::Signal::KILL);
    let output = command.output().context("a job to measure")?;
    let summary: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let rate = summary.and_then(|summary| summary["steps_per_s"].as_f64());
    rate.context(format!(
        "job {}: {}",
        job.name,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// The line under the table of a dry run.
fn totals(estimate: &Estimate, how: &JobArgs) -> String {
    let Estimate {
        jobs, ended, programs, ..
    } = estimate;
    let time = estimate.seconds.map(|seconds| match how.devices.len() {
        0 | 1 => format!("; {} of training to go", units::time(seconds)),
        n => format!("; {} of training to go on {n} devices", units::time(seconds / n as f64)),
    });
    format!(
        "\n{jobs} jobs, {ended} of them ended; {programs} training programs; {}FLOPs{}\n",
        units::count(estimate.flops) + if estimate.flops < 1000.0 { " " } else { "" },
        time.unwrap_or_default()
    )
}
