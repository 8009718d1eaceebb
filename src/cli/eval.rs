//! `rigl-xla eval`.

use std::path::PathBuf;

use super::run_args::DeviceArgs;

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors form
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// mnist, fashion-mnist, or a folder with IDX files, gzipped or not
    #[arg(long, value_name = "NAME|DIR")]
    data: String,
    #[command(flatten)]
    device: DeviceArgs,
    /// Examples per launch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
}

/// Runs `eval`.
///
/// # Errors
/// A checkpoint, data set or device that cannot be used.
pub fn run(args: Args, _json: bool) -> anyhow::Result<()> {
    anyhow::bail!("eval is not linked in ({args:?})")
}
