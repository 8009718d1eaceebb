//! Evaluation of exported models on named arrays.

use std::collections::BTreeMap;
use std::sync::Arc;

use hlo::Literal;

use super::error::{Error, Result};
use super::exported::Network;
use super::inference::{Scores, scalar};
use super::programs::digest;
use super::state::inference_specs;
use crate::data::arrays::{Arrays, Input};
use crate::device::Device;
use crate::engine::{Arg, Buffer, Program};
use crate::exported::Exported;

/// Name of the loss among the measures.
const LOSS: &str = "loss";

/// The inputs that a model takes from a data set; `only` selects by position.
pub fn inputs(exported: &Exported, only: impl Fn(usize) -> bool) -> Vec<Input> {
    let inputs = exported.manifest.inputs.iter().enumerate().filter(|(i, _)| only(*i));
    let input = |(_, input): (usize, &crate::exported::Array)| Input {
        name: input.name.clone(),
        example: input.example(),
    };
    inputs.map(input).collect()
}

/// Evaluates an exported model on arrays that the replicas of a run share.
pub struct ExportedEvaluator {
    program: Box<dyn Program>,
    digest: String,
    inputs: Vec<String>,
    measures: Vec<String>,
    device: Device,
    data: Arc<Arrays>,
    batch: usize,
    /// Examples that are counted: all, or those of whole batches if a measure is one of the batch.
    counted: usize,
}

impl ExportedEvaluator {
    /// Compiles the evaluation of `data`.
    ///
    /// # Errors
    /// Fewer examples than a batch if a measure is one of the batch, and errors of the device.
    pub fn new(device: &Device, network: Network, data: Arc<Arrays>) -> Result<Self> {
        let manifest = &network.exported.manifest;
        let measures = &manifest.evaluation.results;
        let whole = measures.iter().any(|measure| !measure.per_example);
        let counted = match whole {
            true => data.len() / manifest.batch * manifest.batch,
            false => data.len(),
        };
        if counted == 0 {
            return Err(Error::Shape {
                what: "evaluation".into(),
                found: format!("{} examples", data.len()),
                expected: format!(
                    "at least a batch of {}, as the model measures whole batches",
                    manifest.batch
                ),
            });
        }
        let specs = inference_specs(network.needs);
        let graph = network.evaluation(device.replicas)?;
        Ok(ExportedEvaluator {
            digest: digest(&graph, &[]),
            program: device.replicated(&graph, &[])?,
            inputs: specs.into_iter().map(|(name, _)| name).collect(),
            measures: measures.iter().map(|measure| measure.name.clone()).collect(),
            device: device.clone(),
            batch: manifest.batch,
            data,
            counted,
        })
    }

    /// A note on examples that are not counted.
    pub fn note(&self) -> Option<String> {
        let all = self.data.len();
        (self.counted < all).then(|| {
            format!(
                "evaluates {} of {all} examples: whole batches of {}, because a measure is one value of a batch",
                self.counted, self.batch
            )
        })
    }

    /// Digest of its program as a graph.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Memory that the program needs on a device ([`Program::memory`]).
    ///
    /// # Errors
    /// If the engine fails to answer.
    pub fn memory(&self) -> Result<Option<pjrt::MemoryStats>> {
        Ok(self.program.memory()?)
    }

    /// Names of the inputs of [`ExportedEvaluator::run`], in order.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Evaluates with the arrays of [`inference_specs`] on the device of each local replica.
    ///
    /// # Errors
    /// Errors of the device, and examples that cannot be read.
    pub fn run(&self, weights: &[Vec<&Buffer>]) -> Result<Scores> {
        let all = self.batch * self.device.replicas;
        let mut sums = vec![0.0; self.measures.len()];
        for first in (0..self.counted).step_by(all) {
            let sent = self
                .device
                .each(|replica, at| self.send(first + self.batch * replica, at))?;
            let each = weights.iter().zip(&sent);
            let args = each.map(|(weights, data)| weights.iter().copied().chain(data).map(Arg::Keep).collect());
            let outputs = self.program.execute_replicated(args.collect())?;
            let outputs = outputs.into_iter().next().unwrap_or_default();
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += scalar(&outputs, i, "measure")?;
            }
        }
        let means = self.measures.iter().zip(sums);
        let mut means: BTreeMap<String, f64> = means
            .map(|(name, sum)| (name.clone(), sum / self.counted as f64))
            .collect();
        Ok(Scores {
            loss: means.remove(LOSS).unwrap_or(f64::NAN),
            metrics: means,
            ..Scores::none(self.counted)
        })
    }

    /// Sends a replica its examples from `first` on.
    fn send(&self, first: usize, at: usize) -> Result<Vec<Buffer>> {
        let last = (first + self.batch).min(self.counted);
        let indices: Vec<i32> = (first..last).map(|index| index as i32).collect();
        let mut arrays = self
            .data
            .gather(&indices, self.batch)
            .map_err(crate::data::Error::from)?;
        let present: Vec<bool> = (0..self.batch).map(|i| i < indices.len()).collect();
        arrays.push(Literal::from_bools(&[self.batch], &present));
        let send = |array| Ok(self.device.send(array, at)?);
        arrays.into_iter().map(send).collect()
    }
}
