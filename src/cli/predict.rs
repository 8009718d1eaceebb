//! `rigl-xla predict`.

use std::path::PathBuf;

use hlo::Literal;
use serde_json::json;

use super::execution_args::ExecutionArgs;
use super::input_args::{DeviceArgs, NetworkArgs};
use crate::checkpoint::{self, Metadata};
use crate::cli::error::{Result, bail};
use crate::report::escape;
use crate::train::inference::predict;
use crate::train::loaded_export;

/// Arguments of `predict`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors format, or a run folder
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    /// Images in safetensors format: the tensor `images`, or the only one; u8 pixels, or f32 as the model takes them;
    /// channels last. For an exported model a file or folder of its inputs
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Output file in safetensors format with the tensor `logits`, or the predictions of an exported model
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output file if it exists
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs `predict`.
///
/// # Errors
/// A checkpoint, input or device that cannot be used, or an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    super::check_output(&args.output)?;
    super::refuse_existing(&args.output, &args.output, args.overwrite)?;
    let path = checkpoint::resolve(&args.checkpoint)?;
    if let Some(loaded) = loaded_export::load(&path, args.network.model.as_deref())? {
        let device = args.device.open()?;
        return super::exported::predict(&loaded, [&args.input, &args.output], &device, json);
    }
    let (network, metadata) = args.network.load(&path)?;
    let iteration = metadata.map_or(0, |m| m.iteration);
    let images = images(&args.input)?;
    let logits = match args.execution.predictor(&network, &args.device)? {
        Some(predictor) => predictor.logits(&images)?,
        None => predict(&args.device.open()?, network.inference(), &network.weights, &images)?,
    };
    let model = network.model;
    let shape = logits.dims().to_vec();
    let metadata = Metadata::new(model.name(), iteration, "");
    checkpoint::save(&args.output, &[("logits".to_string(), logits)].into(), &metadata)?;
    match json {
        true => super::print_json(
            &json!({ "output": args.output.display().to_string(), "model": model.name(), "logits": shape }),
        ),
        false => super::print(&format!("logits {shape:?} in {}\n", args.output.display())),
    }
}

/// Reads the images of an input file.
fn images(path: &std::path::Path) -> Result<Literal> {
    let mut tensors = checkpoint::load(path)?.tensors;
    let names: Vec<String> = tensors.keys().cloned().collect();
    let name = match names.as_slice() {
        [only] => only.as_str(),
        _ => "images",
    };
    match tensors.remove(name) {
        Some(images) => Ok(images),
        None => bail!(
            "{}: holds {} tensors, {}, expected one, or a tensor 'images'",
            escape::path(path),
            names.len(),
            first_of(&names)
        ),
    }
}

/// Lists the first three names, and counts the rest.
fn first_of(names: &[String]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(3)
        .map(|name| format!("'{}'", escape::name(name)))
        .collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
