//! Errors of sweeps.

use std::io;
use std::path::PathBuf;

use crate::report::escape;
use crate::{checkpoint, config, train};

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a sweep cannot be read or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", escape::path(path))]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", escape::path(path))]
    Toml { path: PathBuf, source: toml::de::Error },
    #[error("{}: {key} is {found}, expected {expected}", escape::path(path))]
    Value {
        path: PathBuf,
        key: String,
        found: String,
        expected: String,
    },
    #[error("seeds are '{found}', expected numbers such as 0..4 (0 to 4) or 1,5,7")]
    Seeds { found: String },
    #[error("{found} jobs, expected 1 to {MAX_JOBS}")]
    Jobs { found: usize },
    #[error("two jobs have the folder {}: their settings are the same", escape::path(path))]
    SameFolder { path: PathBuf },
    #[error("job {job}: {source}")]
    Job { job: String, source: Box<config::Error> },
    #[error("{}: holds another run, which differs in {}", escape::path(path), differences.join("; "))]
    OtherRun { path: PathBuf, differences: Vec<String> },
    #[error("{}: {problem}", escape::path(path))]
    Summary { path: PathBuf, problem: String },
    #[error("{0}")]
    Config(Box<config::Error>),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error("{0}")]
    Train(Box<train::Error>),
    #[error(transparent)]
    Graph(#[from] hlo::Error),
}

/// Maximum number of jobs of a sweep.
pub const MAX_JOBS: usize = 10_000;

impl Error {
    /// Whether flags or files of the user are wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Read { .. }
            | Error::Toml { .. }
            | Error::Value { .. }
            | Error::Seeds { .. }
            | Error::Jobs { .. }
            | Error::SameFolder { .. }
            | Error::Job { .. }
            | Error::Config(_) => true,
            Error::Train(error) => error.is_usage(),
            Error::Io { .. }
            | Error::OtherRun { .. }
            | Error::Summary { .. }
            | Error::Checkpoint(_)
            | Error::Graph(_) => false,
        }
    }

    /// For `map_err` around a call on `path`.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Error::Config(Box::new(error))
    }
}

impl From<train::Error> for Error {
    fn from(error: train::Error) -> Self {
        Error::Train(Box::new(error))
    }
}
