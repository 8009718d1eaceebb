//! Layers, as methods of [`Net`](crate::Net), and losses.

pub mod examples;
mod expanding;
mod kernels;
mod losses;
mod norm;
mod pooled_norm;
pub mod sparse;

pub(crate) use expanding::Expanding;
pub use kernels::{Conv, Dense, Window};
pub use losses::{cross_entropy, in_top_k, l2, log_softmax};
pub use norm::BatchNorm;
