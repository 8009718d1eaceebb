//! Sections of sparse training: method, sparsity, mask updates, gradual pruning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use sparse::select::Select;
use sparse::{Anneal, Distribution, GrowInit, MaskSeedCompat, Rounding};

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
    /// Number of batches over which the growth score averages the dense gradient, ending with the update's own; at most the interval.
    #[serde(default = "gradient_batches")]
    pub gradient_batches: u64,
    /// Temperature of GraSP, which divides the logits.
    #[serde(default = "temperature")]
    pub temperature: f64,
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

/// `[sparsity]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// Share of zeros, in `[0, 1)`.
    pub target: f64,
    /// Distribution over layers.
    pub distribution: Distribution,
    /// Rounding of counts of zeros.
    pub rounding: Rounding,
    /// Exponent of the ERK factor.
    pub power_scale: f64,
    /// Generator of the initial masks.
    pub mask_seed_compat: MaskSeedCompat,
    /// Sparsity of the first layer: -1 by the distribution, 0 for no mask, else its own share of zeros. Default: as published
    /// (reference 1.8), which is -1 for a ResNet with an Erdős–Rényi distribution, and no mask for most other networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_layer: Option<f64>,
    /// Sparsity of the classifier, likewise.
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
    /// Initial share of a layer's connections to replace, in `[0, 1]`.
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
    /// Gradient step at which sparsity reaches the target: the last one with an update.
    pub end_step: i64,
    /// Gradient steps from one update to the next.
    pub frequency_steps: i64,
    /// Initial share of zeros, in `[0, 1)`.
    pub initial_sparsity: f64,
    /// Exponent of the remaining fraction of the schedule.
    pub exponent: f64,
    /// Weight of a layer's previous threshold in the next one, in `[0, 1)`. Above 0, layers keep more weights than `sparsity`
    /// requires until their thresholds catch up.
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
