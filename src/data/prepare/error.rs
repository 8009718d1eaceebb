//! Errors of data preparation.

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
    #[error("{}: {source}: not a tar file, or damaged", escape::path(path))]
    Tar { path: PathBuf, source: io::Error },
    #[error("{}: after {}: {found}", escape::path(path), if last.is_empty() { "0 entries" } else { last })]
    CutTar {
        path: PathBuf,
        /// Name of the last entry.
        last: String,
        found: &'static str,
    },
    #[error("{}: a {found}, expected a regular file", escape::path(path))]
    Special { path: PathBuf, found: &'static str },
    #[error("{}: every one of {count} pictures was skipped", escape::path(path))]
    AllSkipped { path: PathBuf, count: usize },
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
        "{}: class '{}' of {} is none of the {known} known ones, the first of which is '{first}'{}",
        escape::path(path),
        escape::name(class),
        escape::name(name),
        list_hint(class)
    )]
    UnknownClass {
        path: PathBuf,
        name: String,
        class: String,
        known: usize,
        first: String,
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

/// Describes a line of a class list that does not name a class.
fn list_hint(class: &str) -> &'static str {
    match class.split([' ', ',']).count() {
        1 if class.bytes().all(|byte| byte.is_ascii_digit()) => {
            "; numbers are not taken, as ILSVRC2012 numbers its classes in another order than that of their names: list names"
        }
        1 => "",
        _ => "; expected a class alone on each line, in the order of the pictures' names",
    }
}

impl Error {
    /// Whether the fault is limited to one picture, so that the others can still be written.
    pub fn is_of_one_picture(&self) -> bool {
        matches!(self, Error::Picture { .. } | Error::Beyond { .. })
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

/// Results of this module.
pub type Result<T> = result::Result<T, Error>;
