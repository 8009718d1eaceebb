//! Flags that configure a run, shared by several subcommands.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use models::{Family, Variant};

use super::input_args::{DeviceArgs, is_folder, set_names};
use crate::checkpoint;
use crate::cli::error::Result;
use crate::config::{CHOOSING, Error, Layers, Plan, preset_of};
use crate::data::{arrays, folder, sets};
use crate::exported;
use crate::files;

/// Flags that set one key of the configuration each: one row per flag.
macro_rules! key_flags {
    ($($(#[$attribute:meta])* $flag:ident: $type:ty = $key:expr,)+) => {
        /// Flags that set one key of the configuration each.
        #[derive(clap::Args, Clone, Debug, Default)]
        pub struct KeyFlags {
            $($(#[$attribute])* pub $flag: Option<$type>,)+
        }

        impl KeyFlags {
            /// Names of the flags, as fields.
            pub const NAMES: &[&str] = &[$(stringify!($flag)),+];

            /// Every given flag with its key and value.
            fn given(&self) -> Vec<GivenFlag> {
                let all = [$((stringify!($flag), $key, self.$flag.clone().map(Value::from)),)+];
                let name = |field: &str| format!("--{}", field.replace('_', "-"));
                all.into_iter()
                    .filter_map(|(field, key, value)| Some((name(field), key, value?)))
                    .collect()
            }
        }
    };
}

/// A flag with its key and value.
type GivenFlag = (String, [&'static str; 2], Value);

key_flags! {
    /// Network, or the file of a model exported from JAX
    #[arg(long, value_name = "NAME|FILE", help = format!("Network: {}; or the file of a model exported from JAX (*.rigl)", models::names().collect::<Vec<_>>().join(", ")))]
    model: String = ["model", "name"],
    /// Factor of the network's channel counts
    #[arg(long, value_name = "FACTOR")]
    width: f64 = ["model", "width"],
    /// Number of layers of a residual network
    #[arg(long, value_name = "N")]
    depth: i64 = ["model", "depth"],
    /// Sparse training method
    #[arg(long, help = method_help())]
    method: String = ["method", "name"],
    /// Fraction of zeros, in [0, 1)
    #[arg(long, value_name = "SHARE")]
    sparsity: f64 = ["sparsity", "target"],
    /// Distribution of sparsity over layers: uniform, er, erk or str
    #[arg(long, value_name = "NAME")]
    distribution: String = ["sparsity", "distribution"],
    /// Sparsity of the first layer: -1 by the distribution, 0 for no mask, or a fraction of zeros
    #[arg(long, value_name = "SHARE")]
    first_layer_sparsity: f64 = ["sparsity", "first_layer"],
    /// Sparsity of the classifier: -1 by the distribution, 0 for no mask, or a fraction of zeros
    #[arg(long, value_name = "SHARE")]
    last_layer_sparsity: f64 = ["sparsity", "last_layer"],
    /// Exponent of the erk factor
    #[arg(long, value_name = "POWER")]
    power_scale: f64 = ["sparsity", "power_scale"],
    /// Rounding of the number of zeros: floor or ceil
    #[arg(long, value_name = "NAME")]
    rounding: String = ["sparsity", "rounding"],
    /// Random generator of the initial masks: native, or numpy as in the original
    #[arg(long, value_name = "NAME")]
    mask_seed_compat: String = ["sparsity", "mask_seed_compat"],
    /// Threads that read and decode TFRecords [default: one per core]
    #[arg(long, value_name = "N")]
    data_threads: i64 = ["data", "threads"],
    /// Number of corrupt records to skip before one is an error [default: 0]
    #[arg(long, value_name = "N")]
    skip_corrupt: i64 = ["data", "skip_corrupt"],
    /// Precision of activations: f32 or bf16
    #[arg(long, value_name = "NAME")]
    precision: String = ["train", "precision"],
    /// Precision of f32 matrix products and convolutions: default (the device's fastest: bf16 on TPUs, TF32 on GPUs), high or
    /// highest (f32)
    #[arg(long, value_name = "NAME")]
    matmul_precision: String = ["train", "matmul_precision"],
    /// Computation of masked layers: masked (as dense layers), sparse (only the connections, on CPUs), or auto (per layer,
    /// whichever measured faster) [default: auto]
    #[arg(long, value_name = "NAME")]
    execution: String = ["device", "execution"],
    /// Keep weights and optimizer slots of sparse layers' connections alone: less memory, faster steps. Weights outside the
    /// masks are then 0 in checkpoints
    #[arg(long, num_args = 0, default_missing_value = "true")]
    condensed: bool = ["device", "condensed"],
    /// Devices for data-parallel training, over all processes; each trains on its part of every batch [default: one per
    /// process]
    #[arg(long, value_name = "N")]
    replicas: i64 = ["device", "replicas"],
    /// Processes that share the devices, on one or several machines, each started separately [default: 1]
    #[arg(long, value_name = "N", env = "RIGL_XLA_NUM_PROCESSES")]
    num_processes: i64 = ["device", "processes"],
    /// Compute batch statistics over the whole batch, not per replica
    #[arg(long, num_args = 0, default_missing_value = "true")]
    sync_bn: bool = ["train", "sync_bn"],
    /// Precision in which replicas send their gradients to be summed: f32 or bf16, which halves the bytes [default: f32]
    #[arg(long, value_name = "NAME")]
    gradient_precision: String = ["train", "gradient_precision"],
    /// Iterations, before --multiplier; gradient steps in the recipes for CIFAR-10 and ImageNet
    #[arg(long, value_name = "N")]
    steps: i64 = ["train", "iterations"],
    /// Stretch training and its schedules
    #[arg(long, value_name = "K")]
    multiplier: f64 = ["train", "multiplier"],
    /// Seed of masks, weights, data order and noise
    #[arg(long, value_name = "N")]
    seed: i64 = ["train", "seed"],
    /// Examples per batch, over all replicas
    #[arg(long, value_name = "N")]
    batch_size: i64 = ["train", "batch_size"],
    /// Compute each batch in N equal parts, one after the other, and average their gradients before the step: the memory of a
    /// smaller batch. For a model from JAX the batch of a step is N times that of the export [default: 1]
    #[arg(long, value_name = "N")]
    accumulate: i64 = ["train", "accumulate"],
    /// Initial learning rate
    #[arg(long, value_name = "RATE")]
    lr: f64 = ["learning_rate", "base"],
    /// Train even if the run ends before it reaches its sparsity, or has no mask update
    #[arg(long, num_args = 0, default_missing_value = "true")]
    allow_incomplete_schedule: bool = ["train", "allow_incomplete_schedule"],
    /// Iterations from one evaluation to the next
    #[arg(long, value_name = "N")]
    eval_interval: i64 = ["train", "eval_interval"],
    /// Epochs from one evaluation to the next, in place of --eval-interval [default: none]
    #[arg(long, value_name = "EPOCHS")]
    eval_epochs: f64 = ["train", "eval_epochs"],
    /// Hold out training examples, a share below 1 or a number: evaluations use them, and the test set only at the end [default: none]
    #[arg(long, value_name = "SHARE|N")]
    validation: f64 = ["data", "validation"],
    /// Iterations from one checkpoint to the next
    #[arg(long, value_name = "N")]
    checkpoint_interval: i64 = ["train", "checkpoint_interval"],
    /// Number of newest checkpoints to keep
    #[arg(long, value_name = "N")]
    keep_checkpoints: i64 = ["train", "keep_checkpoints"],
    /// Also keep checkpoints at multiples of N iterations [default: none]
    #[arg(long, value_name = "N")]
    keep_every: i64 = ["keep", "every"],
    /// Keep the best checkpoint by a metric, as best.safetensors
    #[arg(long, value_name = "METRIC", help = best_help())]
    keep_best: String = ["keep", "best"],
    /// Stop after N evaluations without a better value of the metric of --keep-best, or else of top1 [default: never]
    #[arg(long, value_name = "N")]
    patience: i64 = ["stop", "patience"],
    /// Stop after this many training FLOPs: a number, or a multiple of the dense training such as '1.0x dense' [default: never]
    #[arg(long, value_name = "FLOPS")]
    stop_flops: String = ["stop", "flops"],
    /// Stop after this time of training, over all sessions of the run, e.g. 90s or 2h30m [default: never]
    #[arg(long, value_name = "TIME")]
    stop_time: String = ["stop", "time"],
    /// Selection of the k-th largest score: bits, sort or topk
    #[arg(long, value_name = "NAME")]
    select: String = ["mask_update", "select"],
    /// Write no events for TensorBoard
    #[arg(long, num_args = 0, default_missing_value = "false")]
    no_tensorboard: bool = ["output", "tensorboard"],
    /// Keep no journal of mask updates (topology.journal in the run folder)
    #[arg(long, num_args = 0, default_missing_value = "false")]
    no_topology: bool = ["output", "topology"],
    /// Iterations per launch of the device program
    #[arg(long, value_name = "N")]
    steps_per_launch: i64 = ["train", "steps_per_launch"],
}

/// Help of `--method`.
fn method_help() -> String {
    let names: Vec<&str> = sparse::METHODS.iter().map(|method| method.name).collect();
    format!("Sparse training method: {}", names.join(", "))
}

/// Help of `--keep-best`.
fn best_help() -> String {
    let names: Vec<&str> = CHOOSING.iter().map(|metric| metric.name).collect();
    format!(
        "Keep the best checkpoint by a metric, as best.safetensors: {}; of the validation split, or else the test set [default: none]",
        names.join(", ")
    )
}

/// Help of `--data`.
fn data_help() -> String {
    format!(
        "{}, or a folder with the files of the recipe's data set, or with TFRecords",
        set_names()
    )
}

/// Configuration of a run: a preset, overridden by a file, overridden by flags.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(allow_negative_numbers = true)]
pub struct RunArgs {
    /// Published recipe to start from [default: the one for --model and --method, else mnist-rigl]
    pub preset: Option<String>,
    /// TOML file that overrides the preset, e.g. the config.toml of a run
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Values of the configuration
    #[command(flatten)]
    pub keys: KeyFlags,
    /// Sparsity of one layer, e.g. layer3=0; may be repeated
    #[arg(long, value_name = "LAYER=SHARE", value_parser = pair::<f64>)]
    pub custom: Vec<(String, f64)>,
    /// Data set or folder
    #[arg(long, value_name = "NAME|DIR", help = data_help())]
    pub data: Option<String>,
    /// Where to run
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Start with the weights of a checkpoint in safetensors format (`convert` makes one from TensorFlow's) or a run
    /// folder: kernels, biases and normalisation arrays; everything else is initialised as in a new run
    #[arg(long, value_name = "FILE")]
    pub init: Option<String>,
    /// With --init: also load the masks
    #[arg(long, requires = "init", conflicts_with = "init_state")]
    pub init_masks: bool,
    /// With --init: load everything and continue the run of the checkpoint: masks, optimizer slots, averages and
    /// counters. `global_step` is the number of gradient steps done, `last_mask_update_step` (`is_snipped`) the step of
    /// the last mask update. Learning rate, mask updates and example order follow this configuration from the iteration
    /// with these counters; random numbers come from this run's seed
    #[arg(long, requires = "init")]
    pub init_state: bool,
    /// With --init: the first masks keep the largest weights, of each layer, or of all layers together
    #[arg(long, value_name = "WHICH", value_parser = ["layer", "global"], requires = "init", conflicts_with_all = ["init_masks", "init_state"])]
    pub init_prune: Option<String>,
    /// Do not train parameters and statistics whose names have this form, in which * stands for any text; may be
    /// repeated. Layers keep the masks that they begin with
    #[arg(long, value_name = "PATTERN")]
    pub freeze: Vec<String>,
    /// Run folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Any other configuration value, e.g. mask_update.frequency_steps=50; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<String>)]
    pub set: Vec<(String, String)>,
}

impl RunArgs {
    /// Returns the layers of preset, file and flags, fitted to the run's pictures.
    ///
    /// # Errors
    /// An unknown preset, an unreadable file, the first unknown key or value of the wrong type, or a batch size larger than
    /// the set.
    pub fn layers(&self) -> Result<Layers, Error> {
        let layers = self.flags_over(self.base()?)?.fitted()?;
        let configuration = layers.run()?.to_toml()?;
        crate::report::detail(|| configuration);
        Ok(layers)
    }

    /// Returns the layers of preset and file.
    ///
    /// # Errors
    /// As [`RunArgs::layers`].
    pub fn base(&self) -> Result<Layers, Error> {
        let preset = Layers::preset(&self.preset_name())?;
        match &self.config {
            Some(path) => preset.file(path),
            None => Ok(preset),
        }
    }

    /// Adds the flags to `layers`.
    ///
    /// # Errors
    /// As [`RunArgs::layers`].
    pub fn flags_over(&self, mut layers: Layers) -> Result<Layers, Error> {
        if let Some(file) = self.model_file() {
            layers = layers.with_model("--model", exported_model(file)?)?;
        } else if let Some(model) = &self.keys.model
            && layers.run()?.model.name != *model
        {
            let only_name: Table = [("name".to_owned(), model.clone().into())].into_iter().collect();
            layers = layers.with_model("--model", only_name)?;
        }
        if let Some((name, variant)) = self.network_of_init() {
            if self.names_no_network() && layers.run()?.model.name != name {
                layers = layers.set("--init", &["model", "name"], name.clone())?;
            }
            let same = Family::from_name(&layers.run()?.model.name) == Family::from_name(&name);
            if let Some(variant) = variant.filter(|variant| same && variant.is_torchvision()) {
                layers = layers.set("--init", &["model", "variant"], variant.name())?;
            }
        }
        if self.data.as_deref().is_some_and(|data| !is_folder(data)) {
            // The folder from below belongs to another data set.
            layers = layers.set("--data", &["data", "dir"], "")?;
        }
        for (flag, key, value) in self.flags() {
            layers = layers.give(&flag, &flag, &key, value)?;
        }
        for (layer, sparsity) in &self.custom {
            let given = format!("--custom {layer}={sparsity}");
            layers = layers.give("--custom", &given, &["sparsity", "layers", layer], *sparsity)?;
        }
        for (key, value) in &self.set {
            let path: Vec<&str> = key.split('.').collect();
            let given = format!("--set {key}={value}");
            layers = layers.give(&format!("--set {key}"), &given, &path, literal(value))?;
        }
        Ok(layers)
    }

    /// Builds the plan of `layers`, with the run folder exactly as given on the command line.
    ///
    /// # Errors
    /// Contradictory values.
    pub fn plan(&self, layers: Layers) -> Result<Plan, Error> {
        let mut plan = layers.plan()?;
        if let Some(out) = self.out.as_ref().filter(|out| !out.as_os_str().is_empty()) {
            plan.output_dir.clone_from(out);
        }
        Ok(plan)
    }

    /// Whether no flag and no file names the network.
    fn names_no_network(&self) -> bool {
        self.preset.is_none() && self.config.is_none() && self.keys.model.is_none()
    }

    /// Name and variant of the network of the checkpoint to begin with, if it says them.
    fn network_of_init(&self) -> Option<(String, Option<Variant>)> {
        let path = checkpoint::resolve(Path::new(self.init.as_ref()?)).ok()?;
        let network = checkpoint::torch::network_of(&path)?;
        Family::from_name(&network.0).is_some().then_some(network)
    }

    /// The requested preset, else the recipe for the requested network and method.
    fn preset_name(&self) -> String {
        if let Some(preset) = &self.preset {
            return preset.clone();
        }
        let method = self.keys.method.as_deref();
        let method = method.and_then(|name| Some(sparse::Method::find(name).ok()?.name));
        let model = match &self.keys.model {
            Some(_) if self.model_file().is_some() => Some(exported::NAME.to_owned()),
            Some(model) => Some(model.clone()),
            None => self.network_of_init().map(|(name, _)| name),
        };
        preset_of(model.as_deref(), method).to_owned()
    }

    /// Every given flag with its key and value.
    fn flags(&self) -> Vec<GivenFlag> {
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let (data_name, data_dir) = self.data_keys();
        // An absolute path, so that the run can be resumed from elsewhere.
        let absolute = |path: &String| std::path::absolute(path).map_or(path.clone(), |p| p.to_string_lossy().into());
        let init = self.init.as_ref().map(absolute);
        let take = match (self.init_masks, self.init_state) {
            (_, true) => "state",
            (true, _) => "masks",
            _ => "weights",
        };
        // The configuration is text; it holds a lossy copy of a non-Unicode path, see `RunArgs::plan`.
        let out = self.out.as_ref().map(|dir| dir.to_string_lossy().into_owned().into());
        let several = [
            ("--data", ["data", "name"], data_name),
            ("--data", ["data", "dir"], data_dir),
            ("--init", ["init", "file"], text(&init)),
            ("--init", ["init", "take"], init.as_ref().map(|_| take.into())),
            ("--init-prune", ["init", "prune"], text(&self.init_prune)),
            (
                "--freeze",
                ["train", "freeze"],
                Some(self.freeze.clone().into()).filter(|_| !self.freeze.is_empty()),
            ),
            ("--device", ["device", "kind"], text(&self.device.on.device)),
            ("--plugin", ["device", "plugin"], text(&self.device.on.plugin)),
            ("--engine", ["device", "engine"], text(&self.device.engine)),
            ("--out", ["output", "dir"], out),
        ];
        let given = several
            .into_iter()
            .filter_map(|(flag, key, value)| Some((flag.to_owned(), key, value?)));
        let keys = self.keys.given().into_iter();
        let keys = keys.filter(|(flag, _, _)| flag != "--model" || self.model_file().is_none());
        keys.chain(given).collect()
    }

    /// The file of an exported model, if the flag names one.
    fn model_file(&self) -> Option<&str> {
        self.keys.model.as_deref().filter(|model| model.ends_with(".rigl"))
    }

    /// Data set name and folder that `--data` sets. A folder keeps the configured name, unless its files are another
    /// set's.
    fn data_keys(&self) -> (Option<Value>, Option<Value>) {
        match self.data.as_deref() {
            None => (None, None),
            Some(path) if self.is_arrays(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
                let absolute = absolute.to_string_lossy().into_owned();
                (Some(sets::ARRAYS.name.into()), Some(absolute.into()))
            }
            // An absolute path, so that the run can be resumed from elsewhere.
            Some(dir) if is_folder(dir) => {
                let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
                // Fashion-MNIST uses MNIST's file names. The reader reports missing files.
                let set = folder::detect(&absolute).ok().filter(|&set| set != &sets::MNIST);
                let name = set.map(|set| set.name.into());
                (name, Some(absolute.to_string_lossy().into_owned().into()))
            }
            Some(name) => (Some(name.into()), None),
        }
    }
}

impl RunArgs {
    /// Whether `--data` names arrays: a file, any path for an exported model, or a folder with nothing but arrays.
    fn is_arrays(&self, path: &str) -> bool {
        let path = Path::new(path);
        let other_program = || matches!(folder::detect(path), Err(crate::data::Error::Foreign { .. }));
        let file = arrays::has_arrays(path) && !other_program();
        let folder = || {
            let unknown = folder::detect(path).is_err() && !other_program();
            path.is_dir() && unknown && arrays::found(path).is_ok()
        };
        file || (self.model_file().is_some() && sets::find(&path.to_string_lossy()).is_err()) || folder()
    }
}

/// The section `model` of an exported model.
fn exported_model(file: &str) -> Result<Table, Error> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.into());
    let digest = files::sha256(&absolute).map_err(|source| Error::Model {
        path: file.into(),
        source,
    })?;
    let values = [
        ("name", exported::NAME.to_owned()),
        ("file", absolute.to_string_lossy().into_owned()),
        ("digest", digest),
    ];
    Ok(values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect())
}

/// Parses a TOML value; text that is not TOML is a string, so `--set method.name=set` needs no quotes.
fn literal(text: &str) -> Value {
    let parsed: Option<toml::Table> = format!("value = {text}").parse().ok();
    parsed
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| text.into())
}

/// `NAME=VALUE`.
pub fn pair<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(String, T), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = value.trim().parse().map_err(|error: T::Err| error.to_string())?;
    Ok((name.trim().to_owned(), value))
}
