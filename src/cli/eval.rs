//! `rigl-xla eval`.

use std::path::PathBuf;

use serde::Serialize;

use super::run_args::{DeviceArgs, NetworkArgs, StreamArgs, test_set};
use crate::checkpoint;
use crate::train::inference::{Evaluator, Scores};

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// mnist, fashion-mnist, cifar10, synthetic, null, or a folder with IDX files, gzipped or not, the files of CIFAR-10, or
    /// ImageNet's TFRecords; all test examples are evaluated (the original leaves out the last 16 of CIFAR-10)
    #[arg(long, value_name = "NAME|DIR")]
    data: String,
    #[command(flatten)]
    device: DeviceArgs,
    /// Examples per batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[command(flatten)]
    stream: StreamArgs,
}

/// What `eval --json` prints.
#[derive(Serialize)]
struct Report {
    checkpoint: PathBuf,
    model: String,
    /// Iterations that the checkpoint says it had.
    iteration: Option<u64>,
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
    let path = checkpoint::resolve(&args.network.checkpoint)?;
    let (network, metadata) = args.network.load(&path)?;
    let data = test_set(&args.data, &network, args.stream.skip_corrupt)?;
    let device = args.device.open()?;
    let batch = args.batch_size as usize;
    let stream = args.stream.options(batch);
    let evaluator = Evaluator::new(&device, network.inference(), &data, batch, stream)?;
    let masks: Vec<Vec<bool>> = network.weights.iter().filter_map(hlo::Literal::to_bools).collect();
    let buffers = network
        .weights
        .iter()
        .map(|w| device.client.to_device(w, 0))
        .collect::<Result<Vec<_>, _>>()?;
    let report = Report {
        checkpoint: path,
        model: network.model.name().to_owned(),
        iteration: metadata.map(|m| m.iteration),
        scores: evaluator.run(&device, &buffers.iter().collect::<Vec<_>>())?,
        nonzeros: (!masks.is_empty()).then(|| masks.iter().flatten().filter(|&&m| m).count()),
        maskable: (!masks.is_empty()).then(|| masks.iter().map(Vec::len).sum()),
    };
    match json {
        true => super::print_json(&report),
        false => super::print(&text(&report)),
    }
}

fn text(report: &Report) -> String {
    let scores = &report.scores;
    let smoothed = scores.smoothed_loss.map(|loss| ("smoothed loss", format!("{loss:.4}")));
    let lines = [
        ("examples", scores.examples.to_string()),
        ("top-1", format!("{:.2} %", 100.0 * scores.top1)),
        ("top-5", format!("{:.2} %", 100.0 * scores.top5)),
        ("loss", format!("{:.4}", scores.loss)),
    ];
    let skipped = Some(scores.skipped).filter(|&n| n > 0);
    let skipped = skipped.map(|n| ("left out", format!("{n} corrupt records")));
    lines
        .into_iter()
        .chain(smoothed)
        .chain(skipped)
        .map(|(what, value)| format!("{what:<16}{value}\n"))
        .collect()
}
