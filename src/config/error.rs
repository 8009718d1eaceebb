//! What can be wrong with a configuration; each message starts with the flag, file or preset that said it.

use std::{io, path::PathBuf};

use crate::report::escape;

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
    #[error("{origin}: {}", source.to_string().trim_end())]
    Toml {
        /// Flag, file or preset.
        origin: String,
        /// What the parser found.
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
        /// What is accepted.
        expected: String,
    },
    /// A name or sparsity that the sparse modules refuse.
    #[error("{origin}: {source}")]
    Sparse {
        /// Flag, file or preset.
        origin: String,
        /// What they said.
        source: crate::sparse::Error,
    },
    /// A run that ends before it reaches its sparsity, or without a mask update.
    #[error(
        "{problem}; train longer, set those keys to steps within the run, or give --allow-incomplete-schedule to train \
         all the same"
    )]
    Incomplete {
        /// What is reached, what was expected, and the keys that say so.
        problem: String,
    },
    /// A run that TOML cannot hold.
    #[error("configuration cannot be written as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}

impl Error {
    /// The same error with who said it.
    #[must_use]
    pub fn said_by(mut self, said: String) -> Self {
        if let Error::Toml { origin, .. } | Error::Value { origin, .. } | Error::Sparse { origin, .. } = &mut self {
            *origin = said;
        }
        self
    }
}
