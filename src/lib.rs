//! Everything with an effect: devices, data, training, files, and the program's subcommands.

pub mod rng;
pub mod sparse;
