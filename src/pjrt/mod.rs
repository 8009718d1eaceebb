//! Devices: PJRT plugins found or fetched by package name, and safe clients, buffers and executables over their C API.
//!
//! Nothing here knows of training, and nothing outside calls the C API.
//!
//! **Ownership.** A plugin's library is never unloaded. A [`Client`] lives as long as any [`Buffer`] or [`Executable`]
//! made from it (they share it by `Arc`). A [`Buffer`] is one handle to one device array; donating it to an execution
//! consumes the handle, so it cannot be read again.
//!
//! **Threads.** PJRT functions may be called from any thread, so all types here are `Send` and `Sync`. Transfers and
//! executions are asynchronous: they return at once and an error may surface only where a result is awaited
//! ([`Buffer::wait`], [`Buffer::to_literal`]).

#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    dead_code
)]
mod abi;
#[allow(non_upper_case_globals, reason = "matches on the C API's constants")]
mod api;
mod buffer;
mod cache;
mod client;
mod compiled;
mod device_nodes;
mod discover;
mod elf;
mod error;
mod executable;
mod fetch;
pub(crate) mod ffi;
mod key_value;
mod options;
mod packages;
mod plugin;
mod profiler;
mod signature;
mod topology;
mod whole;

pub use api::OptionValue;
pub use buffer::{Buffer, PendingLiteral};
pub use cache::{Cache, CacheOutcome, processor};
pub use client::{Client, ClientOptions, DeviceInfo, DeviceMemory, GlobalDevice, Group};
pub use compiled::{Compiled, MemoryStats};
pub use device_nodes::require;
pub use discover::{Candidate, Origin, cached, open, open_compiler, search};
pub use error::{Error, Result};
pub use executable::{Arg, Executable};
pub use fetch::fetch;
pub use key_value::{KeyValueStore, StoreError};
pub use options::CompileOptions;
pub use packages::{DeviceKind, Holds, PACKAGES, Package};
pub use plugin::{MINIMUM_MINOR, Plugin, SlotCoverage};
pub use profiler::Profiler;
pub use topology::Topology;
pub use whole::{Trust, verify};
