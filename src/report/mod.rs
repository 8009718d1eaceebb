//! Output of commands: progress, tables, notes and metrics.

pub mod escape;
pub mod metrics;
pub mod progress;
pub mod table;
pub mod terminal;
pub mod units;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Prints a line to standard error, formatted as by `format!`, with control characters escaped ([`escape::text`]).
/// Unlike `eprintln!` it does not panic if standard error is closed: a run continues and saves after its terminal is
/// closed.
macro_rules! note {
    ($($message:tt)*) => {
        $crate::report::write_note(format_args!($($message)*))
    };
}
pub(crate) use note;

/// Implements [`note`].
pub(crate) fn write_note(message: std::fmt::Arguments<'_>) {
    let message = message.to_string();
    let _ = writeln!(std::io::stderr(), "{}", escape::text(&message));
}

/// Serialises a path as text; non-Unicode parts are replaced.
///
/// # Errors
/// Those of the serializer.
pub fn path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// As [`path()`], for an optional path.
///
/// # Errors
/// Those of the serializer.
pub fn path_or_none<S: serde::Serializer>(of: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match of {
        Some(of) => path(of, serializer),
        None => serializer.serialize_none(),
    }
}

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Enables or disables [`detail`] (`-v`).
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Prints text to standard error if `-v` is set; otherwise the text is not computed.
pub fn detail(text: impl FnOnce() -> String) {
    if VERBOSE.load(Ordering::Relaxed) {
        note!("{}", text().trim_end());
    }
}
