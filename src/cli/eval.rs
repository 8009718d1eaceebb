//! `rigl-xla eval`: accuracy of a checkpoint, and its cost counted from its masks.

use std::path::{Path, PathBuf};

use hlo::Literal;
use models::Layer;
use models::cost::Kept;
use serde::Serialize;
use serde_json::{Map, Value};

use super::cost::{Compared, Conventions, times};
use super::execution_args::ExecutionArgs;
use super::input_args::{DeviceArgs, NetworkArgs, StreamArgs, any_data_help, named_set, test_set};
use super::table_args::TableArgs;
use crate::checkpoint;
use crate::cli::error::{Context, Result, Usage};
use crate::config::{MAX_CONFIG_BYTES, Run};
use crate::cost::both;
use crate::data::sets::{DataSet, Examples};
use crate::device::Device;
use crate::files;
use crate::prediction::{self, SparsePredictor};
use crate::report::table::{Style, Table};
use crate::report::{escape, note, units};
use crate::train::inference::{Evaluator, Scores};
use crate::train::loaded_export;
use crate::train::loaded_network::LoadedNetwork;

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors format, or a run folder (its newest checkpoint)
    #[arg(long, value_name = "FILE", required_unless_present = "compare")]
    checkpoint: Option<PathBuf>,
    /// Evaluate several checkpoints and print one table
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "checkpoint")]
    compare: Vec<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Data set or folder, all of whose test examples are evaluated (the original skips the last 16 of CIFAR-10)
    #[arg(long, value_name = "NAME|DIR", help = any_data_help())]
    data: Option<String>,
    /// Label smoothing of the additional smoothed loss, at least 0 and less than 1 [default: from the run, or from the
    /// network's published recipe]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    label_smoothing: Option<f64>,
    /// Coefficient of the L2 loss, which covers all raw weights in the file, inactive ones included [default: from the
    /// run, or from the network's published recipe]
    #[arg(long, value_name = "COEFFICIENT", value_parser = coefficient)]
    weight_decay: Option<f64>,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Examples per batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    table: TableArgs,
}

/// JSON output of `eval` for a checkpoint.
#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "crate::report::path")]
    checkpoint: PathBuf,
    model: String,
    /// Iterations recorded in the checkpoint.
    iteration: Option<u64>,
    #[serde(flatten)]
    scores: Scores,
    /// Label smoothing of `smoothed_loss`.
    label_smoothing: f64,
    /// Coefficient of the L2 term.
    weight_decay: f64,
    /// Figures under the names of the original's `eval_once` (reference 6.1).
    eval_once: Map<String, Value>,
    /// Ones over all masks, and total mask size; absent for a network without masks.
    nonzeros: Option<usize>,
    maskable: Option<usize>,
    /// Fraction of zeros over all masks; 0 without masks.
    sparsity: f64,
    /// Operations of a forward pass of one example.
    flops: Conventions,
    /// Bytes of the arrays that inference needs, stored as connections.
    bytes: Conventions,
    /// Size of the checkpoint: whole arrays with masks, and the state of training.
    file_bytes: u64,
    layers: Vec<LayerReport>,
}

#[derive(Serialize)]
struct LayerReport {
    name: String,
    shape: Vec<usize>,
    masked: bool,
    sparsity: f64,
    weights: usize,
    nonzeros: usize,
}

/// Runs `eval`.
///
/// # Errors
/// A checkpoint, data set or device that cannot be used.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if let Some(path) = &args.checkpoint
        && let Some(loaded) = loaded_export::load(&checkpoint::resolve(path)?, args.network.model.as_deref())?
    {
        let device = args.device.open()?;
        return super::exported::eval(&loaded, args.data.as_deref(), &device, json);
    }
    // Load all checkpoints first: the device takes longest to start.
    let networks = match &args.checkpoint {
        Some(path) => vec![args.load(path)?],
        None => args.load_all()?,
    };
    let mut predictors = vec![];
    for loaded in &networks {
        predictors.push(args.execution.predictor(&loaded.network, &args.device)?);
    }
    let device = match predictors.iter().all(Option::is_some) {
        true => None,
        false => Some(args.device.open()?),
    };
    let mut reports = vec![];
    for (loaded, predictor) in networks.into_iter().zip(predictors) {
        let scores = scores(&args, device.as_ref(), predictor.as_ref(), &loaded)?;
        reports.push(Report::new(loaded, scores));
    }
    match (&reports[..], json) {
        ([report], true) if args.compare.is_empty() => super::print_json(report),
        ([report], false) if args.compare.is_empty() => super::print(&text(report, style)),
        (reports, true) => super::print_json(&reports),
        (reports, false) => super::print(&comparison(reports, style)),
    }
}

/// A network from a checkpoint, and its evaluation data.
struct Loaded {
    path: PathBuf,
    iteration: Option<u64>,
    network: LoadedNetwork,
    data: Examples,
}

