//! `rigl-xla compact`: shrinks a checkpoint by removing dead units or by storing only the connections.

use std::fmt;
use std::path::PathBuf;

use hlo::{DType, Literal};
use models::Model;
use models::cost::{Counts, Kept};
use serde::Serialize;

use super::input_args::{DeviceArgs, named_set, test_set};
use super::sparse_files::{self, Conversion, is_same_file};
use crate::checkpoint::sparse::Format;
use crate::checkpoint::{self, Checkpoint, Metadata};
use crate::cli::error::{Result, Usage, bail};
use crate::data::sets::Examples;
use crate::device::Device;
use crate::train::dead_units::{self, Arrays, Difference};
use crate::train::inference::Predictor;
use crate::train::loaded_network::{LoadedNetwork, infer_network};
use crate::train::state::inference_specs;
use pjrt::DeviceKind;
use sparse::dead_units::{Connections, MaskedLayer, Passes, format_sizes};
use sparse::rng::{BoundedRng, stream};

/// Number of timed runs of each network; the median is reported.
const RUNS: usize = 51;

/// Arguments of `compact`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors format, or a run folder; removing units requires mnist-fc trained with masks
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Output file in safetensors format
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output file if it exists
    #[arg(long)]
    overwrite: bool,
    /// Storage of masked layers: complete; bitmask, one bit per weight and the values of connections, the published
    /// size; or csr, for SciPy and PyTorch (docs/formats.md) [default: complete]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Remove units that no connection needs; the default, except with --format bitmask or csr
    #[arg(long)]
    remove_units: bool,
    /// Keep batch normalisation. By default --format bitmask and csr fold it into the preceding kernels
    #[arg(long)]
    keep_batch_norm: bool,
    /// Remove units until none can be removed; the original makes a single pass
    #[arg(long)]
    fixpoint: bool,
    /// Compare logits on this test set instead of random images: mnist, fashion-mnist, or a folder with IDX files
    #[arg(long, value_name = "NAME|DIR")]
    data: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Images per batch, for the comparison and the timing
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_size: u32,
}

/// JSON output of `compact`.
#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "crate::report::path")]
    checkpoint: PathBuf,
    #[serde(serialize_with = "crate::report::path")]
    output: PathBuf,
    model: &'static str,
    /// Iterations recorded in the checkpoint.
    iteration: Option<u64>,
    fixpoint: bool,
    format: &'static str,
    before: Figures,
    after: Figures,
    batch_size: usize,
    /// Data set whose test images were compared; `None` for random images.
    data: Option<String>,
    images: usize,
    #[serde(flatten)]
    difference: Difference,
}

/// Figures of one network.
#[derive(Serialize)]
struct Figures {
    /// Number of inputs, then units of each layer.
    sizes: Vec<usize>,
    /// Weights and biases, inactive weights included.
    parameters: usize,
    /// Active weights.
    nonzeros: usize,
    /// Fraction of zeros of each layer's weights.
    sparsities: Vec<f64>,
    /// Multiplications and additions per image, without inactive weights (reference 5.1).
    flops: usize,
    /// The same with inactive weights, as the device computes.
    dense_flops: usize,
    /// Size with one mask bit per weight of a sparse layer (reference 5.1).
    bytes: f64,
    /// Median milliseconds from launch to logits for one batch.
    batch_ms: f64,
}

