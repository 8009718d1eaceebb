//! `rigl-xla eval`.

use std::path::PathBuf;

use serde::Serialize;

use super::run_args::{DeviceArgs, is_folder};
use crate::checkpoint;
use crate::data::{Split, mnist};
use crate::train::data_dir;
use crate::train::inference::{Evaluator, Scores, recognise};

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
    /// Examples per batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
}

/// What `eval --json` prints.
#[derive(Serialize)]
struct Report {
    checkpoint: PathBuf,
    model: String,
    /// Iterations that the checkpoint says it had.
    iteration: Option<u64>,
    examples: usize,
    #[serde(flatten)]
    scores: Scores,
    /// Ones over all masks, and their size; absent for a network without masks.
    nonzeros: Option<usize>,
    maskable: Option<usize>,
}

/// Runs `eval`.
///
/// # Errors
/// A checkpoint, data set or device that cannot be used.
pub fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let path = checkpoint::resolve(&args.checkpoint)?;
    let checkpoint = checkpoint::load(&path)?;
    let iteration = checkpoint.metadata.as_ref().map(|m| m.iteration);
    let (model, weights) = recognise(checkpoint)?;
    let folder = if is_folder(&args.data) { args.data.as_str() } else { "" };
    let data = mnist::load(&data_dir(&args.data, folder)?, Split::Test)?;
    let device = args.device.open()?;
    let evaluator = Evaluator::new(&device, &*model, &data, args.batch_size as usize)?;
    let masks: Vec<Vec<bool>> = weights.iter().filter_map(hlo::Literal::to_bools).collect();
    let buffers = weights
        .iter()
        .map(|w| device.client.to_device(w, 0))
        .collect::<Result<Vec<_>, _>>()?;
    let report = Report {
        checkpoint: path,
        model: model.name().to_owned(),
        iteration,
        examples: data.len(),
        scores: evaluator.run(&buffers.iter().collect::<Vec<_>>())?,
        nonzeros: (!masks.is_empty()).then(|| masks.iter().flatten().filter(|&&m| m).count()),
        maskable: (!masks.is_empty()).then(|| masks.iter().map(Vec::len).sum()),
    };
    match json {
        true => super::print_json(&report),
        false => super::print(&format!(
            "examples        {}\ntop-1           {:.2} %\ntop-5           {:.2} %\nloss            {:.4}\n",
            report.examples,
            100.0 * report.scores.top1,
            100.0 * report.scores.top5,
            report.scores.loss
        )),
    }
}
