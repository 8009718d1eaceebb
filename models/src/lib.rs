//! Neural networks as functions over [`hlo`] graphs.
//!
//! A model is a table of parameters, each with its checkpoint name, shape, initialiser and role, and a function that
//! applies them to a batch. Pure, like `hlo`. Masks are not the models' business: the caller passes the weights that
//! the layers are to use, already masked, and differentiates with respect to those.
#![forbid(unsafe_code)]

pub mod layers;
mod mlp;
mod param;

use hlo::{Graph, Tensor};
use std::collections::BTreeMap;

pub use mlp::MnistFc;
pub use param::{Init, Param};

/// Names that [`find`] takes.
pub const NAMES: &[&str] = &["mnist-fc"];

/// The arrays that a model is applied to, by variable name.
pub struct Variables<'g> {
    graph: &'g Graph,
    arrays: BTreeMap<String, Tensor<'g>>,
}

impl<'g> Variables<'g> {
    /// Variables of `graph`.
    pub fn new(graph: &'g Graph, arrays: impl IntoIterator<Item = (String, Tensor<'g>)>) -> Self {
        Variables {
            graph,
            arrays: arrays.into_iter().collect(),
        }
    }

    /// The graph that they belong to.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The array of a name from the model's own table.
    ///
    /// # Panics
    /// When the caller left out a parameter that [`Model::params`] lists.
    pub fn get(&self, name: &str) -> Tensor<'g> {
        match self.arrays.get(name) {
            Some(&tensor) => tensor,
            None => panic!("no array was given for the parameter {name}"),
        }
    }
}

/// A network.
pub trait Model {
    /// Name in presets and on the command line.
    fn name(&self) -> &'static str;

    /// Dimensions of one example, without the batch, e.g. `[784]`.
    fn input_dims(&self) -> Vec<usize>;

    /// Number of classes: the last axis of the logits.
    fn classes(&self) -> usize;

    /// Trainable parameters in creation order, which is also the order in which masks are drawn.
    fn params(&self) -> Vec<Param>;

    /// Logits `f32[batch, classes]` of `images` `f32[batch, input_dims..]`.
    fn apply<'g>(&self, variables: &Variables<'g>, images: Tensor<'g>) -> Tensor<'g>;
}

/// The model of that name; `masked` chooses between the variable names of sparse training and those of the dense
/// baseline. `None`: no such model.
pub fn find(name: &str, masked: bool) -> Option<Box<dyn Model>> {
    match name {
        "mnist-fc" => Some(Box::new(MnistFc { masked })),
        _ => None,
    }
}
