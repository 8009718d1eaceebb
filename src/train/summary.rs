//! Summary of a run.

use super::inference::Scores;
use super::keeping::{Best, StopReason};
use super::profile::Profile;
use serde::Serialize;
use sparse::dead_units::LiveSize;
use std::path::PathBuf;

/// The best checkpoint of a run.
#[derive(Clone, Debug, Serialize)]
pub struct BestCheckpoint {
    /// Metric, value and iteration.
    #[serde(flatten)]
    pub best: Best,
    /// The file.
    #[serde(serialize_with = "crate::report::path")]
    pub checkpoint: PathBuf,
    /// Its scores on the test set; absent with several processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<Scores>,
}

/// Result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the network.
    pub model: String,
    /// Name of the method.
    pub method: String,
    /// Share of zeros over all maskable layers, dense ones included, counted in the masks.
    pub sparsity: f64,
    /// Requested share of zeros (`sparsity.target`); single layers may differ.
    pub target_sparsity: f64,
    /// Iterations done, in all sessions of the run.
    pub steps: u64,
    /// Gradient steps applied.
    pub global_step: i64,
    /// Mask updates done.
    pub mask_updates: u64,
    /// Ones over all maskable layers, counted in the masks.
    pub nonzeros: usize,
    /// Weights of all maskable layers.
    pub maskable: usize,
    /// Size without dead units (reference 3.6); absent without masks and for networks with convolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<LiveSize>,
    /// Corrupt records of the training set skipped in this session; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_records: Option<usize>,
    /// Share of the maskable weights that were ever active, if the method tracks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explored: Option<f64>,
    /// Seconds spent in training launches in this session.
    pub train_s: f64,
    /// Iterations of this session per second of `train_s`.
    pub steps_per_s: f64,
    /// Seconds from the start of this session to its first launch.
    pub startup_s: f64,
    /// Profile of launches; absent unless requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Final scores on the test set.
    pub eval: Scores,
    /// Final scores on the validation split, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Scores>,
    /// The best checkpoint, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<BestCheckpoint>,
    /// Why it ended before its last iteration as configured; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StopReason>,
    /// Whether a signal stopped it before its last iteration.
    pub interrupted: bool,
    /// Newest checkpoint.
    #[serde(serialize_with = "crate::report::path")]
    pub checkpoint: PathBuf,
    /// Run folder.
    #[serde(serialize_with = "crate::report::path")]
    pub run_dir: PathBuf,
}
