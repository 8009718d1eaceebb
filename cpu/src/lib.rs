//! Sparse convolutions and dense layers on CPUs that compute their connections alone: a connection that is not there costs
//! nothing. A [`Network`] computes layers that keep a large share of their weights as dense ones.
//!
//! * [`SparseConv`]: convolutions of any kernel size, stride and padding, depthwise ones too; forward with an [`Epilogue`], the
//!   input's gradient, and the kernel's gradient at the connections. [`SparseDense`]: dense layers.
//! * [`Pool`]: max and average pooling, so that activations keep their layout through a network.
//! * [`Network`]: whole networks for prediction, from any number of threads.
//! * [`column_sums`], [`blocked_moments`], [`blocked_products`]: sums of batch normalisation. [`MaxPool`]: max pooling of dense
//!   images.
//! * [`Layout`]: how activations lie in memory, and conversions from and to NHWC.
//!
//! All is `f32`. Kernels are compiled for AVX-512, AVX2 with FMA, and portably, and chosen at run time ([`Isa`]). Threads are the
//! caller's, given as a [`ParallelFor`] callback, or simple ones of this crate ([`Threads`]). Results are the same to the bit
//! whatever the number of threads.
//!
//! # Layouts
//!
//! A vector of 16 is either 16 images ([`Order::Lanes`]: `[batch / 16][height][channels][width][16]`, for training and for large
//! batches) or 16 neighbouring pixels ([`Order::Pixels`]: `[batch][channels][height × width]`, for prediction). Dense layers of a
//! [`Network`] have vectors of 16 channels ([`Order::Channels`]). In the first two, each
//! connection is one constant offset from the position that the kernel is at: per connection and tile of vectors there is a
//! broadcast of the weight, and one multiply-add from memory per vector.
//!
//! A *halo* of zeros around images keeps windows inside the array. Layouts without one are copied row by row while they are
//! used (lanes) or as a whole (pixels).
//!
//! # Example
//!
//! A 3 × 3 convolution at 90 % sparsity with bias and ReLU, on a batch of 16:
//!
//! ```
#![doc = include_str!("../examples/sparse_layer.rs")]
//! ```
#![allow(clippy::needless_range_loop, reason = "vectors of registers are indexed in step")]

mod all_weights;
mod blocked_sums;
mod buffer;
mod column_sums;
mod conv;
mod convert;
mod decay;
mod dense;
mod epilogue;
mod error;
mod grid;
mod layout;
mod max_pool;
mod network;
mod operator;
mod parallel;
mod peak;
mod pool;
mod products;
mod shared;
mod simd;
mod stage;
mod structure;
mod tile;
mod tuning;
mod window;

pub use all_weights::all_weights_gradient;
pub use blocked_sums::{blocked_moments, blocked_products};
pub use buffer::Buffer;
pub use column_sums::{Summand, column_sums};
pub use conv::{Gradients, SparseConv, SparseDense};
pub use decay::{DecayStep, decay_steps};
pub use epilogue::{Activation, Epilogue, Sums};
pub use error::{Error, Result};
pub use layout::{Halo, Layout, Order};
pub use max_pool::MaxPool;
pub use network::{After, Builder as NetworkBuilder, Features, Network, StepTime, Weights};
pub use operator::Options;
pub use parallel::{ParallelFor, Threads, on_this_thread};
pub use peak::multiply_add_peak;
pub use pool::{Pool, Reduction};
pub use simd::{Isa, LANES};
pub use structure::{Blocking, Structure};
pub use window::{Kernel, Window};
