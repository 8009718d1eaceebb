//! Why a data set cannot be prepared.

use std::path::{Path, PathBuf};
use std::{io, result};

use crate::report::escape;

/// Each message names the file, the value found and the value expected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    #[error(transparent)]
    Record(#[from] crate::data::tfrecord::Error),
    #[error(
        "{}: it exists; the set is written to a new folder, which appears once it is whole",
        escape::path(path)
    )]
    Exists { path: PathBuf },
    #[error(
        "{}: no pictures: expected folders or tar files of classes with .jpeg, .jpg or .png files in them, pictures with \
         a list of their classes, or the files of MNIST or CIFAR-10",
        escape::path(path)
    )]
    NoPictures { path: PathBuf },
    #[error(
        "{}: compressed; expected a plain tar file, so that pictures can be read in any order",
        escape::path(path)
    )]
    CompressedTar { path: PathBuf },
    #[error(
        "{}: {name} is in no class: expected folders or tar files of classes, or a list by --validation-classes",
        escape::path(path)
    )]
    NoClass { path: PathBuf, name: String },
    #[error(
        "{}: {found} classes, but {} has {expected} pictures that need one",
        escape::path(path),
        escape::path(pictures)
    )]
    ClassCount {
        path: PathBuf,
        found: usize,
        pictures: PathBuf,
        expected: usize,
    },
    #[error(
        "{}: class '{class}' of {name} is none of the {known} known ones, the first of which is '{first}'",
        escape::path(path)
    )]
    UnknownClass {
        path: PathBuf,
        name: String,
        class: String,
        known: usize,
        first: String,
    },
    #[error("{}: line {line}: {problem}", escape::path(path))]
    List {
        path: PathBuf,
        line: usize,
        problem: &'static str,
    },
    #[error("{name}: {found} bytes, expected at most {expected} within its archive")]
    Beyond { name: String, found: u64, expected: u64 },
    #[error("{name}: {problem}")]
    Picture { name: String, problem: String },
    #[error("{shards} shards of {set} for {pictures} pictures, expected 1 to as many")]
    Shards {
        set: &'static str,
        shards: usize,
        pictures: usize,
    },
    #[error("stopped; nothing is left behind")]
    Stopped,
}

impl Error {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

/// This module's results.
pub type Result<T> = result::Result<T, Error>;
