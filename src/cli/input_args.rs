//! Flags of several subcommands: device, data and network.

use std::path::Path;

use models::Precision;

use crate::checkpoint::{self, Metadata};
use crate::cli::error::Result;
use crate::data::sets::{self, DataSet, ExampleSpec, Examples};
use crate::data::{Split, folder, pipeline};
use crate::device::Device;
use crate::engine::EngineKind;
use crate::named;
use crate::named::Named;
use crate::train::loaded_network::{LoadedNetwork, infer_network};
use pjrt::DeviceKind;

/// Device and engine.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DeviceArgs {
    /// The device.
    #[command(flatten)]
    pub on: PluginArgs,
    /// Engine that runs programs: pjrt (a plugin), xla (the C++ extension of the crate of that name, if built with it)
    /// or interpreter (on the host, slow, no dependencies) [default: pjrt]
    #[arg(long, value_name = "NAME")]
    pub engine: Option<String>,
}

/// A device and its plugin.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PluginArgs {
    /// cpu, gpu or tpu
    #[arg(long, value_name = "KIND")]
    pub device: Option<String>,
    /// PJRT plugin: a file or a package name
    #[arg(long, value_name = "FILE|PACKAGE")]
    pub plugin: Option<String>,
}

/// Help of `--data` of commands without a recipe.
pub fn any_data_help() -> String {
    format!(
        "{}, or a folder with the files of one, or with TFRecords [default: the data of the run]",
        set_names()
    )
}

/// The names of all data sets.
pub(super) fn set_names() -> String {
    sets::DATA_SETS.map(|set| set.name).join(", ")
}

/// Options for reading TFRecords.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct StreamArgs {
    /// Threads that read and decode TFRecords [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    data_threads: Option<u16>,
    /// Number of corrupt records to skip before one is an error
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip_corrupt: usize,
}

impl StreamArgs {
    /// Pipeline options for batches of `batch` examples.
    pub fn options(&self, batch: usize) -> pipeline::Options {
        pipeline::Options {
            skip_corrupt: self.skip_corrupt,
            ..pipeline::Options::new(self.data_threads.map(usize::from), batch, 1)
        }
    }
}

impl DeviceArgs {
    /// Opens the requested device, by default the CPU.
    ///
    /// # Errors
    /// An unknown kind or engine, or a device that cannot be started.
    pub fn open(&self) -> Result<Device> {
        let kind = DeviceKind::find(self.on.device.as_deref().unwrap_or(DeviceKind::Cpu.name()))?;
        let engine = self.engine.as_deref().map_or(Ok(EngineKind::default()), str::parse)?;
        Ok(Device::open_replicas(engine, kind, self.on.plugin.as_deref(), 1)?)
    }
}

/// Whether `--data` is a folder: it looks like a path, or exists and is not a known name.
pub(super) fn is_folder(data: &str) -> bool {
    sets::find(data).is_err() && (data.contains(std::path::is_separator) || data == "." || Path::new(data).exists())
}

/// Returns the data set of `--data` and its folder, which is empty for a name.
///
/// # Errors
/// An unknown name, or a folder that holds no data set.
pub fn named_set(data: &str) -> crate::data::Result<(&'static DataSet, &str)> {
    match is_folder(data) {
        true => Ok((folder::detect(Path::new(data))?, data)),
        false => Ok((sets::find(data)?, "")),
    }
}

/// Opens the test examples of a data set from its folder (empty for the cache), in the shape that the network takes.
/// Random examples are those of the network's run. Up to `skip_corrupt` TFRecord files may be damaged.
///
/// # Errors
/// Files that cannot be fetched or read.
pub fn test_set((set, folder): (&DataSet, &str), network: &LoadedNetwork, skip_corrupt: usize) -> Result<Examples> {
    let (dims, classes) = (network.model.input_dims(), network.model.classes());
    let mut spec = match &network.run {
        Some(run) => run.example_spec(&dims, classes),
        None => ExampleSpec {
            dims: &dims,
            classes,
            examples: [256; 2],
            seed: 0,
            pictures: network.pictures,
            skip_corrupt: 0,
        },
    };
    spec.skip_corrupt = skip_corrupt;
    Ok(set.open(folder, Split::Test, &spec)?)
}

/// How to interpret a checkpoint.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct NetworkArgs {
    /// Network, or the file of an exported model [default: inferred from the names and shapes in the checkpoint; the copy of
    /// the model in the run folder]
    #[arg(long)]
    pub model: Option<String>,
    /// Height and width of an image [default: from the run, or from the network]
    #[arg(long, value_name = "N")]
    pub image_size: Option<usize>,
    /// Precision of activations, f32 or bf16 [default: from the run]
    #[arg(long, value_name = "NAME", value_parser = named::flag::<Precision>)]
    pub precision: Option<Precision>,
}

impl NetworkArgs {
    /// Loads the network of the checkpoint at `path`.
    ///
    /// # Errors
    /// A checkpoint that cannot be read or whose network is unknown.
    pub fn load(&self, path: &Path) -> Result<(LoadedNetwork, Option<Metadata>)> {
        let checkpoint = checkpoint::load(path)?;
        let metadata = checkpoint.metadata.clone();
        let mut network = infer_network(checkpoint, self.model.as_deref(), self.image_size)?;
        network.precision = self.precision.unwrap_or(network.precision);
        Ok((network, metadata))
    }
}
