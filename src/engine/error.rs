//! Errors of engines.

use pjrt::DeviceKind;
use sparse::names::Unknown;

use super::EngineKind;
use crate::plugins;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of engines and of the choice of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of the plugin or its device.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// A plugin that cannot be found, fetched or loaded.
    #[error(transparent)]
    Plugins(#[from] plugins::Error),
    /// A failure of the host functions.
    #[error(transparent)]
    HostFunctions(#[from] crate::host_functions::Error),
    /// A failure of the interpreter, or of lowering.
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
    /// Fewer devices than replicas.
    #[error("{asked} replicas: the {platform} client has {count} addressable devices; expected one for each replica")]
    TooFewDevices {
        /// Number of replicas.
        asked: usize,
        /// Name of the platform.
        platform: String,
        /// Number of devices.
        count: usize,
    },
    /// The plugin knows another number of processes.
    #[error(
        "the {platform} client knows devices of {known} process{}, expected those of {count}: its plugin does not run over several \
         processes, or was not started on all of them",
        if *known == 1 { "" } else { "es" }
    )]
    OtherProcesses {
        /// Name of the platform.
        platform: String,
        /// Number of processes that the plugin knows.
        known: usize,
        /// Number of processes.
        count: usize,
    },
    /// The plugin has another number for this process.
    #[error(
        "the {platform} client is process {found} for its plugin, expected --process-id {process}: give each process the \
         plugin's number"
    )]
    OtherNumber {
        /// Name of the platform.
        platform: String,
        /// The plugin's number.
        found: usize,
        /// The number given.
        process: usize,
    },
    /// A process with fewer devices than replicas.
    #[error(
        "process {process} has {found} devices, expected at least {each}: --replicas counts those of all processes together"
    )]
    TooFewOfProcess {
        /// Number of the process.
        process: usize,
        /// Replicas of each process.
        each: usize,
        /// Number of devices.
        found: usize,
    },
    /// An unknown program format.
    #[error("{variable}={given}: expected hlo or stablehlo")]
    UnknownFormat {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        given: String,
    },
    /// A failure of the other processes.
    #[error(transparent)]
    Distributed(#[from] crate::distributed::Error),
    /// Several processes with an engine that supports one.
    #[error("engine {engine} runs in one process; expected engine pjrt where --num-processes is above 1")]
    OneProcess {
        /// The engine.
        engine: EngineKind,
    },
    /// A plugin given for an engine that has none.
    #[error("engine {engine}: the plugin '{plugin}' was given; expected none, or engine pjrt")]
    Plugin {
        /// The engine.
        engine: EngineKind,
        /// The plugin as given.
        plugin: String,
    },
    /// A device other than the CPU for the interpreter.
    #[error("engine interpreter: the device is {device}; expected cpu")]
    NotTheCpu {
        /// The kind of device.
        device: DeviceKind,
    },
    /// A command that needs a plugin.
    #[error("{what} comes from a PJRT plugin, and engine {engine} was asked for; expected engine pjrt")]
    OnlyPjrt {
        /// The command's result.
        what: &'static str,
        /// The engine.
        engine: EngineKind,
    },
    /// Compiler options that must be in the environment, because the crate `xla` cannot pass them on.
    #[error(
        "engine xla: XLA_FLAGS is '{found}', without {missing}; expected XLA_FLAGS='{expected}' in the environment"
    )]
    Flags {
        /// The variable's value.
        found: String,
        /// The missing options.
        missing: String,
        /// The complete value.
        expected: String,
    },
    /// The C++ extension returned an error.
    #[error("engine xla: {call}: {message}")]
    Extension {
        /// The function of the crate `xla`.
        call: &'static str,
        /// The message of the library.
        message: String,
    },
    /// An argument to keep, for a parameter that is donated.
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
    /// Whether the user made the error, rather than the engine.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Plugins(error) => error.is_usage(),
            Error::HostFunctions(error) => error.is_usage(),
            Error::Distributed(error) => error.is_usage(),
            Error::OneProcess { .. }
            | Error::Unknown(_)
            | Error::NotBuilt
            | Error::UnknownFormat { .. }
            | Error::Plugin { .. }
            | Error::NotTheCpu { .. }
            | Error::OnlyPjrt { .. }
            | Error::Flags { .. } => true,
            Error::Pjrt(_)
            | Error::Graph(_)
            | Error::TooFewDevices { .. }
            | Error::OtherProcesses { .. }
            | Error::OtherNumber { .. }
            | Error::TooFewOfProcess { .. }
            | Error::Extension { .. }
            | Error::Kept { .. }
            | Error::Foreign => false,
        }
    }
}
