//! The manifest of a model file.

use hlo::{DType, Shape};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Newest version that this program reads.
const VERSION: u32 = 1;
const FORMAT: &str = "rigl-xla model";
/// Maximum number of arrays of a kind.
const MAX_ARRAYS: usize = 1 << 16;
/// Numbers after a key: seed, iteration, replica.
const KEY_NUMBERS: usize = 3;

/// Names, shapes and types of an exported model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[allow(dead_code)] // read before the rest
    format: String,
    #[allow(dead_code)]
    version: u32,
    /// Version of JAX.
    pub jax: String,
    /// Name of the loss.
    pub name: String,
    /// Examples in a batch of the programs.
    pub batch: usize,
    /// Trained arrays.
    pub params: Vec<Array>,
    /// Arrays that the loss updates without a gradient.
    pub state: Vec<Array>,
    /// Arrays of a batch, with the batch as the first axis.
    pub inputs: Vec<Array>,
    /// Data of the random key.
    pub key: Option<Key>,
    /// Names of the metrics of training, apart from the loss.
    pub metrics: Vec<String>,
    /// Results of `module/evaluate`.
    pub evaluation: Evaluation,
    /// Results of `module/predict`.
    pub prediction: Option<Prediction>,
}

/// A named array.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Path in its pytree, with `/`.
    pub name: String,
    dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Path in its pytree, for Python.
    #[allow(dead_code)]
    path: serde_json::Value,
}

/// The random key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Dimensions of its data, u32.
    pub shape: Vec<usize>,
}

/// The results of an evaluation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Whether the program takes the key.
    pub key: bool,
    /// Its results.
    pub results: Vec<Measure>,
}

/// A result of an evaluation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Name, e.g. `loss`.
    pub name: String,
    /// Whether there is a value for each example, instead of one for the batch.
    pub per_example: bool,
}

/// Predictions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Arrays with the example as the first axis.
    pub results: Vec<Array>,
}

impl Array {
    /// Type and dimensions. [`Manifest::read`] has checked the type.
    pub fn typed(&self) -> Shape {
        Shape::new(dtype(&self.dtype).unwrap_or(DType::F32), self.shape.clone())
    }

    /// Type and dimensions of one example.
    pub fn example(&self) -> Shape {
        let shape = self.typed();
        Shape::new(shape.dtype, shape.dims.get(1..).unwrap_or_default().to_vec())
    }
}

/// The element type with this name in NumPy.
fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "bool" => DType::Pred,
        "int32" => DType::S32,
        "int64" => DType::S64,
        "uint8" => DType::U8,
        "uint32" => DType::U32,
        "uint64" => DType::U64,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "float32" => DType::F32,
        "float64" => DType::F64,
        _ => return None,
    })
}

