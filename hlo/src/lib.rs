//! Tensor graphs for XLA: build, infer shapes, differentiate, evaluate, emit.
//!
//! ```
//! use hlo::{DType, Graph, Literal, Shape, grad};
//!
//! let g = Graph::new("square");
//! let x = g.parameter("x", Shape::new(DType::F32, [3]));
//! let loss = (x * x).reduce_sum_all();
//! let dx = grad(loss, &[x])[0];
//! let outputs = [loss.output(), dx.output()];
//! let computation = g.build(&outputs)?;
//! let results = computation.evaluate(&[Literal::new(&[3], &[1.0f32, 2.0, 3.0])])?;
//! assert_eq!(results[0].item::<f32>(), Some(14.0));
//! assert_eq!(results[1].to_vec::<f32>(), Some(vec![2.0, 4.0, 6.0]));
//! let module = computation.to_bytes(&[]); // a serialized HloModuleProto, for any PJRT plugin
//! # assert!(!module.is_empty());
//! # Ok::<(), hlo::Error>(())
//! ```
//!
//! A wrong call does not fail where it stands: it is remembered with its place, later calls on its result do nothing,
//! and [`Graph::build`] reports it. So models and optimizers read as formulas.
//!
//! Pure: no I/O, no devices, no clock, no `unsafe`; the same input gives the same bytes.
#![forbid(unsafe_code)]

mod emit;
mod error;
mod eval;
mod grad;
mod graph;
mod literal;
mod module;
mod op;
mod precision;
pub mod proto;
pub mod random;
mod shape;
mod stablehlo;
pub mod text;

pub use emit::Alias;
pub use error::{Error, Result};
pub use grad::grad;
pub use graph::{Computation, Graph, Node, NodeId, Output, Scope, Tensor};
pub use literal::{Element, Literal};
pub use module::{MAX_MODULE_BYTES, Macs, Module};
pub use op::{
    Binary, Comparison, ConvDims, DotDims, GatherDims, HostFunction, Op, Operand, Padding, Reducer, Unary, Update,
    WindowDim,
};
pub use precision::MatmulPrecision;
pub use shape::{DType, Shape, broadcast_dims};
