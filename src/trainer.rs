//! Training of networks that are written in Rust ([`Trainer`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hlo::{DType, Literal, Shape};
use models::Model;
use toml::Value;

use crate::checkpoint::{self, Mode, RunDir};
use crate::config::{Layers, Network, Plan, preset_of};
use crate::data::arrays::{Arrays, Input};
use crate::data::sets::Examples;
use crate::data::{self, Dataset, MAX_SET_BYTES, Split};
use crate::device::Device;
use crate::exported;
use crate::signals::Stop;
use crate::train::eval::Inference;
use crate::train::inference::{Scores, predict};
use crate::train::state::inference_specs;
use crate::train::{self, Error, Result, Summary};

/// Names of the arrays of a data file.
const ARRAYS: [&str; 2] = ["inputs", "labels"];

/// Trains a network of your own with any method of this crate.
///
/// A network implements [`Model`]: a function from a batch of inputs to logits. [`Trainer`] adds masks to its layers, trains it
/// with cross entropy, and writes a run folder with checkpoints, metrics and a journal of mask updates, like the command
/// `rigl-xla train`.
///
/// ```
#[doc = include_str!("../examples/own_model.rs")]
/// ```
///
/// The recipe is RigL at 90 % sparsity with momentum and a cosine schedule. Every value can be changed by its key in
/// configuration files with [`Trainer::set`]; what depends on the length of the run follows from it unless it is set. Settings
/// are checked when the run is planned, by [`Trainer::plan`] or [`Trainer::train`].
pub struct Trainer {
    network: Network,
    settings: Vec<(String, Value)>,
    examples: [Source; 2],
    mode: Mode,
}

/// Where the examples of a split come from.
enum Source {
    None,
    Memory { inputs: Vec<f32>, labels: Vec<i32> },
    File(PathBuf),
}

impl Trainer {
    /// Trains `model`, on the CPU unless set otherwise.
    pub fn new(model: Box<dyn Model>) -> Self {
        Trainer {
            network: model.into(),
            settings: vec![],
            examples: [Source::None, Source::None],
            mode: Mode::Fresh,
        }
    }

    /// Sets a value of the recipe by its key, e.g. `set("optimizer.name", "adam")`. The keys are those of configuration files,
    /// as `config.toml` in a run folder has them.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Sets the method: `rigl`, `set`, `static`, `dense` or another name of [`sparse::METHODS`].
    #[must_use]
    pub fn method(self, name: &str) -> Self {
        self.set("method.name", name)
    }

    /// Sets the share of zeros over the layers with masks. `distribution` shares it out: by default `erk`.
    #[must_use]
    pub fn sparsity(self, share: f64) -> Self {
        self.set("sparsity.target", share)
    }

    /// Sets the length of the run in iterations of one batch.
    #[must_use]
    pub fn steps(self, iterations: u32) -> Self {
        self.set("train.iterations", iterations)
    }

    /// Sets the run folder. Default: a folder under `runs/` named after the network and the method.
    #[must_use]
    pub fn output(self, folder: &Path) -> Self {
        self.set("output.dir", folder.to_string_lossy().into_owned())
    }

