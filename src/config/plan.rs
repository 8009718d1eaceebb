//! From what was said to what it means: names found, ranges checked, multiplier applied, connections counted.

use std::path::PathBuf;

use models::{Declaration, Family, Model, Param, Precision, Statistic};

use super::check::{at, names, numbers, value, within};
use super::learning_rate::Rate;
use super::reach::{reached, share_of_zeros};
use super::schedules::{at_the_end, check_averaging, gradual, learning_rate, pruning_schedule, schedule};
use super::values::output_dir;
use super::{Data, Error, LayerSparsity, OptimizerRule, Run, SparseLayers, Unit};
use crate::data::pixels::Preprocessing;
use crate::data::sets::{Form, Set};
use crate::data::{imagenet, pipeline};
use crate::engine::{self, EngineKind};
use crate::sparse::{self, Budget, Counters, DropScore, Gradual, Keep, Layer, Options, Schedule};

/// Size of the images that a launch is sent, if they are sent launch by launch: enough to hide what a launch costs, and little
/// beside what training takes.
pub const MAX_STREAMED_BYTES: usize = 64 << 20;

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
    /// Whether the model draws random numbers in training.
    pub random: bool,
    /// Precision of activations.
    pub precision: Precision,
    /// Dimensions of an example, as the model takes it.
    pub input_dims: Vec<usize>,
    /// How pixels become the model's input.
    pub preprocessing: Preprocessing,
    /// Row of the method table.
    pub method: &'static sparse::Method,
    /// Rule of the gradient step.
    pub optimizer: OptimizerRule,
    /// Zeros and ones of every maskable layer, in the model's order; for an unmasked method all ones, for one that prunes
    /// those at the end (for one that ranks layers together, only their sum).
    pub budgets: Vec<Budget>,
    /// Zeros and ones of every maskable layer at the end of the run, as [`budgets`](Plan::budgets); they differ where
    /// gradual pruning stops before its end.
    pub reached: Vec<Budget>,
    /// Mask-update schedule, stretched by the multiplier.
    pub schedule: Schedule,
    /// How sparsity grows, stretched by the multiplier; for gradual pruning only.
    pub gradual: Option<Gradual>,
    /// Learning rate over gradient steps, stretched by the multiplier.
    pub learning_rate: Rate,
    /// Iterations of the whole run: batches, gradient steps or mask updates in their place; stretched by the multiplier.
    pub iterations: u64,
    /// Run folder, which need not exist.
    pub output_dir: PathBuf,
    /// Layers that are computed from their connections alone.
    pub sparse: SparseLayers,
    /// What of the recipe was fitted to the data, for people.
    pub fit: Option<String>,
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
        let network_with_masks = network(&run, true)?;
        let masked = network_with_masks.declaration();
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
        let pools = matches!(Family::of(&run.model.name), Some(Family::ResNet | Family::Vgg));
        if pools && method.drop == DropScore::GradientFlow {
            let expected = "a method that differentiates once, as the network's maxima under windows do";
            return Err(value("method.name", method.name, expected));
        }
        let mut plan = Self::with_params(run, masked.params)?;
        let dims = network_with_masks.input_dims();
        if !plan.preprocessing.takes(&dims) {
            let found = plan.run.data.preprocessing.unwrap_or_default();
            let expected = format!("one that takes examples of dimensions {dims:?}");
            return Err(value("data.preprocessing", found, expected));
        }
        let Declaration {
            params,
            statistics,
            layers,
            random,
            ..
        } = declaration;
        (plan.params, plan.statistics, plan.layers) = (params, statistics, layers);
        (plan.random, plan.input_dims) = (random, dims);
        plan.sparse = plan.sparse_layers()?;
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
        names(&run)?;
        numbers(&run)?;
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
        let iterations = iterations(&run, method, &schedule);
        let gradient_steps = || gradient_steps(method, &schedule, iterations);
        let last_update = gradual.and_then(|_| update_steps(method, &schedule, iterations).last());
        Ok(Plan {
            reached: reached(&budgets, gradual.as_ref(), last_update),
            learning_rate: learning_rate(&run, gradient_steps)?,
            iterations,
            precision: run.precision(),
            preprocessing: run.preprocessing(),
            random: false,
            input_dims: vec![],
            sparse: SparseLayers::new(),
            output_dir: output_dir(&run, method),
            fit: None,
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
        update_steps(self.method, &self.schedule, iterations)
    }

    /// Iterations of a full launch: no launch goes past an evaluation or a checkpoint, or is sent more images than
    /// `MAX_STREAMED_BYTES` unless a single batch has more.
    pub fn launch_length(&self) -> u64 {
        let train = &self.run.train;
        let rhythm = train.eval_interval.min(train.checkpoint_interval);
        let sent = match self.streams() {
            true => MAX_STREAMED_BYTES / self.batch_bytes().max(1),
            false => usize::MAX,
        };
        train.steps_per_launch.min(rhythm).min(sent.max(1) as u64)
    }

    /// Whether examples are sent to the device launch by launch; others stay there all the while.
    pub fn streams(&self) -> bool {
        self.run.data.name == Set::ImageNet.name()
    }

    /// Size of a batch of images that is sent to the device.
    pub fn batch_bytes(&self) -> usize {
        size_of::<f32>() * self.run.train.batch_size * self.input_dims.iter().product::<usize>()
    }

    /// Engine that is asked for.
    ///
    /// # Errors
    /// An unknown name.
    pub fn engine(&self) -> Result<EngineKind, engine::Error> {
        let asked = self.run.device.engine.as_deref();
        asked.map_or(Ok(EngineKind::default()), str::parse)
    }

    /// Plugin file or package that is asked for.
    pub fn plugin(&self) -> Option<&str> {
        Some(self.run.device.plugin.as_str()).filter(|plugin| !plugin.is_empty())
    }

    /// Devices that train side by side, of all processes together.
    pub fn replicas(&self) -> usize {
        self.run.device.replicas.unwrap_or(self.processes())
    }

    /// Processes that share them.
    pub fn processes(&self) -> usize {
        self.run.device.processes.unwrap_or(1)
    }

    /// Examples of a batch that one replica sees.
    pub fn replica_batch(&self) -> usize {
        self.run.train.batch_size / self.replicas()
    }

    /// Bytes of gradients that the replicas sum up in every iteration: 4 for each parameter. 0 for a single replica.
    pub fn all_reduced_bytes(&self) -> usize {
        match self.replicas() {
            1 => 0,
            _ => size_of::<f32>() * self.parameters(),
        }
    }

    /// Gradient steps of the whole run: iterations less the mask updates that take the place of a step.
    pub fn gradient_steps(&self) -> u64 {
        gradient_steps(self.method, &self.schedule, self.iterations)
    }

    /// The data set.
    ///
    /// # Errors
    /// None for a plan: its name is known.
    pub fn data_set(&self) -> Result<Set, crate::data::Error> {
        Set::find(&self.run.data.name)
    }

    /// Whether training changes images at random.
    pub fn augments(&self) -> bool {
        self.preprocessing.is_random() && self.run.data.augment != Some(false)
    }

    /// Whether an iteration draws random numbers before its mask update.
    pub fn draws(&self) -> bool {
        self.random || self.augments()
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

    /// Ones over all maskable layers at the end of the run.
    pub fn nonzeros(&self) -> usize {
        self.reached.iter().map(|b| b.nonzeros).sum()
    }

    /// Weights of all maskable layers.
    pub fn maskable(&self) -> usize {
        self.budgets.iter().map(|b| b.nonzeros + b.zeros).sum()
    }

    /// Share of zeros over all maskable layers at the end of the run; 0 when there are none.
    pub fn sparsity(&self) -> f64 {
        share_of_zeros(self.nonzeros(), self.maskable())
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

/// Iterations of the whole run.
fn iterations(run: &Run, method: &sparse::Method, schedule: &Schedule) -> u64 {
    let length = (run.train.iterations as f64 * run.train.multiplier) as u64;
    if run.train.unit == Unit::Iterations || !method.order.replaces_step() {
        return length;
    }
    let mut counters = Counters::start(method.order, schedule);
    while (counters.gs as u64) < length {
        counters.advance(method.order, schedule);
    }
    counters.iteration
}

/// Gradient steps of so many iterations.
fn gradient_steps(method: &sparse::Method, schedule: &Schedule, iterations: u64) -> u64 {
    match method.order.replaces_step() {
        true => iterations - update_steps(method, schedule, iterations).count() as u64,
        false => iterations,
    }
}

/// Global steps of the mask updates of the first `iterations` iterations, in order.
fn update_steps(method: &sparse::Method, schedule: &Schedule, iterations: u64) -> impl Iterator<Item = i64> {
    let iterations = if method.updates() { iterations } else { 0 };
    sparse::trace(method.order, schedule, iterations).filter_map(|tick| tick.update_at)
}

/// Name of a parameter in distributions and custom maps: its mask variable's without `/mask`; `None` when not maskable.
pub fn layer_name(param: &Param) -> Option<&str> {
    let mask = param.mask.as_deref()?;
    Some(mask.strip_suffix("/mask").unwrap_or(mask))
}

impl Run {
    /// Precision of activations. Names are checked in a plan; others than the known ones mean the default.
    pub fn precision(&self) -> Precision {
        let named = |p: &Precision| p.name() == self.train.precision;
        Precision::ALL.into_iter().find(named).unwrap_or_default()
    }

    /// How pixels become the network's input: as said, or as the network's driver does it.
    pub fn preprocessing(&self) -> Preprocessing {
        let said = self.data.preprocessing.as_deref();
        let named = |said| Preprocessing::ALL.into_iter().find(|(name, _)| *name == said);
        let family = Family::of(&self.model.name).unwrap_or(Family::MnistFc);
        said.and_then(named).map_or(Preprocessing::of(family), |(_, way)| way)
    }

    /// How a network for examples of `dims` in so many `classes` wants those of the run's data set.
    pub fn form<'a>(&self, dims: &'a [usize], classes: usize) -> Form<'a> {
        Form {
            dims,
            classes,
            examples: [self.data.examples.unwrap_or(2 * self.train.batch_size); 2],
            seed: self.train.seed,
            pictures: self.data.pictures(),
            skip_corrupt: self.data.skip_corrupt.unwrap_or(0),
        }
    }
}

impl Data {
    /// How pictures in TFRecords are made ready. Names are checked in a plan; others than the known ones mean the default.
    pub fn pictures(&self) -> imagenet::Kind {
        let said = self.pictures.as_deref();
        let named = imagenet::Kind::ALL.into_iter().find(|(name, _)| Some(*name) == said);
        named.map_or(imagenet::Kind::default(), |(_, kind)| kind)
    }

    /// How threads make batches of `batch` examples, `steps` of which make a launch.
    pub fn pipeline(&self, batch: usize, steps: usize) -> pipeline::Options {
        let usual = pipeline::Options::new(self.threads, batch, steps);
        pipeline::Options {
            prefetch: self.prefetch.unwrap_or(usual.prefetch),
            skip_corrupt: self.skip_corrupt.unwrap_or(0),
            ..usual
        }
    }
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
    options.build().map_err(refused)
}

/// A network that cannot be had, as an error at the key that says so.
pub fn refused(error: models::Error) -> Error {
    match error {
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
    }
}

fn budgets(run: &Run, params: &[Param]) -> Result<Vec<Budget>, Error> {
    let said = &run.sparsity;
    let layer = |param: &Param| Some(Layer::new(layer_name(param)?, param.dims.clone()));
    let layers: Vec<Layer> = params.iter().filter_map(layer).collect();
    sparse::budgets(&layers, &said.options()).map_err(within("sparsity"))
}

impl super::Sparsity {
    /// What budgets are worked out by.
    pub fn options(&self) -> Options {
        Options {
            distribution: self.distribution,
            sparsity: self.target,
            custom: self
                .layers
                .iter()
                .map(|(name, sparsity)| (name.clone(), sparsity.at(self.target)))
                .collect(),
            power_scale: self.power_scale,
            rounding: self.rounding,
        }
    }
}
