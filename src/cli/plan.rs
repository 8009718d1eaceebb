//! `rigl-xla plan`: shows budgets, schedules and memory of a run from its configuration.

use models::{Init, Param};
use serde::Serialize;
use toml::{Table as Toml, Value};

use super::cost::times;
use super::plan_scale::Scale;
use super::run_args::{RunArgs, pair};
use super::table_args::TableArgs;
use crate::aot::chips::Grid;
use crate::config::{Error, Plan, Pruned, Replacement, Run};
use crate::named::Named;
use crate::report::table::{Style, Table};
use crate::report::units;
use sparse::{Budget, KeepCount};

/// Maximum weights of a layer of `--layers`, so that sums cannot overflow.
const MAX_WEIGHTS: usize = 1 << 48;

/// Arguments of `plan`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Maskable layers that replace the model's, as name=INxOUT or name=HxWxINxOUT
    #[arg(long, value_name = "NAME=DIMS,…", value_delimiter = ',', value_parser = layer)]
    layers: Vec<Param>,
    /// Show the all-reduce and the input on these chips, e.g. v5e:16x16, with a replica on each chip unless --replicas is given
    #[arg(long, value_name = "NAME")]
    topology: Option<String>,
    #[command(flatten)]
    table: TableArgs,
}

/// Runs `plan`.
///
/// # Errors
/// [`crate::config::Error`] for a configuration that cannot run.
pub fn run(args: Args, json: bool) -> super::Result<()> {
    let style = args.table.style(json)?;
    let grid = args.topology.as_deref().map(Grid::parse).transpose()?;
    let plan = plan(args, grid.as_ref())?;
    let scale = grid.map(|grid| Scale::new(&plan, &grid)).transpose()?;
    let report = Report {
        scale,
        ..Report::new(&plan)
    };
    let text = match (json, style) {
        (true, _) => serde_json::to_string(&report)? + "\n",
        (false, Style::Text) => report.to_string(),
        (false, Style::Markdown | Style::Csv) => report.layer_table().write(style),
    };
    super::print(&text)
}

fn plan(args: Args, grid: Option<&Grid>) -> Result<Plan, Error> {
    let Args { run, layers, .. } = args;
    if layers.is_empty() {
        let plan = run.plan(run.layers()?)?;
        return match (grid, plan.run.device.replicas) {
            (Some(grid), None) => run.plan(run.layers()?.set(
                "--topology",
                &["device", "replicas"],
                grid.chips() as i64,
            )?),
            _ => Ok(plan),
        };
    }
    // The preset's layer settings belong to its own model.
    let none = Value::Table(Toml::new());
    let base = run.base()?.set("--layers", &["sparsity", "layers"], none)?;
    run.flags_over(base)?.plan_for(layers)
}

/// A layer of `--layers`.
fn layer(text: &str) -> Result<Param, String> {
    let (name, dims) = pair::<String>(text)?;
    let dims: Result<Vec<usize>, _> = dims.split('x').map(str::parse::<usize>).collect();
    let dims = dims.map_err(|_| "expected NAME=DIMS such as layer1=784x300".to_owned())?;
    let weights = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    if weights.is_none_or(|n| n > MAX_WEIGHTS) {
        return Err(format!("expected at most {MAX_WEIGHTS} weights in a layer"));
    }
    Ok(Param {
        mask: Some(format!("{name}/mask")),
        name: format!("{name}/weights"),
        dims,
        init: Init::GlorotUniform,
        decayed: true,
    })
}

/// Output of `plan`.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    method: &'a str,
    distribution: String,
    /// Fraction of zeros over the maskable layers at the end of the run.
    sparsity: f64,
    nonzeros: usize,
    /// Fraction of zeros over them at the end of the method's schedule.
    target_sparsity: f64,
    maskable: usize,
    layers: Vec<Layer<'a>>,
    /// Whether the method ranks layers globally, so that only the total of connections is known beforehand.
    ranked_together: bool,
    parameters: usize,
    /// Parameters that are not trained.
    #[serde(skip_serializing_if = "is_zero")]
    frozen: usize,
    state_bytes: usize,
    /// Figures of the run on the chips of `--topology`.
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<Scale>,
    /// Split of the batch, if there are several replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Replicas>,
    iterations: u64,
    gradient_steps: u64,
    /// Iterations per full launch of the device program.
    launch_iterations: u64,
    /// Bytes of images sent to the device per full launch, if they are not resident.
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_image_bytes: Option<usize>,
    mask_updates: usize,
    update_steps: Vec<i64>,
    /// Values at the first, the last and three updates between, if updates move connections.
    replacements: Vec<Replacement>,
    /// The same for updates of gradual pruning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pruning: Vec<Pruned>,
    learning_rate: LearningRate,
    /// Why `train` refuses the run unless a flag overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    /// Parts of the schedules after the end of the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    run_dir: String,
    config: &'a Run,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[derive(Serialize)]
