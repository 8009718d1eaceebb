//! PJRT plugins and other packages: found or fetched by name, verified, and loaded through the crate `pjrt`; compiled
//! programs on disk.

mod cache;
mod device_nodes;
mod discover;
mod error;
mod fetch;
mod packages;
mod start;
mod tpu_host;
mod trouble;
mod whole;

pub use cache::{Cache, CacheOutcome, processor};
pub use device_nodes::require;
pub use discover::{Candidate, Origin, cached, open, open_compiler, search};
pub use error::{Error, Result};
pub use fetch::fetch;
pub use packages::{Holds, PACKAGES, Package};
pub use start::start;
pub use tpu_host::{Chips, Slice};
pub use trouble::Trouble;
pub use whole::{Trust, verify};
