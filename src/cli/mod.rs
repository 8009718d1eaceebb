//! The command line: each flag is defined once and every subcommand has its own file.

pub mod compact;
pub mod compile;
mod compiled;
pub mod convert;
pub mod cost;
pub mod data;
pub mod dump_hlo;
pub mod eval;
mod execution_args;
mod paper;
pub mod plan;
pub mod plugin;
pub mod predict;
mod process_args;
pub mod run_args;
mod sparse_files;
pub mod train;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;

use crate::report::escape;
use crate::signals::{self, Stop};

/// Train, evaluate, count and ship sparse neural networks as compiled XLA programs.
#[derive(Parser, Debug)]
#[command(name = "rigl-xla", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error, the whole configuration among it
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Train a sparse network; without arguments RigL on MNIST, on the CPU
    Train(train::Args),
    /// Accuracy and loss of a checkpoint
    Eval(eval::Args),
    /// Logits of a checkpoint for given images
    Predict(predict::Args),
    /// A smaller checkpoint with the same logits: without unneeded units, or with the connections alone
    Compact(compact::Args),
    /// Checkpoints from one format to another: TensorFlow, safetensors, sparse files
    Convert(convert::Args),
    /// What `train` would do: budgets, schedules, memory; of TFRecords it counts records and classes
    Plan(plan::Args),
    /// What a network costs: weights, operations and bytes, sparse and dense
    Cost(cost::Args),
    /// Write the graph of the training step, the mask update or the evaluation
    DumpHlo(dump_hlo::Args),
    /// Compile a run's program for devices that are not here: does it fit, and what would it cost?
    Compile(compile::Args),
    /// Fetch and check data sets
    Data(data::Args),
    /// List, fetch or examine the plugins that drive the devices
    Plugin(plugin::Args),
}

impl Command {
    /// Whether it runs programs: others have no use for what makes those faster.
    fn computes(&self) -> bool {
        matches!(
            self,
            Command::Train(_) | Command::Eval(_) | Command::Predict(_) | Command::Compact(_)
        )
    }
}

/// What is to be said of a method that ranks layers together.
const RANKED_TOGETHER: &str = "(the method ranks all layers together: only their sum is fixed)";

/// Parses the command line and carries it out. Exit code 0: done; 1: failed; 2: wrong usage or configuration; 130 and 143: stopped
/// by SIGINT or SIGTERM.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    if cli.command.computes() {
        crate::pages::ask_for_huge();
    }
    crate::report::set_verbose(cli.verbose);
    let done = signals::watch()
        .context("signals cannot be handled")
        .and_then(|stop| run(cli.command, json, stop));
    let Err(error) = done else { return ExitCode::SUCCESS };
    if let Some(Stopped(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    if error.is::<Closed>() {
        return ExitCode::SUCCESS;
    }
    report(&error);
    ExitCode::from(if is_usage(&error) { 2 } else { 1 })
}

fn run(command: Command, json: bool, stop: &Stop) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(args, json, stop),
        Command::Eval(args) => eval::run(args, json),
        Command::Predict(args) => predict::run(args, json),
        Command::Compact(args) => compact::run(args, json),
        Command::Convert(args) => convert::run(args, json),
        Command::Plan(args) => plan::run(args, json),
        Command::Cost(args) => cost::run(args, json),
        Command::DumpHlo(args) => dump_hlo::run(args, json),
        Command::Compile(args) => compile::run(args, json),
        Command::Data(args) => data::run(args, json, stop),
        Command::Plugin(args) => plugin::run(args, json),
    }
}

/// The work stopped, in order, because a signal asked for it: the exit code that tells so.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal")]
struct Stopped(u8);

impl Stopped {
    fn by(stop: &Stop) -> Self {
        Stopped(signals::exit_code(stop.signal()))
    }
}

/// Flags that do not go together, or not with the run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Refuses an existing output without `--overwrite`. `file` is the path to check: the index file if `output` is a prefix.
fn refuse_existing(output: &Path, file: &Path, overwrite: bool) -> Result<(), Usage> {
    match file.is_file() && !overwrite {
        true => Err(Usage(format!(
            "{} exists: give --overwrite to replace it, or another name",
            output.display()
        ))),
        false => Ok(()),
    }
}

/// Whether the command or its configuration is wrong, wherever that was found out.
fn is_usage(error: &anyhow::Error) -> bool {
    use crate::{aot, config, data, engine, pjrt, processes, train};
    if error.is::<Usage>() {
        return true;
    }
    if error.downcast_ref().is_some_and(aot::Error::is_usage)
        || error.downcast_ref().is_some_and(processes::Error::is_usage)
    {
        return true;
    }
    let engine = match error.downcast_ref() {
        Some(train::Error::Config(_)) => return true,
        Some(train::Error::Data(data)) => return data.is_usage(),
        Some(train::Error::Device(engine)) => Some(engine),
        _ => error.downcast_ref(),
    };
    engine.is_some_and(engine::Error::is_usage)
        || error.downcast_ref().is_some_and(pjrt::Error::is_usage)
        || error.downcast_ref().is_some_and(data::Error::is_usage)
        || error.is::<config::Error>()
}

/// Writes results to standard output, control characters escaped ([`escape::text`]).
///
/// # Errors
/// What the system reports; `Closed` where nobody reads.
pub fn print(text: &str) -> anyhow::Result<()> {
    write_output(escape::text(text).as_bytes())
}

/// As [`print()`], of any bytes.
fn write_output(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("standard output cannot be written"),
    })
}

/// Refuses, before work starts, a path at which no file can be written.
///
/// # Errors
/// For a folder, or a path into a folder that does not exist.
fn check_output(path: &Path) -> anyhow::Result<()> {
    let shown = escape::path(path);
    ensure!(
        !path.is_dir(),
        "{shown}: a folder, expected the path of a file to write"
    );
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        ensure!(
            folder.is_dir(),
            "{shown}: there is no folder {}; make it first",
            escape::path(folder)
        );
    }
    Ok(())
}

/// Writes a result to a file.
///
/// # Errors
/// As [`check_output`], or what the system reports.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    check_output(path)?;
    std::fs::write(path, bytes).with_context(|| format!("{}: not written", escape::path(path)))
}

/// Standard output was closed by its reader, such as `head`, which has all that it wants: no failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct Closed;

/// Writes `value` as the one JSON object of `--json`.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", escape::json(&serde_json::to_string(value)?)))
}

/// The error and its causes, less those that the lines before already have.
fn report(error: &anyhow::Error) {
    let mut text = error.to_string().trim_end().to_owned();
    let mut last = text.clone();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !last.contains(cause.trim_end()) {
            text += &format!("\n  because {cause}");
            last = cause;
        }
    }
    let lines: Vec<String> = text.lines().map(start).collect();
    crate::report::terminal::write_error(&lines.join("\n"));
}

/// A line of an error, which may be quoted from a file: of a long one the start. Paths have at most 4096 bytes.
fn start(line: &str) -> String {
    const LETTERS: usize = 5000;
    match line.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