/// Runs `compact`.
///
/// # Errors
/// A checkpoint, data set or device that cannot be used, logits that differ, or an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    super::check_output(&args.output)?;
    let path = checkpoint::resolve(&args.checkpoint)?;
    if is_same_file(&path, &args.output) {
        let output = args.output.display();
        return Err(Usage(format!(
            "--output {output} is the checkpoint itself, expected another file"
        ))
        .into());
    }
    super::refuse_existing(&args.output, &args.output, args.overwrite)?;
    let format = args.format.unwrap_or_default();
    if format != Format::Complete && !args.remove_units && !args.fixpoint {
        if args.data.is_some() {
            let message = "--data compares logits after units are removed, expected --remove-units as well";
            return Err(Usage(message.into()).into());
        }
        let fold = !args.keep_batch_norm;
        let conversion = Conversion {
            format,
            fold,
            strip: true,
        };
        return sparse_files::convert(&path, &args.output, conversion)?.print(json);
    }
    let checkpoint = checkpoint::load(&path)?;
    let metadata = checkpoint.metadata.clone();
    let large = Network::of(checkpoint)?;
    let passes = if args.fixpoint { Passes::Fixpoint } else { Passes::One };
    let arrays = dead_units::remove(&large.arrays, passes)?;
    let small = Network::of(Checkpoint {
        path: args.output.clone(),
        tensors: arrays.clone(),
        unread: Default::default(),
        metadata: None,
    })?;
    let images = images(args.data.as_deref(), &large.network, args.batch_size as usize)?;
    let batch = (args.batch_size as usize).min(images.dims()[0]);
    let device = args.device.open()?;
    let (difference, [before_ms, after_ms]) = measure(&device, [&large, &small], &images, batch)?;
    if !difference.is_rounding(tolerance(device.kind)) {
        bail!(
            "{}: logits of the smaller network differ by {}, expected at most {} of the largest, {}; nothing was written",
            path.display(),
            difference.largest_difference,
            tolerance(device.kind),
            difference.largest_logit
        );
    }
    let report = Report {
        model: dead_units::MODEL,
        iteration: metadata.as_ref().map(|m| m.iteration),
        fixpoint: args.fixpoint,
        format: format.name(),
        before: large.figures(before_ms),
        after: small.figures(after_ms),
        batch_size: batch,
        data: args.data,
        images: images.dims()[0],
        difference,
        checkpoint: path,
        output: args.output,
    };
    let metadata = small_metadata(metadata, &report.before.sizes);
    checkpoint::sparse::save(&report.output, arrays, Some(&metadata), format)?;
    match json {
        true => super::print_json(&report),
        false => super::print(&report.to_string()),
    }
}

/// A network loaded as `eval` and `predict` load it.
struct Network {
    network: LoadedNetwork,
    arrays: Arrays,
    layers: Vec<MaskedLayer>,
}

impl Network {
    fn of(checkpoint: Checkpoint) -> Result<Self> {
        let path = checkpoint.path.clone();
        let network = infer_network(checkpoint, None, None)?;
        let (model, weights) = (&network.model, &network.weights);
        if model.name() != dead_units::MODEL {
            bail!(
                "{}: model '{}', expected '{}', the one that compact takes",
                path.display(),
                model.name(),
                dead_units::MODEL
            );
        }
        let specs = inference_specs(&model.declaration());
        let names = specs.into_iter().map(|(name, _)| name);
        let arrays = names.zip(weights.iter().cloned()).collect();
        let layers = dead_units::layers(&arrays)?;
        if layers.is_empty() {
            bail!(
                "{}: no masks, expected a checkpoint of sparse training: in a dense network every unit is connected",
                path.display()
            );
        }
        Ok(Network {
            network,
            arrays,
            layers,
        })
    }

    fn figures(&self, batch_ms: f64) -> Figures {
        let connections: Vec<_> = self.layers.iter().map(|layer| &layer.connections).collect();
        Figures::new(&*self.network.model, &connections, batch_ms)
    }
}

/// The checkpoint's metadata, with the original sizes added.
fn small_metadata(large: Option<Metadata>, sizes: &[usize]) -> Metadata {
    let mut metadata = large.unwrap_or_else(|| Metadata::new(dead_units::MODEL, 0, ""));
    let first = || format_sizes(sizes);
    metadata.extra.entry("compacted_from".into()).or_insert_with(first);
    metadata
}

