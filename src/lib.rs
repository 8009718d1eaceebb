//! Everything with an effect: devices, data, training, files, and the program's subcommands.
pub mod cache;
pub mod pjrt;
