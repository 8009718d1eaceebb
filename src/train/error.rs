//! Errors of training and evaluation.

use crate::{checkpoint, config, data, distributed, engine};
use std::io;
use std::path::PathBuf;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

fn saved_before(path: Option<&PathBuf>) -> String {
    match path {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "no checkpoint was saved before".to_string(),
    }
}

/// Why training or evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] engine::Error),
    /// A failure of the other processes.
    #[error(transparent)]
    Processes(#[from] distributed::Error),
    /// An error in the examples.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// An error in a checkpoint or the run folder.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A graph that cannot be built: a bug of this program.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
    /// An error in masks or their schedule.
    #[error(transparent)]
    Sparse(#[from] sparse::Error),
    /// An error in the configuration of the run or of the user.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The topology journal cannot be written.
    #[error(transparent)]
    Topology(#[from] crate::topology::Error),
    /// An exported model that cannot predict.
    #[error(
        "{}: has no prediction; export it again with predict=",
        crate::report::escape::path(path)
    )]
    NoPrediction {
        /// The model.
        path: PathBuf,
    },
    /// `metrics.jsonl`, `profile.jsonl` or a trace cannot be written.
    #[error("{}: {source}", path.display())]
    Metrics {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The loss is infinite or not a number.
    #[error(
        "the loss is {loss} at iteration {iteration} (gradient step {step}); {}",
        saved_before(last_good.as_ref())
    )]
    Diverged {
        /// Number of the iteration, from 1.
        iteration: u64,
        /// Its global step.
        step: i64,
        /// The loss.
        loss: f32,
        /// Newest checkpoint; all its numbers are finite.
        last_good: Option<PathBuf>,
    },
    /// The device failed within a run.
    #[error(
        "{source}\n  the run was at iteration {iteration}; {}",
        match last_good {
            Some(path) => format!("--resume goes on from {}", path.display()),
            None => "no checkpoint was saved before".to_owned(),
        }
    )]
    Lost {
        /// The failure.
        source: Box<engine::Error>,
        /// Iterations begun before the failure.
        iteration: u64,
        /// Newest checkpoint.
        last_good: Option<PathBuf>,
    },
    /// The device failed in an evaluation after the run was saved.
    #[error(
        "{source}\n  the run was saved after {iteration} iterations in {}, but not evaluated; --resume goes on",
        saved.display()
    )]
    Unscored {
        /// The failure.
        source: Box<engine::Error>,
        /// Iterations done.
        iteration: u64,
        /// The checkpoint.
        saved: PathBuf,
    },
    /// The replicas have different masks.
    #[error(
        "the {replicas} replicas have different masks after the update at iteration {iteration} (gradient step {step}), \
         expected the same on all: their devices do not compute alike; {}",
        saved_before(last_good.as_ref())
    )]
    MasksDiffer {
        /// Number of the iteration, from 1.
        iteration: u64,
        /// Its global step.
        step: i64,
        /// Number of replicas.
        replicas: usize,
        /// Newest checkpoint, from before the difference.
        last_good: Option<PathBuf>,
    },
    /// `--resume` with a configuration that differs from the run's.
    #[error("{}: the run to resume differs in {}", path.display(), differences.join("; "))]
    OtherRun {
        /// Run folder.
        path: PathBuf,
        /// Keys with both values.
        differences: Vec<String>,
    },
    /// `--resume` of a run that is longer already.
    #[error("{}: the run has done {done} iterations, expected at most the {asked} asked for", path.display())]
    Beyond {
        /// Run folder.
        path: PathBuf,
        /// Iterations done.
        done: u64,
        /// Iterations of the whole run.
        asked: u64,
    },
    /// `--resume` from a file that another program wrote.
    #[error("{}: does not say after how many iterations it was saved, so no run can go on from it", path.display())]
    NoIteration {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A checkpoint without a single array of the network.
    #[error(
        "{}: {found}, expected arrays under the original's names, as layer1/weights or resnet_model/final_dense/weights",
        path.display()
    )]
    Unrecognised {
        /// The checkpoint.
        path: PathBuf,
        /// Description of its content.
        found: String,
    },
    /// Examples that do not fit the model.
    #[error("{what} has {found}, expected {expected}")]
    Shape {
        /// File, tensor or data set.
        what: String,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// A network that sparse execution does not support.
    #[error("{model} cannot be predicted from its connections alone: {reason}; use --execution masked")]
    NotSparse {
        /// The network.
        model: String,
        /// The reason.
        reason: String,
    },
    /// A network and a data set with different numbers of classes.
    #[error(
        "the data set has {of_data} classes, but the network {network} has {of_network}; expected the same number: train \
         with model.classes={of_data}, or give the data set that the network is for"
    )]
    Classes {
        /// Name of the network.
        network: String,
        /// Classes of the network.
        of_network: usize,
        /// Classes of the data set.
        of_data: usize,
    },
    /// The device returned something other than the program's output.
    #[error("the device gave no {0}")]
    Output(&'static str),
}

impl Error {
    /// Whether flags or configuration are wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Config(config) => config.is_usage(),
            Error::Data(data) => data.is_usage(),
            Error::Topology(topology) => topology.is_usage(),
            Error::Device(engine) => engine.is_usage(),
            Error::Lost { source, .. } | Error::Unscored { source, .. } => source.is_usage(),
            Error::Processes(_)
            | Error::Checkpoint(_)
            | Error::Graph(_)
            | Error::Sparse(_)
            | Error::Metrics { .. }
            | Error::Diverged { .. }
            | Error::MasksDiffer { .. }
            | Error::OtherRun { .. }
            | Error::Beyond { .. }
            | Error::NoIteration { .. }
            | Error::Unrecognised { .. }
            | Error::Shape { .. }
            | Error::NotSparse { .. }
            | Error::Classes { .. }
            | Error::NoPrediction { .. }
            | Error::Output(_) => false,
        }
    }
}
