//! Layers, as methods of [`Net`](crate::Net), and losses.

mod kernels;
mod losses;
mod norm;
pub mod sparse;

pub use kernels::{Conv, Dense, Window};
pub use losses::{cross_entropy, in_top_k, l2, log_softmax};
pub use norm::BatchNorm;
