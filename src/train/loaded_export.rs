//! Loads an exported model with the arrays of a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::{Literal, Shape};
use models::Declaration;

use super::error::{Error, Result};
use super::exported::Network;
use super::exported_evaluation::{ExportedEvaluator, inputs};
use super::inference::Scores;
use super::state::inference_specs;
use crate::checkpoint::{self, Checkpoint};
use crate::config::Run;
use crate::data::arrays::Arrays;
use crate::device::Device;
use crate::exported::{self, Exported};

/// An exported model with the weights of a checkpoint.
pub struct LoadedExport {
    /// The model.
    pub exported: Arc<Exported>,
    /// Its arrays.
    pub needs: Declaration,
    /// The arrays of [`inference_specs`], in its order.
    pub weights: Vec<Literal>,
    /// The checkpoint.
    pub path: PathBuf,
    /// Iterations of the checkpoint.
    pub iteration: u64,
    /// Configuration of the run.
    pub run: Run,
}

/// Whether a checkpoint is that of an exported model.
pub fn is_exported(checkpoint: &Checkpoint) -> bool {
    checkpoint
        .metadata
        .as_ref()
        .is_some_and(|metadata| metadata.model == exported::NAME)
}

impl LoadedExport {
    /// Loads a checkpoint, with the model from `file`, else from beside the checkpoint, else from where the run had it.
    ///
    /// # Errors
    /// A model or checkpoint that cannot be read, or do not belong together.
    pub fn new(mut checkpoint: Checkpoint, file: Option<&str>) -> Result<Self> {
        let path = checkpoint.path.clone();
        let metadata = checkpoint
            .metadata
            .as_ref()
            .ok_or_else(|| Error::NoIteration { path: path.clone() })?;
        let (iteration, config) = (metadata.iteration, metadata.config.clone());
        let mut run = Run::from_toml(&config, &path.display().to_string())?;
        let beside = path.with_file_name(exported::FILE);
        let copy = beside.is_file().then(|| beside.to_string_lossy().into_owned());
        run.model.file = file.map(str::to_owned).or(copy).or(run.model.file);
        let exported = run.model.exported()?;
        let exported = exported.ok_or_else(|| exported::Error::Missing {
            path: path.clone(),
            name: "model.file".into(),
        });
        let exported = exported.map_err(crate::config::Error::from)?;
        let mut needs = exported.declaration(run.model.masking(), true, [true; 2]);
        for param in &mut needs.params {
            // The checkpoint decides: a dense run has no masks.
            let mask = format!("{}/mask", param.name);
            param.mask = checkpoint.tensors.contains_key(&mask).then_some(mask);
        }
        let specs = inference_specs(&needs);
        let mut arrays = checkpoint.take(exported::NAME, &specs)?;
        Ok(LoadedExport {
            weights: specs.iter().filter_map(|(name, _)| arrays.remove(name)).collect(),
            exported,
            needs,
            path,
            iteration,
            run,
        })
    }

    /// The model with its arrays.
    pub fn network(&self) -> Network<'_> {
        Network {
            exported: &self.exported,
            needs: &self.needs,
        }
    }

    /// Ones and entries of each mask, by the name of the parameter.
    pub fn masks(&self) -> Vec<(&str, usize, usize)> {
        let specs = inference_specs(&self.needs);
        let ones = |name: &str| {
            let position = specs.iter().position(|(known, _)| known == name)?;
            let mask = self.weights.get(position)?.to_bools()?;
            Some((mask.iter().filter(|&&one| one).count(), mask.len()))
        };
        let params = self.needs.params.iter();
        let mask = |param: &models::Param| ones(param.mask.as_deref()?);
        params
            .filter_map(|param| mask(param).map(|(n, all)| (param.name.as_str(), n, all)))
            .collect()
    }

    /// Scores on arrays.
    ///
    /// # Errors
    /// Errors of the device, and examples that cannot be read.
    pub fn scores(&self, device: &Device, data: Arrays) -> Result<(Scores, Option<String>)> {
        let evaluator = ExportedEvaluator::new(device, self.network(), Arc::new(data))?;
        let uploaded = self.weights.iter().map(|array| device.upload(array, 0));
        let buffers = uploaded.collect::<crate::engine::Result<Vec<_>>>()?;
        Ok((evaluator.run(&[buffers.iter().collect()])?, evaluator.note()))
    }

    /// Predictions for the arrays of a file or folder, by name.
    ///
    /// # Errors
    /// A model without predictions, arrays that cannot be read, and errors of the device.
    pub fn predictions(&self, device: &Device, from: &Path) -> Result<Vec<(String, Literal)>> {
        let manifest = &self.exported.manifest;
        let Some(prediction) = &manifest.prediction else {
            return Err(Error::NoPrediction {
                path: self.exported.path.clone(),
            });
        };
        let used = self.exported.predicts_from();
        let wanted = inputs(&self.exported, |i| used.get(i).copied().unwrap_or(true));
        let data = Arrays::open(from, crate::data::Split::Test, &wanted).map_err(crate::data::Error::from)?;
        let program = device.prepared(&self.network().prediction()?, &self.weights)?;
        let mut bytes: Vec<Vec<u8>> = vec![vec![]; prediction.results.len()];
        for first in (0..data.len()).step_by(manifest.batch) {
            let indices: Vec<i32> = (first..data.len().min(first + manifest.batch))
                .map(|i| i as i32)
                .collect();
            let mut given = data
                .gather(&indices, manifest.batch)
                .map_err(crate::data::Error::from)?
                .into_iter();
            let arrays = manifest.inputs.iter().enumerate().map(|(i, input)| match used.get(i) {
                Some(false) => Some(Literal::zeros(input.typed())),
                _ => given.next(),
            });
            let arrays: Vec<Literal> = arrays.collect::<Option<_>>().ok_or(Error::Output("batch"))?;
            let sent = arrays.iter().map(|array| device.upload(array, 0));
            let sent = sent.collect::<crate::engine::Result<Vec<_>>>()?;
            let outputs = program.execute(&sent.iter().collect::<Vec<_>>())?;
            for ((all, output), array) in bytes.iter_mut().zip(&outputs).zip(&prediction.results) {
                let row = array.example().bytes();
                let batch = output.to_literal()?.into_bytes();
                all.extend_from_slice(batch.get(..row * indices.len()).ok_or(Error::Output("prediction"))?);
            }
        }
        let results = prediction.results.iter().zip(bytes);
        let result = |(array, bytes): (&exported::Array, Vec<u8>)| {
            let example = array.example();
            let shape = Shape::new(example.dtype, [&[data.len()], &example.dims[..]].concat());
            let values = Literal::from_bytes(shape, bytes).ok_or(Error::Output("prediction"))?;
            Ok((array.name.clone(), values))
        };
        results.map(result).collect()
    }
}

/// Loads the checkpoint at `path` if it is that of an exported model.
///
/// # Errors
/// As [`LoadedExport::new`].
pub fn load(path: &Path, file: Option<&str>) -> Result<Option<LoadedExport>> {
    let checkpoint = checkpoint::load(path)?;
    match is_exported(&checkpoint) {
        true => LoadedExport::new(checkpoint, file).map(Some),
        false => Ok(None),
    }
}
