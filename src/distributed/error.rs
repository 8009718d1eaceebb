//! What keeps processes from working together.

use std::time::Duration;

use crate::pjrt::StoreError;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the processes of a run cannot start, or go on, together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Flags that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Not the address of a server.
    #[error("--etcd {given}: expected HOST:PORT of an etcd server, reached without TLS")]
    Address {
        /// As given.
        given: String,
    },
    /// The store cannot be reached, or refuses.
    #[error("etcd at {address}, {method}: {source}")]
    Store {
        /// Host and port.
        address: String,
        /// Of the server's interface.
        method: &'static str,
        /// What it says.
        source: StoreError,
    },
    /// Some process did not come.
    #[error(
        "process {process} of {count} waited {waited:.0?} for {missing} in vain, as job '{job}' at etcd {address}; expected as \
         many processes, each with a number of its own and the same --etcd, --num-processes and --out"
    )]
    Alone {
        /// This process.
        process: usize,
        /// How many there are to be.
        count: usize,
        /// Whom it waited for.
        missing: String,
        /// How long.
        waited: Duration,
        /// Name of the job.
        job: String,
        /// Of the store.
        address: String,
    },
    /// The store is there, but lost what it held.
    #[error("etcd at {address} lost the keys of this job: it was started again without its data")]
    Forgotten {
        /// Host and port.
        address: String,
    },
    /// The number of this process is another's.
    #[error(
        "process {process} started twice, or anew before the others ended: another one took its place in job '{job}'"
    )]
    Replaced {
        /// Its number.
        process: usize,
        /// Name of the job.
        job: String,
    },
    /// The processes are not to do the same.
    #[error("processes differ in {what}: it is {found} for process {process}, and {expected} for process 0")]
    Differ {
        /// Key of the configuration, or file.
        what: String,
        /// The first process that differs.
        process: usize,
        /// Its value.
        found: String,
        /// That of process 0.
        expected: String,
    },
    /// What another process said is not of this program's form.
    #[error("process {process} said '{found}', expected what this version says")]
    Words {
        /// Which one.
        process: usize,
        /// Its words.
        found: String,
    },
    /// The system gives no thread to watch the others.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// True for flags that are wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Usage(_) | Error::Address { .. })
    }

    /// Whether the store may be there later.
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
