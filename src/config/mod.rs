//! What to run: model, data, optimizer, method, sparsity, schedules, device.
//!
//! [`Run`] is the configuration as given: TOML in, TOML out, every value visible. [`Layers`] stacks it: preset, file, flags.
//! [`Plan`] is the run that follows from it: checked, scaled and counted. `models/presets` gives the reasons for the values.

mod check;
mod derived;
mod error;
mod execution;
mod exported;
mod fit;
mod freeze;
mod keeping;
mod layers;
mod learning_rate;
mod network;
mod plan;
mod presets;
mod reach;
mod run;
mod schedules;
mod sparsity;
mod training;
mod values;

pub use crate::optimizer::Settings as Optimizer;
pub use error::Error;
pub use execution::{CondensedLayers, Execution, SparseLayers, prediction_gains};
pub use keeping::{CHOOSING, Flops, Keep, Metric, Stop, Time};
pub use layers::Layers;
pub(crate) use layers::MAX_CONFIG_BYTES;
pub use learning_rate::{Rate, ScheduleKind};
pub use network::Network;
pub use plan::{Plan, Pruned, Replacement, layer_name};
pub use presets::{DEFAULT_PRESET, PRESETS, preset_of};
pub use reach::share_of_zeros;
pub use run::{Data, Device, Init, Model, OneShot, Output, Run, Take};
pub use sparsity::{LayerSparsity, MaskUpdate, Method, Prune, Scaled, Sparsity};
pub use training::{LearningRate, Train, Unit};
pub use values::{FREE_KEYS, differences};
