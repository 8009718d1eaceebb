//! `rigl-xla dump-hlo`.

use std::path::PathBuf;

use super::run_args::RunArgs;

/// Arguments of `dump-hlo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Which graph
    #[arg(long, value_enum, default_value_t)]
    graph: Graph,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// As compiled by the plugin, not as built
    #[arg(long)]
    optimized: bool,
    /// File to write; standard output without it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A graph of a run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub enum Graph {
    /// One training iteration
    #[default]
    Step,
    /// One mask update
    Update,
    /// Evaluation of one batch
    Eval,
}

/// A form of a graph.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub enum Format {
    /// Readable HLO
    #[default]
    Text,
    /// Binary HloModuleProto
    Proto,
    /// Graphviz
    Dot,
}

/// Runs `dump-hlo`.
///
/// # Errors
/// A run that cannot be built or, with `--optimized`, compiled; an output that cannot be written.
pub fn run(args: Args, _json: bool) -> anyhow::Result<()> {
    let _plan = args.run.layers()?.plan()?;
    let Args {
        graph,
        format,
        optimized,
        output,
        ..
    } = args;
    anyhow::bail!("dump-hlo is not linked in ({graph:?} {format:?} {optimized} {output:?})")
}
