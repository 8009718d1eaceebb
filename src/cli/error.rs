//! Errors of commands, each with its exit code.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::process::ExitCode;

use crate::signals::{self, Stop};
use crate::{
    aot, checkpoint, config, data, distributed, engine, host_functions, plugins, sweep, topology, train, verify,
};

/// Results of commands.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command ended.
#[derive(Debug)]
pub enum Error {
    /// Wrong flags or configuration.
    Usage(anyhow::Error),
    /// Anything else that went wrong.
    Failure(anyhow::Error),
    /// A signal stopped the command cleanly; holds the exit code.
    Stopped(u8),
    /// The reader of standard output, e.g. `head`, has closed it. Not a failure.
    Closed,
}

impl Error {
    /// A failure with this message.
    pub fn failure(message: String) -> Self {
        Error::Failure(anyhow::Error::msg(message))
    }

    /// The command stopped cleanly on the signal that `stop` caught.
    pub fn stopped(stop: &Stop) -> Self {
        Error::Stopped(signals::exit_code(stop.signal()))
    }

    /// Exit code: 0 success; 1 failure; 2 wrong usage or configuration; 130 and 143 stopped by SIGINT and SIGTERM.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::Closed => 0,
            Error::Failure(_) => 1,
            Error::Usage(_) => 2,
            Error::Stopped(code) => *code,
        })
    }

    /// The error to report, if there is one.
    pub fn reported(&self) -> Option<&anyhow::Error> {
        match self {
            Error::Usage(error) | Error::Failure(error) => Some(error),
            Error::Stopped(_) | Error::Closed => None,
        }
    }

    /// The same error with a description of what was attempted.
    #[must_use]
    fn in_context(self, context: impl Display + Send + Sync + 'static) -> Self {
        match self {
            Error::Usage(error) => Error::Usage(error.context(context)),
            Error::Failure(error) => Error::Failure(error.context(context)),
            other @ (Error::Stopped(_) | Error::Closed) => other,
        }
    }
}

/// The error with its causes.
impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(error) | Error::Failure(error) => write!(f, "{error:#}"),
            Error::Stopped(_) => f.write_str("stopped by a signal"),
            Error::Closed => f.write_str("standard output is closed"),
        }
    }
}

/// An error that knows whether the user can mend it.
pub trait IsUsage: Into<anyhow::Error> {
    /// Whether flags or configuration are wrong.
    fn is_usage(&self) -> bool;
}

impl<E: IsUsage> From<E> for Error {
    fn from(error: E) -> Self {
        match error.is_usage() {
            true => Error::Usage(error.into()),
            false => Error::Failure(error.into()),
        }
    }
}

/// Conflicting flags, or flags that do not fit the run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl IsUsage for Usage {
    fn is_usage(&self) -> bool {
        true
    }
}

/// A name that is none of a list.
impl IsUsage for sparse::names::Unknown {
    fn is_usage(&self) -> bool {
        true
    }
}

/// Errors with a method `is_usage`.
macro_rules! know_their_kind {
    ($($error:ty),+ $(,)?) => {
        $(impl IsUsage for $error {
            fn is_usage(&self) -> bool {
                <$error>::is_usage(self)
            }
        })+
    };
}

/// Errors that are never the user's flags.
macro_rules! failures {
    ($($error:ty),+ $(,)?) => {
        $(impl IsUsage for $error {
            fn is_usage(&self) -> bool {
                false
            }
        })+
    };
}

know_their_kind!(
    aot::Error,
    config::Error,
    data::Error,
    distributed::Error,
    engine::Error,
    host_functions::Error,
    plugins::Error,
    sweep::Error,
    topology::Error,
    train::Error,
    verify::Error,
    crate::report::page::Error,
);
failures!(
    anyhow::Error,
    checkpoint::Error,
    checkpoint::tf::Error,
    data::prepare::Error,
    data::tfrecord::Error,
    crate::export::Error,
    fmt::Error,
    hlo::Error,
    io::Error,
    pjrt::Error,
    serde_json::Error,
    sparse::Error,
);

/// Adds a description of what was attempted to an error, which keeps its kind.
pub trait Context<T> {
    /// # Errors
    /// The error with its description.
    fn context(self, context: impl Display + Send + Sync + 'static) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl Display + Send + Sync + 'static) -> Result<T> {
        self.map_err(|error| error.into().in_context(context))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, context: impl Display + Send + Sync + 'static) -> Result<T> {
        self.ok_or_else(|| Error::failure(context.to_string()))
    }
}

/// Returns a failure with this message.
macro_rules! bail {
    ($($message:tt)*) => {
        return Err($crate::cli::Error::failure(format!($($message)*)))
    };
}
pub(crate) use bail;
