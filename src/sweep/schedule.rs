//! Runs the jobs of a sweep as processes, one at a time or several.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::outcome::{self, Failure, LOG, Outcome};
use super::{Error, Job, Result};
use crate::checkpoint::{CONFIG, RunDir};
use crate::child;
use crate::report::escape;
use crate::signals::Stop;
use pjrt::DeviceKind;

/// The configuration that a job is started with, in its folder.
const JOB: &str = "job.toml";
/// Pause between looks at running jobs.
const PAUSE: Duration = Duration::from_millis(20);
/// Time that a killed sweep leaves its jobs to save.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(120);
/// Most of a log that a failure quotes.
const QUOTED_BYTES: u64 = 2000;

/// How to run the jobs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, which is called with `train`.
    pub program: PathBuf,
    /// Number of jobs at a time.
    pub parallel: usize,
    /// Devices of the machine, of which each running job has one; empty for no assignment.
    pub devices: Vec<String>,
    /// Whether jobs that failed before run again.
    pub retry_failed: bool,
    /// Whether runs in the folders of unfinished jobs are replaced.
    pub overwrite: bool,
}

/// Events of a sweep, in their order.
#[derive(Debug)]
#[allow(missing_docs)] // the variants say it
pub enum Event<'a> {
    /// A job starts, or goes on if `resumed`.
    Started { job: &'a Job, resumed: bool },
    /// A job has ended.
    Ended {
        job: &'a Job,
        outcome: &'a Outcome,
        elapsed: Duration,
    },
}

/// A job that is running.
struct Running {
    index: usize,
    slot: usize,
    child: Child,
    started: Instant,
}

/// Runs every job that has not ended. Returns the outcome of each, and whether a signal stopped the sweep; its jobs have saved
/// then.
///
/// # Errors
/// A folder with another run, or I/O. Failures of jobs are outcomes.
pub fn run(jobs: &[Job], options: &Options, stop: &Stop, mut tell: impl FnMut(Event)) -> Result<(Vec<Outcome>, bool)> {
    let mut outcomes: Vec<Outcome> = jobs.iter().map(outcome::of).collect::<Result<_>>()?;
    let waits = |outcome: &Outcome| match outcome {
        Outcome::Unfinished => true,
        Outcome::Failed { .. } => options.retry_failed,
        Outcome::Finished { .. } => false,
    };
    let mut waiting: Vec<usize> = (0..jobs.len()).filter(|&i| waits(&outcomes[i])).rev().collect();
    let mut running: Vec<Running> = vec![];
    let mut stopping = false;
    loop {
        if stop.signal().is_some() && !stopping {
            stopping = true;
            waiting.clear();
            running.iter().for_each(|job| interrupt(&job.child));
        }
        while running.len() < options.parallel
            && let Some(index) = waiting.pop()
        {
            let free = (0..)
                .find(|slot| running.iter().all(|job| job.slot != *slot))
                .unwrap_or(0);
            let (child, resumed) = start(&jobs[index], options, free, stop)?;
            tell(Event::Started {
                job: &jobs[index],
                resumed,
            });
            running.push(Running {
                index,
                slot: free,
                child,
                started: Instant::now(),
            });
        }
        if running.is_empty() {
            return Ok((outcomes, stopping));
        }
        let mut ended = vec![];
        for (at, job) in running.iter_mut().enumerate() {
            let status = job
                .child
                .try_wait()
                .map_err(Error::io(&jobs[job.index].plan.output_dir))?;
            ended.extend(status.map(|status| (at, status)));
        }
        for (at, status) in ended.into_iter().rev() {
            let Running { index, started, .. } = running.remove(at);
            outcomes[index] = end(&jobs[index], status, stopping)?;
            tell(Event::Ended {
                job: &jobs[index],
                outcome: &outcomes[index],
                elapsed: started.elapsed(),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks a job to save and end.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It may have ended already.
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
}

/// Starts the process of a job; it goes on with a run that began before.
fn start(job: &Job, options: &Options, slot: usize, stop: &Stop) -> Result<(Child, bool)> {
    let folder = &job.plan.output_dir;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    wait_for_lock(folder, stop)?;
    outcome::forget_failure(job)?;
    let config = folder.join(JOB);
    fs::write(&config, job.plan.run.to_toml()?).map_err(Error::io(&config))?;
    let path = folder.join(LOG);
    let log = || {
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))
    };
    let begun = folder.join(CONFIG).is_file();
    let mut command = Command::new(&options.program);
    command
        .args(["train", "--json", "--config"])
        .arg(&config)
        .arg("--out")
        .arg(folder);
    match (begun, options.overwrite) {
        (true, true) => drop(command.arg("--overwrite")),
        (true, false) => drop(command.arg("--resume")),
        (false, _) => {}
    }
    if let Some(device) = options.devices.get(slot) {
        command.envs(visible(job.plan.run.device.kind, device));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log()?);
    child::end_with_parent(&mut command, Signal::TERM);
    let child = command.spawn().map_err(Error::io(&options.program))?;
    Ok((child, begun))
}

/// Waits for the process of an earlier sweep, which may still be saving.
fn wait_for_lock(folder: &Path, stop: &Stop) -> Result<()> {
    let started = Instant::now();
    while RunDir::is_locked(folder)? && started.elapsed() < UNLOCKED_WITHIN && stop.signal().is_none() {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Environment that leaves a process one device of the machine.
fn visible(kind: DeviceKind, device: &str) -> Vec<(&'static str, String)> {
    match kind {
        DeviceKind::Cpu => vec![],
        DeviceKind::Gpu => vec![
            ("CUDA_VISIBLE_DEVICES", device.into()),
            ("HIP_VISIBLE_DEVICES", device.into()),
        ],
        DeviceKind::Tpu => vec![
            ("TPU_VISIBLE_CHIPS", device.into()),
            ("TPU_CHIPS_PER_PROCESS_BOUNDS", "1,1,1".into()),
            ("TPU_PROCESS_BOUNDS", "1,1,1".into()),
        ],
    }
}

/// The outcome of a job whose process has ended, kept in its folder if it failed.
fn end(job: &Job, status: std::process::ExitStatus, stopping: bool) -> Result<Outcome> {
    let outcome = outcome::of(job)?;
    if status.success() || stopping {
        return Ok(outcome);
    }
    let error = last_error(&job.plan.output_dir.join(LOG));
    let failure = Failure {
        code: status.code(),
        error: error.unwrap_or_else(|| format!("the process ended with {status}")),
    };
    outcome::fail(job, &failure)?;
    Ok(Outcome::Failed { failure })
}

/// The last error of a log.
fn last_error(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(QUOTED_BYTES))).ok()?;
    let mut end = vec![];
    file.take(QUOTED_BYTES).read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end);
    let at = text.rfind("error: ")?;
    Some(escape::text(text[at + "error: ".len()..].trim()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_sees_one_device() {
        assert!(visible(DeviceKind::Cpu, "1").is_empty());
        assert!(visible(DeviceKind::Gpu, "3").contains(&("CUDA_VISIBLE_DEVICES", "3".to_owned())));
        assert!(visible(DeviceKind::Tpu, "2").contains(&("TPU_VISIBLE_CHIPS", "2".to_owned())));
    }
}