/// Returns test images of a data set, or one batch of random images.
fn images(data: Option<&str>, network: &LoadedNetwork, batch: usize) -> Result<Literal> {
    if let Some(data) = data {
        return match test_set(named_set(data)?, network, 0)? {
            Examples::Whole(set) => Ok(set.images),
            Examples::Records(_) | Examples::Arrays(_) => {
                bail!("--data {data}: holds TFRecords or arrays, expected a data set that fits in memory")
            }
        };
    }
    let dims = [vec![batch], network.model.input_dims()].concat();
    let mut rng = stream(0, "compact", "images", 0);
    let pixels: Vec<u8> = (0..dims.iter().product()).map(|_| rng.up_to(255) as u8).collect();
    Ok(Literal::new(&dims, &pixels))
}

/// Measures the difference of the logits, and each network's milliseconds per batch.
fn measure(device: &Device, networks: [&Network; 2], images: &Literal, batch: usize) -> Result<(Difference, [f64; 2])> {
    let [before, after] =
        networks.map(|Network { network: n, .. }| Predictor::new(device, n.inference(), &n.weights, batch, DType::U8));
    let (before, after) = (before?, after?);
    let [large, small] = [&before, &after].map(|network| network.logits(images));
    let difference = Difference::between(&large?.to_f64_vec(), &small?.to_f64_vec());
    let times = dead_units::batch_times([&before, &after], &before.upload(images.bytes())?, RUNS)?;
    Ok((difference, times.map(|time| 1e3 * time.as_secs_f64())))
}

/// Maximum rounding difference of logits, relative to the largest. Accelerators round the factors of matrix products to
/// TF32 or bfloat16, whose last bit is 2^-11 or 2^-8.
fn tolerance(kind: DeviceKind) -> f64 {
    match kind {
        DeviceKind::Cpu => 1e-5,
        _ => 1e-2,
    }
}

impl Figures {
    /// Counts `model` with these connections, layer by layer.
    fn new(model: &dyn Model, connections: &[&Connections], batch_ms: f64) -> Self {
        let inputs = connections.first().map(|first| first.dims()[0]);
        let units = || connections.iter().map(|layer| layer.dims()[1]);
        let (mut sparse, mut dense) = (Counts::default(), Counts::default());
        for (layer, connections) in model.layers().iter().zip(connections) {
            if connections.dims()[1] == 0 {
                continue; // the published count divides by the outputs
            }
            let kept = Kept {
                sparsity: connections.sparsity(),
                nonzeros: connections.nonzeros(),
            };
            sparse += Counts::new(layer, kept);
            dense += Counts::new(layer, Kept::all(layer));
        }
        Figures {
            sizes: inputs.into_iter().chain(units()).collect(),
            parameters: dense.weights + units().sum::<usize>(),
            nonzeros: sparse.nonzeros,
            sparsities: connections.iter().map(|layer| layer.sparsity()).collect(),
            // Whole numbers, except for rounding of sparsities.
            flops: sparse.published_flops.round() as usize,
            dense_flops: dense.published_flops.round() as usize,
            bytes: sparse.published_bits.round() / 8.0,
            batch_ms,
        }
    }
}

