//! Figures of a run in progress, counted on the device.

use super::Session;
use crate::config;
use crate::engine::Buffer;
use crate::train::dead_units;
use crate::train::error::{Error, Result};
use crate::train::inference::{Scores, scalar};
use crate::train::launch::LAUNCH_OUTPUTS;
use crate::train::norms;
use crate::train::profile::Recorder;
use crate::train::state;
use crate::train::summary::Summary;
use serde_json::{Map, Value, json};
use std::time::Duration;

impl Session<'_> {
    pub(super) fn summary(&self, eval: Scores, start: u64, startup: Duration) -> Result<Summary> {
        let (nonzeros, maskable) = self.count_ones()?;
        let (plan, train_s) = (self.plan, self.train_time.as_secs_f64());
        let done = self.counters.iteration - start;
        let stopped_by = self.keeping.reason(self.counters.iteration);
        let stopped_by = stopped_by.filter(|_| self.counters.iteration < plan.iterations);
        Ok(Summary {
            model: plan.run.model.name.clone(),
            method: plan.method.name.into(),
            sparsity: config::share_of_zeros(nonzeros, maskable),
            target_sparsity: plan.run.sparsity.target,
            steps: self.counters.iteration,
            global_step: self.counters.global_step,
            mask_updates: self.mask_updates,
            nonzeros,
            maskable,
            compressed: dead_units::live_size(plan, |mask| self.mask(mask))?,
            skipped_records: Some(self.feed.skipped(&self.device)?).filter(|&n| n > 0),
            explored: self.explored()?,
            train_s,
            steps_per_s: if done == 0 { 0.0 } else { done as f64 / train_s },
            startup_s: startup.as_secs_f64(),
            profile: self.profile.as_ref().map(Recorder::profile),
            best: self.best(eval.clone())?,
            eval,
            validation: self.validated.clone(),
            stopped_by,
            interrupted: stopped_by.is_none() && self.counters.iteration < plan.iterations,
            checkpoint: self
                .last_saved
                .as_ref()
                .map(|(_, path)| path.clone())
                .unwrap_or_default(),
            run_dir: self.dir.path().to_path_buf(),
        })
    }

    /// Adds norms by layer, and the means of an exported model's metrics, to the record of a launch of `done` iterations.
    pub(super) fn add_figures(&self, record: &mut Value, measured: &[Buffer], done: u64) -> Result<()> {
        for (key, name) in [("gradient_norm", "gradient_norms"), ("weight_norm", "weight_norms")] {
            let at = LAUNCH_OUTPUTS.iter().position(|known| *known == name);
            record[key] = norms::by_layer(self.plan, at.and_then(|at| measured.get(at)), name)?;
        }
        let Some(exported) = &self.plan.exported else {
            return Ok(());
        };
        let names = exported.manifest.metrics.iter().enumerate();
        let mean = |(i, name): (usize, &String)| {
            let sum = scalar(measured, LAUNCH_OUTPUTS.len() + i, "metric")?;
            Ok((name.clone(), json!(sum / done as f64)))
        };
        record["metrics"] = names.map(mean).collect::<Result<Map<_, _>>>()?.into();
        Ok(())
    }

    pub(super) fn mask(&self, name: &str) -> Result<Vec<bool>> {
        let mask = self.buffer(name).ok_or(Error::Output("mask"))?.to_literal()?;
        mask.to_bools().ok_or(Error::Output("mask"))
    }

    /// Share of the maskable weights that were ever active; `None` if the method does not track it.
    pub(super) fn explored(&self) -> Result<Option<f64>> {
        let names = self.plan.params.iter().filter_map(|p| state::explored(self.plan, p));
        let marks = names.map(|name| self.mask(&name)).collect::<Result<Vec<_>>>()?.concat();
        let ever = marks.iter().filter(|&&mark| mark).count();
        Ok((!marks.is_empty()).then(|| ever as f64 / marks.len() as f64))
    }

    /// Number of ones and of entries of the masks on the device. Without masks every weight counts as one.
    pub(super) fn count_ones(&self) -> Result<(usize, usize)> {
        if !self.plan.method.masked {
            return Ok((self.plan.maskable(), self.plan.maskable()));
        }
        let (mut ones, mut all) = (0, 0);
        for mask in self.plan.params.iter().filter_map(|p| p.mask.as_deref()) {
            let mask = self.mask(mask)?;
            ones += mask.iter().filter(|&&m| m).count();
            all += mask.len();
        }
        Ok((ones, all))
    }
}
