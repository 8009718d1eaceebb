//! What to run: model, data, optimizer, method, sparsity, schedules, device.
//!
//! [`Run`] is what was said: TOML in, TOML out, every value visible. [`Layers`] stacks it up, preset under file under flags.
//! [`Plan`] is what it means: checked, scaled and counted. The reasons for the values stand in `models/presets`.

mod check;
mod error;
mod execution;
mod fit;
mod layers;
mod learning_rate;
mod optimizer;
mod plan;
mod presets;
mod reach;
mod schedules;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sparse::select::Select;
use crate::sparse::{Anneal, Distribution, GrowInit, MaskSeedCompat, Rounding};

pub use error::Error;
pub use execution::{Execution, SparseLayers, prediction_gains};
pub use layers::Layers;
pub(crate) use layers::MAX_CONFIG_BYTES;
pub use learning_rate::Rate;
pub use optimizer::Optimizer as OptimizerRule;
pub use plan::{Plan, Pruned, Replacement, layer_name, refused};
pub use presets::{DEFAULT_PRESET, PRESETS, preset_of};
pub use reach::share_of_zeros;
pub use values::{FREE_KEYS, differences};

/// A whole run, as said. Strings left empty mean "choose for me".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Network.
    pub model: Model,
    /// Examples.
    pub data: Data,
    /// Rule of the gradient step.
    pub optimizer: Optimizer,
    /// Learning rate over gradient steps.
    pub learning_rate: LearningRate,
    /// How connections are chosen.
    pub method: Method,
    /// How many weights are zero, and where.
    pub sparsity: Sparsity,
    /// When and how many connections move.
    pub mask_update: MaskUpdate,
    /// How sparsity grows under gradual pruning.
    #[serde(default)]
    pub prune: Prune,
    /// Length and rhythm of training.
    pub train: Train,
    /// What the state before the first iteration is taken from. Left out: it is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Where it runs.
    pub device: Device,
    /// What it leaves behind.
    pub output: Output,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// One of `models::NAMES`, or like one.
    pub name: String,
    /// Factor of the numbers of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// Layers of a residual network, where the name does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Units of the layers between, of `mnist-fc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
    /// Number of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Height and width of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Channels inside a block over its input channels, of `mobilenet-v2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion: Option<f64>,
    /// Share of activations that training drops, of a wide residual network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A name in `data::sets::Set::ALL`, which fixes the file format.
    pub name: String,
    /// Folder with its files; empty for the cache.
    pub dir: String,
    /// How pixels become the network's input: `mnist`, `cifar` or `imagenet`, as the original's driver of that name does
    /// it. Left out: as the network's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<String>,
    /// Whether training changes images at random, where the preprocessing does. Left out: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<bool>,
    /// Examples of `synthetic` or `null`, for training and again for testing. Left out: two batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<usize>,
    /// How pictures of `imagenet` are decoded and resized: `original`, or `antialiased`, as is usual today. Left out:
    /// `original`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<String>,
    /// Threads that read and decode `imagenet`, at least 1. Left out: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Batches that they begin ahead, at least 1. Left out: as many as two launches have, or as keep them busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<usize>,
    /// Corrupt records of `imagenet` that are left out before one is an error. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_corrupt: Option<usize>,
}

/// `[init]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Checkpoint in safetensors form, or the folder of a run: its newest.
    pub file: String,
    /// How much of it.
    #[serde(default)]
    pub take: Take,
}

/// How much of a checkpoint a run begins with; the rest is as in any new run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// Weights, biases, and what normalisations hold.
    #[default]
    Weights,
    /// These and masks.
    Masks,
    /// Everything: optimizer slots, averages and counters too, so that the run of the checkpoint goes on.
    State,
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// `momentum`, `sgd` or `adam`.
    pub name: String,
    /// Momentum coefficient, in `[0, 1)`.
    pub momentum: f64,
    /// Nesterov's form (reference 2.10).
    pub nesterov: bool,
    /// Decay of Adam's average of gradients, in `[0, 1)`.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of Adam's average of squared gradients, in `[0, 1)`.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// What Adam adds to the root of the squares, above 0.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// L2 coefficient: the loss gains `weight_decay / 2 * sum(w^2)` over the raw decayed parameters.
    pub weight_decay: f64,
}

/// `[learning_rate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// Value before the first boundary.
    pub base: f64,
    /// Examples per batch that `base` is for: another batch size scales it in proportion. Left out: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_batch_size: Option<usize>,
    /// `piecewise` (constant without boundaries), `epochs`, `cosine` or `sgdr`.
    pub schedule: String,
    /// Of `piecewise`: gradient steps, increasing; the value changes at the step after each. Of `epochs`: epochs; the value
    /// changes at the first step in each.
    pub boundaries: Vec<i64>,
    /// Share of `base` that holds after each boundary.
    pub factors: Vec<f64>,
    /// Of `epochs`: how many the rate takes to rise from 0 to `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// Of `epochs` and `sgdr`: what an epoch is, whatever the data set has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples_per_epoch: Option<u64>,
    /// Of `cosine`: gradient steps from `base` to 0. Left out: those of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<i64>,
    /// Of `sgdr`: epochs of the first cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle_epochs: Option<f64>,
    /// Of `sgdr`: length of a cycle over that of the one before, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_mul: Option<f64>,
    /// Of `sgdr`: height of a cycle over that of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m_mul: Option<f64>,
}

