//! Fits a published recipe to other pictures: what the recipe says about ImageNet is replaced by what the folder holds.

use std::path::Path;

use toml::Value;

use super::check::value;
use super::{Error, Layers, Run, ScheduleKind};
use crate::data::folder::{self, Contents};
use crate::data::records::{CLASSES, EXAMPLES};
use crate::report::escape;
use sparse::{KeepCount, Method};

/// Batches of an epoch, at least, unless the batch size is given or the set is tiny.
const BATCHES_PER_EPOCH: usize = 16;
/// Examples per batch, at least, where the set has as many.
const MIN_BATCH: usize = 8;
/// Mask updates of a run, about; no interval is longer than the recipe's.
const UPDATES: i64 = 50;
/// Gradient steps between two mask updates, at least.
const MIN_INTERVAL: i64 = 10;
/// Sides of images are multiples of this, and no smaller than two of them.
const SIDE_STEP: usize = 32;

/// Keys without any of which given by file or flag a run is the recipe as it stands, which is to be fitted.
const LENGTHS: [&str; 4] = [
    "train.iterations",
    "train.batch_size",
    "learning_rate.examples_per_epoch",
    "mask_update.end_step",
];

impl Layers {
    /// The layers with the values of the recipe that depend on its data set replaced by those for the training pictures of the
    /// run's folder: classes, image size, batch size, length, boundaries, mask updates. Values from files and flags stay.
    /// Other data sets, ImageNet itself, and folders that cannot be read leave the recipe as it is.
    ///
    /// # Errors
    /// A batch size that was given and is larger than the set.
    pub fn fitted(mut self) -> Result<Self, Error> {
        let run = self.run()?;
        let recipe_stands = LENGTHS.iter().any(|key| self.is_from_recipe(key));
        if !run.data.set.is_streamed() || !recipe_stands {
            return Ok(self);
        }
        let Ok(dir) = run.data.set.folder(&run.data.dir) else {
            return Ok(self);
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

    /// What the recipe is to be for these pictures, less the values that were given.
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
        // The recipe's number of epochs, whatever batches they consist of.
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
        // A rate that was given is meant as it is, and so is the recipe's for a batch size that was given.
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

    /// Whether no file or flag sets this key, or what it is part of.
    fn is_from_recipe(&self, key: &str) -> bool {
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
    let replicas = run.device.replicas.or(run.device.processes).unwrap_or(1).max(1);
    let most = (pictures / BATCHES_PER_EPOCH).max(MIN_BATCH).min(recipe).min(pictures);
    let doublings = (most / replicas).max(1).ilog2();
    replicas << doublings
}

/// What an epoch is, and of a schedule over steps the boundaries.
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

/// When masks are updated.
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
    let said = &recipe.mask_update;
    let length = scaled(recipe.train.iterations as i64, ratio);
    let end = match said.end_step {
        end if end < 0 => end,
        end => scaled(end, ratio).max(1),
    };
    let range = if end < 0 { length } else { end };
    let interval = (range / UPDATES).max(MIN_INTERVAL).min(said.frequency_steps.max(1));
    vec![
        ("mask_update.begin_step", scaled(said.begin_step, ratio).into()),
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
