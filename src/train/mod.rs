//! Training: the programs a run is made of, and the session that drives them.

mod accumulate;
pub mod condensed;
pub mod dead_units;
mod error;
pub mod eval;
pub mod exported;
pub mod exported_evaluation;
mod feed;
pub mod fold;
mod group;
pub mod inference;
mod init;
pub mod keeping;
pub mod launch;
pub mod loaded_export;
pub mod loaded_network;
pub mod metrics;
pub mod norms;
mod one_shot;
pub mod profile;
mod programs;
pub mod replicas;
mod resume;
mod rows;
mod session;
mod sparse;
pub mod state;
pub mod step;
mod summary;
mod trace;
mod update;

pub use error::{Error, Result};
pub use programs::program_digest;
pub use resume::differences as run_differences;
pub use session::{DryRun, Prepared, dry_run, train, train_on, train_until};
pub use summary::{BestCheckpoint, Summary};
