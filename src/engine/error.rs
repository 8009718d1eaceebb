//! What can go wrong between this program and an engine.

use super::EngineKind;
use crate::pjrt::{self, DeviceKind};
use sparse::names::Unknown;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of engines and of the choice of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's or its device's.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// The interpreter's, or a graph that cannot be rewritten for the device.
    #[error(transparent)]
    Graph(#[from] hlo::Error),
    /// No such engine.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// A build without the crate `xla`.
    #[error(
        "engine xla: this program was built without it; expected `cargo build --release --features xla-extension`, with \
         the C++ library xla_extension in the folder that XLA_EXTENSION_DIR names, a C++ compiler and libclang"
    )]
    NotBuilt,
    /// What the processes that share devices do not agree on.
    #[error(transparent)]
    Processes(#[from] crate::processes::Error),
    /// Several processes, and an engine that knows of no others.
    #[error("engine {engine} runs in one process; expected engine pjrt where --num-processes is above 1")]
    OneProcess {
        /// The engine.
        engine: EngineKind,
    },
    /// A plugin for an engine that has none.
    #[error("engine {engine}: the plugin '{plugin}' was given; expected none, or engine pjrt")]
    Plugin {
        /// The engine.
        engine: EngineKind,
        /// The plugin as given.
        plugin: String,
    },
    /// Another device than the only one that the interpreter is for.
    #[error("engine interpreter: the device is {device}; expected cpu")]
    NotTheCpu {
        /// The kind of device.
        device: DeviceKind,
    },
    /// A command that only plugins can serve.
    #[error("{what} comes from a PJRT plugin, and engine {engine} was asked for; expected engine pjrt")]
    OnlyPjrt {
        /// What was to be done.
        what: &'static str,
        /// The engine.
        engine: EngineKind,
    },
    /// Compiler options that the crate `xla` cannot pass on, and that are not in the environment.
    #[error(
        "engine xla: XLA_FLAGS is '{found}', without {missing}; expected XLA_FLAGS='{expected}' in the environment"
    )]
    Flags {
        /// The variable's value.
        found: String,
        /// What it lacks.
        missing: String,
        /// A value that lacks nothing.
        expected: String,
    },
    /// The C++ extension returned an error.
    #[error("engine xla: {call}: {message}")]
    Extension {
        /// The function of the crate `xla`.
        call: &'static str,
        /// The library's own text.
        message: String,
    },
    /// An argument that is to stay, for a parameter whose memory becomes a result's.
    #[error("{program}: argument {index} is to be kept, but the program takes its memory; expected it to be donated")]
    Kept {
        /// Name of the program.
        program: String,
        /// Position of the argument.
        index: usize,
    },
    /// An array of another engine.
    #[error("an argument is an array of another engine than the program's")]
    Foreign,
}

impl Error {
    /// True for what the user got wrong, as against an engine that does not work.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Pjrt(device) => device.is_usage(),
            Error::Processes(processes) => processes.is_usage(),
            Error::OneProcess { .. }
            | Error::Unknown(_)
            | Error::NotBuilt
            | Error::Plugin { .. }
            | Error::NotTheCpu { .. }
            | Error::OnlyPjrt { .. }
            | Error::Flags { .. } => true,
            Error::Graph(_) | Error::Extension { .. } | Error::Kept { .. } | Error::Foreign => false,
        }
    }
}