impl Args {
    /// Loads the checkpoints to compare. A note names each one that fails.
    ///
    /// # Errors
    /// If all fail, the error of the last one.
    fn load_all(&self) -> Result<Vec<Loaded>> {
        let (mut loaded, mut failed) = (vec![], None);
        for path in &self.compare {
            match self.load(path) {
                Ok(network) => loaded.push(network),
                Err(error) => {
                    if let Some(before) = failed.replace(error) {
                        note!("left out: {before:#}");
                    }
                }
            }
        }
        match failed {
            Some(error) if loaded.is_empty() => return Err(error),
            Some(error) => note!("left out: {error:#}"),
            None => {}
        }
        Ok(loaded)
    }

    fn load(&self, path: &Path) -> Result<Loaded> {
        let path = checkpoint::resolve(path)?;
        let (mut network, metadata) = self.network.load(&path)?;
        network.weight_decay = self.weight_decay.unwrap_or(network.weight_decay);
        network.label_smoothing = self.label_smoothing.unwrap_or(network.label_smoothing);
        let data = match &self.data {
            Some(data) => {
                let (set, folder) = named_set(data)?;
                (set, folder.to_owned())
            }
            None => data_of_run(&path, &network)?,
        };
        Ok(Loaded {
            data: test_set((data.0, &data.1), &network, self.stream.skip_corrupt)?,
            iteration: metadata.map(|m| m.iteration),
            network,
            path,
        })
    }
}

/// The data set, and its folder, of the run that a checkpoint belongs to, from the configuration next to it, else from its own metadata.
fn data_of_run(path: &Path, network: &LoadedNetwork) -> Result<(&'static DataSet, String)> {
    let config_path = path.with_file_name(checkpoint::CONFIG);
    let stored = match files::read_text(&config_path, MAX_CONFIG_BYTES) {
        Ok(text) => Some(Run::from_toml(&text, &config_path.display().to_string())?),
        Err(_) => network.run.clone(),
    };
    let Some(run) = stored else {
        let message = format!(
            "{}: does not say what data it was trained on: give a name or a folder with --data",
            escape::path(path)
        );
        return Err(Usage(message).into());
    };
    let folder = match run.data.dir.as_str() {
        "" => String::new(),
        dir => format!(", in {}", escape::name(dir)),
    };
    note!("evaluating on the data of the run: {}{folder}", run.data.set.name);
    Ok((run.data.set, run.data.dir))
}

/// By sparse kernels where there is a predictor, else on the device.
fn scores(args: &Args, device: Option<&Device>, predictor: Option<&SparsePredictor>, of: &Loaded) -> Result<Scores> {
    let Loaded { network, data, .. } = of;
    let batch = args.batch_size as usize;
    let stream = args.stream.options(batch);
    if let Some(predictor) = predictor {
        return Ok(prediction::score(predictor, network.inference(), data, batch, stream)?);
    }
    let device = device.context("no device was started")?;
    let evaluator = Evaluator::new(device, network.inference(), data, batch, stream)?;
    let to_device = |weights: &Literal| device.upload(weights, 0);
    let buffers = network.weights.iter().map(to_device).collect::<Result<Vec<_>, _>>()?;
    Ok(evaluator.run(&buffers.iter().collect::<Vec<_>>())?)
}

impl Report {
    fn new(of: Loaded, scores: Scores) -> Self {
        let network = &of.network;
        let cost = network.cost();
        let layers: Vec<LayerReport> = cost.layers.iter().zip(&cost.kept).map(LayerReport::new).collect();
        let masked = || layers.iter().filter(|layer| layer.masked);
        let (nonzeros, maskable) = masked().fold((0, 0), |(n, m), layer| (n + layer.nonzeros, m + layer.weights));
        let has_masks = maskable > 0;
        let (sparse, dense) = (&cost.sparse.total, &cost.dense.total);
        let (bytes, plain_bytes) = (
            [sparse, dense].map(|counts| counts.published_bits / 8.0),
            cost.plain_bytes,
        );
        Report {
            model: network.model.name().to_owned(),
            iteration: of.iteration,
            label_smoothing: network.label_smoothing,
            weight_decay: network.weight_decay,
            eval_once: eval_once(network, &scores, &layers),
            scores,
            nonzeros: has_masks.then_some(nonzeros),
            maskable: has_masks.then_some(maskable),
            sparsity: if has_masks {
                1.0 - nonzeros as f64 / maskable as f64
            } else {
                0.0
            },
            flops: Conventions::new(both(sparse), both(dense)),
            bytes: Conventions::new([bytes[0], plain_bytes[0]], [bytes[1], plain_bytes[1]]),
            layers,
            file_bytes: std::fs::metadata(&of.path).map_or(0, |file| file.len()),
            checkpoint: of.path,
        }
    }
}

