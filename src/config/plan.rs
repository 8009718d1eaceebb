//! From what was said to what it means: names found, ranges checked, multiplier applied, connections counted.

use std::path::PathBuf;

use models::{Declaration, Model, Param, Statistic};

use super::{Error, LayerSparsity, LearningRate, MaskUpdate, OptimizerRule, Piecewise, Run};
use crate::data::fetch::SOURCES;
use crate::pjrt::DeviceKind;
use crate::sparse::{self, Budget, Gradual, Keep, Layer, Options, Schedule};

/// Bound on the examples of one launch, whose indices the host holds: 256 MB.
const MAX_LAUNCH_EXAMPLES: u64 = 1 << 26;
const LEARNING_RATES: [&str; 1] = ["piecewise"];

/// Longest run: a thousand times the published ones, and few enough for `plan` to walk through.
const MAX_ITERATIONS: u64 = 100_000_000;

/// A run that can be carried out: what `train` does and `plan` prints.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was said.
    pub run: Run,
    /// Parameters of the model, in its order.
    pub params: Vec<Param>,
    /// Moving means and variances of the model, in its order.
    pub statistics: Vec<Statistic>,
    /// Layers of the model with a kernel, in its order.
    pub layers: Vec<models::Layer>,
    /// Row of the method table.
    pub method: &'static sparse::Method,
    /// Rule of the gradient step.
    pub optimizer: OptimizerRule,
    /// Zeros and ones of every maskable layer, in the model's order; for an unmasked method all ones, for one that prunes
    /// those at the end (for one that ranks layers together, only their sum).
    pub budgets: Vec<Budget>,
    /// Mask-update schedule, stretched by the multiplier.
    pub schedule: Schedule,
    /// How sparsity grows, stretched by the multiplier; for gradual pruning only.
    pub gradual: Option<Gradual>,
    /// Learning rate over gradient steps, stretched by the multiplier.
    pub learning_rate: Piecewise,
    /// Iterations of the whole run, stretched by the multiplier.
    pub iterations: u64,
    /// Run folder, which need not exist.
    pub output_dir: PathBuf,
}

/// How many connections one mask update moves.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Replacement {
    /// Global step of the update.
    pub step: i64,
    /// Share of each layer's connections dropped.
    pub drop_fraction: f32,
    /// Connections dropped and grown, over the layers that are not dense; some may be the same ones.
    pub replaced: u64,
}

/// What gradual pruning leaves at one mask update.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Pruned {
    /// Global step of the update.
    pub step: i64,
    /// Share of zeros of a layer without a sparsity of its own.
    pub sparsity: f32,
    /// Ones over all maskable layers, ties at the thresholds apart.
    pub nonzeros: usize,
}

impl Plan {
    /// Checks `run` and works out the rest.
    ///
    /// # Errors
    /// The first value that is out of range, unknown, or contradicts another.
    pub fn new(mut run: Run) -> Result<Self, Error> {
        let masked = network(&run, true)?.declaration();
        for (sparsity, layer) in [
            (run.sparsity.first_layer, masked.layers.first()),
            (run.sparsity.last_layer, masked.layers.last()),
        ] {
            if let (Some(sparsity), Some(layer)) = (sparsity.filter(|&s| s > 0.0), layer) {
                let own = LayerSparsity::Fixed(sparsity);
                run.sparsity.layers.insert(layer.name.clone(), own);
            }
        }
        let method = sparse::Method::find(&run.method.name).map_err(at("method.name"))?;
        let declaration = match method.masked {
            true => masked.clone(),
            false => network(&run, false)?.declaration(),
        };
        let mut plan = Self::with_params(run, masked.params)?;
        let Declaration {
            params,
            statistics,
            layers,
            ..
        } = declaration;
        (plan.params, plan.statistics, plan.layers) = (params, statistics, layers);
        Ok(plan)
    }

    /// The network.
    ///
    /// # Errors
    /// None for a plan from [`Plan::new`].
    pub fn model(&self) -> Result<Box<dyn Model>, Error> {
        network(&self.run, self.method.masked)
    }

