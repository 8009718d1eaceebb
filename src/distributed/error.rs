//! Errors of distributed runs.

use std::time::Duration;

use pjrt::StoreError;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of the group of processes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Conflicting flags.
    #[error("{0}")]
    Usage(String),
    /// An invalid address.
    #[error("--etcd {given}: expected HOST:PORT of an etcd server, reached without TLS")]
    Address {
        /// The value given.
        given: String,
    },
    /// The store cannot be reached, or refuses a request.
    #[error("etcd at {address}, {method}: {source}")]
    Store {
        /// Host and port.
        address: String,
        /// Method of the server's interface.
        method: &'static str,
        /// The server's error.
        source: StoreError,
    },
    /// Some processes did not join in time.
    #[error(
        "process {process} of {count} waited {waited:.0?} for {missing}, as job '{job}' at etcd {address}; expected as \
         many processes, each with a number of its own and the same --etcd, --num-processes and --out"
    )]
    Alone {
        /// This process.
        process: usize,
        /// Expected number of processes.
        count: usize,
        /// The missing processes.
        missing: String,
        /// Time waited.
        waited: Duration,
        /// Name of the job.
        job: String,
        /// Host and port of the store.
        address: String,
    },
    /// The store lost its data.
    #[error("etcd at {address} lost the keys of this job: it was restarted without its data")]
    Forgotten {
        /// Host and port.
        address: String,
    },
    /// Another process has the number of this one.
    #[error("process {process} of job '{job}' is already running; wait for the job to end or use another --process-id")]
    Replaced {
        /// Its number.
        process: usize,
        /// Name of the job.
        job: String,
    },
    /// The processes have different values.
    #[error("processes differ in {what}: it is {found} for process {process}, and {expected} for process 0")]
    Differ {
        /// Key of the configuration, or file.
        what: String,
        /// The first process that differs.
        process: usize,
        /// Its value.
        found: String,
        /// The value of process 0.
        expected: String,
    },
    /// A message of another version of this program.
    #[error("process {process} sent '{found}', which this version does not understand; use the same version for all")]
    Message {
        /// Number of the process.
        process: usize,
        /// Its message.
        found: String,
    },
    /// The system refuses a thread.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether flags are wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Usage(_) | Error::Address { .. })
    }

    /// Whether a later request may succeed.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Error::Store { source, .. } if source.code == StoreError::UNAVAILABLE)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Store { source, .. } => source.code,
            _ => StoreError::UNKNOWN,
        };
        StoreError::new(code, error.to_string())
    }
}
