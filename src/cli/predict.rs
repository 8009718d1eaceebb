//! `rigl-xla predict`.

use std::path::PathBuf;

use super::run_args::DeviceArgs;

/// Arguments of `predict`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors form
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Images, in safetensors form
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the logits go, in safetensors form
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs `predict`.
///
/// # Errors
/// A checkpoint, input or device that cannot be used, or an output that cannot be written.
pub fn run(args: Args, _json: bool) -> anyhow::Result<()> {
    anyhow::bail!("predict is not linked in ({args:?})")
}
