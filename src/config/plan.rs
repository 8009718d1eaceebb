//! From a configuration to a plan: ranges checked, multiplier applied, connections counted.

use std::path::PathBuf;
use std::sync::Arc;

use models::{Declaration, Family, Model, Param, Statistic};

use super::check::{at, numbers, value, within};
use super::learning_rate::Rate;
use super::reach::reached;
use super::schedules::{at_the_end, check_averaging, gradual, learning_rate, pruning_schedule, schedule};
use super::values::output_dir;
use super::{CondensedLayers, Error, LayerSparsity, Network, Run, SparseLayers, Take, Unit};
use crate::data::pixels::Preprocessing;
use crate::exported::Exported;
use crate::named::Named;
use sparse::{Budget, BudgetOptions, Counters, DropScore, GradualPruning, InitialMask, KeepCount, Layer, Schedule};

/// A checked run: `train` carries it out, `plan` prints it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration.
    pub run: Run,
    /// Parameters of the model, in its order.
    pub params: Vec<Param>,
    /// Moving means and variances of the model, in its order.
    pub statistics: Vec<Statistic>,
    /// Layers of the model with a kernel, in its order.
    pub layers: Vec<models::Layer>,
    /// Whether the model draws random numbers in training.
    pub random: bool,
    /// Dimensions of an example.
    pub input_dims: Vec<usize>,
    /// How pixels become the model's input.
    pub preprocessing: Preprocessing,
    /// Row of the method table.
    pub method: &'static sparse::Method,
    /// Zeros and ones of every maskable layer, in the model's order. All ones for a method without masks; those at the end for
    /// a method that prunes (if it ranks layers together, only their sum holds).
    pub budgets: Vec<Budget>,
    /// Zeros and ones of every maskable layer at the end of the run, as [`budgets`](Plan::budgets); they differ where
    /// gradual pruning stops before its end.
    pub reached: Vec<Budget>,
    /// Mask-update schedule, stretched by the multiplier.
    pub schedule: Schedule,
    /// Growth of sparsity under gradual pruning, stretched by the multiplier; otherwise `None`.
    pub gradual: Option<GradualPruning>,
    /// Learning rate over gradient steps, stretched by the multiplier.
    pub learning_rate: Rate,
    /// Iterations of the whole run: batches, gradient steps or mask updates in their place; stretched by the multiplier.
    pub iterations: u64,
    /// Run folder, which need not exist.
    pub output_dir: PathBuf,
    /// Layers that are computed from their connections alone.
    pub sparse: SparseLayers,
    /// Layers whose weights the device stores as connections alone.
    pub condensed: CondensedLayers,
    /// The network as the method trains it; for an exported model, a stub.
    pub network: Network,
    /// Layers that are stored whole, but whose weights and slots are those of the connections alone in the iterations between two
    /// mask updates: their numbers of connections.
    pub between_updates: CondensedLayers,
    /// The exported model that is trained, if it is one.
    pub exported: Option<Arc<Exported>>,
    /// Description of what was fitted to the data, if anything was.
    pub fit: Option<String>,
}

/// Number of connections that one mask update moves.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Replacement {
    /// Global step of the update.
    pub step: i64,
    /// Share of each layer's connections dropped.
    pub drop_fraction: f32,
    /// Connections dropped and grown, over the layers that are not dense; some may be the same ones.
    pub replaced: u64,
}

/// Result of one mask update of gradual pruning.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Pruned {
    /// Global step of the update.
    pub step: i64,
    /// Share of zeros of a layer without a sparsity of its own.
    pub sparsity: f32,
    /// Ones over all maskable layers, not counting ties at the thresholds.
    pub nonzeros: usize,
}

impl Plan {
    /// Checks `run` and derives the rest.
    ///
    /// # Errors
    /// The first value that is out of range, unknown, or contradicts another.
    pub fn new(run: Run) -> Result<Self, Error> {
        if let Some(exported) = run.model.exported()? {
            return Self::for_exported(run, exported);
        }
        let method = method(&run)?;
        let family = family(&run)?;
        if family.recipe.max_pooling && method.drop == DropScore::GradientFlow {
            let expected = "a method that differentiates once, as the network's maxima under windows do";
            return Err(value("method.name", method.name, expected));
        }
        let masked = Network::from(network(&run, true)?);
        let trained = match method.masked {
            true => masked.clone(),
            false => network(&run, false)?.into(),
        };
        let preprocessing = run.data.preprocessing_for(family);
        Self::for_networks(run, &masked, trained, preprocessing)
    }