struct Layer<'a> {
    name: &'a str,
    shape: &'a [usize],
    sparsity: f64,
    nonzeros: usize,
    zeros: usize,
    saturated: bool,
    custom: bool,
    /// Whether it is computed from its connections alone.
    sparse: bool,
    /// How many times as fast the layer is expected to be from its connections alone, if it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_gain: Option<f64>,
}

#[derive(Serialize)]
struct Replicas {
    replicas: usize,
    /// Number of devices, with equal parts.
    processes: usize,
    batch_size: usize,
    batch_per_replica: usize,
    sync_bn: bool,
    /// Bytes of gradients to all-reduce per iteration: 4 per parameter, or 2 in bf16.
    all_reduced_bytes: usize,
    /// Bytes that a replica sends in a ring all-reduce over N: 2 (N - 1) / N of that.
    sent_bytes: usize,
}

impl Replicas {
    fn new(plan: &Plan) -> Self {
        let (replicas, bytes) = (plan.replicas(), plan.all_reduced_bytes());
        Replicas {
            replicas,
            processes: plan.processes(),
            batch_size: plan.run.train.batch_size,
            batch_per_replica: plan.replica_batch(),
            sync_bn: plan.run.train.sync_bn == Some(true),
            all_reduced_bytes: bytes,
            sent_bytes: (2 * bytes * (replicas - 1)).div_ceil(replicas),
        }
    }
}

#[derive(Serialize)]
struct LearningRate {
    schedule: &'static str,
    /// Gradient steps at which the rate drops, and the values before, between and after.
    boundaries: Vec<i64>,
    values: Vec<f32>,
    /// Values at the first, the last and three steps between.
    samples: Vec<(i64, f32)>,
}

impl LearningRate {
    fn new(plan: &Plan, gradient_steps: u64) -> Self {
        let (boundaries, values) = plan.learning_rate.drops();
        let last = gradient_steps.saturating_sub(1) as i64;
        let steps = (0..=4).map(|quarter| last * quarter / 4);
        LearningRate {
            schedule: plan.learning_rate.kind().name(),
            boundaries,
            values,
            samples: steps.map(|step| (step, plan.learning_rate.at(step))).collect(),
        }
    }
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan) -> Self {
        let update_steps: Vec<i64> = plan.update_steps().collect();
        let gradient_steps = plan.gradient_steps();
        Report {
            model: &plan.run.model.name,
            method: plan.method.name,
            distribution: plan.run.sparsity.distribution.to_string(),
            sparsity: plan.sparsity(),
            nonzeros: plan.nonzeros(),
            target_sparsity: plan.target_sparsity(),
            maskable: plan.maskable(),
            layers: plan.reached.iter().map(|budget| Layer::new(plan, budget)).collect(),
            ranked_together: plan.method.keep == KeepCount::TotalBudget,
            parameters: plan.parameters(),
            frozen: plan.frozen(),
            state_bytes: plan.state_bytes(),
            scale: None,
            replicas: (plan.replicas() > 1).then(|| Replicas::new(plan)),
            iterations: plan.iterations,
            gradient_steps,
            launch_iterations: plan.launch_length(),
            launch_image_bytes: plan
                .streams()
                .then(|| plan.launch_length() as usize * plan.batch_bytes()),
            mask_updates: update_steps.len(),
            replacements: quartiles(&update_steps)
                .filter(|_| plan.method.replaces_connections())
                .map(|&step| plan.replacement(step))
                .collect(),
            pruning: quartiles(&update_steps).filter_map(|&step| plan.pruned(step)).collect(),
            update_steps,
            learning_rate: LearningRate::new(plan, gradient_steps),
            incomplete: plan.incomplete(),
            notes: plan.notes(),
            run_dir: plan.output_dir.display().to_string(),
            config: &plan.run,
        }
    }
}

impl<'a> Layer<'a> {
    fn new(plan: &Plan, budget: &'a Budget) -> Self {
        Layer {
            name: &budget.name,
            shape: &budget.dims,
            sparsity: budget.sparsity,
            nonzeros: budget.nonzeros,
            zeros: budget.zeros,
            saturated: budget.saturated,
            custom: budget.custom,
            sparse: plan.is_sparse(&budget.name),
            expected_gain: plan.expected_gain(&budget.name),
        }
    }
}