/// `[method]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// A row of `sparse::METHODS`.
    pub name: String,
    /// Value of a new connection.
    pub grow_init: GrowInit,
    /// Optimizer slot of a new connection, as a multiple of its gradient.
    pub initial_accumulator_scale: f64,
    /// Standard deviation of the noise on drop scores.
    pub drop_noise_std: f64,
    /// Decay of SNFS's moving average of dense gradients, in `[0, 1]`.
    #[serde(default = "ema_momentum")]
    pub ema_momentum: f64,
    /// Batches over which the growth score averages the dense gradient, up to the update's own; at most the interval.
    #[serde(default = "gradient_batches")]
    pub gradient_batches: u64,
    /// What GraSP divides logits by.
    #[serde(default = "temperature")]
    pub temperature: f64,
}

// What older configurations, which lack these keys, mean.
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.999
}
fn epsilon() -> f64 {
    1e-8
}
fn ema_momentum() -> f64 {
    0.9
}
fn gradient_batches() -> u64 {
    1
}
fn temperature() -> f64 {
    200.0
}
fn precision() -> String {
    "f32".into()
}
fn eval_batch_size() -> usize {
    1000
}

/// `[sparsity]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// Share of zeros, in `[0, 1)`.
    pub target: f64,
    /// How it is shared among layers.
    pub distribution: Distribution,
    /// Rounding of counts of zeros.
    pub rounding: Rounding,
    /// Exponent of the ERK factor.
    pub power_scale: f64,
    /// Generator of the first masks.
    pub mask_seed_compat: MaskSeedCompat,
    /// The first layer's: -1 as distributed, 0 for no mask, else its own share of zeros. Left out: as published (reference
    /// 1.8), which for most networks is no mask, and for a ResNet with an Erdős–Rényi distribution -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_layer: Option<f64>,
    /// The classifier's, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_layer: Option<f64>,
    /// Layers with a sparsity of their own.
    pub layers: BTreeMap<String, LayerSparsity>,
}

/// A layer's own sparsity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a sparsity such as 0.9, or { scale = 0.9 } for a share of the target"
)]
pub enum LayerSparsity {
    /// This share of zeros.
    Fixed(f64),
    /// The target times `scale`.
    Scaled(Scaled),
}

/// A factor on the target sparsity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaled {
    /// Multiplies `sparsity.target`.
    pub scale: f64,
}

impl LayerSparsity {
    /// The share of zeros at this target.
    pub fn at(self, target: f64) -> f64 {
        match self {
            LayerSparsity::Fixed(sparsity) => sparsity,
            LayerSparsity::Scaled(Scaled { scale }) => target * scale,
        }
    }
}

/// `[mask_update]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskUpdate {
    /// First gradient step with an update.
    pub begin_step: i64,
    /// Last gradient step with an update; negative for no end.
    pub end_step: i64,
    /// Gradient steps from one update to the next.
    pub frequency_steps: i64,
    /// Share of a layer's connections replaced, in `[0, 1]`, at first.
    pub drop_fraction: f64,
    /// How the drop fraction changes.
    pub anneal: Anneal,
    /// How the k-th largest score is found.
    pub select: Select,
}

/// `[prune]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// Gradient step at which sparsity starts to grow.
    pub begin_step: i64,
    /// Gradient step at which it has reached the target; the last with an update.
    pub end_step: i64,
    /// Gradient steps from one update to the next.
    pub frequency_steps: i64,
    /// Share of zeros at the beginning, in `[0, 1)`.
    pub initial_sparsity: f64,
    /// Power of the remaining share of the way.
    pub exponent: f64,
    /// Share of a layer's previous threshold in the next, in `[0, 1)`. Above 0 layers keep more weights than `sparsity` asks
    /// for until their thresholds catch up.
    pub threshold_decay: f64,
}

