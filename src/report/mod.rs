//! What a run tells while it goes on.

pub mod metrics;
pub mod progress;
