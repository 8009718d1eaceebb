//! Runs of models exported from JAX: their file, masks and recipe.

use std::path::Path;
use std::sync::Arc;

use toml::Value;

use super::check::value;
use super::plan::Plan;
use super::{Error, Execution, Layers, Network, Run};
use crate::data::sets::Reader;
use crate::exported::{Exported, Masking, Stub};
use models::Precision;
use sparse::{DropScore, Method};

/// Part of the run after which no mask is updated, by default.
const UPDATED: f64 = 0.75;
/// Number of mask updates that a short run has by default.
const UPDATES: i64 = 20;

impl super::Model {
    /// The exported model that the run trains, if it is one.
    ///
    /// # Errors
    /// A file that cannot be used, or that is not the one of the configuration.
    pub fn exported(&self) -> Result<Option<Arc<Exported>>, Error> {
        let Some(file) = &self.file else { return Ok(None) };
        let path = Path::new(file);
        if let Some(expected) = &self.digest {
            let found = crate::files::sha256(path).map_err(|source| Error::Model {
                path: path.into(),
                source,
            })?;
            if found != *expected {
                let expected = format!("{expected} as in the configuration: the file is another model");
                return Err(value("model.digest", found, expected));
            }
        }
        Ok(Some(Exported::open(path)?))
    }

    /// Which leaves get a mask.
    pub fn masking(&self) -> Masking<'_> {
        Masking {
            masked: self.masked.as_deref(),
            unmasked: self.unmasked.as_deref(),
        }
    }
}

impl Plan {
    /// Plans the training of an exported model.
    pub(super) fn for_exported(run: Run, exported: Arc<Exported>) -> Result<Self, Error> {
        let method = super::plan::method(&run)?;
        check(&run, method, &exported)?;
        let ends = [run.sparsity.first_layer, run.sparsity.last_layer].map(|sparsity| sparsity != Some(0.0));
        let model = run.model.clone();
        let declare = |with_masks| exported.declaration(model.masking(), with_masks, ends);
        let masked = declare(true);
        if !masked.params.iter().any(|param| param.mask.is_some()) && method.masked {
            let expected = "patterns that leave at least one array with a mask";
            return Err(value("model.masked", format!("{:?}", run.model.masked), expected));
        }
        let mut run = run;
        let maskable: Vec<&str> = masked.params.iter().filter_map(super::layer_name).collect();
        let ends = [
            (run.sparsity.first_layer, maskable.first()),
            (run.sparsity.last_layer, maskable.last()),
        ];
        for (sparsity, name) in ends {
            if let (Some(sparsity), Some(name)) = (sparsity.filter(|&s| s > 0.0), name) {
                run.sparsity
                    .layers
                    .insert((*name).to_owned(), super::LayerSparsity::Fixed(sparsity));
            }
        }
        let mut declaration = match method.masked {
            true => masked.clone(),
            false => declare(false),
        };
        // Layers are computed as the model has them: none from its connections alone.
        let layers = std::mem::take(&mut declaration.layers);
        let preprocessing = crate::data::pixels::Preprocessing::Mnist;
        let mut plan = Self::build(
            run,
            &masked.params,
            declaration,
            vec![],
            Network::new(Stub),
            preprocessing,
        )?;
        plan.layers = layers;
        plan.exported = Some(exported);
        Ok(plan)
    }
}

fn check(run: &Run, method: &Method, exported: &Exported) -> Result<(), Error> {
    let batch = exported.manifest.batch;
    let (replicas, parts) = (run.device.replicas(), run.train.accumulate.unwrap_or(1));
    if run.train.batch_size != batch.saturating_mul(replicas).saturating_mul(parts) {
        let each = match replicas {
            1 => String::new(),
            _ => format!(" on each of {replicas} replicas"),
        };
        let accumulated = match parts {
            1 => String::new(),
            _ => format!(", {parts} to a step"),
        };
        let expected = format!(
            "{}: the model was exported for batches of {batch}{each}{accumulated}",
            batch.saturating_mul(replicas).saturating_mul(parts)
        );
        return Err(value("train.batch_size", run.train.batch_size, expected));
    }
    if method.drop == DropScore::GradientFlow {
        let expected = "a method that differentiates once: an exported model has no second derivatives";
        return Err(value("method.name", method.name, expected));
    }
    if run.train.precision != Precision::F32 {
        let expected = "f32: the types of an exported model are those of its export";
        return Err(value("train.precision", run.train.precision.name(), expected));
    }
    if run.train.label_smoothing != 0.0 {
        return Err(value(
            "train.label_smoothing",
            run.train.label_smoothing,
            "0: the loss was exported",
        ));
    }
    if run.train.sync_bn == Some(true) {
        return Err(value("train.sync_bn", "true", "false: the normalisation was exported"));
    }
    if run.device.execution == Some(Execution::Sparse) {
        return Err(value(
            "device.execution",
            "sparse",
            "auto or masked for an exported model",
        ));
    }
    if !matches!(run.data.set.reader, Reader::Arrays) {
        let expected = "arrays: give a file or folder of named arrays with --data";
        return Err(value("data.name", run.data.set.name, expected));
    }
    match run.model.masking().unmatched(exported) {
        Some(pattern) => {
            let first: Vec<_> = exported
                .manifest
                .params
                .iter()
                .take(5)
                .map(|leaf| leaf.name.as_str())
                .collect();
            let expected = format!("patterns that match arrays of the model, such as {}", first.join(", "));
            Err(value(
                "model.masked or model.unmasked",
                crate::report::escape::name(pattern),
                expected,
            ))
        }
        None => Ok(()),
    }
}

impl Layers {
    /// Replaces the values of the recipe that depend on the exported model and on the length of the run. Keeps values from
    /// files and flags.
    pub(super) fn fitted_to_export(mut self) -> Result<Self, Error> {
        let run = self.run()?;
        let Some(file) = &run.model.file else { return Ok(self) };
        let exported = Exported::open(Path::new(file))?;
        let replicas = run.device.replicas().max(1);
        let each = exported.manifest.batch.saturating_mul(replicas);
        let batch = each.saturating_mul(run.train.accumulate.unwrap_or(1));
        for (key, number) in [("train.batch_size", batch), ("train.eval_batch_size", each)] {
            self = self.fill("exported model", key, number as i64)?;
        }
        self.fitted_schedule("exported model")
    }

    /// Replaces the mask updates and evaluations of the recipe by those for the length of the run. Keeps values from files and
    /// flags.
    pub(crate) fn fitted_schedule(mut self, origin: &str) -> Result<Self, Error> {
        let run = self.run()?;
        let steps = (run.train.iterations as f64 * run.train.multiplier.max(1.0)) as i64;
        let end = ((UPDATED * steps as f64) as i64).max(1);
        let interval = (end / UPDATES).clamp(1, 100);
        let values: [(&str, i64); 6] = [
            ("mask_update.end_step", end),
            ("mask_update.frequency_steps", interval),
            ("prune.begin_step", end / 10),
            ("prune.end_step", end.max(end / 10 + 1)),
            ("prune.frequency_steps", interval),
            (
                "train.eval_interval",
                (steps / 20).clamp(1, run.train.eval_interval as i64),
            ),
        ];
        for (key, number) in values {
            self = self.fill(origin, key, number)?;
        }
        Ok(self)
    }

    /// Sets a number that only the recipe set.
    fn fill(self, origin: &str, key: &str, number: i64) -> Result<Self, Error> {
        if !self.is_from_recipe(key) {
            return Ok(self);
        }
        let path: Vec<&str> = key.split('.').collect();
        self.set(origin, &path, Value::Integer(number))
    }
}