    /// Sets what to do if the run folder has a run already: by default that is an error.
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Trainer { mode, ..self }
    }

    /// Trains on these examples: `inputs` is `f32[labels.len(), input_dims..]`, row-major.
    #[must_use]
    pub fn train_on(mut self, inputs: Vec<f32>, labels: Vec<i32>) -> Self {
        self.examples[0] = Source::Memory { inputs, labels };
        self
    }

    /// Evaluates on these examples instead of the training examples.
    #[must_use]
    pub fn test_on(mut self, inputs: Vec<f32>, labels: Vec<i32>) -> Self {
        self.examples[1] = Source::Memory { inputs, labels };
        self
    }

    /// Trains and evaluates on the arrays `inputs` and `labels` of a `.npz` or `.safetensors` file or a folder, as
    /// [`Arrays::open`] finds them (`train/inputs`, `test/inputs`, …). They are read into memory.
    #[must_use]
    pub fn data(mut self, path: &Path) -> Self {
        self.examples = [path, path].map(|path| Source::File(path.into()));
        self
    }

    /// The run that follows from the settings: layers with their sparsities, schedules, iterations.
    ///
    /// # Errors
    /// An unknown key, or a value that is out of range or contradicts another.
    pub fn plan(&self) -> Result<Plan> {
        let method = self.settings.iter().rfind(|(key, _)| key == "method.name");
        let method = method.and_then(|(_, value)| value.as_str());
        let mut layers = Layers::preset(preset_of(Some(exported::NAME), method))?;
        for (key, value) in &self.settings {
            let path: Vec<&str> = key.split('.').collect();
            layers = layers.set(&format!("Trainer::set {key}"), &path, value.clone())?;
        }
        Ok(layers.fitted_schedule("Trainer")?.plan_network(self.network.clone())?)
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Settings or examples that do not fit the network, a device that cannot be used, or a loss that is not finite.
    pub fn train(self) -> Result<Trained> {
        self.train_until(&Stop::new())
    }

    /// Trains until the end or until `stop` is asked for, e.g. by a signal ([`crate::signals::watch`]).
    ///
    /// # Errors
    /// As [`Trainer::train`].
    pub fn train_until(self, stop: &Stop) -> Result<Trained> {
        let plan = self.plan()?;
        let train = self.examples(0, Split::Train)?;
        let train = train.ok_or_else(|| Error::Shape {
            what: "Trainer".into(),
            found: "no training examples".into(),
            expected: "some from train_on or data".into(),
        })?;
        let test = self.examples(1, Split::Test)?.unwrap_or_else(|| train.clone());
        let summary = train::train_on(&plan, [train, test].map(Examples::Whole), self.mode, stop)?;
        let mut saved = checkpoint::load(&summary.checkpoint)?;
        saved.use_averages();
        Ok(Trained {
            arrays: saved.tensors,
            records: RunDir::read_only(&summary.run_dir, Mode::Resume)?.records(summary.steps)?,
            plan,
            summary,
        })
    }

    /// The examples of a split, checked against the network.
    fn examples(&self, part: usize, split: Split) -> Result<Option<Dataset>> {
        let dims = self.network.input_dims();
        let (inputs, labels) = match &self.examples[part] {
            Source::None => return Ok(None),
            Source::Memory { inputs, labels } => {
                let shape = Shape::new(DType::F32, [&[labels.len()], &dims[..]].concat());
                if shape.elements() != inputs.len() || labels.is_empty() {
                    let expected = format!("at least 1, of {dims:?} numbers each");
                    return Err(wrong(
                        split,
                        format!("{} numbers for {} labels", inputs.len(), labels.len()),
                        expected,
                    ));
                }
                (Literal::new(&shape.dims, inputs), Literal::new(&[labels.len()], labels))
            }
            Source::File(path) => read(path, split, &dims)?,
        };
        let classes = self.network.classes();
        let known = |&label: &i32| usize::try_from(label).is_ok_and(|label| label < classes);
        let values: Vec<i32> = labels.to_vec().unwrap_or_default();
        if let Some(at) = values.iter().position(|label| !known(label)) {
            let found = format!("class {} at index {at}", values[at]);
            return Err(wrong(split, found, format!("0 to {}", classes.saturating_sub(1))));
        }
        Ok(Some(Dataset {
            images: inputs,
            labels,
            classes,
        }))
    }
}

fn wrong(split: Split, found: String, expected: String) -> Error {
    let what = match split {
        Split::Train => "the training set",
        Split::Test => "the test set",
    };
    Error::Shape {
        what: what.into(),
        found,
        expected,
    }
}

