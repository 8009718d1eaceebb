//! Fits a published recipe to other pictures: replaces values that depend on ImageNet by those of the folder.

use std::path::Path;

use toml::Value;

use super::check::value;
use super::{Error, Layers, Run, ScheduleKind};
use crate::data::folder::{self, Contents};
use crate::data::records::{CLASSES, EXAMPLES};
use crate::report::escape;
use sparse::{KeepCount, Method};

/// Minimum number of batches per epoch, unless the batch size is given or the set is tiny.
const BATCHES_PER_EPOCH: usize = 16;
/// Minimum batch size, if the set has as many examples.
const MIN_BATCH: usize = 8;
/// Approximate number of mask updates of a run; no interval is longer than the recipe's.
const UPDATES: i64 = 50;
/// Minimum number of gradient steps between two mask updates.
const MIN_INTERVAL: i64 = 10;
/// Sides of images are multiples of this, and at least twice as long.
const SIDE_STEP: usize = 32;

/// Keys of the length of a run. Unless a file or flag gives one of them, the recipe is fitted.
const LENGTHS: [&str; 4] = [
    "train.iterations",
    "train.batch_size",
    "learning_rate.examples_per_epoch",
    "mask_update.end_step",
];

impl Layers {
    /// Replaces the values of the recipe that depend on its data set by those for the training pictures of the run's folder:
    /// classes, image size, batch size, length, boundaries, mask updates. Keeps values from files and flags. Keeps the recipe
    /// for other data sets, for ImageNet itself, and for folders that cannot be read.
    ///
    /// # Errors
    /// A given batch size that is larger than the set.
    pub fn fitted(mut self) -> Result<Self, Error> {
        let run = self.run()?;
        if run.model.file.is_some() {
            return self.fitted_to_export();
        }
        let recipe_stands = LENGTHS.iter().any(|key| self.is_from_recipe(key));
        if !run.data.set.is_streamed() || !recipe_stands {
            return Ok(self);
        }
        let dir = match run.data.set.folder(&run.data.dir) {
            Ok(dir) => dir,
            Err(problem) => {
                if !run.data.dir.is_empty() {
                    self.fit = Some(format!("the recipe is not fitted to the training pictures: {problem}"));
                }
                return Ok(self);
            }
        };
        let contents = match folder::contents(&dir) {
            Ok(contents) => contents,
            Err(problem) => {
                self.fit = Some(format!("the recipe is not fitted to the training pictures: {problem}"));
                return Ok(self);
            }
        };
        if contents.examples[0] == 0 {
            let shown = escape::path(&dir);
            self.fit = Some(format!("the recipe is not fitted: no training pictures in {shown}"));
            return Ok(self);
        }
        if is_imagenet(&contents) {
            return Ok(self);
        }
        let values = self.values_for(&run, &contents, &dir)?;
        let shown: Vec<String> = values.iter().map(|(key, v)| format!("{key}={v}")).collect();
        let origin = escape::path(&dir);
        for (key, value) in values {
            self = self.set(&origin, &key.split('.').collect::<Vec<_>>(), value)?;
        }
        self.fit = Some(note(&contents, &dir, &shown));
        Ok(self)
    }

    /// Values of the recipe for these pictures, without those that were given.
    fn values_for(&self, run: &Run, contents: &Contents, dir: &Path) -> Result<Vec<(&'static str, Value)>, Error> {
        let recipe = &Layers::preset(&self.preset)?.run()?;
        let pictures = contents.examples[0];
        let batch = match self.is_from_recipe("train.batch_size") {
            true => batch_size(run, recipe.train.batch_size, pictures),
            false => run.train.batch_size,
        };
        if batch > pictures {
            let expected = format!("at most {pictures}, the training pictures in {}", escape::path(dir));
            return Err(self.located(value("train.batch_size", batch, expected)));
        }
        // Keeps the recipe's number of epochs.
        let steps = epochs(recipe) * pictures as f64 / batch as f64;
        let ratio = steps / recipe.train.iterations as f64;
        let mut values = vec![
            ("train.batch_size", whole(batch as f64)),
            ("train.iterations", whole(steps)),
            ("train.eval_interval", whole(recipe.train.eval_interval as f64 * ratio)),
            (
                "train.checkpoint_interval",
                whole(recipe.train.checkpoint_interval as f64 * ratio),
            ),
        ];
        if contents.examples[1] > 0 {
            let batch = recipe.train.eval_batch_size.min(contents.examples[1]);
            values.push(("train.eval_batch_size", whole(batch as f64)));
        }
        values.extend(rate(run, recipe, pictures, ratio));
        // A given rate is not scaled, nor the recipe's rate for a given batch size.
        let rate_stands = ["learning_rate.base", "train.batch_size"]
            .iter()
            .all(|key| self.is_from_recipe(key));
        if rate_stands && recipe.learning_rate.base_batch_size.is_none() {
            values.push(("learning_rate.base_batch_size", whole(recipe.train.batch_size as f64)));
        }
        values.extend(updates(run, recipe, ratio));
        values.retain(|(key, _)| self.is_from_recipe(key));
        values.extend(network(run, contents));
        Ok(values)
    }