/// The first, the last and three elements between, without repeats.
fn quartiles(steps: &[i64]) -> impl Iterator<Item = &i64> {
    let last = steps.len().saturating_sub(1);
    let mut at: Vec<usize> = (0..=4).map(|quarter| last * quarter / 4).collect();
    at.dedup();
    at.into_iter().filter_map(|index| steps.get(index))
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} with {}, {} distribution",
            self.model, self.method, self.distribution
        )?;
        write!(f, "\n{}", self.layer_table().write(Style::Text))?;
        if self.ranked_together {
            writeln!(f, "{}", super::RANKED_TOGETHER)?;
        }
        writeln!(f, "\nparameters      {}", self.parameters)?;
        if self.frozen > 0 {
            writeln!(f, "not trained     {}", self.frozen)?;
        }
        let optimizer = &self.config.optimizer;
        if let Some(decay) = optimizer.ema_decay {
            writeln!(f, "evaluated       average of weights, decay {decay}")?;
        }
        if let Some(limit) = optimizer.clip_norm {
            writeln!(
                f,
                "optimizer       {}, gradient norm at most {limit}",
                optimizer.rule.name
            )?;
        }
        writeln!(f, "training state  {}", units::bytes(self.state_bytes as f64))?;
        if let Some(parts) = self.config.train.accumulate.filter(|&parts| parts > 1) {
            let (all, replicas) = (self.config.train.batch_size, self.config.device.replicas());
            let each = all / replicas / parts;
            writeln!(
                f,
                "batch           {all}, gradients of {parts} parts of {each} averaged"
            )?;
        }
        if let Some(shared) = &self.replicas {
            let (all, each) = (shared.batch_size, shared.batch_per_replica);
            let processes = match shared.processes {
                1 => String::new(),
                n => format!(" in {n} processes"),
            };
            writeln!(
                f,
                "replicas        {}{processes}, each {each} of a batch of {all}",
                shared.replicas
            )?;
            let [bytes, sent] = [shared.all_reduced_bytes, shared.sent_bytes].map(|bytes| units::bytes(bytes as f64));
            let per = "per iteration; a replica sends";
            writeln!(f, "all-reduced     {bytes} {per} {sent}")?;
        }
        if let Some(scale) = &self.scale {
            write!(f, "{scale}")?;
        }
        writeln!(f, "iterations      {}", self.iterations)?;
        writeln!(f, "gradient steps  {}", self.gradient_steps)?;
        self.write_launches(f)?;
        self.write_updates(f)?;
        self.write_learning_rate(f)?;
        for note in self.incomplete.iter().chain(&self.notes) {
            writeln!(f, "note            {note}")?;
        }
        writeln!(f, "run folder      {}", self.run_dir)
    }
}

impl Report<'_> {
    fn layer_table(&self) -> Table {
        let mut table = Table::new(&[
            "layer",
            "shape",
            "sparsity",
            "zeros",
            "nonzeros",
            "execution",
            "sparse gain",
            "",
        ]);
        for layer in &self.layers {
            let note = match layer {
                Layer { custom: true, .. } => "custom",
                Layer { saturated: true, .. } => "saturated",
                _ => "",
            };
            table.row([
                layer.name.to_owned(),
                times(layer.shape),
                format!("{:.6}", layer.sparsity),
                layer.zeros.to_string(),
                layer.nonzeros.to_string(),
                if layer.sparse { "sparse" } else { "masked" }.to_owned(),
                layer.expected_gain.map_or("-".to_owned(), |gain| format!("{gain:.1}x")),
                note.to_owned(),
            ]);
        }
        table.row([
            "total".to_owned(),
            String::new(),
            format!("{:.6}", self.sparsity),
            (self.maskable - self.nonzeros).to_string(),
            self.nonzeros.to_string(),
        ]);
        table
    }

    fn write_launches(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "launches        {} iterations", self.launch_iterations)?;
        match self.launch_image_bytes {
            Some(bytes) => writeln!(f, ", {} of images sent for each", units::bytes(bytes as f64)),
            None => writeln!(f),
        }
    }

    fn write_updates(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mask updates    {}", self.mask_updates)?;
        if let [first, .., last] = self.update_steps[..] {
            write!(f, " from step {first} to {last}")?;
        }
        match self.incomplete {
            Some(_) => writeln!(f, ", sparsity reached {} of {}", self.sparsity, self.target_sparsity)?,
            None => writeln!(f)?,
        }
        for Replacement {
            step,
            drop_fraction,
            replaced,
        } in &self.replacements
        {
            writeln!(
                f,
                "  step {step:<9} drop fraction {drop_fraction:.6}, {replaced} connections"
            )?;
        }
        for Pruned {
            step,
            sparsity,
            nonzeros,
        } in &self.pruning
        {
            writeln!(f, "  step {step:<9} sparsity {sparsity:.6}, {nonzeros} connections")?;
        }
        Ok(())
    }

    fn write_learning_rate(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = &self.learning_rate;
        write!(f, "learning rate   {}:", rate.schedule)?;
        let dropped = rate.boundaries.iter().zip(&rate.values[1..]);
        match rate.schedule {
            "piecewise" => write!(f, " {}", rate.values[0])?,
            _ => {
                let samples = rate
                    .samples
                    .iter()
                    .map(|(step, rate)| format!(" {rate} at step {step}"));
                write!(f, "{}", samples.collect::<Vec<_>>().join(","))?;
            }
        }
        for (boundary, value) in dropped {
            write!(f, "; {value} after step {boundary}")?;
        }
        writeln!(f)
    }
}
