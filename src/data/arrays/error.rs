//! Errors of arrays.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::data::listed;
use crate::report::escape;

/// Why arrays cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("--data: no file or folder was given, expected one with the arrays of the model")]
    NotGiven,
    #[error("{}: no such file or folder", escape::path(path))]
    NotFound { path: PathBuf },
    #[error(transparent)]
    Safetensors(#[from] checkpoint::Error),
    #[error("{}: {problem}", escape::path(path))]
    Npz { path: PathBuf, problem: String },
    #[error("{}: '{}': {problem}", escape::path(path), escape::name(name))]
    Npy {
        path: PathBuf,
        name: String,
        problem: String,
    },
    #[error(
        "{}: no arrays, expected .safetensors, .npz, .npy, or tokens as .bin (uint16), .u16 or .u32",
        escape::path(path)
    )]
    NoArrays { path: PathBuf },
    #[error("{}: two arrays have the name '{}'", escape::path(path), escape::name(name))]
    Twice { path: PathBuf, name: String },
    #[error(
        "{}: no array for the input '{}' of the model, found {}",
        escape::path(path),
        escape::name(name),
        if found.is_empty() { "none".to_owned() } else { listed(found) }
    )]
    Missing {
        path: PathBuf,
        name: String,
        found: Vec<String>,
    },
    #[error("{}: '{}' is {found}, expected {expected}", escape::path(path), escape::name(name))]
    Shape {
        path: PathBuf,
        name: String,
        found: String,
        expected: String,
    },
    #[error(
        "{}: '{}' has {} examples, but '{}' has {}; expected as many",
        escape::path(path),
        escape::name(&names[0]),
        found[0],
        escape::name(&names[1]),
        found[1]
    )]
    Lengths {
        path: PathBuf,
        names: [String; 2],
        found: [usize; 2],
    },
    #[error("{}: {found} examples, expected 1 to {}", escape::path(path), i32::MAX)]
    Count { path: PathBuf, found: usize },
    #[error(
        "{}: '{}': example {example} has the value {value}, which {expected} cannot hold",
        escape::path(path),
        escape::name(name)
    )]
    Value {
        path: PathBuf,
        name: String,
        example: usize,
        value: i128,
        expected: String,
    },
    #[error("a batch of arrays has another size than its shape")]
    Batch,
}

impl Error {
    /// Whether the user named something that is not there.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::NotGiven | Error::NotFound { .. })
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        |source| Error::Io { path, source }
    }
}
