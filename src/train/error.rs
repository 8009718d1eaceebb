//! What can end a run early.

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
    /// The device.
    #[error(transparent)]
    Device(#[from] engine::Error),
    /// The other processes.
    #[error(transparent)]
    Processes(#[from] distributed::Error),
    /// The examples.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A checkpoint or the run folder.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A graph that does not build: a defect of this program.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
    /// Masks or their schedule.
    #[error(transparent)]
    Sparse(#[from] sparse::Error),
    /// The configuration, kept with the run or asked for.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// `metrics.jsonl`, `profile.jsonl` or what the profiler of the devices recorded.
    #[error("{}: {source}", path.display())]
    Metrics {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The loss is infinite or not a number.
    #[error(
        "the loss is {loss} at iteration {iteration} (gradient step {step}); {}",
        saved_before(last_good.as_ref())
    )]
    Diverged {
        /// Which iteration it was, the first being 1.
        iteration: u64,
        /// Value of the step counter at it.
        step: i64,
        /// What the loss was.
        loss: f32,
        /// Newest checkpoint, all of whose numbers are finite.
        last_good: Option<PathBuf>,
    },
    /// Replicas that no longer train the same network.
    #[error(
        "the {replicas} replicas have different masks after the update at iteration {iteration} (gradient step {step}), \
         expected the same on all: their devices do not compute alike; {}",
        saved_before(last_good.as_ref())
    )]
    MasksDiffer {
        /// Which iteration it was, the first being 1.
        iteration: u64,
        /// Value of the step counter at it.
        step: i64,
        /// How many replicas there are.
        replicas: usize,
        /// Newest checkpoint, from before the difference.
        last_good: Option<PathBuf>,
    },
    /// `--resume` with another configuration than the run has.
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
        /// What it has instead.
        found: String,
    },
    /// Examples that the model does not take.
    #[error("{what} has {found}, expected {expected}")]
    Shape {
        /// File, tensor or data set.
        what: String,
        /// What it has.
        found: String,
        /// What the model takes.
        expected: String,
    },
    /// A network that sparse kernels do not compute.
    #[error("{model} cannot be predicted from its connections alone: {reason}; use --execution masked")]
    NotSparse {
        /// The network.
        model: String,
        /// Why.
        reason: String,
    },
    /// A network and a data set with different numbers of classes: labels of one mean nothing to the other.
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
            Error::Device(engine) => engine.is_usage(),
            _ => false,
        }
    }
}
