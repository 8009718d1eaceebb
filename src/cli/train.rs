//! `rigl-xla train`.

use super::run_args::RunArgs;

/// Arguments of `train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Go on from the newest checkpoint of the run folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Delete the run that the run folder holds
    #[arg(long)]
    overwrite: bool,
}

/// Runs `train`.
///
/// # Errors
/// Whatever keeps the run from its end.
pub fn run(args: Args, _json: bool) -> anyhow::Result<()> {
    let _plan = args.run.layers()?.plan()?;
    anyhow::bail!(
        "train is not linked in (resume {}, overwrite {})",
        args.resume,
        args.overwrite
    )
}
