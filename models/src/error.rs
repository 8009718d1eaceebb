//! What can be wrong with a request for a network.

use crate::NAMES;

/// Error of [`crate::Options::build`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No network has this name.
    #[error("unknown model '{found}'\n  known: {}", NAMES.join(", "))]
    Unknown {
        /// The name given.
        found: String,
    },
    /// A value that the network cannot take.
    #[error("{option} of {model} is {found}, expected {expected}")]
    Option {
        /// Name of the network.
        model: String,
        /// Field of [`crate::Options`].
        option: &'static str,
        /// The value given.
        found: String,
        /// What is accepted, in words.
        expected: String,
    },
}
