//! `rigl-xla cost`: cost of a network from its layers, as published, and as the compiler estimates it.

use serde::Serialize;
use toml::{Table as Toml, Value};

use super::run_args::RunArgs;
use super::table_args::TableArgs;
use super::{compiled, measured, paper};
use crate::cli::error::{Result, Usage};
use crate::config::{Layers, Plan};
use crate::cost::{PlanCost, both, counted};
use crate::report::table::{Style, Table};
use crate::report::units;
use models::cost::Counts;
use models::{Kind, Layer};
use sparse::KeepCount;

/// Arguments of `cost`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Figures are rounded to four digits; those of --csv, --markdown and --json are exact. Tables fit the \
                        terminal, or COLUMNS; in a pipe every row is one line."
)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Print every published row with operations or a size, computed and as printed; only format flags may be added
    #[arg(long)]
    paper: bool,
    /// Add XLA's figures of the compiled programs: operations, bytes, memory
    #[arg(long, conflicts_with = "paper")]
    compiled: bool,
    /// With --compiled: also the operations and bytes of each program by layer and phase
    #[arg(long, requires = "compiled")]
    by_layer: bool,
    /// Time every masked layer on this machine's processor, masked and from its connections alone: a training step of
    /// the run's batch, and a prediction of one example
    #[arg(long, conflicts_with = "paper")]
    measured: bool,
    /// Count as the published notebooks do: every kernel may be sparse, also the first and depthwise ones, and --width
    /// scales shapes to int(channels x FACTOR) with the sparsities of width 1, to which ratios refer
    #[arg(long, conflicts_with_all = ["paper", "compiled", "measured"])]
    as_published: bool,
    /// Sparsity of depthwise kernels [default: by the distribution]
    #[arg(long, value_name = "SHARE", requires = "as_published")]
    depthwise_sparsity: Option<f64>,
    #[command(flatten)]
    table: TableArgs,
}

/// Runs `cost`.
///
/// # Errors
/// [`crate::config::Error`] for a configuration that cannot run; with `--compiled` also errors of the device.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if args.paper {
        return paper::run(style, json);
    }
    if (args.compiled || args.measured) && style == Style::Csv {
        let message = "--csv holds the layers alone: take --json or --markdown with --compiled and --measured";
        return Err(Usage(message.into()).into());
    }
    let layers = layers(&args.run)?.fitted()?;
    let (plan, cost) = if args.as_published {
        counted(&layers, args.depthwise_sparsity)?
    } else {
        let plan = layers.plan()?;
        let cost = PlanCost::of(&plan);
        (plan, cost)
    };
    let compiled = match args.compiled {
        true => Some(compiled::programs(&plan, args.by_layer)?),
        false => None,
    };
    let measured = match args.measured {
        true if plan.exported.is_some() => {
            let message = "--measured: an exported model is computed with masked layers only; take --compiled";
            return Err(Usage(message.into()).into());
        }
        true => Some(measured::layers(&plan)?),
        false => None,
    };
    let report = Report {
        measured,
        ..Report::new(&plan, &cost, compiled)
    };
    if json {
        return super::print_json(&report);
    }
    super::print(&report.write(style))
}

/// The run's configuration. If the model differs from the preset's, the preset's model settings are dropped.
fn layers(run: &RunArgs) -> Result<Layers, crate::config::Error> {
    let base = run.base()?;
    let own = base.run()?.model.name;
    if run.keys.model.as_ref().is_none_or(|model| *model == own) {
        return run.flags_over(base);
    }
    let none = Value::Table(Toml::new());
    run.flags_over(base.set("--model", &["sparsity", "layers"], none)?)
}

/// Output of `cost`.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    method: &'a str,
    distribution: String,
    rounding: String,
    /// Requested sparsity.
    sparsity: f64,
    multiplier: f64,
    layers: Vec<LayerReport<'a>>,
    /// Whether the method ranks layers globally; the figures per layer then assume an even distribution.
    ranked_together: bool,
    /// Why the run does not reach the requested sparsity; the figures are those of the sparsity it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    total: Total,
    #[serde(skip_serializing_if = "Option::is_none")]
    compiled: Option<Vec<compiled::Program>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Vec<measured::MeasuredLayer>>,
}

