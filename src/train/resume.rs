//! Whether a run folder's run may be gone on with as now asked for.

use super::error::{Error, Result};
use crate::checkpoint::{Checkpoint, Mode, RunDir};
use crate::config::{self, FREE_KEYS, Plan, Run, ScheduleKind};
use crate::report::escape;

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

/// Keys that say how long the run is.
const LENGTH: [&str; 2] = ["train.iterations", "train.unit"];

fn differences(stored: &Run, asked: &Run) -> Result<Vec<String>> {
    // Half a cosine over the whole run is another one over a longer run.
    let ends_with_run =
        asked.learning_rate.schedule == ScheduleKind::Cosine && asked.learning_rate.decay_steps.is_none();
    let free = |key: &str| FREE_KEYS.contains(&key) && !(ends_with_run && LENGTH.contains(&key));
    let all = config::differences(stored, asked)?.into_iter();
    let tell = |(key, [has, asked]): (String, [String; 2])| format!("{key} (it has {has}, asked for {asked})");
    Ok(all.filter(|(key, _)| !free(key)).map(tell).collect())
}
