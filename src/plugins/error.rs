//! Errors of plugin packages.

use std::path::{Path, PathBuf};

use pjrt::DeviceKind;
use sparse::names::Unknown;

use super::trouble::Trouble;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of finding, fetching, verifying and loading plugins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin does not load, or has no device.
    #[error("{source}{}", remedy(source))]
    Pjrt {
        /// The failure.
        #[from]
        source: pjrt::Error,
    },
    /// The file is not the package's.
    #[error("{path}: damaged: {found}, expected {expected}; delete it and run `rigl-xla plugin fetch` again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Size or digest found.
        found: String,
        /// Size or digest expected.
        expected: String,
    },
    /// The machine does not have the device.
    #[error(
        "no {kind} on this machine: looked for {nodes}, and found none; the plugin {package} was not loaded. \
         `--plugin FILE` loads one all the same{hint}"
    )]
    NoDevice {
        /// Kind of device.
        kind: DeviceKind,
        /// Paths of device nodes.
        nodes: String,
        /// The plugin for the device, and its location.
        package: String,
        /// An alternative, if any.
        hint: String,
    },
    /// A TPU that does not start, for a known reason.
    #[error("{trouble}: {remedy}\n  {source}")]
    Tpu {
        /// The reason.
        trouble: Trouble,
        /// The remedy.
        remedy: String,
        /// The error of the runtime.
        source: Box<Error>,
    },
    /// A device that does not start in time.
    #[error("PJRT_Client_Create: no answer within {seconds} s")]
    Late {
        /// The limit.
        seconds: u64,
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
    /// A file or folder of the plugin or executable cache.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The remedy for a file that is no plugin.
fn remedy(error: &pjrt::Error) -> &'static str {
    match error {
        pjrt::Error::Missing { .. } => " (see `rigl-xla plugin list`)",
        pjrt::Error::Damaged { .. } => "; delete it and run `rigl-xla plugin fetch` again",
        _ => "",
    }
}

impl Error {
    /// Attaches the path to an I/O error.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    /// Whether the user made the error.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::UnknownPackage(_) => true,
            Error::Pjrt { .. }
            | Error::Damaged { .. }
            | Error::Tpu { .. }
            | Error::Late { .. }
            | Error::NoDevice { .. }
            | Error::Fetch { .. }
            | Error::Io { .. } => false,
        }
    }
}
