//! Models that the Python package `rigl_xla` exported from JAX: XLA programs with named arrays.
//!
//! A model file is in safetensors format. It has the arrays `manifest` (JSON), `module/train`, `module/evaluate` and, if the
//! model predicts, `module/predict` (serialized HLO), the initial `params/NAME` and `state/NAME`, and a `key` if the loss
//! draws random numbers. See `docs/own-models.md`.

mod declaration;
mod error;
mod manifest;

use crate::checkpoint;
use hlo::{Literal, Module, Shape};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use declaration::{Masking, Stub, maskable, state_name};
pub use error::Error;
pub use manifest::{Array, Manifest, Measure};

/// Name of the network in configurations and checkpoints.
pub const NAME: &str = "exported";
/// The copy of the model in a run folder.
pub const FILE: &str = "model.rigl";
/// Maximum size of the manifest: 16 MiB.
const MAX_MANIFEST_BYTES: usize = 16 << 20;

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An exported model.
#[derive(Debug)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Names, shapes and types.
    pub manifest: Manifest,
    /// Parameters, state, key and its three numbers (seed, iteration, replica), inputs; to the loss (f32), means of metrics
    /// (f32), the new state and gradients.
    pub train: Arc<Module>,
    /// Parameters, state, the key if it takes one, inputs; to the measures.
    pub evaluate: Arc<Module>,
    /// Parameters, state, inputs; to the predictions.
    pub predict: Option<Arc<Module>>,
    /// Initial values of parameters and state, and the key, under their names in the file.
    pub arrays: BTreeMap<String, Literal>,
}

impl Exported {
    /// Reads and checks a model file.
    ///
    /// # Errors
    /// A file that cannot be read, has unknown or missing parts, or programs that do not fit the manifest.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let mut arrays = checkpoint::load(path)?.tensors;
        let mut bytes = |name: &'static str| {
            let array = arrays.remove(name)?;
            (array.dtype() == hlo::DType::U8).then(|| array.into_bytes())
        };
        let manifest = bytes("manifest").ok_or_else(|| Error::missing(path, "manifest"))?;
        let programs = ["module/train", "module/evaluate", "module/predict"].map(|name| (name, bytes(name)));
        if manifest.len() > MAX_MANIFEST_BYTES {
            return Err(Error::manifest(
                path,
                format!("{} bytes, expected at most {MAX_MANIFEST_BYTES}", manifest.len()),
            ));
        }
        let manifest = Manifest::read(&manifest).map_err(|problem| Error::manifest(path, problem))?;
        let module = |(name, bytes): (&'static str, Option<Vec<u8>>)| {
            let read = |bytes: Vec<u8>| {
                let module = Module::read(&bytes).map_err(|source| Error::Module {
                    path: path.into(),
                    name,
                    source,
                })?;
                Ok(Arc::new(module))
            };
            bytes.map(read).transpose()
        };
        let [train, evaluate, predict]: [Result<Option<Arc<Module>>>; 3] = programs.map(module);
        let (train, evaluate, predict) = (train?, evaluate?, predict?);
        let exported = Exported {
            train: train.ok_or_else(|| Error::missing(path, "module/train"))?,
            evaluate: evaluate.ok_or_else(|| Error::missing(path, "module/evaluate"))?,
            predict,
            path: path.into(),
            manifest,
            arrays,
        };
        exported.check()?;
        Ok(Arc::new(exported))
    }

    /// Checks arrays and programs against the manifest.
    fn check(&self) -> Result<()> {
        let manifest = &self.manifest;
        let expected = manifest.arrays();
        for (name, shape) in &expected {
            match self.arrays.get(name) {
                None => return Err(Error::missing(&self.path, name)),
                Some(array) if array.shape() != shape => {
                    return Err(Error::manifest(
                        &self.path,
                        format!("array '{name}' is {}, expected {shape}", array.shape()),
                    ));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = self
            .arrays
            .keys()
            .find(|name| expected.iter().all(|(known, _)| known != *name))
        {
            return Err(Error::Unknown {
                path: self.path.clone(),
                name: name.clone(),
            });
        }
        let fits = |what: &'static str, module: &Module, [takes, gives]: [Vec<Shape>; 2]| {
            let pairs = [
                ("takes", module.parameters(), takes),
                ("returns", module.results(), gives),
            ];
            let wrong = pairs.into_iter().find(|(_, found, expected)| *found != &expected[..]);
            wrong.map_or(Ok(()), |(verb, found, expected)| {
                let at = found.iter().zip(&expected).position(|(a, b)| a != b);
                let problem = match at {
                    Some(i) => format!("{verb} {} as array {i}, the manifest has {}", found[i], expected[i]),
                    None => format!("{verb} {} arrays, the manifest has {}", found.len(), expected.len()),
                };
                Err(Error::manifest(&self.path, format!("{what} {problem}")))
            })
        };
        fits("module/train", &self.train, manifest.train())?;
        fits("module/evaluate", &self.evaluate, manifest.evaluate())?;
        match (&self.predict, manifest.predict()) {
            (Some(module), Some(interface)) => fits("module/predict", module, interface),
            (None, None) => Ok(()),
            (Some(_), None) => Err(Error::manifest(
                &self.path,
                "no prediction, but there is a module/predict".into(),
            )),
            (None, Some(_)) => Err(Error::missing(&self.path, "module/predict")),
        }
    }

    /// Initial values of a parameter, as they are in the file.
    pub fn param(&self, name: &str) -> Option<&Literal> {
        self.arrays.get(&format!("params/{name}"))
    }

    /// Initial values of a parameter as training keeps them, in f32.
    pub fn initial(&self, name: &str) -> Option<Literal> {
        let stored = self.param(name)?;
        let values: Vec<f32> = stored.to_f64_vec().into_iter().map(|value| value as f32).collect();
        Some(Literal::new(stored.dims(), &values))
    }

    /// For each input, whether the prediction uses it.
    pub fn predicts_from(&self) -> Vec<bool> {
        let used = self.predict.as_ref().map(|module| module.used()).unwrap_or_default();
        let inputs = self.manifest.inputs.len();
        used[used.len().saturating_sub(inputs)..].to_vec()
    }
}
