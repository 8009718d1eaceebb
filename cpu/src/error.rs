//! Errors of this crate. All are mistakes of the caller.

use crate::simd::Isa;

/// A call that cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// An array of another length than its layout or shape has.
    #[error("{what}: an array of {found} elements, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Elements given.
        found: usize,
        /// Elements needed.
        expected: usize,
    },
    /// Two things that do not fit together.
    #[error("{what}: found {found}, expected {expected}")]
    Mismatch {
        /// The compared property.
        what: &'static str,
        /// The given value.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// A shape that is too large for 32-bit offsets, or empty where it may not be.
    #[error("{what}: {found} is out of range, expected {expected}")]
    Range {
        /// The checked property.
        what: &'static str,
        /// The given value.
        found: i128,
        /// The range.
        expected: &'static str,
    },
    /// An instruction set that this processor does not have.
    #[error("this processor has no {isa:?}; use Isa::detect()")]
    Isa {
        /// The instruction set.
        isa: Isa,
    },
}

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Checks the length of an array.
pub(crate) fn check_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { what, found, expected })
    }
}

/// Checks that two things are equal.
pub(crate) fn check_equal<T: PartialEq + std::fmt::Debug>(what: &'static str, found: T, expected: T) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Mismatch {
            what,
            found: format!("{found:?}"),
            expected: format!("{expected:?}"),
        })
    }
}
