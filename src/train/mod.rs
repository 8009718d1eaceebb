//! Training: the programs a run is made of, and the loop that drives them.

pub mod eval;
pub mod state;
pub mod step;