    /// [`Plan::new`] with these parameters in the place of the model's, and no more of it.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_params(run: Run, params: Vec<Param>) -> Result<Self, Error> {
        check_names(&run)?;
        check_numbers(&run)?;
        let method = sparse::Method::find(&run.method.name).map_err(at("method.name"))?;
        method
            .check_grow_init(run.method.grow_init)
            .map_err(at("method.grow_init"))?;
        let k = run.train.multiplier;
        let gradual = match method.keep {
            Keep::Gradual => Some(gradual(&run, k)?),
            _ => None,
        };
        let schedule = match &gradual {
            Some(gradual) => pruning_schedule(gradual, run.prune.frequency_steps)?,
            None => schedule(&run.mask_update, k),
        };
        schedule.validate().map_err(within("mask_update"))?;
        check_averaging(&run, method, &schedule)?;
        let mut budgets = budgets(&run, &params)?;
        if let Some(gradual) = &gradual {
            budgets.iter_mut().for_each(|budget| at_the_end(budget, gradual));
        }
        if let Some(sparse) = budgets.iter().find(|b| !method.masked && b.zeros > 0) {
            let own = format!("sparsity.layers.{}", sparse.name);
            let key = if sparse.custom { &own } else { "sparsity.target" };
            return Err(value(
                key,
                sparse.sparsity,
                format!("0, as method {} keeps every weight", method.name),
            ));
        }
        Ok(Plan {
            learning_rate: learning_rate(&run.learning_rate, k)?,
            iterations: (run.train.iterations as f64 * k) as u64,
            output_dir: output_dir(&run, method),
            optimizer: OptimizerRule::find(&run.optimizer.name).map_err(at("optimizer.name"))?,
            params,
            statistics: vec![],
            layers: vec![],
            method,
            budgets,
            schedule,
            gradual,
            run,
        })
    }

    /// Global steps of the mask updates of the whole run, in order.
    pub fn update_steps(&self) -> impl Iterator<Item = i64> {
        self.update_steps_within(self.iterations)
    }

    /// Global steps of the mask updates of the first `iterations` iterations, in order.
    pub fn update_steps_within(&self, iterations: u64) -> impl Iterator<Item = i64> {
        let iterations = if self.method.updates() { iterations } else { 0 };
        sparse::trace(self.method.order, &self.schedule, iterations).filter_map(|tick| tick.update_at)
    }

    /// Iterations of a full launch: no launch goes past an evaluation or a checkpoint.
    pub fn launch_length(&self) -> u64 {
        let train = &self.run.train;
        let rhythm = train.eval_interval.min(train.checkpoint_interval);
        train.steps_per_launch.min(rhythm)
    }

    /// Gradient steps of the whole run: iterations less the mask updates that take the place of a step.
    pub fn gradient_steps(&self) -> u64 {
        match self.method.order.replaces_step() {
            true => self.iterations - self.update_steps().count() as u64,
            false => self.iterations,
        }
    }

    /// The budget of a parameter; `None` when it is not maskable.
    pub fn budget(&self, param: &Param) -> Option<&Budget> {
        let layer = layer_name(param)?;
        self.budgets.iter().find(|b| b.name == layer)
    }

    /// What an update at global step `step` moves.
    pub fn replacement(&self, step: i64) -> Replacement {
        let drop_fraction = self.schedule.drop_fraction_at(step);
        let moved = |b: &Budget| sparse::host::n_prune(b.nonzeros, drop_fraction) as u64;
        let replaced = self.budgets.iter().filter(|b| b.zeros > 0).map(moved).sum();
        Replacement {
            step,
            drop_fraction,
            replaced,
        }
    }

    /// What an update at global step `step` leaves; `None` for other methods than gradual pruning.
    pub fn pruned(&self, step: i64) -> Option<Pruned> {
        let gradual = self.gradual?;
        let kept = |b: &Budget| Gradual::kept(b.zeros + b.nonzeros, gradual.density_at(step, b.sparsity));
        Some(Pruned {
            step,
            sparsity: gradual.sparsity_at(step),
            nonzeros: self.budgets.iter().map(kept).sum(),
        })
    }

    /// Ones over all maskable layers.
    pub fn nonzeros(&self) -> usize {
        self.budgets.iter().map(|b| b.nonzeros).sum()
    }

    /// Weights of all maskable layers.
    pub fn maskable(&self) -> usize {
        self.budgets.iter().map(|b| b.nonzeros + b.zeros).sum()
    }

    /// Share of zeros over all maskable layers; 0 when there are none.
    pub fn sparsity(&self) -> f64 {
        match self.maskable() {
            0 => 0.0,
            n => 1.0 - self.nonzeros() as f64 / n as f64,
        }
    }

    /// Elements of all parameters, masks and slots apart.
    pub fn parameters(&self) -> usize {
        self.params.iter().map(Param::elements).sum()
    }

    /// Size of the training state: parameters, statistics and slots in f32, a byte per mask entry, and what the method keeps
    /// beside them (averages of gradients in f32, a byte per weight for whether it was ever active). Activations come on
    /// top.
    pub fn state_bytes(&self) -> usize {
        let statistics: usize = self.statistics.iter().map(|s| s.dims.iter().product::<usize>()).sum();
        let averaged = self.method.grow == sparse::GrowScore::Momentum || self.run.method.gradient_batches > 1;
        let floats = self.parameters() * (1 + self.optimizer.slots().len())
            + statistics
            + if averaged { self.maskable() } else { 0 };
        let masks = usize::from(self.method.masked) + usize::from(self.method.explores);
        size_of::<f32>() * floats + masks * self.maskable()
    }
}

