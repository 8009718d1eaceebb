//! Sparse training as compiled XLA programs: the library behind the program `rigl-xla`.
//!
//! * [`config`], [`data`], [`train`], [`checkpoint`]: a run from its configuration to its files.
//! * [`plugins`], [`engine`], [`device`]: finds plugins, compiles and executes programs.
//! * [`exported`]: models exported from JAX.
//! * [`distributed`]: several processes.
//! * [`host_functions`]: functions that compiled programs call on the CPU.
//! * [`prediction`]: sparse networks on the CPU, without a plugin.
//! * [`cost`], [`aot`]: what a network costs, here and on devices that are not here.
//!
//! Graphs are in the crate `hlo`, the C API of plugins in `pjrt`, networks in `models`, and methods (budgets, masks, schedules, mask updates) in `sparse`.
//!
//! [`Trainer`] trains networks that are written in Rust.

pub mod aot;
pub mod cache;
pub mod checkpoint;
mod child;
pub mod cli;
pub mod config;
pub mod cost;
pub mod data;
pub mod device;
pub mod distributed;
pub mod engine;
pub mod export;
pub mod exported;
pub mod files;
pub mod host_functions;
pub mod huge_pages;
pub mod named;
pub mod optimizer;
mod pattern;
pub mod plugins;
pub mod prediction;
pub mod programs;
pub mod report;
mod scratch;
pub mod signals;
pub mod sweep;
mod threads;
pub mod topology;
pub mod train;
mod trainer;
pub mod verify;

pub use trainer::{Trained, Trainer};
pub use {hlo, models, sparse};

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
