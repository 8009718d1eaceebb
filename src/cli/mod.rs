//! The command line. Each flag is defined once, and every subcommand has its own file.

mod by_layer;
pub mod compact;
pub mod compile;
mod compile_report;
mod compiled;
mod completions;
pub mod convert;
mod convert_torch;
pub mod cost;
pub mod data;
mod dry_run;
pub mod dump_hlo;
mod error;
pub mod eval;
mod execution_args;
pub mod export;
mod exported;
mod help;
mod input_args;
mod measured;
mod paper;
pub mod plan;
mod plan_scale;
pub mod plugin;
pub mod predict;
pub mod presets;
mod process_args;
pub mod report;
pub mod run_args;
mod sparse_files;
pub mod sweep;
mod table_args;
pub mod topology;
pub mod train;
pub mod verify;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser};

use self::error::{Context, Usage, bail};
use crate::report::escape;
use crate::signals::{self, Stop};

pub use self::error::{Error, Result};

/// Train, evaluate, count and ship sparse neural networks as compiled XLA programs.
#[derive(Parser, Debug)]
#[command(name = "rigl-xla", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print more on standard error: the complete configuration and what takes time; twice, also what libraries log
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print nothing on standard error but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Train a sparse network; by default RigL on MNIST, on the CPU
    Train(train::Args),
    /// Train many networks: every combination of settings and seeds, with one table at the end
    Sweep(sweep::Args),
    /// Evaluate the accuracy and loss of a checkpoint
    Eval(eval::Args),
    /// Compute a checkpoint's logits for given images
    Predict(predict::Args),
    /// Shrink a checkpoint: remove dead units, or store only the connections
    Compact(compact::Args),
    /// Convert checkpoints between TensorFlow, PyTorch, safetensors and sparse formats
    Convert(convert::Args),
    /// Verify a finished run: its files against their digests, and a part of it by computing it again
    Verify(verify::Args),
    /// Write a page about runs: curves, schedules, topology, cost, differences
    Report(report::Args),
    /// Show how the connections of a run moved: any iteration's masks, ages, overlaps, pictures
    Topology(topology::Args),
    /// Write a network for other programs: ONNX, StableHLO or PyTorch
    Export(export::Args),
    /// Show budgets, schedules and memory of a run. Reads no data, but counts records and classes of TFRecords
    Plan(plan::Args),
    /// Count a network's weights, operations and bytes, sparse and dense
    Cost(cost::Args),
    /// List the published recipes, or print one
    Presets(presets::Args),
    /// Write the graph of the training step, the mask update or the evaluation
    DumpHlo(dump_hlo::Args),
    /// Compile a run for devices that are not attached: does it fit, and what would it cost?
    Compile(compile::Args),
    /// Download, prepare and inspect data sets
    Data(data::Args),
    /// List, download or test device plugins
    Plugin(plugin::Args),
    /// Print the completions of a shell
    Completions(completions::Args),
    /// Write man pages
    Man(completions::ManArgs),
}

impl Command {
    /// Whether the command executes programs, and so benefits from settings that speed up execution.
    fn computes(&self) -> bool {
        matches!(
            self,
            Command::Train(_) | Command::Eval(_) | Command::Predict(_) | Command::Compact(_) | Command::Verify(_)
        )
    }
}

/// Note for methods that rank layers globally.
const RANKED_TOGETHER: &str = "(the method ranks all layers together: only their sum is fixed)";

/// Parses and runs the command line. The exit codes are those of [`Error::exit_code`].
pub fn main() -> ExitCode {
    let matches = help::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let json = cli.json;
    if cli.command.computes() {
        crate::huge_pages::enable();
    }
    crate::report::show_log(cli.verbose, cli.quiet);
    let done = signals::watch()
        .context("signals cannot be handled")
        .and_then(|stop| run(cli.command, json, stop));
    let Err(error) = done else { return ExitCode::SUCCESS };
    if let Some(error) = error.reported() {
        report(error);
    }
    error.exit_code()
}

fn run(command: Command, json: bool, stop: &Stop) -> Result<()> {
    match command {
        Command::Train(args) => train::run(args, json, stop),
        Command::Sweep(args) => sweep::run(args, json, stop),
        Command::Eval(args) => eval::run(args, json),
        Command::Predict(args) => predict::run(args, json),
        Command::Compact(args) => compact::run(args, json),
        Command::Convert(args) => convert::run(args, json),
        Command::Verify(args) => verify::run(args, json, stop),
        Command::Export(args) => export::run(args, json),
        Command::Plan(args) => plan::run(args, json),
        Command::Cost(args) => cost::run(args, json),
        Command::Presets(args) => presets::run(args, json),
        Command::DumpHlo(args) => dump_hlo::run(args, json),
        Command::Compile(args) => compile::run(args, json),
        Command::Data(args) => data::run(args, json, stop),
        Command::Plugin(args) => plugin::run(args, json),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::man(&args),
        Command::Report(args) => report::run(args, json),
        Command::Topology(args) => topology::run(args, json),
    }
}

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

/// Writes results to standard output, with control characters escaped ([`escape::text`]).
///
/// # Errors
/// I/O errors; `Closed` if the reader has closed the pipe.
pub fn print(text: &str) -> Result<()> {
    write_output(escape::text(text).as_bytes())
}

/// As [`print()`], for bytes without escaping.
fn write_output(bytes: &[u8]) -> Result<()> {
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Failure(anyhow::Error::new(error).context("standard output cannot be written")),
    })
}

/// Checks that a file can be written at `path`, before any work starts.
///
/// # Errors
/// A folder, or a path in a folder that does not exist.
fn check_output(path: &Path) -> Result<()> {
    let shown = escape::path(path);
    if path.is_dir() {
        bail!("{shown}: a folder, expected the path of a file to write");
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{shown}: there is no folder {}; make it first", escape::path(folder));
    }
    Ok(())
}

/// Writes a result to a file.
///
/// # Errors
/// As [`check_output`], or I/O errors.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    check_output(path)?;
    std::fs::write(path, bytes).context(format!("{}: not written", escape::path(path)))
}

/// Prints `value` as the single JSON object of `--json`.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", escape::json(&serde_json::to_string(value)?)))
}

/// Formats the error and its causes, without causes already contained in the text before.
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

/// Truncates a line of an error, which may quote a file. Paths have at most 4096 bytes.
fn start(line: &str) -> String {
    const LETTERS: usize = 5000;
    match line.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
