//! The command line: each flag is defined once and every subcommand has its own file.

pub mod data;
pub mod dump_hlo;
pub mod eval;
pub mod plan;
pub mod predict;
pub mod run_args;
pub mod train;

use std::process::ExitCode;

use clap::Parser;

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
    /// What `train` would do: budgets, schedules, memory; reads no data
    Plan(plan::Args),
    /// Write the graph of the training step, the mask update or the evaluation
    DumpHlo(dump_hlo::Args),
    /// Fetch and check data sets
    Data(data::Args),
}

/// Parses the command line and carries it out. Exit code 0: done; 1: failed; 2: wrong usage or configuration.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    crate::report::set_verbose(cli.verbose);
    let done = match cli.command {
        Command::Train(args) => train::run(args, json),
        Command::Eval(args) => eval::run(args, json),
        Command::Predict(args) => predict::run(args, json),
        Command::Plan(args) => plan::run(args, json),
        Command::DumpHlo(args) => dump_hlo::run(args, json),
        Command::Data(args) => data::run(args, json),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    report(&error);
    ExitCode::from(if error.is::<crate::config::Error>() { 2 } else { 1 })
}

/// The error and its causes, less those that the lines before already tell.
fn report(error: &anyhow::Error) {
    let mut told = error.to_string();
    eprintln!("error: {}", told.trim_end());
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(cause.trim_end()) {
            eprintln!("  because {cause}");
            told = cause;
        }
    }
}