impl Default for Prune {
    /// The original's MNIST recipe (reference 2.9).
    fn default() -> Self {
        Prune {
            begin_step: 2000,
            end_step: 30000,
            frequency_steps: 500,
            initial_sparsity: 0.0,
            exponent: 3.0,
            threshold_decay: 0.0,
        }
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Length of the run, in `unit`.
    pub iterations: u64,
    /// What `iterations` counts.
    #[serde(default)]
    pub unit: Unit,
    /// Extended training: multiplies iterations, learning-rate boundaries, first and last mask update.
    pub multiplier: f64,
    /// Examples per batch, over all replicas together.
    pub batch_size: usize,
    /// Whether batch normalisation takes its moments over all replicas. Left out: each over its own part of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_bn: Option<bool>,
    /// Examples per batch of an evaluation.
    #[serde(default = "eval_batch_size")]
    pub eval_batch_size: usize,
    /// Of activations: `f32`, or `bf16` with weights, statistics and loss in f32.
    #[serde(default = "precision")]
    pub precision: String,
    /// Share of a target that goes to all classes alike.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Iterations per launch of the device program.
    pub steps_per_launch: u64,
    /// Iterations from one evaluation to the next.
    pub eval_interval: u64,
    /// Iterations from one checkpoint to the next.
    pub checkpoint_interval: u64,
    /// Newest checkpoints kept, at least 1.
    pub keep_checkpoints: usize,
    /// Whether a run may end before it reaches its sparsity, or without a mask update. Left out: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_incomplete_schedule: Option<bool>,
    /// Seed of masks, weights, data order and noise.
    pub seed: u64,
}

/// What the length of a run is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Batches seen, as the original's MNIST driver counts: gradient steps, and mask updates that take the place of one
    /// (reference 4.4).
    #[default]
    Iterations,
    /// Gradient steps, as its other drivers count: mask updates come on top (reference 2.3).
    GradientSteps,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `cpu`, `gpu` or `tpu`.
    pub kind: String,
    /// Plugin file or package; empty to search.
    pub plugin: String,
    /// What runs programs: `pjrt`, `xla` or `interpreter`. Left out: `pjrt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// How masked layers are computed. Left out: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Devices that train side by side, of all processes together, each on its part of every batch. Left out: one for each
    /// process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// Processes that share the replicas, each with the devices of its machine or some of them. Left out: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
}

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Run folder; empty for a name made from the run, under `runs/`.
    pub dir: String,
}

impl Run {
    /// The run that a text from [`Run::to_toml`] holds; `origin` is where the text stands, for messages.
    ///
    /// # Errors
    /// [`Error::Toml`] when it is not TOML, lacks a key, or has an unknown one.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|source| Error::Toml {
            origin: origin.into(),
            source,
        })
    }

    /// The run as TOML that [`Layers::file`] reads back to the same run.
    ///
    /// # Errors
    /// [`Error::Write`] when a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, Error> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_survives_toml_and_can_be_planned() {
        for (name, _) in PRESETS {
            let preset = Layers::preset(name).unwrap();
            let run = preset.run().unwrap();
            let text = run.to_toml().unwrap();
            let read = Run::from_toml(&text, name).unwrap();
            assert_eq!(read, run, "{name}");
            assert_eq!(read.to_toml().unwrap(), text, "{name}");
            let plan = preset.plan().unwrap();
            let told = format!("{name}-");
            assert!(told.contains(&format!("-{}-", plan.method.name)), "{name}");
            // Its network and method lead back to it, or to the recipe that it varies.
            let model = plan.model().unwrap();
            assert!(
                name.starts_with(preset_of(Some(model.name()), Some(plan.method.name))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_written_run_replaces_the_preset_below_it() {
        let mut run = Layers::preset("mnist-dense").unwrap().run().unwrap();
        run.learning_rate.base = 0.1 + 0.2;
        run.sparsity
            .layers
            .insert("a.b/c".into(), LayerSparsity::Scaled(Scaled { scale: 1.0 / 3.0 }));
        run.output.dir = "a \"quoted\"\nname".into();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, run.to_toml().unwrap()).unwrap();
        assert_eq!(
            Layers::preset("mnist-rigl")
                .unwrap()
                .file(&path)
                .unwrap()
                .run()
                .unwrap(),
            run
        );
    }

    #[test]
    fn a_file_replaces_whole_values_and_set_reaches_inside() {
        let rigl = || Layers::preset("mnist-rigl").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layers.toml");
        std::fs::write(&path, "[sparsity]\nlayers = { layer1 = 0.5 }\n").unwrap();
        let layers = rigl().file(&path).unwrap().run().unwrap().sparsity.layers;
        assert_eq!(
            layers.into_iter().collect::<Vec<_>>(),
            [("layer1".into(), LayerSparsity::Fixed(0.5))]
        );
        let set = rigl()
            .set("--set", &["sparsity", "layers", "layer2"], 0.25)
            .unwrap()
            .run()
            .unwrap();
        assert_eq!(set.sparsity.layers["layer2"].at(0.98), 0.25);
        assert_eq!(set.sparsity.layers["layer3"].at(0.98), 0.0);
    }

    #[test]
    fn an_endless_schedule_stays_endless_at_every_multiplier() {
        let plan = |multiplier: f64| {
            let layers = Layers::preset("mnist-rigl").unwrap();
            let layers = layers.set("--set", &["mask_update", "end_step"], -1).unwrap();
            let layers = layers.set("--set", &["mask_update", "anneal"], "constant").unwrap();
            layers
                .set("--multiplier", &["train", "multiplier"], multiplier)
                .unwrap()
                .plan()
                .unwrap()
        };
        assert_eq!(plan(0.5).schedule.end_step, -1);
        assert_eq!(plan(0.1).update_steps().last(), Some(11_800));
    }

    #[test]
    fn state_counts_weights_slots_and_masks() {
        let bytes = |preset| Layers::preset(preset).unwrap().plan().unwrap().state_bytes();
        assert_eq!(bytes("mnist-dense"), 266_610 * 4 * 2);
        assert_eq!(bytes("mnist-rigl"), 266_610 * 4 * 2 + 266_200);
    }
}
