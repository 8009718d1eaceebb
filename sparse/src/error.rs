//! Errors, each with the value found and the value expected.

use crate::names::{DidYouMean, KNOWN_NAMES, Unknown};

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// An unknown name.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// A number outside its range.
    #[error("{name} is {found}, expected {expected}")]
    Value {
        /// Flag or field.
        name: String,
        /// The value given.
        found: String,
        /// The accepted range, in words.
        expected: &'static str,
    },
    /// Custom sparsities for layers that do not exist or have no mask.
    #[error(
        "custom sparsity given for {}, which are not maskable layers of this model{}\n{KNOWN_NAMES}{}",
        quoted(names),
        DidYouMean(near),
        known.join(", ")
    )]
    MissingLayers {
        /// The names given that no layer has.
        names: Vec<String>,
        /// The layers with the closest names.
        near: Vec<String>,
        /// All maskable layers.
        known: Vec<String>,
    },
    /// Two layers with one name.
    #[error("layer name `{name}` is given twice, expected distinct names")]
    DuplicateLayer {
        /// The repeated name.
        name: String,
    },
    /// A layer that the distribution cannot treat.
    #[error("layer `{name}` has shape {dims:?}, expected {expected}")]
    LayerShape {
        /// Layer name.
        name: String,
        /// Its shape.
        dims: Vec<usize>,
        /// The accepted shapes.
        expected: &'static str,
    },
    /// A sparsity that STR's table does not have.
    #[error("--sparsity is {found}, expected for distribution str exactly one of {expected}")]
    NotALevel {
        /// The value given.
        found: f64,
        /// The levels of the table.
        expected: String,
    },
    /// A layer that STR's table does not have.
    #[error("distribution str has no sparsity for layer `{name}`: its table is of ResNet-50")]
    NotInTable {
        /// Layer name.
        name: String,
    },
    /// Erdős–Rényi without a layer left to scale; the original divides by zero.
    #[error(
        "distribution {distribution} has no layer left to scale: of {layers} layers {custom} have a custom sparsity \
         and {dense} became dense, expected at least one other (a higher --sparsity, or the uniform distribution)"
    )]
    NothingToScale {
        /// Name of the distribution.
        distribution: String,
        /// Number of layers.
        layers: usize,
        /// Layers with a custom sparsity.
        custom: usize,
        /// Layers made dense.
        dense: usize,
    },
    /// A name that ends in an underscore without a number.
    #[error("`{name}` ends in an underscore, expected a number after it, as in `exponential_3`, or neither")]
    Suffix {
        /// The name given.
        name: String,
    },
    /// An array of the wrong length.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length.
        found: usize,
        /// Number of weights of the layer.
        expected: usize,
    },
    /// The method or its grow initialiser needs an array that is absent.
    #[error("method `{method}` with grow-init `{grow_init}` needs the {what}, but none was given")]
    MissingInput {
        /// Method name.
        method: &'static str,
        /// Grow initialiser.
        grow_init: String,
        /// Which array.
        what: &'static str,
    },
    /// A grow initialiser that the method does not support.
    #[error("grow-init `{grow_init}` needs the dense gradient, which method `{method}` does not compute")]
    GrowInit {
        /// Method name.
        method: &'static str,
        /// Grow initialiser.
        grow_init: String,
    },
    /// A mask update with a method whose masks never change.
    #[error("method `{method}` has no mask update: its masks never change")]
    NoUpdate {
        /// Method name.
        method: &'static str,
    },
}

impl Error {
    /// An [`Error::Unknown`] with its suggestions filled in.
    pub fn unknown<'a>(what: &'static str, found: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Unknown(Unknown::new(what, found, known))
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
