//! What can go wrong while a graph is built, differentiated, evaluated or decoded.

use crate::shape::Shape;
use std::fmt;
use std::panic::Location;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of graph construction and of everything done with a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// An operator was called with operands that it does not take. Reported by [`crate::Graph::build`] for the first
    /// wrong call, with the line that made it.
    #[error("{op}({operands}): {message}, at {location}", operands = Shapes(.operands))]
    Shape {
        /// HLO name of the operator.
        op: &'static str,
        /// Operand shapes, in order.
        operands: Vec<Shape>,
        /// What is wrong, with the two values that disagree.
        message: String,
        /// File, line and column of the call.
        location: &'static Location<'static>,
    },
    /// A gradient was asked for through an operator that has none.
    #[error("no gradient through {op}: {reason}; path from the loss: {path}")]
    NoGradient {
        /// HLO name of the operator.
        op: &'static str,
        /// Why there is none.
        reason: String,
        /// Operators from the differentiated value to the one without a gradient.
        path: String,
    },
    /// The evaluator was given arguments that do not match the parameters.
    #[error("evaluating {computation}: {message}")]
    Evaluate {
        /// Name of the computation.
        computation: String,
        /// What is wrong.
        message: String,
    },
    /// A serialized module could not be read.
    #[error("reading an HLO module: {0}")]
    Proto(String),
}

/// Prints a list of shapes with commas.
struct Shapes<'a>(&'a [Shape]);

impl fmt::Display for Shapes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, shape) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{shape}")?;
        }
        Ok(())
    }
}
