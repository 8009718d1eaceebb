//! What a run tells while it goes on.

pub mod escape;
pub mod metrics;
pub mod progress;
pub mod table;
pub mod terminal;
pub mod units;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A line for people on standard error, formatted as by `format!`, its control characters escaped ([`escape::text`]). Unlike `eprintln!` it does not fail when nobody reads:
/// a run goes on, and saves, after its terminal is closed.
macro_rules! note {
    ($($message:tt)*) => {
        $crate::report::write_note(format_args!($($message)*))
    };
}
pub(crate) use note;

/// See [`note`].
pub(crate) fn write_note(message: std::fmt::Arguments<'_>) {
    let message = message.to_string();
    let _ = writeln!(std::io::stderr(), "{}", escape::text(&message));
}

/// A path in JSON, which is text: what is no text in it is replaced.
///
/// # Errors
/// The serializer's.
pub fn path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// As [`path()`].
///
/// # Errors
/// The serializer's.
pub fn path_or_none<S: serde::Serializer>(of: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match of {
        Some(of) => path(of, serializer),
        None => serializer.serialize_none(),
    }
}

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether [`detail`] says anything from now on (`-v`).
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Text on standard error for those who asked for details; made only then.
pub fn detail(text: impl FnOnce() -> String) {
    if VERBOSE.load(Ordering::Relaxed) {
        note!("{}", text().trim_end());
    }
}
