//! Layers, as methods of [`Net`](crate::Net), and losses.

mod kernels;
mod losses;
mod norm;

pub(crate) use kernels::fixed_padding;
pub use kernels::{Conv, Dense};
pub use losses::{cross_entropy, in_top_k, l2, log_softmax};
pub use norm::BatchNorm;
