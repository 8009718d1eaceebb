//! Sections of the gradient step: learning rate, length of training.

use hlo::MatmulPrecision;
use models::Precision;
use serde::{Deserialize, Serialize};

use super::learning_rate::ScheduleKind;
use crate::named;

/// `[learning_rate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// Value before the first boundary.
    pub base: f64,
    /// Batch size that `base` is for; other batch sizes scale it in proportion. Default: no scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_batch_size: Option<usize>,
    /// Shape of the schedule.
    #[serde(with = "named")]
    pub schedule: ScheduleKind,
    /// `piecewise`: increasing gradient steps; the value changes at the step after each. `epochs`: epochs; the value changes at
    /// the first step in each.
    pub boundaries: Vec<i64>,
    /// Factor of `base` after each boundary.
    pub factors: Vec<f64>,
    /// `epochs`, `cosine`, `linear`: length of the warm-up from 0 to `base`, in epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// `cosine`, `linear`: the same in gradient steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// `epochs`, `sgdr`, and a warm-up in epochs: examples per epoch, independent of the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples_per_epoch: Option<u64>,
    /// `cosine`, `linear`: gradient steps, warm-up included, until the rate is 0. Default: those of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<i64>,
    /// `sgdr`: epochs of the first cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle_epochs: Option<f64>,
    /// `sgdr`: ratio of the lengths of successive cycles, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_mul: Option<f64>,
    /// `sgdr`: ratio of the heights of successive cycles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m_mul: Option<f64>,
}

// Default for older configurations, which lack the key.
fn eval_batch_size() -> usize {
    1000
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Length of the run, in `unit`.
    pub iterations: u64,
    /// Unit of `iterations`.
    #[serde(default)]
    pub unit: Unit,
    /// Extended training: multiplies iterations, learning-rate boundaries, first and last mask update.
    pub multiplier: f64,
    /// Examples per batch, over all replicas together.
    pub batch_size: usize,
    /// Equal parts of a replica's batch that are computed one after the other, their gradients averaged. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
    /// Whether batch normalisation computes moments over all replicas. Default: each replica over its own part of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_bn: Option<bool>,
    /// Examples per batch of an evaluation.
    #[serde(default = "eval_batch_size")]
    pub eval_batch_size: usize,
    /// Precision of activations; weights, statistics and loss are in f32.
    #[serde(default, with = "named")]
    pub precision: Precision,
    /// Precision of f32 matrix products and convolutions on devices that have several.
    #[serde(default, with = "named", skip_serializing_if = "MatmulPrecision::is_default")]
    pub matmul_precision: MatmulPrecision,
    /// Precision in which several replicas send their gradients to be summed. Default: f32.
    #[serde(default, with = "named", skip_serializing_if = "gradients_in_f32")]
    pub gradient_precision: Precision,
    /// Share of a target that is spread evenly over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Iterations per launch of the device program.
    pub steps_per_launch: u64,
    /// Iterations from one evaluation to the next.
    pub eval_interval: u64,
    /// Epochs from one evaluation to the next, in place of `eval_interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_epochs: Option<f64>,
    /// Iterations from one checkpoint to the next.
    pub checkpoint_interval: u64,
    /// Newest checkpoints kept, at least 1.
    pub keep_checkpoints: usize,
    /// Whether a run may end before it reaches its sparsity, or without a mask update. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_incomplete_schedule: Option<bool>,
    /// Patterns of names of parameters and statistics that are not trained; `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Seed of masks, weights, data order and noise.
    pub seed: u64,
}

fn gradients_in_f32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// Unit of the length of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Batches: gradient steps, and mask updates that replace one. The original's MNIST driver counts them (reference 4.4).
    #[default]
    Iterations,
    /// Gradient steps, without mask updates. The original's other drivers count them (reference 2.3).
    GradientSteps,
}
