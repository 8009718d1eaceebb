//! Checks whether a run can be resumed with the current configuration.

use super::error::{Error, Result};
use crate::checkpoint::{Checkpoint, Mode, RunDir};
use crate::config::{self, FREE_KEYS, Plan, Run, ScheduleKind};
use crate::report::escape;

/// The checkpoint to resume from; `None` for a new run.
///
/// # Errors
/// A configuration that changes results, a run that is longer already, or a damaged checkpoint.
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

/// Describes where a resumed run continues, for the user.
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

/// Keys of the length of the run.
const LENGTH: [&str; 2] = ["train.iterations", "train.unit"];

/// Keys whose values differ and change results, each with both values.
///
/// # Errors
/// None for configurations that were read.
pub fn differences(stored: &Run, asked: &Run) -> std::result::Result<Vec<String>, config::Error> {
    // A cosine over the whole run changes with the length of the run.
    let ends_with_run = matches!(
        asked.learning_rate.schedule,
        ScheduleKind::Cosine | ScheduleKind::Linear
    ) && asked.learning_rate.decay_steps.is_none();
    let free = |key: &str| FREE_KEYS.contains(&key) && !(ends_with_run && LENGTH.contains(&key));
    let all = config::differences(stored, asked)?.into_iter();
    let describe = |(key, [has, asked]): (String, [String; 2])| format!("{key} (it has {has}, asked for {asked})");
    Ok(all.filter(|(key, _)| !free(key)).map(describe).collect())
}
