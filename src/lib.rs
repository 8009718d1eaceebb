//! Everything with an effect: devices, data, training, files, and the program's subcommands.

pub mod aot;
pub mod cache;
pub mod checkpoint;
mod child;
pub mod cli;
pub mod config;
pub mod cost;
pub mod data;
pub mod device;
pub mod engine;
pub mod files;
mod names;
pub mod pages;
pub mod pjrt;
pub mod prediction;
pub mod processes;
pub mod programs;
pub mod report;
pub mod rng;
mod scratch;
pub mod signals;
pub mod sparse;
mod threads;
pub mod train;