/// Figures of the original's `eval_once`; `global_step` only if the checkpoint has one.
fn eval_once(network: &LoadedNetwork, scores: &Scores, layers: &[LayerReport]) -> Map<String, Value> {
    let (cross, l2) = (scores.smoothed_loss.unwrap_or(scores.loss), network.l2_term());
    let figures = [
        ("eval_accuracy", scores.top1.unwrap_or(f64::NAN).into()),
        ("top_5_eval_accuracy", scores.top5.unwrap_or(f64::NAN).into()),
        ("cross_loss", cross.into()),
        ("reg_loss", l2.into()),
        ("loss", (cross + l2).into()),
    ];
    let step = network.global_step.map(|step| ("global_step", step.into()));
    let figures = figures.into_iter().chain(step);
    let figures = figures.map(|(name, value)| (name.to_owned(), value));
    let masks = layers.iter().filter(|layer| layer.masked);
    let masks = masks.map(|layer| (format!("pruning/{}/mask/sparsity", layer.name), layer.sparsity.into()));
    figures.chain(masks).collect()
}

impl LayerReport {
    fn new((layer, kept): (&Layer, &Kept)) -> Self {
        LayerReport {
            name: layer.name.clone(),
            shape: layer.dims.clone(),
            masked: layer.masked,
            sparsity: kept.sparsity,
            weights: layer.weights(),
            nonzeros: kept.nonzeros,
        }
    }
}

fn text(report: &Report, style: Style) -> String {
    let mut layers = Table::new(&["layer", "shape", "sparsity", "weights", "nonzeros"]);
    for layer in &report.layers {
        layers.row([
            layer.name.clone(),
            times(&layer.shape),
            if layer.masked {
                format!("{:.6}", layer.sparsity)
            } else {
                "dense".into()
            },
            layer.weights.to_string(),
            layer.nonzeros.to_string(),
        ]);
    }
    if style == Style::Csv {
        return layers.write(style);
    }
    let scores = &report.scores;
    let smoothed = scores.smoothed_loss.map(|loss| ("smoothed loss", format!("{loss:.4}")));
    let skipped = scores.skipped.map(|n| ("left out", format!("{n} corrupt records")));
    let (flops, bytes) = (&report.flops, &report.bytes);
    let lines = [("examples", scores.examples.to_string())];
    let measured = scores.shown();
    let measured = measured.iter().map(|(what, value)| (what.as_str(), value.clone()));
    let cost = [
        ("sparsity", format!("{:.4}", report.sparsity)),
        ("FLOPs", figure(&flops.published, units::count)),
        ("  plain", figure(&flops.plain, units::count)),
        (
            "sparse size",
            figure(&bytes.published, units::bytes) + ", if only the connections were stored",
        ),
        ("  plain", figure(&bytes.plain, units::bytes)),
        (
            "file",
            format!(
                "{}{}",
                units::bytes(report.file_bytes as f64),
                if report.file_bytes as f64 > 1.5 * bytes.plain.sparse {
                    ", with whole arrays, masks and the state of training"
                } else {
                    ""
                }
            ),
        ),
    ];
    let original = report
        .eval_once
        .iter()
        .filter(|(name, _)| !name.starts_with("pruning/"));
    let original: String = original
        .map(|(name, value)| format!("{name:<24}{}\n", shown(value)))
        .collect();
    let lines = lines
        .into_iter()
        .chain(measured)
        .chain(smoothed)
        .chain(skipped)
        .chain(cost);
    let lines: String = lines.map(|(what, value)| format!("{what:<16}{value}\n")).collect();
    format!(
        "{}\n{lines}\nas the original's eval_once, mask sparsities above\n{original}",
        layers.write(style)
    )
}

/// Formats a number with the digits that TensorFlow prints for float32.
fn shown(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(value) => format!("{value:.7}"),
        None => value.to_string(),
    }
}

/// Formats a figure, with its ratio to the dense network.
fn figure(figure: &Compared, shown: fn(f64) -> String) -> String {
    format!("{}, {:.4}x dense", shown(figure.sparse), figure.ratio)
}

fn comparison(reports: &[Report], style: Style) -> String {
    let [count, bytes] = units::forms(style);
    let mut table = Table::new(&[
        "checkpoint",
        "model",
        "iteration",
        "top-1 %",
        "top-5 %",
        "loss",
        "smoothed loss",
        "sparsity",
        "FLOPs",
        "x dense",
        "sparse bytes",
        "file bytes",
    ]);
    for report in reports {
        let scores = &report.scores;
        table.row([
            report.checkpoint.display().to_string(),
            report.model.clone(),
            report
                .iteration
                .map(|iteration| iteration.to_string())
                .unwrap_or_default(),
            format!("{:.2}", 100.0 * scores.top1.unwrap_or(f64::NAN)),
            format!("{:.2}", 100.0 * scores.top5.unwrap_or(f64::NAN)),
            format!("{:.4}", scores.loss),
            scores
                .smoothed_loss
                .map(|loss| format!("{loss:.4}"))
                .unwrap_or_default(),
            format!("{:.4}", report.sparsity),
            count(report.flops.published.sparse),
            format!("{:.4}", report.flops.published.ratio),
            bytes(report.bytes.published.sparse),
            bytes(report.file_bytes as f64),
        ]);
    }
    table.write(style)
}

fn coefficient(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..f64::INFINITY).contains(value));
    value.ok_or_else(|| "expected a number of at least 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "expected a number of at least 0 and less than 1".to_owned())
}
