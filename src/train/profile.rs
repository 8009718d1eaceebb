//! Profile of training: the time of each launch by phase (`train --profile`).

use super::error::{Error, Result};
use super::trace::Trace;
use crate::checkpoint::RunDir;
use crate::device::Device;
use crate::report::metrics::Writer;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Activity of the main thread of a run. The device works on a launch from [`Phase::Launch`] to the end of [`Phase::Device`]. The
/// input and transfers in between are those of the next launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for examples and assembling a launch.
    Input,
    /// Sending examples to the devices, until the plugin has accepted them.
    Transfer,
    /// The call that starts the program. The default CPU plugin returns only when the program is done.
    Launch,
    /// Waiting for the outputs of the program.
    Device,
    /// Everything else: schedule, metrics, progress.
    Host,
    /// The topology journal and TensorBoard's events.
    Recording,
    /// Evaluation on the test set.
    Evaluation,
    /// Checkpoints.
    Saving,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Input,
        Phase::Transfer,
        Phase::Launch,
        Phase::Device,
        Phase::Host,
        Phase::Recording,
        Phase::Evaluation,
        Phase::Saving,
    ];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Input => "input",
            Phase::Transfer => "transfer",
            Phase::Launch => "launch",
            Phase::Device => "device",
            Phase::Host => "host",
            Phase::Recording => "recording",
            Phase::Evaluation => "evaluation",
            Phase::Saving => "saving",
        }
    }
}

/// Time by phase, in the order of [`Phase::ALL`].
pub type Spent = [Duration; Phase::ALL.len()];

/// A stopwatch that is always in one phase, so the phases add up to the total time.
#[derive(Debug)]
pub struct Clock {
    phase: Phase,
    since: Instant,
    spent: Spent,
}

impl Clock {
    /// Starts in [`Phase::Host`].
    pub fn start() -> Self {
        Clock {
            phase: Phase::Host,
            since: Instant::now(),
            spent: Spent::default(),
        }
    }

    /// Ends the current phase and begins another.
    pub fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        self.spent[self.phase as usize] += now - self.since;
        (self.phase, self.since) = (phase, now);
    }

    /// Returns the time since the start or the last lap, and continues in [`Phase::Host`].
    pub fn lap(&mut self) -> Spent {
        self.enter(Phase::Host);
        std::mem::take(&mut self.spent)
    }
}

/// Time of the recorded launches.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Number of recorded launches: fewer than requested if the session is short.
    pub launches: u64,
    /// Number of iterations in them.
    pub iterations: u64,
    /// Total seconds.
    pub wall_s: f64,
    /// In the order of [`Phase::ALL`].
    pub phases: Vec<PhaseTime>,
    /// Trace of the plugin's profiler; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "crate::report::path_or_none")]
    pub trace: Option<PathBuf>,
}

/// One phase, over all recorded launches.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PhaseTime {
    /// Name of the phase.
    pub phase: &'static str,
    /// Seconds.
    pub total_s: f64,
    /// Seconds per launch; 0 without any.
    pub mean_s: f64,
    /// Share of the time of all phases; 0 without any.
    pub share: f64,
}

/// Writes the profile of a session, `profile.jsonl`, launch by launch, and records a trace of the devices.
pub struct Recorder {
    writer: Writer,
    path: PathBuf,
    /// Number of launches to record.
    asked: u64,
    /// Launches of this session and iterations of the run so far.
    launch: u64,
    iteration: u64,
    /// Time of the recorded launches.
    launches: u64,
    iterations: u64,
    spent: Spent,
    /// The running trace of the devices, and the file of a finished one.
    trace: Option<Trace>,
    traced: Option<PathBuf>,
}

impl Recorder {
    /// Records `launches` launches after the first of a session that starts at `iteration`. Replaces a profile in the folder.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(dir: &RunDir, launches: u64, iteration: u64, device: &Device) -> Result<Self> {
        let (path, file) = dir.profile()?;
        Ok(Recorder {
            writer: Writer::new(file),
            path,
            asked: launches,
            launch: 0,
            iteration,
            launches: 0,
            iterations: 0,
            spent: Spent::default(),
            trace: Trace::new(device, dir),
            traced: None,
        })
    }

    /// Records a launch that ended at `iteration`. Ignores the first, which warms up the device and waits for two inputs, and
    /// launches beyond the requested number.
    ///
    /// # Errors
    /// [`Error::Metrics`].
    pub fn record(&mut self, iteration: u64, spent: &Spent) -> Result<()> {
        let iterations = iteration - std::mem::replace(&mut self.iteration, iteration);
        self.launch += 1;
        if self.launch == 1 {
            self.trace = self.trace.take().and_then(Trace::start);
        }
        if self.launch == 1 || self.launches == self.asked {
            return Ok(());
        }
        self.launches += 1;
        self.iterations += iterations;
        for (all, time) in self.spent.iter_mut().zip(spent) {
            *all += *time;
        }
        let mut record = json!({
            "iteration": iteration,
            "launch": self.launch,
            "iterations": iterations,
            "wall_s": seconds(spent),
        });
        for (phase, time) in Phase::ALL.into_iter().zip(spent) {
            record[format!("{}_s", phase.name())] = json!(time.as_secs_f64());
        }
        self.writer.write(&record).map_err(|source| Error::Metrics {
            path: self.path.clone(),
            source,
        })?;
        match self.launches == self.asked {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// Ends the trace of the devices, if it is running.
    ///
    /// # Errors
    /// [`Error::Metrics`].
    pub fn finish(&mut self) -> Result<()> {
        if let Some(trace) = self.trace.take().filter(|_| self.launch > 0) {
            self.traced = trace.save(self.iteration)?;
        }
        Ok(())
    }

    /// The profile so far.
    pub fn profile(&self) -> Profile {
        let wall_s = seconds(&self.spent);
        let over = |total: f64, of: f64| if of > 0.0 { total / of } else { 0.0 };
        let phase = |(phase, time): (Phase, &Duration)| PhaseTime {
            phase: phase.name(),
            total_s: time.as_secs_f64(),
            mean_s: over(time.as_secs_f64(), self.launches as f64),
            share: over(time.as_secs_f64(), wall_s),
        };
        Profile {
            launches: self.launches,
            iterations: self.iterations,
            wall_s,
            phases: Phase::ALL.into_iter().zip(&self.spent).map(phase).collect(),
            trace: self.traced.clone(),
        }
    }
}

fn seconds(spent: &Spent) -> f64 {
    spent.iter().sum::<Duration>().as_secs_f64()
}
