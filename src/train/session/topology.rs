//! The topology journal of a session.

use super::Session;
use crate::checkpoint::Mode;
use crate::config::{Plan, layer_name};
use crate::report::note;
use crate::topology::{FILE, Header, Kind, Layer, Writer};
use crate::train::error::{Error, Result};
use sparse::{Counters, Tick, UpdateTiming};

/// Shortens a launch of `count` iterations so that it has at most one mask update: masks are read between launches. Methods
/// that update in every iteration keep theirs.
pub(super) fn launch_length(plan: &Plan, mut counters: Counters, count: usize) -> usize {
    if !plan.keeps_topology() || plan.method.timing == UpdateTiming::Every {
        return count;
    }
    let mut updates = (0..count).filter(|_| counters.advance(plan.method.timing, &plan.schedule).update_at.is_some());
    updates.nth(1).unwrap_or(count)
}

/// The header of a run's journal.
fn header(plan: &Plan) -> Header {
    let layers = plan.params.iter().filter_map(|param| {
        Some(Layer {
            name: layer_name(param)?.to_owned(),
            shape: param.dims.clone(),
        })
    });
    Header::new(plan.input_dims.clone(), layers.collect())
}

impl Session<'_> {
    /// Starts or continues the journal, if the run keeps one and this process writes.
    pub(super) fn open_topology(&mut self, mode: Mode) -> Result<()> {
        if !self.device.writes() || !self.plan.keeps_topology() {
            return Ok(());
        }
        let path = self.dir.path().join(FILE);
        let (header, masks) = (header(self.plan), self.masks()?);
        let (iteration, step) = (self.counters.iteration, self.counters.global_step);
        let resumes = mode == Mode::Resume && path.exists();
        self.topology = Some(match resumes {
            false => {
                if iteration > 0 {
                    note!("note: no topology journal yet: it begins at iteration {iteration}");
                }
                Writer::create(&path, &header, iteration, step, masks)?
            }
            true => {
                let (writer, lost) = Writer::resume(&path, &header, iteration, step, masks)?;
                lost.iter().for_each(|lost| note!("note: {lost}"));
                writer
            }
        });
        Ok(())
    }

    /// Appends the mask updates of a launch to the journal.
    pub(super) fn record_topology(&mut self, ticks: &[Tick]) -> Result<()> {
        let mut updates = ticks.iter().filter(|tick| tick.update_at.is_some());
        let (Some(last), more) = (updates.next_back(), updates.next().is_some()) else {
            return Ok(());
        };
        let Some(mut journal) = self.topology.take() else {
            return Ok(());
        };
        let kind = if more { Kind::Merged } else { Kind::Update };
        let record = journal.append(last.iteration + 1, last.step_after, kind, self.masks()?)?;
        let added = self.add_update_events(last, &record, &journal);
        self.topology = Some(journal);
        added
    }

    /// The masks, one byte per weight, in the order of the network.
    fn masks(&self) -> Result<Vec<Vec<u8>>> {
        let names = self.plan.params.iter().filter_map(|param| param.mask.as_deref());
        let mask = |name| {
            Ok(self
                .buffer(name)
                .ok_or(Error::Output("mask"))?
                .to_literal()?
                .into_bytes())
        };
        names.map(mask).collect()
    }
}