#[derive(Serialize)]
struct LayerReport<'a> {
    name: &'a str,
    kind: &'static str,
    shape: &'a [usize],
    /// Height and width; 1 x 1 for a dense layer.
    output: [usize; 2],
    masked: bool,
    /// Sparsity before rounding.
    sparsity: f64,
    weights: usize,
    nonzeros: usize,
    /// Operations of a forward pass, per example.
    flops: Conventions,
    /// Size by the published convention.
    bytes: Compared,
}

/// A figure with and without masks.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Compared {
    pub(super) sparse: f64,
    dense: f64,
    /// Sparse over dense.
    pub(super) ratio: f64,
}

impl Compared {
    fn new(sparse: f64, dense: f64) -> Self {
        let ratio = if dense == 0.0 { 1.0 } else { sparse / dense };
        Compared { sparse, dense, ratio }
    }
}

/// A figure by both conventions.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Conventions {
    /// As in the published tables: every layer with bias and ReLU, unrounded sparsities.
    pub(super) published: Compared,
    /// Two operations per multiply-add of the connections, and nothing else.
    pub(super) plain: Compared,
}

impl Conventions {
    pub(super) fn new([published, plain]: [f64; 2], [published_dense, plain_dense]: [f64; 2]) -> Self {
        Conventions {
            published: Compared::new(published, published_dense),
            plain: Compared::new(plain, plain_dense),
        }
    }
}

#[derive(Serialize)]
struct Total {
    weights: usize,
    nonzeros: usize,
    /// Sparsity after rounding.
    sparsity: f64,
    /// Operations of a forward pass, per example.
    inference_flops: Conventions,
    /// Operations of a training iteration, per example, averaged over the run.
    training_flops: Conventions,
    /// Operations of the whole run; dense: a dense run of multiplier 1.
    training_run_flops: Conventions,
    /// Published: by the published rule. Plain: connections and all other inference arrays in f32, and one bit per
    /// weight of layers with zeros.
    bytes: Conventions,
}