impl Manifest {
    /// Reads and checks the JSON of a manifest.
    ///
    /// # Errors
    /// The fault, for messages.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if head.format != FORMAT || head.version > VERSION {
            return Err(format!(
                "format '{}' version {}, expected '{FORMAT}' up to version {VERSION}",
                head.format, head.version
            ));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let predictions = self.prediction.iter().flat_map(|p| &p.results);
        let lists = [
            ("params", self.params.iter().collect::<Vec<_>>()),
            ("state", self.state.iter().collect()),
            ("inputs", self.inputs.iter().collect()),
            ("prediction", predictions.collect()),
        ];
        for (what, arrays) in &lists {
            self.check_arrays(what, arrays)?;
        }
        let measures = self.evaluation.results.iter().map(|measure| &measure.name);
        distinct("metrics", self.metrics.iter())?;
        distinct("evaluation", measures.clone())?;
        if self.params.is_empty() || self.inputs.is_empty() || self.batch == 0 {
            return Err("expected at least one of params, one of inputs, and an example in a batch".into());
        }
        if !measures.clone().any(|name| name == "loss") {
            return Err("evaluation has no result 'loss'".into());
        }
        if self.key.is_none() && self.evaluation.key {
            return Err("evaluation takes a key, but there is none".into());
        }
        match self.params.iter().find(|param| !param.typed().dtype.is_float()) {
            Some(param) => Err(format!(
                "params: '{}' is {}, expected floating point",
                param.name, param.dtype
            )),
            None => Ok(()),
        }
    }

    fn check_arrays(&self, what: &str, arrays: &[&Array]) -> Result<(), String> {
        if arrays.len() > MAX_ARRAYS {
            return Err(format!(
                "{what}: {} arrays, expected at most {MAX_ARRAYS}",
                arrays.len()
            ));
        }
        distinct(what, arrays.iter().map(|array| &array.name))?;
        for array in arrays {
            let elements = array.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if dtype(&array.dtype).is_none() || elements.is_none_or(|n| n > 1 << 40) || array.shape.len() > 32 {
                return Err(format!(
                    "{what}: '{}' is {}{:?}, expected another type or smaller dimensions",
                    array.name, array.dtype, array.shape
                ));
            }
            let by_example = what == "inputs" || what == "prediction";
            if by_example && array.shape.first() != Some(&self.batch) {
                return Err(format!(
                    "{what}: '{}' has dimensions {:?}, expected a batch of {} as the first",
                    array.name, array.shape, self.batch
                ));
            }
        }
        Ok(())
    }

    /// Names and shapes of the arrays of the file, besides programs and manifest.
    pub(super) fn arrays(&self) -> Vec<(String, Shape)> {
        let named = |kind: &str, arrays: &[Array]| -> Vec<_> {
            arrays
                .iter()
                .map(|array| (format!("{kind}/{}", array.name), array.typed()))
                .collect()
        };
        let key = self
            .key
            .iter()
            .map(|key| ("key".to_owned(), Shape::new(DType::U32, key.shape.clone())));
        [
            named("params", &self.params),
            named("state", &self.state),
            key.collect(),
        ]
        .concat()
    }

    /// Types of parameters, state, the key with its numbers if `key`, and inputs.
    fn takes(&self, key: bool) -> Vec<Shape> {
        let typed = |arrays: &[Array]| arrays.iter().map(Array::typed).collect::<Vec<_>>();
        let key = self.key.iter().filter(|_| key).flat_map(|key| {
            let data = Shape::new(DType::U32, key.shape.clone());
            std::iter::once(data).chain(vec![Shape::scalar(DType::U32); KEY_NUMBERS])
        });
        let key = key.collect();
        [typed(&self.params), typed(&self.state), key, typed(&self.inputs)].concat()
    }

    /// Parameters and results of the training program.
    pub(super) fn train(&self) -> [Vec<Shape>; 2] {
        let scalars = vec![Shape::scalar(DType::F32); 1 + self.metrics.len()];
        let after = self.state.iter().chain(&self.params).map(Array::typed);
        [self.takes(true), scalars.into_iter().chain(after).collect()]
    }

    /// Parameters and results of the evaluation.
    pub(super) fn evaluate(&self) -> [Vec<Shape>; 2] {
        let dims = |measure: &Measure| if measure.per_example { vec![self.batch] } else { vec![] };
        let results = self.evaluation.results.iter();
        let results = results.map(|measure| Shape::new(DType::F32, dims(measure)));
        [self.takes(self.evaluation.key), results.collect()]
    }

    /// Parameters and results of the prediction.
    pub(super) fn predict(&self) -> Option<[Vec<Shape>; 2]> {
        let prediction = self.prediction.as_ref()?;
        Some([self.takes(false), prediction.results.iter().map(Array::typed).collect()])
    }
}

/// Checks that names are distinct and printable.
fn distinct<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.len() > 1024 || name.chars().any(char::is_control) {
            return Err(format!(
                "{what}: a name of {} characters, expected 1 to 1024 printable ones",
                name.len()
            ));
        }
        if !seen.insert(name) {
            return Err(format!("{what}: two have the name '{name}'"));
        }
    }
    Ok(())
}
