//! Neural networks as functions over [`hlo`] graphs.
//!
//! A model is a table of parameters, each with its checkpoint name, shape, initialiser and role, and a function that
//! applies them to a batch. Pure, like `hlo`.
#![forbid(unsafe_code)]

mod param;

pub use param::{Init, Param};