impl Total {
    fn new(plan: &Plan, cost: &PlanCost) -> Self {
        let (sparse, dense) = (&cost.sparse.total, &cost.dense.total);
        let dense_training = both(dense).map(|flops| 3.0 * flops);
        let ratio = cost.training_ratio(plan);
        let run = cost.training_total(plan);
        let published = [sparse, dense].map(|counts| counts.published_bits / 8.0);
        let plain = cost.plain_bytes(plan);
        Total {
            weights: sparse.weights,
            nonzeros: sparse.nonzeros,
            sparsity: sparse.sparsity(),
            inference_flops: Conventions::new(both(sparse), both(dense)),
            training_flops: Conventions::new(cost.training, dense_training),
            training_run_flops: Conventions::new(run, [0, 1].map(|i| run[i] / ratio[i])),
            bytes: Conventions::new([published[0], plain[0]], [published[1], plain[1]]),
        }
    }
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, cost: &'a PlanCost, compiled: Option<Vec<compiled::Program>>) -> Self {
        let config = &plan.run.sparsity;
        let counts = cost.sparse.layers.iter().zip(&cost.dense.layers);
        let layers = cost.layers.iter().zip(&cost.kept).zip(counts);
        Report {
            model: &plan.run.model.name,
            method: plan.method.name,
            distribution: config.distribution.to_string(),
            rounding: config.rounding.to_string(),
            sparsity: config.target,
            multiplier: plan.run.train.multiplier,
            layers: layers
                .map(|((layer, kept), (sparse, dense))| LayerReport::new(layer, kept.sparsity, sparse, dense))
                .collect(),
            ranked_together: plan.method.keep == KeepCount::TotalBudget,
            incomplete: plan.incomplete(),
            total: Total::new(plan, cost),
            compiled,
            measured: None,
        }
    }

    fn write(&self, style: Style) -> String {
        let layers = self.layer_table(style).write(style);
        if style == Style::Csv {
            return layers;
        }
        let head = format!(
            "{} with {}, {} distribution\nsparsity {}, training multiplier {}\n",
            self.model, self.method, self.distribution, self.sparsity, self.multiplier
        );
        let mut note = String::new();
        if style == Style::Text {
            note += "(FLOPs of a forward pass, published and plain; exact figures: --csv, --json)\n";
        }
        if self.ranked_together {
            note += &format!("{}\n", super::RANKED_TOGETHER);
        }
        if let Some(problem) = &self.incomplete {
            note += &format!("note: {problem}\n");
        }
        let mut text = format!("{head}\n{layers}{note}\n{}", self.total_table().write(style));
        if let Some(programs) = &self.compiled {
            text.push('\n');
            text.push_str(&compiled::table(programs, style).write(style));
            text.push_str(&compiled::by_layer(programs, style));
        }
        if let Some(layers) = &self.measured {
            text.push('\n');
            text.push_str(&measured::table(layers, style).write(style));
        }
        text
    }

    /// Rounded with short headers in text; exact in the other formats.
    fn layer_table(&self, style: Style) -> Table {
        let (sparsities, headers) = match style {
            Style::Text => (4, ["FLOPs", "plain"]),
            Style::Markdown | Style::Csv => (6, ["published FLOPs", "plain FLOPs"]),
        };
        let [count, bytes] = units::forms(style);
        let [published, plain] = headers;
        let mut table = Table::new(&[
            "layer", "shape", "output", "sparsity", "weights", "nonzeros", published, plain, "bytes",
        ]);
        for layer in &self.layers {
            table.row([
                layer.name.to_owned(),
                times(layer.shape),
                times(&layer.output),
                format!("{:.sparsities$}", layer.sparsity),
                count(layer.weights as f64),
                count(layer.nonzeros as f64),
                count(layer.flops.published.sparse),
                count(layer.flops.plain.sparse),
                bytes(layer.bytes.sparse),
            ]);
        }
        let total = &self.total;
        table.row([
            "total".to_owned(),
            String::new(),
            String::new(),
            format!("{:.sparsities$}", total.sparsity),
            count(total.weights as f64),
            count(total.nonzeros as f64),
            count(total.inference_flops.published.sparse),
            count(total.inference_flops.plain.sparse),
            bytes(total.bytes.published.sparse),
        ]);
        table
    }

    fn total_table(&self) -> Table {
        let mut table = Table::new(&["per example", "convention", "sparse", "dense", "ratio"]);
        let mut add = |what: &str, figures: &Conventions, shown: fn(f64) -> String| {
            for (convention, figure) in [("published", figures.published), ("plain", figures.plain)] {
                let ratio = format!("{:.4}x", figure.ratio);
                table.row([
                    what.to_owned(),
                    convention.to_owned(),
                    shown(figure.sparse),
                    shown(figure.dense),
                    ratio,
                ]);
            }
        };
        let total = &self.total;
        add("inference FLOPs", &total.inference_flops, units::count);
        add("training FLOPs", &total.training_flops, units::count);
        add("FLOPs of the whole run", &total.training_run_flops, units::count);
        add("model bytes", &total.bytes, units::bytes);
        table
    }
}

impl<'a> LayerReport<'a> {
    fn new(layer: &'a Layer, sparsity: f64, sparse: &Counts, dense: &Counts) -> Self {
        LayerReport {
            name: &layer.name,
            kind: match layer.kind {
                Kind::Conv => "conv",
                Kind::Depthwise => "depthwise",
                Kind::Dense => "dense",
            },
            shape: &layer.dims,
            output: layer.output,
            masked: layer.masked,
            sparsity,
            weights: sparse.weights,
            nonzeros: sparse.nonzeros,
            flops: Conventions::new(both(sparse), both(dense)),
            bytes: Compared::new(sparse.published_bits / 8.0, dense.published_bits / 8.0),
        }
    }
}

pub(super) fn times(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
