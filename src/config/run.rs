//! The configuration of a run: sections, keys and their TOML form.

use serde::{Deserialize, Serialize};

use super::{Error, Execution, Keep, LearningRate, MaskUpdate, Method, Optimizer, Prune, Sparsity, Stop, Train};
use crate::data::imagenet;
use crate::data::pixels::Preprocessing;
use crate::data::sets::DataSet;
use crate::engine::EngineKind;
use crate::named;
use pjrt::DeviceKind;

/// The configuration of a run. Empty strings mean "choose for me".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Network.
    pub model: Model,
    /// Examples.
    pub data: Data,
    /// Optimizer of the gradient step.
    pub optimizer: Optimizer,
    /// Learning rate over gradient steps.
    pub learning_rate: LearningRate,
    /// How connections are chosen.
    pub method: Method,
    /// How many weights are zero, and where.
    pub sparsity: Sparsity,
    /// When and how many connections move.
    pub mask_update: MaskUpdate,
    /// How sparsity grows under gradual pruning.
    #[serde(default)]
    pub prune: Prune,
    /// Length and rhythm of training.
    pub train: Train,
    /// Which checkpoints stay.
    #[serde(default, skip_serializing_if = "Keep::is_default")]
    pub keep: Keep,
    /// When it stops early.
    #[serde(default, skip_serializing_if = "Stop::is_default")]
    pub stop: Stop,
    /// Checkpoint to start from. Default: a random state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Where it runs.
    pub device: Device,
    /// Files that it writes.
    pub output: Output,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name, in any spelling of `models::names`; `exported` with `file`.
    pub name: String,
    /// File of a model exported from JAX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Arrays of an exported model that get a mask: names with `*` for any characters. Default: of rank 2 or more, without
    /// embeddings, normalisation, positions and biases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<Vec<String>>,
    /// Arrays of an exported model that get no mask, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmasked: Option<Vec<String>>,
    /// Factor of the channel counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// Layers of a residual network, if the name does not include it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Units of the hidden layers of `mnist-fc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
    /// Number of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Height and width of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Ratio of the channels inside a block of `mobilenet-v2` to its input channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expansion: Option<f64>,
    /// Dropout rate of a wide residual network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Source of the architecture: `original`, `torchvision`, or `torchvision-bn` for VGG with batch normalisation. Default:
    /// `original`.
    #[serde(default, with = "named::optional", skip_serializing_if = "Option::is_none")]
    pub variant: Option<models::Variant>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The data set, which determines the file format.
    #[serde(rename = "name", with = "named")]
    pub set: &'static DataSet,
    /// Folder with its files; empty for the cache.
    pub dir: String,
    /// How pixels become the network's input: as in the original's driver of that name. Default: the network's driver.
    #[serde(default, with = "named::optional", skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Preprocessing>,
    /// Whether training augments images, if the preprocessing does. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<bool>,
    /// Number of training and of test examples of `synthetic` and `null`. Default: two batches each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<usize>,
    /// How pictures of `imagenet` are decoded and resized: `original`, or `antialiased`, which is common today. Default:
    /// `original`.
    #[serde(default, with = "named::optional", skip_serializing_if = "Option::is_none")]
    pub pictures: Option<imagenet::Kind>,
    /// Threads that read and decode `imagenet`, at least 1. Default: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Batches prepared ahead, at least 1. Default: those of two launches, or as many as keep all threads busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<usize>,
    /// Corrupt records of `imagenet` to skip before one is an error. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_corrupt: Option<usize>,
    /// Training examples held out for validation: a share below 1, or their number. Evaluations then use them, and the test set
    /// only at the end. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Seed that draws the examples held out. Default: `train.seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_seed: Option<u64>,
}

/// `[init]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Checkpoint in safetensors format, or a run folder, whose newest checkpoint is used.
    pub file: String,
    /// Parts of the checkpoint to use.
    #[serde(default)]
    pub take: Take,
    /// Which weights the first masks keep: of the largest ones of each `layer`, or of all layers together (`global`).
    /// Default: the method's random masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<OneShot>,
}

/// Pruning of the weights that a run begins with, by magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OneShot {
    /// Each layer to its own number of connections.
    Layer,
    /// All layers that have zeros to their connections together.
    Global,
}

/// Parts of a checkpoint that a run starts with; everything else is initialised as in a new run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// Weights, biases and normalisation arrays.
    #[default]
    Weights,
    /// Also the masks.
    Masks,
    /// Everything, including optimizer slots, averages and counters: continues the run of the checkpoint.
    State,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The kind of device.
    #[serde(with = "named")]
    pub kind: DeviceKind,
    /// Plugin file or package; empty to search.
    pub plugin: String,
    /// Engine that runs programs. Default: `pjrt`.
    #[serde(default, with = "named::optional", skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// How masked layers are computed. Default: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Whether the device keeps values and slots of sparse layers' connections alone. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condensed: Option<bool>,
    /// Devices for data-parallel training, over all processes; each trains on its part of every batch. Default: one per process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// Processes that share the replicas, each with devices of its machine. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
}