/// Name of a parameter in distributions and custom maps: its mask variable's without `/mask`; `None` when not maskable.
pub fn layer_name(param: &Param) -> Option<&str> {
    let mask = param.mask.as_deref()?;
    Some(mask.strip_suffix("/mask").unwrap_or(mask))
}

/// The network that a run asks for; `masked` chooses between the variable names of sparse training and those of the
/// dense baseline.
fn network(run: &Run, masked: bool) -> Result<Box<dyn Model>, Error> {
    let (said, sparsity) = (&run.model, &run.sparsity);
    // As published (reference 1.8): Erdős–Rényi over all layers of a ResNet, the first included; uniform without it.
    let erdos_renyi = sparsity.distribution != sparse::Distribution::Uniform;
    let published = (erdos_renyi && said.name.starts_with("resnet")).then_some(true);
    let options = models::Options {
        width: said.width,
        depth: said.depth,
        hidden: said.hidden.clone(),
        classes: said.classes,
        image_size: said.image_size,
        expansion: said.expansion,
        dropout: said.dropout,
        mask_first: sparsity.first_layer.map(|s| s != 0.0).or(published),
        mask_last: sparsity.last_layer.map(|s| s != 0.0),
        ..models::Options::new(&said.name, masked)
    };
    options.build().map_err(|error| match error {
        models::Error::Unknown { found } => {
            let names = models::NAMES.iter().copied();
            at("model.name")(sparse::Error::unknown("model", &found, names))
        }
        models::Error::Option {
            option,
            found,
            expected,
            model,
        } => {
            let key = match option {
                "mask_first" => "sparsity.first_layer".to_owned(),
                "mask_last" => "sparsity.last_layer".to_owned(),
                option => format!("model.{option}"),
            };
            Error::Value {
                origin: key.clone(),
                key: format!("{key} of {model}"),
                found,
                expected,
            }
        }
    })
}

fn check_names(run: &Run) -> Result<(), Error> {
    let known = |key: &'static str, what, name: &str, names: &[&str]| match names.contains(&name) {
        true => Ok(()),
        false => Err(at(key)(sparse::Error::unknown(what, name, names.iter().copied()))),
    };
    known(
        "data.name",
        "data set",
        &run.data.name,
        &SOURCES.each_ref().map(|source| source.name),
    )?;
    known(
        "learning_rate.schedule",
        "learning-rate schedule",
        &run.learning_rate.schedule,
        &LEARNING_RATES,
    )?;
    known(
        "device.kind",
        "device",
        &run.device.kind,
        &DeviceKind::ALL.map(DeviceKind::name),
    )
}

