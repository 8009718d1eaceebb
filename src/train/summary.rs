//! What is told of a run at its end.

use super::inference::Scores;
use super::profile::Profile;
use serde::Serialize;
use sparse::dead_units::LiveSize;
use std::path::PathBuf;

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Network.
    pub model: String,
    /// Row of the method table.
    pub method: String,
    /// Share of zeros over all maskable layers, dense ones included, counted in the masks.
    pub sparsity: f64,
    /// Share of zeros asked for (`sparsity.target`), which single layers may differ from.
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
    /// What is left without unused units (reference 3.6); absent without masks and for networks with convolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<LiveSize>,
    /// Corrupt records of the training set left out in this session; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_records: Option<usize>,
    /// Share of the maskable weights that were ever active, where the method keeps track of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explored: Option<f64>,
    /// Seconds spent in training launches in this session.
    pub train_s: f64,
    /// Iterations of this session per second of `train_s`.
    pub steps_per_s: f64,
    /// Seconds from the start of this session to its first launch.
    pub startup_s: f64,
    /// Where the time of the launches to profile went; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Scores on the test set at the end.
    pub eval: Scores,
    /// Whether it was stopped before its last iteration.
    pub interrupted: bool,
    /// Newest checkpoint.
    #[serde(serialize_with = "crate::report::path")]
    pub checkpoint: PathBuf,
    /// Run folder.
    #[serde(serialize_with = "crate::report::path")]
    pub run_dir: PathBuf,
}
