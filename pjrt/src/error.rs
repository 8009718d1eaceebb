//! Errors of plugins and devices.

use std::path::{Path, PathBuf};

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of plugins, devices and compiled programs. Each names the file, call or argument, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin file does not exist.
    #[error("PJRT plugin {path}: no such file; expected a shared library")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The file is not a shared library of this machine.
    #[error("PJRT plugin {path}: not a loadable shared library: {reason}")]
    NotALibrary {
        /// The path as given.
        path: PathBuf,
        /// The file's first bytes, or the message of the system's loader.
        reason: String,
    },
    /// The shared library is not as long as its header says.
    #[error("PJRT plugin {path}: damaged: {found}, expected {expected}")]
    Damaged {
        /// The path as given.
        path: PathBuf,
        /// The size found.
        found: String,
        /// The size expected.
        expected: String,
    },
    /// The shared library has no (working) `GetPjrtApi`.
    #[error("PJRT plugin {path}: not a PJRT plugin: {reason}; expected a library that exports GetPjrtApi")]
    NotAPlugin {
        /// The path as given.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The plugin's C API is outside the supported range.
    #[error("PJRT plugin {path}: its API version is {major}.{minor}; expected 0.{minimum} or newer of major version 0")]
    Version {
        /// The path as given.
        path: PathBuf,
        /// Major version found.
        major: i32,
        /// Minor version found.
        minor: i32,
        /// Lowest minor version accepted.
        minimum: i32,
    },
    /// The plugin's function table lacks a function.
    #[error("the PJRT plugin (API {}.{}) lacks {slot}", version.0, version.1)]
    Unsupported {
        /// Name of the slot.
        slot: &'static str,
        /// API version of the plugin.
        version: (i32, i32),
    },
    /// The plugin returned an error.
    #[error("{call}: {message} ({})", code_name(*code))]
    Plugin {
        /// The C API function, or the event that carried the error.
        call: &'static str,
        /// `PJRT_Error_Code`, as in gRPC.
        code: u32,
        /// The message of the plugin.
        message: String,
    },
    /// The plugin returned an unsupported value.
    #[error("{call}: the plugin returned {found}; expected {expected}")]
    Unexpected {
        /// The C API function.
        call: &'static str,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// A device number outside the client's devices.
    #[error("device {device} does not exist: the client has {count} addressable devices, numbered from 0")]
    NoSuchDevice {
        /// The number given.
        device: usize,
        /// Number of devices.
        count: usize,
    },
    /// A program was given the wrong number of arguments or devices.
    #[error("{program}: {found} {what} given; expected {expected}")]
    Arity {
        /// Name of the program.
        program: String,
        /// `arguments` or `devices`.
        what: &'static str,
        /// Number given.
        found: usize,
        /// Number expected.
        expected: usize,
    },
    /// A program was given an argument of the wrong shape or element type.
    #[error("{program}: argument {index} is {found}; expected {expected}")]
    ArgumentShape {
        /// Name of the program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its shape.
        found: hlo::Shape,
        /// The program's parameter.
        expected: hlo::Shape,
    },
    /// Too few threads for a library, which would abort the process.
    #[error(
        "{library} needs {needed} more threads, and the system gives this process {found} ({source}): raise its limit of \
         processes (`ulimit -u`) or of memory"
    )]
    Threads {
        /// Name of the library.
        library: &'static str,
        /// Number of threads that it may start.
        needed: usize,
        /// Number of threads that the system allows.
        found: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not a valid serialised executable.
    #[error("serialized executable: {0}")]
    Serialized(String),
    /// The plugin's file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Attaches the path to an I/O error.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    /// Whether a plugin ran out of memory, on a device or while compiling.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::Plugin { code: 8, .. })
    }

    /// Whether the plugin does not implement the function.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Error::Unsupported { .. } | Error::Plugin { code: 12, .. })
    }
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "ok",
        "cancelled",
        "unknown",
        "invalid argument",
        "deadline exceeded",
        "not found",
        "already exists",
        "permission denied",
        "resource exhausted",
        "failed precondition",
        "aborted",
        "out of range",
        "unimplemented",
        "internal",
        "unavailable",
        "data loss",
        "unauthenticated",
    ];
    NAMES
        .get(code as usize)
        .map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}
