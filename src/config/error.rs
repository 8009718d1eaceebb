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
    #[error("{origin}: {}", text(parser, origin))]
    Toml {
        /// Flag, file or preset.
        origin: String,
        /// The parser's error, which the message holds in other words.
        parser: toml::de::Error,
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

/// The parser's message in the words of the other errors, with suggestions for unknown names. Where the message does not name
/// the key and `origin` is a file, the key comes first.
fn text(parser: &toml::de::Error, origin: &str) -> String {
    let text = parser.to_string();
    let in_key = |line: &str| Some(line.strip_prefix("in `")?.strip_suffix('`')?.to_owned());
    let key = text.trim_end().lines().last().and_then(in_key);
    let mut named = key.is_none() || origin.starts_with("--");
    let lines = text.trim_end().lines().filter(|line| in_key(line).is_none());
    let lines = lines.map(|line| {
        if let Some(unknown) = unknown(line) {
            return unknown.to_string();
        }
        let Some((found, expected)) = wrong_type(line) else {
            return line.to_owned();
        };
        named = true;
        match &key {
            Some(key) => format!("{key} is {found}, expected {expected}"),
            None => format!("{found}, expected {expected}"),
        }
    });
    let lines = lines.collect::<Vec<_>>().join("\n");
    match key.filter(|_| !named) {
        Some(key) => format!("{key}: {lines}"),
        None => lines,
    }
}

/// Parses a value of the wrong type and the expected type from a line of the parser: "invalid type: string "a", expected u64".
fn wrong_type(line: &str) -> Option<(&str, &str)> {
    let rest = ["invalid type: ", "invalid value: "];
    let rest = rest.into_iter().find_map(|start| line.strip_prefix(start))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let found = ["integer `", "floating point `", "boolean `"]
        .into_iter()
        .find_map(|start| found.strip_prefix(start)?.strip_suffix('`'))
        .or(found.strip_prefix("string "))
        .unwrap_or(found);
    let expected = match expected {
        "u64" | "u32" | "usize" => "a whole number of at least 0",
        "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    Some((found, expected))
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
