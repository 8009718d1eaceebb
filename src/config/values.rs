//! The values of a run by key: those that change its numbers, and its default folder, which is named after them.

use std::path::PathBuf;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::{Error, Layers, Run, preset_of};
use crate::named::Named;
use sparse::Method;

/// Keys that do not change the numbers of an iteration: length and rhythm of the run, device, folder.
pub const FREE_KEYS: [&str; 31] = [
    "model.file",
    "data.dir",
    "data.threads",
    "data.prefetch",
    "data.skip_corrupt",
    "mask_update.select",
    "train.iterations",
    "train.unit",
    "train.eval_batch_size",
    "train.steps_per_launch",
    "train.eval_interval",
    "train.eval_epochs",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.allow_incomplete_schedule",
    "keep.best",
    "keep.every",
    "stop.patience",
    "stop.min_delta",
    "stop.flops",
    "stop.time",
    "device.kind",
    "device.plugin",
    "device.engine",
    "device.execution",
    "device.condensed",
    "device.processes",
    "device.replicas",
    "output.dir",
    "output.topology",
    "output.tensorboard",
];

/// Members of [`FREE_KEYS`] that distinguish runs nevertheless.
const TELLING_KEYS: [&str; 3] = ["data.dir", "train.iterations", "train.unit"];

/// Keys that every folder's name contains.
const NAMED_KEYS: [&str; 4] = ["data.name", "method.name", "sparsity.target", "train.seed"];

/// Keys that are shown first in a folder's name, with their short names.
const SHORT_NAMES: [(&str, &str); 6] = [
    ("model.name", ""),
    ("model.width", "width"),
    ("learning_rate.base", "lr"),
    ("train.iterations", "steps"),
    ("train.multiplier", "multiplier"),
    ("train.batch_size", "batch"),
];

/// Maximum number of values in a folder's name; a digest distinguishes the rest.
const SHOWN: usize = 4;
/// Longest value in a folder's name.
const SHOWN_LENGTH: usize = 16;

impl Run {
    /// Every value as text, by its dotted key.
    ///
    /// # Errors
    /// A run without TOML form: none.
    pub fn values(&self) -> Result<Vec<(String, String)>, Error> {
        let table: Table = self.to_toml()?.parse().unwrap_or_default();
        let mut values = vec![];
        flatten("", &table, &mut values);
        Ok(values)
    }
}

/// Keys whose values differ, sorted, each with both values; `nothing` where one has none.
pub fn differences(of: &Run, and: &Run) -> Result<Vec<(String, [String; 2])>, Error> {
    let values = [of.values()?, and.values()?];
    let mut keys: Vec<&String> = values.iter().flatten().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let find = |values: &[(String, String)], key: &str| {
        let found = values.iter().find(|(k, _)| k == key);
        found.map_or("nothing".to_owned(), |(_, v)| v.clone())
    };
    let both = keys
        .into_iter()
        .map(|key| (key.clone(), values.each_ref().map(|of| find(of, key))));
    Ok(both.filter(|(_, [a, b])| a != b).collect())
}

/// Dotted keys and values as text.
fn flatten(prefix: &str, table: &Table, out: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => flatten(&key, inner, out),
            value => out.push((key, value.to_string())),
        }
    }
}

/// The run's folder: as configured, or `runs/<data>-<method>-<sparsity>-seed<seed>`, followed by the differences from the recipe
/// for its network and method: a few values, and a digest of all if there are more.
pub(super) fn output_dir(run: &Run, method: &Method) -> PathBuf {
    if !run.output.dir.is_empty() {
        return run.output.dir.clone().into();
    }
    let (data, sparsity, seed) = (run.data.set.name(), run.sparsity.target, run.train.seed);
    let mut name = format!("{data}-{}-{sparsity}-seed{seed}", method.name);
    let recipe = Layers::preset(preset_of(Some(&run.model.name), Some(method.name))).and_then(|layers| layers.run());
    let differing = recipe.and_then(|recipe| differences(&recipe, run)).unwrap_or_default();
    let mut telling: Vec<(String, String)> = differing
        .into_iter()
        .filter(|(key, _)| tells_runs_apart(key))
        .map(|(key, [_, value])| (key, value))
        .collect();
    telling.sort_by_key(|(key, _)| {
        SHORT_NAMES
            .iter()
            .position(|(known, _)| known == key)
            .unwrap_or(usize::MAX)
    });
    let parts = telling.iter().filter_map(|(key, value)| shown(key, value));
    let parts: Vec<String> = parts.take(SHOWN).collect();
    name.extend(parts.iter().map(|part| format!("-{part}")));
    if parts.len() < telling.len() {
        let mut hash = Sha256::new();
        for (key, value) in &telling {
            hash.update(format!("{key}={value}\n"));
        }
        let digest = hash.finalize();
        name.extend(
            ["-".to_owned()]
                .into_iter()
                .chain(digest.iter().take(3).map(|byte| format!("{byte:02x}"))),
        );
    }
    PathBuf::from("runs").join(name)
}

fn tells_runs_apart(key: &str) -> bool {
    let free = FREE_KEYS.contains(&key) && !TELLING_KEYS.contains(&key);
    !free && !NAMED_KEYS.contains(&key)
}

/// A value as a part of a folder's name; `None` if it is unsuitable.
fn shown(key: &str, value: &str) -> Option<String> {
    let value = value.trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if value.is_empty() || value == "nothing" || value.len() > SHOWN_LENGTH || !value.chars().all(plain) {
        return None;
    }
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == key);
    match short.map_or_else(|| key.rsplit('.').next().unwrap_or(key), |(_, short)| short) {
        "" => Some(value.to_owned()),
        name => Some(format!("{name}={value}")),
    }
}
