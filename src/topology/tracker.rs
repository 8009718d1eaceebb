//! The history of a run's connections: how many moved, how long they lived, which weights were ever active.

use serde::Serialize;

use super::{Header, Kind, Layer, Record};

/// Marks a weight that is no connection.
const ABSENT: u32 = u32::MAX;

/// The history of a run's connections, one record after the other.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// Iterations of the records so far.
    iterations: Vec<u64>,
    /// One per layer.
    pub layers: Vec<LayerTracker>,
    /// One per record.
    pub updates: Vec<Update>,
}

/// The history of a layer's connections.
#[derive(Clone, Debug)]
pub struct LayerTracker {
    /// Position of the record that grew each connection.
    born: Vec<u32>,
    ever: Vec<bool>,
    /// Sum over connections of the iteration at which they grew.
    births: f64,
    /// Current number of connections.
    pub connections: usize,
    /// Number of weights that were ever active.
    pub ever_active: usize,
    /// Connections dropped since the first masks.
    pub dropped: u64,
    /// Connections grown since the first masks.
    pub grown: u64,
    /// Connections of the first masks that were never dropped.
    pub original: usize,
    /// Iterations from growth to drop, summed over all dropped connections.
    pub lived: f64,
}

/// The changes of a record, over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Update {
    /// Iterations done.
    pub iteration: u64,
    /// Global step.
    pub global_step: i64,
    /// Kind of the changes.
    pub kind: Kind,
    /// Connections dropped.
    pub dropped: usize,
    /// Connections grown.
    pub grown: usize,
    /// Connections after the update.
    pub connections: usize,
    /// Share of the weights that were ever active.
    pub ever_active: f64,
    /// Mean number of iterations since the connections grew.
    pub mean_age: f64,
}

impl Tracker {
    /// A tracker of layers without connections.
    pub fn new(header: &Header) -> Self {
        Tracker {
            iterations: vec![],
            layers: header.layers.iter().map(LayerTracker::new).collect(),
            updates: vec![],
        }
    }

    /// Adds a record of a journal.
    pub fn add(&mut self, record: &Record) {
        let at = self.iterations.len() as u32;
        self.iterations.push(record.iteration);
        for (layer, changes) in self.layers.iter_mut().zip(&record.layers) {
            layer.add(changes, at, &self.iterations, record.kind);
        }
        let sum = |of: fn(&LayerTracker) -> f64| self.layers.iter().map(of).sum::<f64>();
        let (connections, weights) = (sum(|l| l.connections as f64), sum(|l| l.born.len() as f64));
        let first = record.kind == Kind::Start;
        let moved = |of: fn(&super::Changes) -> usize| record.layers.iter().map(of).sum();
        self.updates.push(Update {
            iteration: record.iteration,
            global_step: record.step,
            kind: record.kind,
            dropped: moved(|c| c.dropped.len()),
            grown: if first { 0 } else { moved(|c| c.grown.len()) },
            connections: connections as usize,
            ever_active: sum(|l| l.ever_active as f64) / weights.max(1.0),
            mean_age: record.iteration as f64 - sum(|l| l.births) / connections.max(1.0),
        });
    }

    /// Ages in iterations, at the last record, of a layer's connections.
    pub fn ages(&self, layer: usize) -> Vec<u64> {
        let now = self.iterations.last().copied().unwrap_or_default();
        let born = self.layers[layer].born.iter().filter(|&&born| born != ABSENT);
        born.map(|&born| now - self.iterations[born as usize]).collect()
    }
}

impl LayerTracker {
    fn new(layer: &Layer) -> Self {
        LayerTracker {
            born: vec![ABSENT; layer.weights()],
            ever: vec![false; layer.weights()],
            births: 0.0,
            connections: 0,
            ever_active: 0,
            dropped: 0,
            grown: 0,
            original: 0,
            lived: 0.0,
        }
    }

    fn add(&mut self, changes: &super::Changes, at: u32, iterations: &[u64], kind: Kind) {
        let now = iterations[at as usize] as f64;
        for &index in &changes.dropped {
            let born = std::mem::replace(&mut self.born[index as usize], ABSENT);
            let birth = iterations[born as usize] as f64;
            self.births -= birth;
            self.lived += now - birth;
            self.original -= usize::from(born == 0);
        }
        for &index in &changes.grown {
            self.born[index as usize] = at;
            self.births += now;
            let ever = &mut self.ever[index as usize];
            self.ever_active += usize::from(!std::mem::replace(ever, true));
        }
        self.connections = self.connections + changes.grown.len() - changes.dropped.len();
        match kind {
            Kind::Start => self.original = changes.grown.len(),
            Kind::Update | Kind::Merged => {
                self.dropped += changes.dropped.len() as u64;
                self.grown += changes.grown.len() as u64;
            }
        }
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.born.len()
    }

    /// Mean iterations from growth to drop of the dropped connections; `None` if none was dropped.
    pub fn mean_lifetime(&self) -> Option<f64> {
        (self.dropped > 0).then(|| self.lived / self.dropped as f64)
    }
}

/// Numbers of connections by unit of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fans {
    /// Connections into each output unit or channel.
    pub fan_in: Vec<u32>,
    /// Connections from each input unit or channel, over all positions of a window.
    pub fan_out: Vec<u32>,
}

/// Counts the connections of each unit of a mask in C order.
pub fn fans(layer: &Layer, mask: &[u8]) -> Fans {
    let outputs = layer.shape.last().copied().unwrap_or(1);
    let inputs = layer.shape.iter().rev().nth(1).copied().unwrap_or(1);
    let mut fans = Fans {
        fan_in: vec![0; outputs],
        fan_out: vec![0; inputs],
    };
    for (row, entries) in mask.chunks(outputs.max(1)).enumerate() {
        for (output, _) in entries.iter().enumerate().filter(|&(_, &entry)| entry != 0) {
            fans.fan_in[output] += 1;
            fans.fan_out[row % inputs] += 1;
        }
    }
    fans
}

/// Number of units without a connection.
pub fn without_connections(fan: &[u32]) -> usize {
    fan.iter().filter(|&&connections| connections == 0).count()
}