    /// As [`Plan::new`] for a network that is not one of this program. The name in the configuration becomes its own, and
    /// pixels are not preprocessed unless the configuration says so.
    ///
    /// # Errors
    /// As [`Plan::new`]; a network without a layer that can have a mask, if the method uses masks.
    pub fn for_network(mut run: Run, network: Network) -> Result<Self, Error> {
        let method = method(&run)?;
        network.name().clone_into(&mut run.model.name);
        let trained = match method.masked {
            true => network.clone(),
            false => network.without_masks(),
        };
        if method.masked && !network.params().iter().any(|param| param.mask.is_some()) {
            let expected = "dense, as no layer of the network can have a mask";
            return Err(value("method.name", method.name, expected));
        }
        let preprocessing = run.data.preprocessing.unwrap_or(Preprocessing::None);
        Self::for_networks(run, &network, trained, preprocessing)
    }

    /// `masked` is the network with masks, `trained` the network as the method trains it.
    fn for_networks(
        mut run: Run,
        masked: &Network,
        trained: Network,
        preprocessing: Preprocessing,
    ) -> Result<Self, Error> {
        let dims = masked.input_dims();
        let masked = masked.declaration();
        for (sparsity, layer) in [
            (run.sparsity.first_layer, masked.layers.first()),
            (run.sparsity.last_layer, masked.layers.last()),
        ] {
            if let (Some(sparsity), Some(layer)) = (sparsity.filter(|&s| s > 0.0), layer) {
                let own = LayerSparsity::Fixed(sparsity);
                run.sparsity.layers.insert(layer.name.clone(), own);
            }
        }
        let declaration = trained.declaration();
        let (found, takes) = (run.data.preprocessing, preprocessing.takes(&dims));
        let plan = Self::build(run, &masked.params, declaration, dims, trained, preprocessing)?;
        if !takes {
            let expected = format!("one that takes examples of dimensions {:?}", plan.input_dims);
            return Err(value("data.preprocessing", found.map_or("", Named::name), expected));
        }
        Ok(plan)
    }

    /// As [`Plan::new`] for a network that consists of these parameters, whatever its layers compute.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn for_params(run: Run, params: Vec<Param>) -> Result<Self, Error> {
        let declaration = Declaration {
            params: params.clone(),
            ..Declaration::default()
        };
        let preprocessing = run.data.preprocessing_for(family(&run)?);
        let network = network(&run, method(&run)?.masked)?.into();
        Self::build(run, &params, declaration, vec![], network, preprocessing)
    }

    /// `masked` are the parameters of the network with masks, `declaration` is that of the network as the method trains it.
    pub(super) fn build(
        run: Run,
        masked: &[Param],
        declaration: Declaration,
        input_dims: Vec<usize>,
        network: Network,
        preprocessing: Preprocessing,
    ) -> Result<Self, Error> {
        numbers(&run)?;
        let method = method(&run)?;
        method
            .check_grow_init(run.method.grow_init)
            .map_err(at("method.grow_init"))?;
        let k = run.train.multiplier;
        let gradual = match method.keep {
            KeepCount::Gradual => Some(gradual(&run, k)?),
            KeepCount::Connections | KeepCount::Budget | KeepCount::TotalBudget => None,
        };
        let schedule = match &gradual {
            Some(gradual) => pruning_schedule(gradual, run.prune.frequency_steps)?,
            None => schedule(&run.mask_update, k),
        };
        schedule.validate().map_err(within("mask_update"))?;
        check_averaging(&run, method, &schedule)?;
        let mut budgets = budgets(&run, masked)?;
        if let Some(gradual) = &gradual {
            budgets.iter_mut().for_each(|budget| at_the_end(budget, gradual));
        }
        if let Some(sparse) = budgets.iter().find(|b| !method.masked && b.zeros > 0) {
            let own = format!("sparsity.layers.{}", sparse.name);
            let key = if sparse.custom { &own } else { "sparsity.target" };
            let expected = format!("0, as method {} keeps every weight", method.name);
            return Err(value(key, sparse.sparsity, expected));
        }
        let iterations = iterations(&run, method, &schedule);
        let gradient_steps = || gradient_steps(method, &schedule, iterations);
        let last_update = gradual.and_then(|_| update_steps(method, &schedule, iterations).last());
        let Declaration {
            params,
            statistics,
            layers,
            random,
            fixed: _,
        } = declaration;
        let mut plan = Plan {
            reached: reached(&budgets, gradual.as_ref(), last_update),
            learning_rate: learning_rate(&run, gradient_steps)?,
            iterations,
            preprocessing,
            random,
            input_dims,
            sparse: SparseLayers::new(),
            condensed: CondensedLayers::new(),
            between_updates: CondensedLayers::new(),
            output_dir: output_dir(&run, method),
            network,
            exported: None,
            fit: None,
            params,
            statistics,
            layers,
            method,
            budgets,
            schedule,
            gradual,
            run,
        };
        plan.check_frozen(method)?;
        check_one_shot(&plan.run, method)?;
        plan.sparse = plan.sparse_layers()?;
        plan.condensed = plan.condensed_layers()?;
        plan.between_updates = plan.condensed_between_updates();
        Ok(plan)
    }

    /// Parameters, statistics and layers as the network declares them.
    pub fn declaration(&self) -> Declaration {
        Declaration {
            params: self.params.clone(),
            statistics: self.statistics.clone(),
            layers: self.layers.clone(),
            random: self.random,
            fixed: vec![],
        }
    }

    /// The network; for an exported model, a stub.
    pub fn model(&self) -> &dyn Model {
        &*self.network
    }
}