impl Report {
    /// Rows of the text table: label, then values before and after.
    fn rows(&self) -> Vec<(String, [String; 2])> {
        let both = |of: &dyn Fn(&Figures) -> String| [of(&self.before), of(&self.after)];
        let sparsity = |i: usize| {
            (
                format!("sparsity of layer{}", i + 1),
                both(&|n| format!("{:.6}", n.sparsities[i])),
            )
        };
        let counts = [
            ("sizes", both(&|n| format_sizes(&n.sizes))),
            ("parameters", both(&|n| n.parameters.to_string())),
            ("nonzeros", both(&|n| n.nonzeros.to_string())),
        ];
        let costs = [
            ("FLOPs", both(&|n| n.flops.to_string())),
            ("FLOPs with zeros", both(&|n| n.dense_flops.to_string())),
            ("bytes", both(&|n| n.bytes.to_string())),
            ("ms per batch", both(&|n| format!("{:.3}", n.batch_ms))),
        ];
        let named = |(what, figures): (&str, _)| (what.to_string(), figures);
        let sparsities = (0..self.before.sparsities.len()).map(sparsity);
        counts
            .map(named)
            .into_iter()
            .chain(sparsities)
            .chain(costs.map(named))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = (String::new(), ["before", "after"].map(String::from));
        for (what, [before, after]) in [header].into_iter().chain(self.rows()) {
            writeln!(f, "{what:<20}{before:>18}{after:>18}")?;
        }
        let Difference {
            largest_difference,
            largest_logit,
        } = self.difference;
        let images = match &self.data {
            Some(data) => format!("test images of {data}"),
            None => "random images".into(),
        };
        writeln!(f, "\nbatches of {}; {} {images}:", self.batch_size, self.images)?;
        writeln!(
            f,
            "logits differ by at most {largest_difference:.1e}, the largest being {largest_logit:.1}"
        )?;
        writeln!(f, "smaller checkpoint in {}", self.output.display())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::MnistFc;

    /// Figures of a network with these sizes, in which each layer has its first `nonzeros` weights.
    fn figures(sizes: [usize; 4], nonzeros: [usize; 3]) -> Figures {
        let model = MnistFc {
            kept_pixels: Some(sizes[0]),
            hidden: sizes[1..3].to_vec(),
            ..MnistFc::new(true)
        };
        let connections = [0, 1, 2].map(|i| {
            let (inputs, outputs) = (sizes[i], sizes[i + 1]);
            let mask = (0..inputs * outputs).map(|at| at < nonzeros[i]).collect();
            Connections::new(inputs, outputs, mask).unwrap()
        });
        Figures::new(&model, &connections.each_ref(), 0.0)
    }

    /// Operations as the paper prints them: two per weight, without biases and ReLUs.
    fn kilo_flops(figures: &Figures) -> String {
        let units: usize = figures.sizes[1..].iter().sum();
        format!("{:.1}", (figures.flops - units) as f64 / 1e3)
    }

    /// Table 2 of the paper. For each RigL architecture, exactly one number of connections reproduces the printed size
    /// (in whole bytes), operations and sparsity, with a dense last layer.
    #[test]
    fn published_costs_of_sparse_architectures() {
        for (sizes, nonzeros, operations, bytes, sparsity) in [
            ([408, 100, 69, 10], 6309, "12.6", 31914, "0.870"),
            ([375, 62, 51, 10], 3080, "6.2", 16113, "0.886"),
        ] {
            let last = sizes[2] * sizes[3];
            let figures = figures(sizes, [nonzeros / 3, nonzeros - last - nonzeros / 3, last]);
            let weights = figures.parameters - sizes[1..].iter().sum::<usize>();
            assert_eq!((&figures.sizes[..], figures.nonzeros), (&sizes[..], nonzeros));
            assert_eq!((figures.bytes as usize, &kilo_flops(&figures)[..]), (bytes, operations));
            assert_eq!(format!("{:.3}", 1.0 - nonzeros as f64 / weights as f64), sparsity);
        }
    }

    /// The dense architectures of the same table.
    #[test]
    fn published_costs_of_structured_pruning() {
        for (sizes, operations, bytes) in [
            ([245, 160, 55, 10], "97.1", 195_100.0),
            ([266, 88, 33, 10], "53.3", 107_092.0),
            ([97, 71, 33, 10], "19.1", 38_696.0),
        ] {
            let figures = figures(sizes, [0, 1, 2].map(|i| sizes[i] * sizes[i + 1]));
            assert_eq!((figures.bytes, &kilo_flops(&figures)[..]), (bytes, operations));
            assert_eq!(
                (figures.flops, &figures.sparsities[..]),
                (figures.dense_flops, &[0.0; 3][..])
            );
        }
    }
}