fn check_numbers(run: &Run) -> Result<(), Error> {
    let within = |key: &str, found: f64, ok: bool, expected: &str| match ok {
        true => Ok(()),
        false => Err(value(key, found, expected)),
    };
    let from_zero = |key, v: f64| within(key, v, (0.0..f64::INFINITY).contains(&v), "a number of at least 0");
    let counted = |key, v: u64| match (1..=MAX_ITERATIONS).contains(&v) {
        true => Ok(()),
        false => Err(value(key, v, format!("a whole number from 1 to {MAX_ITERATIONS}"))),
    };
    let share = |key: &str, v: f64| within(key, v, (0.0..1.0).contains(&v), "a number in [0, 1)");
    let (train, method) = (&run.train, &run.method);
    share("sparsity.target", run.sparsity.target)?;
    for (key, sparsity) in [
        ("sparsity.first_layer", run.sparsity.first_layer),
        ("sparsity.last_layer", run.sparsity.last_layer),
    ] {
        let Some(sparsity) = sparsity else { continue };
        let ok = sparsity == -1.0 || (0.0..1.0).contains(&sparsity);
        within(
            key,
            sparsity,
            ok,
            "-1 (as distributed), 0 (no mask) or a share of zeros below 1",
        )?;
    }
    for (layer, sparsity) in &run.sparsity.layers {
        share(&format!("sparsity.layers.{layer}"), sparsity.at(run.sparsity.target))?;
    }
    share("optimizer.momentum", run.optimizer.momentum)?;
    share("optimizer.beta1", run.optimizer.beta1)?;
    share("optimizer.beta2", run.optimizer.beta2)?;
    let above_zero = |key: &str, v: f64| within(key, v, v > 0.0 && v.is_finite(), "a number above 0");
    above_zero("optimizer.epsilon", run.optimizer.epsilon)?;
    above_zero("method.temperature", method.temperature)?;
    within(
        "method.ema_momentum",
        method.ema_momentum,
        (0.0..=1.0).contains(&method.ema_momentum),
        "a number in [0, 1]",
    )?;
    from_zero("optimizer.weight_decay", run.optimizer.weight_decay)?;
    from_zero("learning_rate.base", run.learning_rate.base)?;
    from_zero("method.drop_noise_std", method.drop_noise_std)?;
    let scale = method.initial_accumulator_scale;
    within(
        "method.initial_accumulator_scale",
        scale,
        scale.is_finite(),
        "a finite number",
    )?;
    counted("train.iterations", train.iterations)?;
    counted("train.batch_size", train.batch_size as u64)?;
    counted("train.steps_per_launch", train.steps_per_launch)?;
    let launched = train.steps_per_launch.saturating_mul(train.batch_size as u64);
    within(
        "train.steps_per_launch",
        train.steps_per_launch as f64,
        launched <= MAX_LAUNCH_EXAMPLES,
        "at most 2^26 examples in a launch",
    )?;
    counted("train.eval_interval", train.eval_interval)?;
    counted("train.checkpoint_interval", train.checkpoint_interval)?;
    counted("train.keep_checkpoints", train.keep_checkpoints as u64)?;
    let k = train.multiplier;
    let iterations = k * train.iterations as f64;
    let expected = format!("a number above 0 that leaves 1 to {MAX_ITERATIONS} iterations");
    within(
        "train.multiplier",
        k,
        (1.0..=MAX_ITERATIONS as f64).contains(&iterations),
        &expected,
    )
}

/// `int(step * k)`, as the original scales its steps (reference 4.1).
fn scaled(step: i64, k: f64) -> i64 {
    (step as f64 * k) as i64
}

fn schedule(said: &MaskUpdate, k: f64) -> Schedule {
    Schedule {
        begin_step: scaled(said.begin_step, k),
        // A negative end means none at every multiplier; int(-1 * 0.5) would be step 0.
        end_step: if said.end_step < 0 {
            said.end_step
        } else {
            scaled(said.end_step, k)
        },
        frequency_steps: said.frequency_steps,
        drop_fraction: said.drop_fraction,
        anneal: said.anneal,
    }
}

/// Sparsity over the steps of gradual pruning.
fn gradual(run: &Run, k: f64) -> Result<Gradual, Error> {
    let said = &run.prune;
    let gradual = Gradual {
        begin_step: scaled(said.begin_step, k),
        end_step: scaled(said.end_step, k),
        initial_sparsity: said.initial_sparsity,
        target_sparsity: run.sparsity.target,
        exponent: said.exponent,
    };
    gradual.validate().map_err(within("prune"))?;
    if run.sparsity.target == 0.0 {
        let expected = "a share of zeros above 0, as layers are pruned in proportion to it";
        return Err(value("sparsity.target", 0, expected));
    }
    Ok(gradual)
}

/// When gradual pruning updates masks.
fn pruning_schedule(gradual: &Gradual, frequency_steps: i64) -> Result<Schedule, Error> {
    let schedule = Schedule {
        begin_step: gradual.begin_step,
        end_step: gradual.end_step,
        frequency_steps,
        drop_fraction: 0.0,
        anneal: sparse::Anneal::Constant,
    };
    schedule.validate().map_err(within("prune"))?;
    Ok(schedule)
}

