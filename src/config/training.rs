//! Sections of the gradient step: learning rate, length of training.

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
    /// Examples per batch that `base` is for: another batch size scales it in proportion. Left out: for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_batch_size: Option<usize>,
    /// Shape of the schedule.
    #[serde(with = "named")]
    pub schedule: ScheduleKind,
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
    /// Precision of activations; weights, statistics and loss are in f32.
    #[serde(default, with = "named")]
    pub precision: Precision,
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
