//! A run's journal in a report.

use std::path::Path;

use super::Result;
use crate::topology::pictures::{Grid, draw};
use crate::topology::{FILE, Fans, Journal, LayerTracker, Overlap, Tracker, Update, fans};

/// The history of a run's connections.
#[derive(Debug)]
pub struct Topology {
    pub updates: Vec<Update>,
    pub layers: Vec<Layer>,
    /// PNG of the connections of each input pixel, first and last, if the inputs are an image.
    pub inputs: Option<Vec<u8>>,
}

/// The last state of a layer.
#[derive(Debug)]
pub struct Layer {
    pub name: String,
    pub history: LayerTracker,
    pub mean_age: f64,
    pub first: Fans,
    pub last: Fans,
    /// Between the first and the last masks.
    pub overlap: Overlap,
}

/// Replays the journal of a run folder; `None` if it has none.
pub fn topology(folder: &Path) -> Result<Option<Topology>> {
    if !folder.join(FILE).is_file() {
        return Ok(None);
    }
    let mut journal = Journal::open(folder)?;
    let mut tracker = Tracker::new(journal.header());
    let mut first: Vec<Vec<u8>> = vec![];
    journal.replay(None, |record, journal| {
        tracker.add(record);
        if first.is_empty() {
            first = journal.masks().to_vec();
        }
    })?;
    let header = journal.header();
    let pictures =
        [first.first(), journal.masks().first()].map(|mask| Grid::inputs(&header.input, header.layers.first()?, mask?));
    let inputs = match pictures {
        [Some(before), Some(now)] => {
            let largest = before.largest().max(now.largest());
            draw(&[vec![before, now]], largest, 6).png(0.0).ok()
        }
        _ => None,
    };
    let ages: Vec<f64> = (0..header.layers.len()).map(|i| mean(&tracker.ages(i))).collect();
    let layer = |(i, history): (usize, LayerTracker)| {
        let (layer, mask) = (&header.layers[i], &journal.masks()[i]);
        Layer {
            name: layer.name.clone(),
            history,
            mean_age: ages[i],
            first: fans(layer, &first[i]),
            last: fans(layer, mask),
            overlap: Overlap::between(&first[i], mask),
        }
    };
    let layers = tracker.layers.into_iter().enumerate().map(layer).collect();
    Ok(Some(Topology {
        layers,
        updates: tracker.updates,
        inputs,
    }))
}

fn mean(values: &[u64]) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}
