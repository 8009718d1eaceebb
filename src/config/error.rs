//! Errors of a configuration; each message starts with the flag, file or preset that caused it.

use std::{io, path::PathBuf};

use crate::exported;
use crate::report::escape;
use sparse::names::Unknown;

/// Error of reading, checking or writing a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file given with `--config` cannot be read.
    #[error("--config {}: {source}", escape::path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type or name.
    #[error("{origin}: {}", text(source))]
    Toml {
        /// Flag, file or preset.
        origin: String,
        /// The parser's error.
        source: toml::de::Error,
    },
    /// A value outside its range.
    #[error("{origin}: {key} is {found}, expected {expected}")]
    Value {
        /// Flag, file or preset.
        origin: String,
        /// Dotted key.
        key: String,
        /// The value given.
        found: String,
        /// The accepted values.
        expected: String,
    },
    /// A name or sparsity that the sparse modules refuse.
    #[error("{origin}: {source}")]
    Sparse {
        /// Flag, file or preset.
        origin: String,
        /// Their error.
        source: sparse::Error,
    },
    /// Two settings of equal rank for one value.
    #[error("{first} and {second} both set {key}, expected one of them")]
    Conflict {
        /// Dotted key that both set.
        key: String,
        /// The flag that came first, with its value.
        first: String,
        /// The other.
        second: String,
    },
    /// A run that ends before it reaches its sparsity, or without a mask update.
    #[error(
        "{problem}; train longer, set those keys to steps within the run, or give --allow-incomplete-schedule to train \
         all the same"
    )]
    Incomplete {
        /// The reached and the expected sparsity, with their keys.
        problem: String,
    },
    /// A model file that cannot be used.
    #[error(transparent)]
    Exported(#[from] exported::Error),
    /// A model file that cannot be read.
    #[error("{}: {source}", escape::path(path))]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A run that TOML cannot hold.
    #[error("configuration cannot be written as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}

impl Error {
    /// Every error of a configuration is the user's.
    pub fn is_usage(&self) -> bool {
        true
    }

    /// The same error with another origin.
    #[must_use]
    pub fn with_origin(mut self, new: String) -> Self {
        if let Error::Toml { origin, .. } | Error::Value { origin, .. } | Error::Sparse { origin, .. } = &mut self {
            *origin = new;
        }
        self
    }
}

/// The parser's message, with suggestions for unknown names.
fn text(source: &toml::de::Error) -> String {
    let text = source.to_string();
    let lines = text.trim_end().lines();
    let lines = lines.map(|line| unknown(line).map_or_else(|| line.to_owned(), |unknown| unknown.to_string()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Parses an unknown name from a line of the parser, which gives it only as text: "unknown field `a`, expected one of `b`, `c`".
fn unknown(line: &str) -> Option<Unknown> {
    let kinds = [("unknown field `", "key"), ("unknown variant `", "value")];
    let (rest, what) = kinds
        .into_iter()
        .find_map(|(start, what)| Some((line.strip_prefix(start)?, what)))?;
    let mut quoted = rest.split('`').step_by(2);
    Some(Unknown::new(
        what,
        quoted.next()?,
        quoted.filter(|name| !name.is_empty()),
    ))
}
