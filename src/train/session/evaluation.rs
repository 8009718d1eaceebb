//! Evaluations of a run in progress.

use super::Session;
use crate::checkpoint::{self, Certificate};
use crate::config::Plan;
use crate::data::sets::Examples;
use crate::device::Device;
use crate::engine::{self, Arg, Buffer};
use crate::train::error::{Error, Result};
use crate::train::eval::Inference;
use crate::train::exported::Network;
use crate::train::exported_evaluation::ExportedEvaluator;
use crate::train::inference::{Evaluator, Scores};
use crate::train::profile::Phase;
use crate::train::summary::{BestCheckpoint, Summary};
use crate::train::{condensed, dead_units, state};
use models::Model;
use serde_json::json;
use std::sync::Arc;

/// Iterations from one evaluation to the next.
pub(super) fn eval_interval(plan: &Plan, examples: usize) -> u64 {
    let train = &plan.run.train;
    let of_epochs = |epochs: f64| (epochs * examples as f64 / train.batch_size as f64).round() as u64;
    train.eval_epochs.map_or(train.eval_interval, of_epochs).max(1)
}

/// Evaluates a network of this program or an exported model.
pub(super) enum Scorer {
    Network(Evaluator),
    Exported(ExportedEvaluator),
}

impl Scorer {
    fn inputs(&self) -> &[String] {
        match self {
            Scorer::Network(evaluator) => evaluator.inputs(),
            Scorer::Exported(evaluator) => evaluator.inputs(),
        }
    }

    /// Digest of the program as a graph.
    pub(super) fn digest(&self) -> &str {
        match self {
            Scorer::Network(evaluator) => evaluator.digest(),
            Scorer::Exported(evaluator) => evaluator.digest(),
        }
    }

    /// Memory that the program needs on a device.
    pub(super) fn memory(&self) -> Result<Option<pjrt::MemoryStats>> {
        match self {
            Scorer::Network(evaluator) => evaluator.memory(),
            Scorer::Exported(evaluator) => evaluator.memory(),
        }
    }

    fn run(&self, weights: &[Vec<&Buffer>]) -> Result<Scores> {
        match self {
            Scorer::Network(evaluator) => evaluator.run_replicas(weights),
            Scorer::Exported(evaluator) => evaluator.run(weights),
        }
    }
}

/// Evaluates the network of a run on these examples.
pub(super) fn evaluator_of(plan: &Plan, model: &dyn Model, device: &Device, examples: &Examples) -> Result<Scorer> {
    if let (Some(exported), Examples::Arrays(arrays)) = (&plan.exported, examples) {
        let needs = plan.declaration();
        let network = Network {
            exported,
            needs: &needs,
        };
        let evaluator = ExportedEvaluator::new(device, network, Arc::clone(arrays))?;
        let note = evaluator.note().filter(|_| device.writes());
        note.into_iter().for_each(|note| crate::report::note!("note: {note}"));
        return Ok(Scorer::Exported(evaluator));
    }
    let batch = plan.run.train.eval_batch_size;
    let network = Inference::new(plan, model);
    let evaluator = Evaluator::new(device, network, examples, batch, plan.run.data.pipeline(batch, 1))?;
    Ok(Scorer::Network(evaluator))
}

