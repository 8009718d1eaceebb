//! Everything with an effect: devices, data, training, files, and the program's subcommands.

pub mod cli;
pub mod config;
pub mod report;
pub mod rng;
pub mod sparse;
