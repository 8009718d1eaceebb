//! Outcome of a job: read from its folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, Job, Result};
use crate::checkpoint::{CONFIG, SUMMARY, atomic};
use crate::config::Run;
use crate::files;
use crate::train::run_differences;

/// The file that tells why a job failed.
pub const FAILURE: &str = "failure.json";
/// The output of a job.
pub const LOG: &str = "log.txt";
/// Bound on the files of an outcome.
const MAX_BYTES: u64 = 16 << 20;

/// Outcome of a job.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// It has not ended.
    Unfinished,
    /// It ended.
    Finished {
        /// That of `train --json`.
        summary: Value,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// Why a job failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code of the process; absent if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Its error message.
    pub error: String,
}

impl Outcome {
    /// The summary of a finished job.
    pub fn summary(&self) -> Option<&Value> {
        match self {
            Outcome::Finished { summary } => Some(summary),
            Outcome::Unfinished | Outcome::Failed { .. } => None,
        }
    }
}

/// Reads the outcome of a job from its folder. A run that is shorter than the job asks for is unfinished.
///
/// # Errors
/// A folder with another run, or files that cannot be read.
pub fn of(job: &Job) -> Result<Outcome> {
    let folder = &job.plan.output_dir;
    check_run(job)?;
    if let Some(failure) = read::<Failure>(&folder.join(FAILURE))? {
        return Ok(Outcome::Failed { failure });
    }
    let Some(summary) = read::<Value>(&folder.join(SUMMARY))? else {
        return Ok(Outcome::Unfinished);
    };
    let whole = summary["steps"].as_u64() == Some(job.plan.iterations) || summary["stopped_by"].is_string();
    Ok(match whole && summary["interrupted"] == Value::Bool(false) {
        true => Outcome::Finished { summary },
        false => Outcome::Unfinished,
    })
}

/// Checks that the folder holds no other run.
fn check_run(job: &Job) -> Result<()> {
    let path = job.plan.output_dir.join(CONFIG);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io(&path))?,
    };
    let stored = Run::from_toml(&text, &path.display().to_string())?;
    let differences = run_differences(&stored, &job.plan.run)?;
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Error::OtherRun {
            path: job.plan.output_dir.clone(),
            differences,
        }),
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(path, MAX_BYTES).map_err(Error::io(path))?;
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| Error::Summary {
        path: path.into(),
        problem: format!("{error}, expected what a run wrote: delete the file to run the job again"),
    })
}

/// Records a failure in the folder of a job.
///
/// # Errors
/// I/O.
pub fn fail(job: &Job, failure: &Failure) -> Result<()> {
    let path = job.plan.output_dir.join(FAILURE);
    let write = |out: &mut dyn io::Write| serde_json::to_writer(out, failure).map_err(io::Error::other);
    atomic::write(&path, |out| write(out)).map_err(Error::io(path))
}

/// Forgets the failure of a job, so that it runs again.
///
/// # Errors
/// I/O.
pub fn forget_failure(job: &Job) -> Result<()> {
    let path: PathBuf = job.plan.output_dir.join(FAILURE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}
