//! Networks for other programs: ONNX, StableHLO and PyTorch.

pub mod onnx;
pub mod pytorch;
pub mod stablehlo;
mod steps;

use std::collections::BTreeMap;

use hlo::{DType, Literal};
use serde_json::{Value, json};

use crate::checkpoint::torch;
use crate::data::pixels::Preprocessing;
use crate::named::Named;
use crate::train::loaded_network::LoadedNetwork;
use crate::train::state::inference_specs;

pub use steps::{Step, StepKind, steps};

/// Why a network cannot be exported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{model} cannot be exported: {reason}")]
    Unsupported { model: String, reason: String },
    #[error("'{name}' is missing or not f32, expected an array of the network")]
    Array { name: String },
    #[error(transparent)]
    Graph(#[from] hlo::Error),
}

/// Input of an exported network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Input {
    /// u8 pixels, channels last; the program prepares them
    #[default]
    Pixels,
    /// f32 images that are prepared, channels last
    Images,
}

impl Input {
    /// Name of the input.
    pub fn name(self) -> &'static str {
        match self {
            Input::Pixels => "pixels",
            Input::Images => "images",
        }
    }

    /// Element type of the input.
    pub fn dtype(self) -> DType {
        match self {
            Input::Pixels => DType::U8,
            Input::Images => DType::F32,
        }
    }
}

/// A network that is ready for export: its arrays with masks applied.
pub struct Exported<'a> {
    /// The network.
    pub network: &'a LoadedNetwork,
    /// Its input.
    pub input: Input,
    /// Names of the classes in label order; empty if they are not known.
    pub classes: &'a [String],
    /// Masks by name.
    masks: BTreeMap<String, Literal>,
    /// Parameters, masked, statistics and fixed arrays, by name, in the order of the declaration.
    arrays: Vec<(String, Literal)>,
}

impl<'a> Exported<'a> {
    /// Applies the masks of a network.
    pub fn new(network: &'a LoadedNetwork, input: Input, classes: &'a [String]) -> Self {
        let declaration = network.model.declaration();
        let names = inference_specs(&declaration).into_iter().map(|(name, _)| name);
        let mut all: BTreeMap<String, Literal> = names.zip(network.weights.iter().cloned()).collect();
        let mut masks = BTreeMap::new();
        let mut arrays = vec![];
        for param in &declaration.params {
            let Some(weights) = all.remove(&param.name) else {
                continue;
            };
            let mask = param.mask.as_ref().and_then(|name| Some((name, all.remove(name)?)));
            let Some((name, mask)) = mask else {
                arrays.push((param.name.clone(), weights));
                continue;
            };
            arrays.push((param.name.clone(), torch::masked(&weights, mask.to_bools())));
            masks.insert(name.clone(), mask);
        }
        let statistics = declaration.statistics.iter().map(|statistic| &statistic.name);
        for name in statistics.chain(declaration.fixed.iter().map(|(name, _)| name)) {
            arrays.extend(all.remove_entry(name));
        }
        Exported {
            network,
            input,
            classes,
            masks,
            arrays,
        }
    }

    /// The arrays, masks applied.
    pub fn arrays(&self) -> &[(String, Literal)] {
        &self.arrays
    }

    /// The steps of the network.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    fn steps(&self) -> Result<Vec<Step>, Error> {
        let model = &self.network.model;
        steps::steps(&**model).map_err(|reason| Error::Unsupported {
            model: model.name().into(),
            reason,
        })
    }

    /// The array of this name.
    ///
    /// # Errors
    /// [`Error::Array`].
    fn array(&self, name: &str) -> Result<&Literal, Error> {
        let found = self.arrays.iter().find(|(known, _)| known == name);
        found
            .map(|(_, array)| array)
            .ok_or_else(|| Error::Array { name: name.into() })
    }

    /// The elements of an array.
    ///
    /// # Errors
    /// [`Error::Array`].
    fn f32s(&self, name: &str) -> Result<Vec<f32>, Error> {
        let values = self.array(name)?.to_vec();
        values.ok_or_else(|| Error::Array { name: name.into() })
    }

    /// Metadata for users of the file: network, preparation of pixels, classes.
    fn description(&self) -> Value {
        let model = &self.network.model;
        json!({
            "model": model.name(),
            "variant": self.network.options.variant.unwrap_or_default().name(),
            "input": self.input.name(),
            "input_dims": model.input_dims(),
            "preprocessing": preparation(self.network.preprocessing),
            "pictures": self.network.pictures.name(),
            "classes": self.classes,
        })
    }
}

/// The preparation of pixels from 0 to 255, channels last.
fn preparation(preprocessing: Preprocessing) -> Value {
    let name = preprocessing.name();
    match preprocessing {
        Preprocessing::Mnist => json!({ "name": name, "scale": preprocessing.scale() }),
        Preprocessing::ImageNet => {
            let [mean, scale] = preprocessing.affine();
            json!({ "name": name, "mean": mean, "scale": scale })
        }
        Preprocessing::None => json!({ "name": name }),
        Preprocessing::Cifar => json!({
            "name": name,
            "of_each_image": "subtract the mean; divide by the larger of the standard deviation and 1 / sqrt(values)",
        }),
    }
}