    /// Whether no file or flag sets this key or its section.
    pub(super) fn is_from_recipe(&self, key: &str) -> bool {
        let parts: Vec<&str> = key.split('.').collect();
        let mut prefixes = (1..=parts.len()).rev().map(|n| parts[..n].join("."));
        let origin = prefixes.find_map(|prefix| self.origins.get(&prefix));
        origin.is_none_or(|origin| origin.strip_prefix("preset ") == Some(&self.preset))
    }
}

/// Whether these are the pictures of the published recipes.
fn is_imagenet(contents: &Contents) -> bool {
    contents.examples[0] == EXAMPLES[0] && contents.classes.is_none_or(|classes| classes == CLASSES)
}

fn note(contents: &Contents, dir: &Path, values: &[String]) -> String {
    let classes = match contents.classes {
        Some(classes) => format!("{classes} classes"),
        None => "an unknown number of classes (no classes.txt)".to_owned(),
    };
    format!(
        "recipe fitted to the {} training pictures of {classes} in {}, values that were given apart: {}",
        contents.examples[0],
        escape::path(dir),
        values.join(", ")
    )
}

/// Epochs of a recipe on its own data set.
fn epochs(recipe: &Run) -> f64 {
    let published = recipe.data.set.examples([1; 2])[0];
    let examples = recipe.learning_rate.examples_per_epoch.unwrap_or(published as u64);
    (recipe.train.iterations * recipe.train.batch_size as u64) as f64 / examples as f64
}

/// The recipe's batch size, halved until an epoch has [`BATCHES_PER_EPOCH`]; a multiple of the replicas.
fn batch_size(run: &Run, recipe: usize, pictures: usize) -> usize {
    let replicas = run.device.replicas().max(1);
    let most = (pictures / BATCHES_PER_EPOCH).max(MIN_BATCH).min(recipe).min(pictures);
    let doublings = (most / replicas).max(1).ilog2();
    replicas << doublings
}

/// Examples per epoch, and the boundaries of a schedule over steps.
fn rate(run: &Run, recipe: &Run, pictures: usize, ratio: f64) -> Vec<(&'static str, Value)> {
    let mut values = vec![];
    let counts_epochs = run.learning_rate.schedule.counts_epochs();
    if counts_epochs || recipe.learning_rate.examples_per_epoch.is_some() {
        values.push(("learning_rate.examples_per_epoch", whole(pictures as f64)));
    }
    let piecewise = |run: &Run| run.learning_rate.schedule == ScheduleKind::Piecewise;
    if piecewise(recipe) && piecewise(run) {
        let mut previous = 0;
        let boundaries = recipe.learning_rate.boundaries.iter().map(|&at| {
            previous = scaled(at, ratio).max(previous + 1);
            Value::Integer(previous)
        });
        values.push(("learning_rate.boundaries", boundaries.collect::<Vec<_>>().into()));
    }
    values
}

/// Schedule of mask updates.
fn updates(run: &Run, recipe: &Run, ratio: f64) -> Vec<(&'static str, Value)> {
    let Ok(method) = Method::find(&run.method.name) else {
        return vec![];
    };
    if method.keep == KeepCount::Gradual {
        let prune = &recipe.prune;
        let begin = scaled(prune.begin_step, ratio);
        let end = scaled(prune.end_step, ratio).max(begin + 1);
        let interval = ((end - begin) / UPDATES).clamp(1, prune.frequency_steps.max(1));
        return vec![
            ("prune.begin_step", begin.into()),
            ("prune.end_step", end.into()),
            ("prune.frequency_steps", interval.into()),
        ];
    }
    if !method.replaces_connections() {
        return vec![];
    }
    let config = &recipe.mask_update;
    let length = scaled(recipe.train.iterations as i64, ratio);
    let end = match config.end_step {
        end if end < 0 => end,
        end => scaled(end, ratio).max(1),
    };
    let range = if end < 0 { length } else { end };
    let interval = (range / UPDATES).max(MIN_INTERVAL).min(config.frequency_steps.max(1));
    vec![
        ("mask_update.begin_step", scaled(config.begin_step, ratio).into()),
        ("mask_update.end_step", end.into()),
        ("mask_update.frequency_steps", interval.into()),
    ]
}

/// Classes and image size, unless they are given; no larger than the network's own size.
fn network(run: &Run, contents: &Contents) -> Vec<(&'static str, Value)> {
    let own = models::find(&run.model.name, true).map(|network| (network.classes(), network.input_dims()));
    let Some((classes, dims)) = own else { return vec![] };
    let mut values = vec![];
    if let Some(found) = contents
        .classes
        .filter(|&n| run.model.classes.is_none() && n != classes)
    {
        values.push(("model.classes", whole(found as f64)));
    }
    if let (None, &[size, _, _]) = (run.model.image_size, &dims[..]) {
        let [height, width] = contents.size;
        let fitting = (height.min(width) / SIDE_STEP * SIDE_STEP).max(2 * SIDE_STEP);
        if fitting < size && height > 0 {
            values.push(("model.image_size", whole(fitting as f64)));
        }
    }
    values
}

fn scaled(step: i64, ratio: f64) -> i64 {
    (step as f64 * ratio).round() as i64
}

/// A whole number of at least 1.
fn whole(v: f64) -> Value {
    Value::Integer((v.round() as i64).max(1))
}