impl Session<'_> {
    /// Scores of the state on the device.
    pub(super) fn score(&self, evaluator: &Scorer) -> Result<Scores> {
        let whole = self.whole_weights()?;
        let condensed = condensed::expanded(self.plan);
        let replicas = self.state.iter().enumerate();
        let weights = replicas.map(|(replica, arrays)| {
            let averaged = |name: &String| state::weight_average(self.plan, name).unwrap_or_else(|| name.clone());
            let array = |name: &String| match condensed.iter().position(|[weights, _]| weights == name) {
                Some(i) => whole.get(replica)?.get(i),
                None => arrays.get(self.specs.iter().position(|(n, _)| *n == averaged(name))?),
            };
            evaluator.inputs().iter().filter_map(array).collect()
        });
        evaluator.run(&weights.collect::<Vec<Vec<&Buffer>>>())
    }

    /// The condensed weights of each local replica, made whole; none without condensed state.
    fn whole_weights(&self) -> Result<Vec<Vec<Buffer>>> {
        let Some(expansion) = &self.expansion else {
            return Ok(vec![]);
        };
        let names = condensed::expanded(self.plan).concat();
        let position = |name: &&str| self.specs.iter().position(|(n, _)| n == name);
        let inputs: Vec<usize> = names.iter().filter_map(position).collect();
        let arguments = self.state.iter().map(|state| {
            let arrays = inputs.iter().map(|&i| &state[i]);
            arrays.map(Arg::Keep).collect()
        });
        Ok(expansion.execute_replicated(arguments.collect())?)
    }

    /// Evaluates the validation split, or else the test set, and returns the scores on the test set if it was used.
    pub(super) fn evaluate(&mut self) -> Result<Option<Scores>> {
        let Some(validation) = &self.validation else {
            return self.test().map(Some);
        };
        self.clock.enter(Phase::Evaluation);
        let scores = self.score(validation)?;
        self.record_scores("validation", "validation", &scores)?;
        self.clock.enter(Phase::Host);
        self.validated = Some(scores);
        Ok(None)
    }

    /// Evaluates the test set.
    pub(super) fn test(&mut self) -> Result<Scores> {
        self.clock.enter(Phase::Evaluation);
        let scores = self.score(&self.evaluator)?;
        self.record_scores("eval", "test", &scores)?;
        self.clock.enter(Phase::Host);
        Ok(scores)
    }

    fn record_scores(&mut self, name: &'static str, shown: &'static str, scores: &Scores) -> Result<()> {
        let mut record = json!({
            "iteration": self.counters.iteration,
            "global_step": self.counters.global_step,
        });
        record[name] = json!(scores);
        if let Some(compressed) = dead_units::live_size(self.plan, |mask| self.mask(mask))? {
            record["compressed"] = json!(compressed);
        }
        if let Some(explored) = self.explored()? {
            record["explored"] = json!(explored);
        }
        self.record(&record)?;
        let at = self.counters.iteration;
        let measured = scores.shown();
        let measured = measured.iter().filter(|(what, _)| what != "top-5");
        let measured: Vec<String> = measured.map(|(what, value)| format!("{what} {value}")).collect();
        self.progress
            .println(&format!("iteration {at}: {shown} {}", measured.join(", ")));
        Ok(())
    }

    /// The best checkpoint, with its scores on the test set; `last` are those of the state on the device.
    pub(super) fn best(&self, last: Scores) -> Result<Option<BestCheckpoint>> {
        let best = self.keeping.best().filter(|_| self.plan.run.keep.best.is_some());
        let Some(best) = best.filter(|_| self.device.writes()) else {
            return Ok(None);
        };
        let checkpoint = self.dir.checkpoint(best.iteration);
        let eval = match (&self.device.group, best.iteration == self.counters.iteration) {
            (_, true) => Some(last),
            (Some(_), false) => None,
            (None, false) => Some(self.score_file(checkpoint::load(&checkpoint)?)?),
        };
        Ok(Some(BestCheckpoint { best, checkpoint, eval }))
    }

    /// Writes `summary.json` and `certificate.json`.
    pub(super) fn certify(&self, summary: &Summary) -> Result<()> {
        let text = serde_json::to_vec(summary).map_err(|error| Error::Metrics {
            path: self.dir.path().join(checkpoint::SUMMARY),
            source: error.into(),
        })?;
        self.dir.write_summary(&text)?;
        let (seed, done) = (self.plan.run.train.seed, self.counters);
        let certificate = Certificate::of(&self.dir, seed, &self.origin, done.iteration, done.global_step)?;
        Ok(certificate.write(&self.dir)?)
    }

    /// Scores of a checkpoint of this run on the test set.
    fn score_file(&self, mut file: checkpoint::Checkpoint) -> Result<Scores> {
        let arrays = file.take(&self.plan.run.model.name, &state::specs(self.plan))?;
        let upload = |at| {
            let upload = |name: &String| self.device.upload(&arrays[name], at);
            let inputs = self.evaluator.inputs().iter();
            inputs.map(upload).collect::<engine::Result<Vec<_>>>()
        };
        let weights = self.device.each(|_, at| upload(at)).map_err(Error::from)?;
        let weights: Vec<Vec<&Buffer>> = weights.iter().map(|of| of.iter().collect()).collect();
        self.evaluator.run(&weights)
    }
}
