//! Whether a run folder's run may be gone on with as now asked for.

use super::error::{Error, Result};
use crate::checkpoint::{Checkpoint, Mode, RunDir};
use crate::config::{Plan, Run};
use crate::report::escape;
use toml::{Table, Value};

/// The checkpoint to go on from, `None` to start anew.
///
/// # Errors
/// A run that differs in anything that changes its numbers, one that is longer already, or a damaged checkpoint.
pub fn check(plan: &Plan, dir: &RunDir, mode: Mode) -> Result<Option<Checkpoint>> {
    let (Mode::Resume, Some(text)) = (mode, dir.stored_config()) else {
        return Ok(None);
    };
    let path = dir.path().to_path_buf();
    let stored = Run::from_toml(text, &path.join("config.toml").display().to_string())?;
    let differences = differences(&stored, &plan.run)?;
    if !differences.is_empty() {
        return Err(Error::OtherRun { path, differences });
    }
    let Some(found) = dir.latest()? else { return Ok(None) };
    let Some(done) = found.metadata.as_ref().map(|m| m.iteration) else {
        return Err(Error::NoIteration { path: found.path });
    };
    if done > plan.iterations {
        let asked = plan.iterations;
        return Err(Error::Beyond { path, done, asked });
    }
    Ok(Some(found))
}

/// Where a resumed run goes on, for people.
pub fn describe(plan: &Plan, dir: &RunDir, found: Option<&Checkpoint>) -> String {
    let Some(found) = found else {
        let folder = escape::path(dir.path());
        return format!("no checkpoint yet in {folder}: training starts at the first iteration");
    };
    let done = found.metadata.as_ref().map_or(0, |m| m.iteration);
    let (path, all) = (escape::path(&found.path), plan.iterations);
    match done < all {
        true => format!("resuming from {path}, after {done} of {all} iterations"),
        false => {
            format!("already done: {path} has all {all} iterations; only evaluating (--steps makes the run longer)")
        }
    }
}

/// Keys that do not change what an iteration computes: length and rhythm of the run, where it runs, where it writes.
const FREE: [&str; 20] = [
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
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.allow_incomplete_schedule",
    "device.kind",
    "device.plugin",
    "device.engine",
    "device.execution",
    "device.processes",
    "device.replicas",
    "output.dir",
];

/// Those of them that say how long the run is.
const LENGTH: [&str; 2] = ["train.iterations", "train.unit"];

fn differences(stored: &Run, asked: &Run) -> Result<Vec<String>> {
    let asked_for = &asked.learning_rate;
    let (stored, asked) = (flat(stored)?, flat(asked)?);
    let find = |values: &[(String, String)], key: &str| {
        let found = values.iter().find(|(k, _)| k == key);
        found.map_or("nothing".to_string(), |(_, v)| v.clone())
    };
    let mut keys: Vec<&String> = stored.iter().chain(&asked).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    // Half a cosine over the whole run is another one over a longer run.
    let ends_with_run = asked_for.schedule == "cosine" && asked_for.decay_steps.is_none();
    let free = |key: &str| FREE.contains(&key) && !(ends_with_run && LENGTH.contains(&key));
    let differs = |key: &&String| !free(key) && find(&stored, key) != find(&asked, key);
    let tell = |key: &String| format!("{key} (it has {}, asked for {})", find(&stored, key), find(&asked, key));
    Ok(keys.into_iter().filter(differs).map(tell).collect())
}

/// Every value of a run as text, by its dotted key.
///
/// # Errors
/// A run without TOML form: none.
pub(super) fn flat(run: &Run) -> Result<Vec<(String, String)>> {
    let table: Table = run.to_toml()?.parse().unwrap_or_default();
    let mut values = vec![];
    flatten("", &table, &mut values);
    Ok(values)
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
