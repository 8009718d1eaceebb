//! Errors of building, differentiating, evaluating and decoding graphs.

use crate::shape::Shape;
use std::fmt;
use std::panic::Location;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of building or using a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// An operator got operands that it does not accept. [`crate::Graph::build`] reports the first such call and its
    /// location.
    #[error("{op}({operands}): {message}, at {location}", operands = Shapes(.operands))]
    Shape {
        /// HLO name of the operator.
        op: &'static str,
        /// Operand shapes, in order.
        operands: Vec<Shape>,
        /// The problem, with the two values that disagree.
        message: String,
        /// File, line and column of the call.
        location: &'static Location<'static>,
    },
    /// The gradient passes through an operator that has none.
    #[error("no gradient through {op}: {reason}; path from the loss: {path}")]
    NoGradient {
        /// HLO name of the operator.
        op: &'static str,
        /// Why it has none.
        reason: String,
        /// Operators from the differentiated value to the one without a gradient.
        path: String,
    },
    /// The arguments of the evaluator do not match the parameters.
    #[error("evaluating {computation}: {message}")]
    Evaluate {
        /// Name of the computation.
        computation: String,
        /// The problem.
        message: String,
    },
    /// A module of another program that not every device can run.
    #[error("an HLO module with {op} (from {source_name}): expected only operators that every device has")]
    Module {
        /// The operator, with the target of a custom call.
        op: String,
        /// Its name in the program that made it.
        source_name: String,
    },
    /// The bytes are not a serialized module.
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
