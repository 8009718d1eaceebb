//! Tensor graphs for XLA: build, infer shapes, differentiate, evaluate, emit.
//!
//! Pure: no I/O, no devices, no clock, no `unsafe`; the same input gives the same bytes.
#![forbid(unsafe_code)]

mod literal;
mod shape;

pub use literal::{Element, Literal};
pub use shape::{DType, Shape, broadcast_dims};
