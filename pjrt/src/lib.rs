//! Safe clients, buffers and executables over the PJRT C API, whose plugins are shared libraries loaded at run time.
//!
//! ```no_run
//! use hlo::{DType, Graph, Literal, Shape};
//! use pjrt::{Arg, ClientOptions, CompileOptions, DeviceKind, Plugin};
//!
//! let plugin = Plugin::load("pjrt_c_api_cpu_plugin.so".as_ref())?;
//! let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu))?;
//!
//! let g = Graph::new("square");
//! let x = g.parameter("x", Shape::new(DType::F32, [3]));
//! let square = (x * x).output();
//! let module = g.build(&[square])?.to_bytes(&[]);
//! let program = client.compile(&module, &CompileOptions::default())?;
//!
//! let x = client.to_device(&Literal::new(&[3], &[1.0f32, 2.0, 3.0]), 0)?;
//! let results = program.execute(vec![Arg::Keep(&x)])?;
//! assert_eq!(results[0].to_literal()?.to_vec::<f32>(), Some(vec![1.0, 4.0, 9.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod client;
mod compiled;
mod device_kind;
mod elf;
mod error;
mod executable;
pub mod ffi;
mod key_value;
mod options;
mod plugin;
mod profiler;
mod signature;
mod threads;
mod topology;

pub use api::OptionValue;
pub use buffer::{Buffer, PendingLiteral};
pub use client::{Client, ClientOptions, DeviceInfo, DeviceMemory, GlobalDevice, Group};
pub use compiled::{Compiled, MemoryStats};
pub use device_kind::DeviceKind;
pub use error::{Error, Result};
pub use executable::{Arg, Executable};
pub use key_value::{KeyValueStore, StoreError};
pub use options::CompileOptions;
pub use plugin::{MINIMUM_MINOR, Plugin, SlotCoverage};
pub use profiler::Profiler;
pub use threads::require_threads;
pub use topology::Topology;
