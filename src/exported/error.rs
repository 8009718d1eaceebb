//! Errors of exported models.

use crate::checkpoint;
use crate::report::escape;
use std::path::{Path, PathBuf};

/// Why an exported model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// A part is missing.
    #[error(
        "{}: has no array '{}', expected a model file as rigl_xla.export writes it",
        escape::path(path),
        escape::name(name)
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The array.
        name: String,
    },
    /// An array that the manifest does not name.
    #[error("{}: array '{}' is not in the manifest", escape::path(path), escape::name(name))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The array.
        name: String,
    },
    /// The manifest is malformed, or does not fit the other arrays.
    #[error("{}: manifest: {}", escape::path(path), escape::name(problem))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A program cannot be used.
    #[error("{}: {name}: {source}", escape::path(path))]
    Module {
        /// The file.
        path: PathBuf,
        /// The array with the program.
        name: &'static str,
        /// The reason.
        source: hlo::Error,
    },
}

impl Error {
    pub(super) fn missing(path: &Path, name: &str) -> Self {
        Error::Missing {
            path: path.into(),
            name: name.into(),
        }
    }

    pub(super) fn manifest(path: &Path, problem: String) -> Self {
        Error::Manifest {
            path: path.into(),
            problem,
        }
    }
}
