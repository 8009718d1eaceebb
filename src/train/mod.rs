//! Training: the programs a run is made of, and the session that drives them.

pub mod compact;
mod error;
pub mod eval;
mod feed;
pub mod inference;
pub mod launch;
mod optimizer;
pub mod recognise;
pub mod replicas;
mod resume;
mod session;
pub mod state;
pub mod step;
mod update;

pub use error::{Error, Result};
pub use session::{Summary, train};
