//! Output of commands: progress, tables, notes and metrics.

pub mod chart;
pub mod escape;
pub mod events;
pub mod metrics;
pub mod page;
pub mod progress;
pub mod statistic;
pub mod table;
pub mod terminal;
pub mod units;

use std::io::Write;
use std::path::{Path, PathBuf};

/// Reports a line to the user, formatted as by `format!`. Library code reports through the facade [`log`]; the program shows the
/// lines on standard error ([`show_log`]).
pub(crate) use log::info as note;

/// Shows reports on standard error, with control characters escaped ([`escape::text`]).
struct Terminal;

/// The crates of this program; others may log what no user asked for.
const CRATES: [&str; 8] = [
    "rigl_xla", "pjrt", "cpu", "pictures", "lowering", "models", "hlo", "sparse",
];

impl log::Log for Terminal {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let name = metadata.target().split("::").next();
        let all = log::max_level() == log::LevelFilter::Trace;
        all || name.is_some_and(|name| CRATES.contains(&name))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let message = record.args().to_string();
            // A run continues and saves after its terminal is closed.
            let _ = writeln!(std::io::stderr(), "{}", escape::text(&message));
        }
    }

    fn flush(&self) {}
}

/// Shows what the library reports on standard error: nothing if `quiet`, with details if `verbose`, and from 2 on with what other
/// crates log.
pub fn show_log(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => log::LevelFilter::Off,
        (false, 0) => log::LevelFilter::Info,
        (false, 1) => log::LevelFilter::Debug,
        (false, _) => log::LevelFilter::Trace,
    };
    // Another logger stays, if there is one.
    if log::set_logger(&Terminal).is_ok() {
        log::set_max_level(level);
    }
}

/// Serialises a path as text; non-Unicode parts are replaced.
///
/// # Errors
/// The serializer's errors.
pub fn path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// As [`path()`], for an optional path.
///
/// # Errors
/// The serializer's errors.
pub fn path_or_none<S: serde::Serializer>(of: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match of {
        Some(of) => path(of, serializer),
        None => serializer.serialize_none(),
    }
}

/// Reports a detail, shown with `-v`; otherwise the text is not computed.
pub fn detail(text: impl FnOnce() -> String) {
    if log::log_enabled!(log::Level::Debug) {
        log::debug!("{}", text().trim_end());
    }
}