/// Refuses one-shot pruning of masks that do not come from it.
fn check_one_shot(run: &Run, method: &sparse::Method) -> Result<(), Error> {
    let Some(init) = run.init.as_ref().filter(|init| init.prune.is_some()) else {
        return Ok(());
    };
    if init.take != Take::Weights {
        let expected = "weights, as masks of the checkpoint would be lost";
        return Err(value("init.take", format!("{:?}", init.take).to_lowercase(), expected));
    }
    match method.masked && method.initial_mask == InitialMask::Random {
        true => Ok(()),
        false => Err(value(
            "method.name",
            method.name,
            "a method that begins with sparse masks, with init.prune",
        )),
    }
}

/// The row of the method table.
pub(super) fn method(run: &Run) -> Result<&'static sparse::Method, Error> {
    sparse::Method::find(&run.method.name).map_err(at("method.name"))
}

/// The family of the run's network.
fn family(run: &Run) -> Result<&'static Family, Error> {
    let name = &run.model.name;
    Family::from_name(name).ok_or_else(|| models::Error::Unknown { found: name.clone() }.into())
}

/// Iterations of the whole run.
fn iterations(run: &Run, method: &sparse::Method, schedule: &Schedule) -> u64 {
    let length = (run.train.iterations as f64 * run.train.multiplier) as u64;
    if run.train.unit == Unit::Iterations || !method.timing.replaces_step() {
        return length;
    }
    let mut counters = Counters::start(method.timing, schedule);
    while (counters.global_step as u64) < length {
        counters.advance(method.timing, schedule);
    }
    counters.iteration
}

/// Gradient steps of `iterations` iterations.
pub(super) fn gradient_steps(method: &sparse::Method, schedule: &Schedule, iterations: u64) -> u64 {
    match method.timing.replaces_step() {
        true => iterations - update_steps(method, schedule, iterations).count() as u64,
        false => iterations,
    }
}

/// Global steps of the mask updates of the first `iterations` iterations, in order.
pub(super) fn update_steps(method: &sparse::Method, schedule: &Schedule, iterations: u64) -> impl Iterator<Item = i64> {
    let iterations = if method.updates_masks() { iterations } else { 0 };
    sparse::simulate(method.timing, schedule, iterations).filter_map(|tick| tick.update_at)
}

/// Name of a parameter in distributions and custom maps: its mask variable's without `/mask`; `None` if it is not maskable.
pub fn layer_name(param: &Param) -> Option<&str> {
    let mask = param.mask.as_deref()?;
    Some(mask.strip_suffix("/mask").unwrap_or(mask))
}

/// The network of a run; `masked` chooses the variable names of sparse training instead of those of the dense baseline.
fn network(run: &Run, masked: bool) -> Result<Box<dyn Model>, Error> {
    let (model, sparsity) = (&run.model, &run.sparsity);
    // As published (reference 1.8): Erdős–Rényi over all layers of a ResNet, the first included; uniform without it.
    let erdos_renyi = sparsity.distribution != sparse::Distribution::Uniform;
    let published = (erdos_renyi && family(run)?.recipe.erdos_renyi_masks_first).then_some(true);
    let options = models::Options {
        width: model.width,
        depth: model.depth,
        hidden: model.hidden.clone(),
        classes: model.classes,
        image_size: model.image_size,
        expansion: model.expansion,
        dropout: model.dropout,
        variant: model.variant,
        mask_first: sparsity.first_layer.map(|s| s != 0.0).or(published),
        mask_last: sparsity.last_layer.map(|s| s != 0.0),
        ..models::Options::new(&model.name, masked)
    };
    Ok(options.build()?)
}

/// Located at the key that selects the network or its option.
impl From<models::Error> for Error {
    fn from(error: models::Error) -> Self {
        match error {
            models::Error::Unknown { found } => {
                at("model.name")(sparse::Error::unknown("model", &found, models::names()))
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
}

fn budgets(run: &Run, params: &[Param]) -> Result<Vec<Budget>, Error> {
    let layer = |param: &Param| Some(Layer::new(layer_name(param)?, param.dims.clone()));
    let layers: Vec<Layer> = params.iter().filter_map(layer).collect();
    sparse::budgets(&layers, &run.sparsity.options()).map_err(within("sparsity"))
}

impl super::Sparsity {
    /// Options of the distribution.
    pub fn options(&self) -> BudgetOptions {
        BudgetOptions {
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