impl Device {
    /// Devices for data-parallel training, over all processes.
    pub fn replicas(&self) -> usize {
        self.replicas.or(self.processes).unwrap_or(1)
    }
}

/// `[output]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Run folder. If empty, a folder under `runs/` that is named after the run.
    pub dir: String,
    /// Whether the run keeps a journal of its mask updates. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<bool>,
    /// Whether the run writes events for TensorBoard. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<bool>,
}

impl Run {
    /// Reads the text of [`Run::to_toml`]; `origin` is the source of the text, for messages.
    ///
    /// # Errors
    /// [`Error::Toml`] if it is not TOML, lacks a key, or has an unknown one.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|parser| Error::Toml {
            origin: origin.into(),
            parser,
        })
    }

    /// Writes the run as TOML. [`super::layers::Layers::file`] reads the same run back.
    ///
    /// # Errors
    /// [`Error::Write`] if a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, Error> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{LayerSparsity, Layers, PRESETS, Scaled, preset_of};
    use super::*;

    #[test]
    fn every_preset_survives_toml_and_can_be_planned() {
        for (name, _) in PRESETS {
            let preset = Layers::preset(name).unwrap();
            let run = preset.run().unwrap();
            let text = run.to_toml().unwrap();
            let read = Run::from_toml(&text, name).unwrap();
            assert_eq!(read, run, "{name}");
            assert_eq!(read.to_toml().unwrap(), text, "{name}");
            let plan = preset.plan().unwrap();
            let padded = format!("{name}-");
            assert!(padded.contains(&format!("-{}-", plan.method.name)), "{name}");
            // Its network and method select it, or the recipe that it varies.
            let model = plan.model();
            assert!(
                name.starts_with(preset_of(Some(model.name()), Some(plan.method.name))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_written_run_replaces_the_preset_below_it() {
        let mut run = Layers::preset("mnist-dense").unwrap().run().unwrap();
        run.learning_rate.base = 0.1 + 0.2;
        run.sparsity
            .layers
            .insert("a.b/c".into(), LayerSparsity::Scaled(Scaled { scale: 1.0 / 3.0 }));
        run.output.dir = "a \"quoted\"\nname".into();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, run.to_toml().unwrap()).unwrap();
        assert_eq!(
            Layers::preset("mnist-rigl")
                .unwrap()
                .file(&path)
                .unwrap()
                .run()
                .unwrap(),
            run
        );
    }

    #[test]
    fn a_file_replaces_whole_values_and_set_reaches_inside() {
        let rigl = || Layers::preset("mnist-rigl").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layers.toml");
        std::fs::write(&path, "[sparsity]\nlayers = { layer1 = 0.5 }\n").unwrap();
        let layers = rigl().file(&path).unwrap().run().unwrap().sparsity.layers;
        assert_eq!(
            layers.into_iter().collect::<Vec<_>>(),
            [("layer1".into(), LayerSparsity::Fixed(0.5))]
        );
        let set = rigl()
            .set("--set", &["sparsity", "layers", "layer2"], 0.25)
            .unwrap()
            .run()
            .unwrap();
        assert_eq!(set.sparsity.layers["layer2"].at(0.98), 0.25);
        assert_eq!(set.sparsity.layers["layer3"].at(0.98), 0.0);
    }

    #[test]
    fn an_endless_schedule_stays_endless_at_every_multiplier() {
        let plan = |multiplier: f64| {
            let layers = Layers::preset("mnist-rigl").unwrap();
            let layers = layers.set("--set", &["mask_update", "end_step"], -1).unwrap();
            let layers = layers.set("--set", &["mask_update", "anneal"], "constant").unwrap();
            layers
                .set("--multiplier", &["train", "multiplier"], multiplier)
                .unwrap()
                .plan()
                .unwrap()
        };
        assert_eq!(plan(0.5).schedule.end_step, -1);
        assert_eq!(plan(0.1).update_steps().last(), Some(11_800));
    }

    #[test]
    fn state_counts_weights_slots_and_masks() {
        let bytes = |preset| Layers::preset(preset).unwrap().plan().unwrap().state_bytes();
        assert_eq!(bytes("mnist-dense"), 266_610 * 4 * 2);
        assert_eq!(bytes("mnist-rigl"), 266_610 * 4 * 2 + 266_200);
    }
}
