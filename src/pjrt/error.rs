//! Errors of plugins and devices.

use sparse::names::Unknown;
use std::path::{Path, PathBuf};

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of plugins, devices and compiled programs. Each names the file, call or argument, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin file does not exist.
    #[error("PJRT plugin {path}: no such file; expected a shared library (see `rigl-xla plugin list`)")]
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
    /// The shared library is damaged.
    #[error(
        "PJRT plugin {path}: damaged: {found}, expected {expected}; delete it and run `rigl-xla plugin fetch` again"
    )]
    Damaged {
        /// The path as given.
        path: PathBuf,
        /// Size or digest found.
        found: String,
        /// Size or digest expected.
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
    /// The graph could not be lowered for the device.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
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
    /// No such device kind.
    #[error(transparent)]
    UnknownDevice(Unknown),
    /// The machine does not have the device.
    #[error(
        "no {kind} on this machine: looked for {nodes}, and found none; the plugin {package} was not loaded. \
         `--plugin FILE` loads one all the same{hint}"
    )]
    NoDevice {
        /// Kind of device.
        kind: super::packages::DeviceKind,
        /// Paths of device nodes.
        nodes: String,
        /// The plugin for the device, and its location.
        package: String,
        /// An alternative, if any.
        hint: &'static str,
    },
    /// An unknown program format.
    #[error("{variable}={given}: expected hlo or stablehlo")]
    UnknownFormat {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        given: String,
    },
    /// Neither a file nor a known package.
    #[error(transparent)]
    UnknownPackage(Unknown),
    /// A package could not be fetched.
    #[error("cannot fetch the package {package}: {reason}\n{remedy}")]
    Fetch {
        /// Name and version.
        package: String,
        /// The reason.
        reason: String,
        /// If and where to run which command instead.
        remedy: String,
    },
    /// A device number outside the client's devices.
    #[error("device {device} does not exist: the client has {count} addressable devices, numbered from 0")]
    NoSuchDevice {
        /// The number given.
        device: usize,
        /// Number of devices.
        count: usize,
    },
    /// Fewer devices than replicas.
    #[error("{asked} replicas: the {platform} client has {count} addressable devices; expected one for each replica")]
    TooFewDevices {
        /// Number of replicas.
        asked: usize,
        /// Name of the platform.
        platform: String,
        /// Number of devices.
        count: usize,
    },
    /// The plugin knows another number of processes.
    #[error(
        "the {platform} client knows devices of {known} process{}, expected those of {count}: its plugin does not run over several \
         processes, or was not started on all of them",
        if *known == 1 { "" } else { "es" }
    )]
    OtherProcesses {
        /// Name of the platform.
        platform: String,
        /// Number of processes that the plugin knows.
        known: usize,
        /// Number of processes.
        count: usize,
    },
    /// The plugin has another number for this process.
    #[error(
        "the {platform} client is process {found} for its plugin, expected --process-id {process}: give each process the \
         plugin's number"
    )]
    OtherNumber {
        /// Name of the platform.
        platform: String,
        /// The plugin's number.
        found: usize,
        /// The number given.
        process: usize,
    },
    /// A process with fewer devices than replicas.
    #[error(
        "process {process} has {found} devices, expected at least {each}: --replicas counts those of all processes together"
    )]
    TooFewOfProcess {
        /// Number of the process.
        process: usize,
        /// Replicas of each process.
        each: usize,
        /// Number of devices.
        found: usize,
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
    /// A file or folder of the plugin or executable cache.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
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

    /// Fails unless a library can start `needed` threads.
    pub(crate) fn unless_threads(library: &'static str, needed: usize) -> Result<()> {
        crate::threads::probe(needed).map_err(|(found, source)| Error::Threads {
            library,
            needed,
            found,
            source,
        })
    }

    /// Whether the user made the error.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::UnknownDevice(_) | Error::UnknownPackage(_) | Error::UnknownFormat { .. }
        )
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
