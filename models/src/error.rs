//! Errors of building a network.

use crate::names;

/// Error of [`crate::Options::build`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No network has this name.
    #[error("unknown model '{found}'\n  known: {}", names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// The name given.
        found: String,
    },
    /// The network does not accept the value.
    #[error("{option} of {model} is {found}, expected {expected}")]
    Option {
        /// Name of the network.
        model: String,
        /// Field of [`crate::Options`].
        option: &'static str,
        /// The given value.
        found: String,
        /// Description of the accepted values.
        expected: String,
    },
}
