//! Compiles the programs of a run without running them.

use super::evaluation::{Scorer, evaluator_of};
use super::sets::load_beside_device;
use super::{compile_launch, condensed, resume};
use crate::checkpoint::{Mode, RunDir};
use crate::config::Plan;
use crate::distributed::Group;
use crate::train::error::Result;
use pjrt::MemoryStats;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The programs of a run, compiled for its devices.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// Names of the engine, its plugin and devices.
    pub identity: BTreeMap<String, String>,
    /// Memory of a device, in bytes, if the engine limits it.
    pub device_bytes: Option<u64>,
    /// Iterations that the run has done already.
    pub done: u64,
    /// Examples of the training set.
    pub examples: usize,
    /// Programs by name.
    pub programs: Vec<Prepared>,
}

/// A compiled program of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Prepared {
    /// `launch`, `evaluation`, `validation` or `expansion`.
    pub name: &'static str,
    /// Seconds that compiling took; little if it was in the cache.
    pub seconds: f64,
    /// Memory on each device, if the engine tells.
    pub memory: Option<MemoryStats>,
}

impl Prepared {
    /// Calls `make` and measures it.
    fn new<T>(
        name: &'static str,
        make: impl FnOnce() -> Result<T>,
        memory: impl FnOnce(&T) -> Result<Option<MemoryStats>>,
    ) -> Result<Self> {
        let started = Instant::now();
        let made = make()?;
        Ok(Prepared {
            name,
            seconds: started.elapsed().as_secs_f64(),
            memory: memory(&made)?,
        })
    }
}

/// Does what [`train`](super::train) does before its first launch, but creates no run folder and no state: checks the folder,
/// loads the examples, starts the devices, and compiles all programs, which stay in the cache. All processes of a group must
/// call it.
///
/// # Errors
/// Whatever would prevent the run from starting.
pub fn dry_run(plan: &Plan, mode: Mode, group: Option<Arc<Group>>) -> Result<DryRun> {
    let model = plan.model();
    let dir = RunDir::preview(&plan.output_dir, mode)?;
    let found = resume::check(plan, &dir, mode)?;
    let done = found.and_then(|found| Some(found.metadata?.iteration)).unwrap_or(0);
    let (sets, device) = load_beside_device(plan, group, None)?;
    let launch = || Ok(compile_launch(plan, model, &device, sets.train.len())?.0);
    let mut programs = vec![Prepared::new("launch", launch, |program| Ok(program.memory()?))?];
    let scored = [
        ("evaluation", Some(&sets.test)),
        ("validation", sets.validation.as_ref()),
    ];
    for (name, set) in scored {
        let Some(set) = set else { continue };
        programs.push(Prepared::new(
            name,
            || evaluator_of(plan, model, &device, set),
            Scorer::memory,
        )?);
    }
    if let Some(expansion) = condensed::expansion(plan)? {
        let expand = || Ok(device.replicated(&expansion, &[])?);
        programs.push(Prepared::new("expansion", expand, |program| Ok(program.memory()?))?);
    }
    Ok(DryRun {
        identity: device.identity()?,
        device_bytes: device.memory_limit()?,
        done,
        examples: sets.train.len(),
        programs,
    })
}