/// Inputs and labels of a split of a file.
fn read(path: &Path, split: Split, dims: &[usize]) -> Result<(Literal, Literal)> {
    let examples = [Shape::new(DType::F32, dims), Shape::scalar(DType::S32)];
    let inputs = ARRAYS.into_iter().zip(examples).map(|(name, example)| Input {
        name: name.into(),
        example,
    });
    let arrays = Arrays::open(path, split, &inputs.collect::<Vec<_>>()).map_err(data::Error::from)?;
    let bytes = arrays.len() as u64 * Shape::new(DType::F32, dims).bytes() as u64;
    if bytes > MAX_SET_BYTES {
        return Err(Error::Data(data::Error::TooLarge {
            path: path.into(),
            found: bytes,
            expected: MAX_SET_BYTES,
        }));
    }
    let all: Vec<i32> = (0..arrays.len() as i32).collect();
    let read = arrays.gather(&all, all.len()).map_err(data::Error::from)?;
    match <[Literal; 2]>::try_from(read) {
        Ok([inputs, labels]) => Ok((inputs, labels)),
        Err(_) => Err(Error::Output("inputs and labels")),
    }
}

/// A network after training.
pub struct Trained {
    /// Figures of the run, with its scores on the test set.
    pub summary: Summary,
    plan: Plan,
    arrays: BTreeMap<String, Literal>,
    records: Vec<serde_json::Value>,
}

impl Trained {
    /// The run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Scores on the test set.
    pub fn scores(&self) -> &Scores {
        &self.summary.eval
    }

    /// Raw weights of a parameter by name, e.g. `hidden/weights`. Those that its mask leaves out have their last value.
    pub fn param(&self, name: &str) -> Option<&Literal> {
        let known = self.plan.params.iter().any(|param| param.name == name);
        self.arrays.get(name).filter(|_| known)
    }

    /// The mask of a parameter (pred), if it has one: true where there is a connection.
    pub fn mask(&self, param: &str) -> Option<&Literal> {
        let param = self.plan.params.iter().find(|known| known.name == param)?;
        self.arrays.get(param.mask.as_ref()?)
    }

    /// Names of the parameters, in the order in which the network asks for them.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.plan.params.iter().map(|param| param.name.as_str())
    }

    /// Values of a metric over the run with the iterations that they were measured after: `loss`, `accuracy`,
    /// `learning_rate`, or of evaluations `eval.top1`, `eval.loss`; see `metrics.jsonl` in `docs/formats.md`.
    pub fn metric(&self, name: &str) -> Vec<(u64, f64)> {
        let value = |record: &serde_json::Value| {
            let iteration = record.get("iteration")?.as_u64()?;
            let found = name.split('.').try_fold(record, |at, key| at.get(key))?;
            Some((iteration, found.as_f64()?))
        };
        self.records.iter().filter_map(value).collect()
    }

    /// Logits `[n, classes]` of `inputs` `[n, input_dims..]`, both row-major.
    ///
    /// # Errors
    /// Inputs that are not whole examples, or a device that cannot be used.
    pub fn logits(&self, inputs: &[f32]) -> Result<Vec<f32>> {
        let model = self.plan.model();
        let dims = model.input_dims();
        let each = dims.iter().product::<usize>().max(1);
        let images = Shape::new(DType::F32, [&[inputs.len() / each], &dims[..]].concat());
        if images.elements() != inputs.len() {
            return Err(Error::Shape {
                what: "the input".into(),
                found: format!("{} numbers", inputs.len()),
                expected: format!("{dims:?} for each example"),
            });
        }
        let weights: Option<Vec<Literal>> = inference_specs(&model.declaration())
            .iter()
            .map(|(name, _)| self.arrays.get(name).cloned())
            .collect();
        let weights = weights.ok_or(Error::Output("weights"))?;
        let device = Device::of(&self.plan, None)?;
        let network = Inference::new(&self.plan, model);
        let logits = predict(&device, network, &weights, &Literal::new(&images.dims, inputs))?;
        logits.to_vec().ok_or(Error::Output("f32 logits"))
    }
}

#[cfg(test)]
mod tests;