/// Gives a layer what gradual pruning leaves of it.
fn at_the_end(budget: &mut Budget, gradual: &Gradual) {
    let n = budget.zeros + budget.nonzeros;
    let density = gradual.density_at(gradual.end_step, budget.sparsity);
    budget.nonzeros = Gradual::kept(n, density);
    budget.zeros = n - budget.nonzeros;
}

/// Gradients can be averaged over as many batches as there are between two updates that look at them.
fn check_averaging(run: &Run, method: &sparse::Method, schedule: &Schedule) -> Result<(), Error> {
    let n = run.method.gradient_batches;
    let most = match method.grows_by_gradient() {
        true => schedule.frequency_steps.unsigned_abs(),
        false => 1,
    };
    if (1..=most).contains(&n) {
        return Ok(());
    }
    let expected = match method.grows_by_gradient() {
        true => format!("1 to {most}, the steps between two updates"),
        false => format!("1, as method {} does not grow by the gradient", method.name),
    };
    Err(value("method.gradient_batches", n, expected))
}

fn learning_rate(said: &LearningRate, k: f64) -> Result<Piecewise, Error> {
    let boundaries: Vec<i64> = said.boundaries.iter().map(|&step| scaled(step, k)).collect();
    if boundaries.iter().any(|&step| step < 0) || !boundaries.is_sorted_by(|a, b| a < b) {
        let found = format!("{:?} with multiplier {k}", said.boundaries);
        return Err(value(
            "learning_rate.boundaries",
            found,
            "increasing steps of at least 0",
        ));
    }
    let factors = &said.factors;
    if factors.len() != boundaries.len() || !factors.iter().all(|f| (0.0..f64::INFINITY).contains(f)) {
        let expected = format!("{} numbers of at least 0, one per boundary", boundaries.len());
        return Err(value("learning_rate.factors", format!("{factors:?}"), expected));
    }
    let values = std::iter::once(&1.0)
        .chain(factors)
        .map(|factor| (said.base * factor) as f32)
        .collect();
    let values: Vec<f32> = values;
    if !values.iter().all(|rate| rate.is_finite()) {
        return Err(value(
            "learning_rate.base",
            said.base,
            "rates within the range of float32",
        ));
    }
    Ok(Piecewise { boundaries, values })
}

fn budgets(run: &Run, params: &[Param]) -> Result<Vec<Budget>, Error> {
    let said = &run.sparsity;
    let layer = |param: &Param| Some(Layer::new(layer_name(param)?, param.dims.clone()));
    let layers: Vec<Layer> = params.iter().filter_map(layer).collect();
    let options = Options {
        distribution: said.distribution,
        sparsity: said.target,
        custom: said
            .layers
            .iter()
            .map(|(name, sparsity)| (name.clone(), sparsity.at(said.target)))
            .collect(),
        power_scale: said.power_scale,
        rounding: said.rounding,
    };
    sparse::budgets(&layers, &options).map_err(within("sparsity"))
}

/// `runs/<data>-<method>-<sparsity>-seed<seed>` unless the run names its folder.
fn output_dir(run: &Run, method: &sparse::Method) -> PathBuf {
    if !run.output.dir.is_empty() {
        return run.output.dir.clone().into();
    }
    let (data, sparsity, seed) = (&run.data.name, run.sparsity.target, run.train.seed);
    PathBuf::from("runs").join(format!("{data}-{}-{sparsity}-seed{seed}", method.name))
}

/// An error at `key`; whoever knows which flag or file set it puts that in the origin.
fn value(key: &str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::Value {
        origin: key.into(),
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

fn at(key: &str) -> impl FnOnce(sparse::Error) -> Error {
    let origin = key.to_owned();
    |source| Error::Sparse { origin, source }
}

/// An error at the key of this section that it tells of.
fn within(section: &str) -> impl FnOnce(sparse::Error) -> Error {
    move |source| {
        let key = match &source {
            // Such as `power of anneal`.
            sparse::Error::Value { name, .. } => name.rsplit(' ').next().unwrap_or_default().to_owned(),
            sparse::Error::NotALevel { .. } => "target".to_owned(),
            sparse::Error::MissingLayers { names, .. } => format!("layers.{}", names.join(", ")),
            _ => "distribution".to_owned(),
        };
        at(&format!("{section}.{key}"))(source)
    }
}
