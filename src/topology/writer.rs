//! Writes the journal of a run as it trains.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Changes, Error, Header, Journal, Kind, Record, Result};
use crate::data::tfrecord;

/// Appends mask updates to a journal. A record is written at once; [`Writer::sync`] makes all of them durable.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: tfrecord::Writer<File>,
    masks: Vec<Vec<u8>>,
    /// Weights that were ever active, and their number, by layer.
    ever: Vec<(Vec<bool>, usize)>,
}

impl Writer {
    /// Starts a journal, replacing another one, with the masks after `iteration` iterations.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(path: &Path, header: &Header, iteration: u64, step: i64, masks: Vec<Vec<u8>>) -> Result<Self> {
        let json = serde_json::to_vec(header).map_err(|e| Error::io(path)(e.into()))?;
        let file = File::create(path).map_err(Error::io(path))?;
        let empty = header.layers.iter().map(|layer| vec![0; layer.weights()]).collect();
        let mut writer = Writer {
            path: path.into(),
            out: tfrecord::Writer::new(file),
            masks: empty,
            ever: none(header),
        };
        writer.out.write(&json).map_err(Error::io(path))?;
        writer.append(iteration, step, Kind::Start, masks)?;
        Ok(writer)
    }

    /// Continues the journal of a run that resumes after `iteration` iterations with these masks: removes later records and a
    /// cut one. If the journal leads to other masks, as after damage or a session without it, one record bridges the gap; if
    /// it cannot be read, it begins anew. Also returns a description of what was lost.
    ///
    /// # Errors
    /// I/O errors.
    pub fn resume(
        path: &Path,
        header: &Header,
        iteration: u64,
        step: i64,
        masks: Vec<Vec<u8>>,
    ) -> Result<(Self, Option<String>)> {
        let mut ever = none(header);
        let mut sound = match sound(path, header, iteration, &mut ever) {
            Ok(sound) => sound,
            Err(problem) => {
                let writer = Writer::create(path, header, iteration, step, masks)?;
                let lost = format!("{problem}; the topology journal begins anew at iteration {iteration}");
                return Ok((writer, Some(lost)));
            }
        };
        let file = File::options().write(true).open(path).map_err(Error::io(path))?;
        file.set_len(sound.offset()).map_err(Error::io(path))?;
        let file = File::options().append(true).open(path).map_err(Error::io(path))?;
        let mut writer = Writer {
            path: path.into(),
            out: tfrecord::Writer::new(file),
            masks: std::mem::take(&mut sound.masks),
            ever,
        };
        if writer.masks == masks {
            return Ok((writer, None));
        }
        let last = sound.iteration().unwrap_or_default();
        writer.append(iteration, step, Kind::Merged, masks)?;
        let lost = format!("the topology journal lacks the updates after iteration {last}: one record has their sum");
        Ok((writer, Some(lost)))
    }

    /// Appends the changes to `masks`, the masks after `iteration` iterations.
    ///
    /// # Errors
    /// I/O errors.
    pub fn append(&mut self, iteration: u64, step: i64, kind: Kind, masks: Vec<Vec<u8>>) -> Result<Record> {
        let both = self.masks.iter().zip(&masks);
        let record = Record {
            iteration,
            step,
            kind,
            layers: both.map(|(before, after)| Changes::between(before, after)).collect(),
        };
        self.out.write(&record.pack()).map_err(Error::io(&self.path))?;
        self.masks = masks;
        mark(&mut self.ever, &record);
        Ok(record)
    }

    /// The masks of the last record, one byte per weight.
    pub fn masks(&self) -> &[Vec<u8>] {
        &self.masks
    }

    /// Number of weights of a layer that were ever active; `None` beyond the last layer.
    pub fn ever_active(&self, layer: usize) -> Option<usize> {
        self.ever.get(layer).map(|(_, count)| *count)
    }

    /// Waits until everything appended is on the disk.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self) -> Result<()> {
        self.out.get_ref().sync_data().map_err(Error::io(&self.path))
    }
}

fn none(header: &Header) -> Vec<(Vec<bool>, usize)> {
    let layers = header.layers.iter();
    layers.map(|layer| (vec![false; layer.weights()], 0)).collect()
}

fn mark(ever: &mut [(Vec<bool>, usize)], record: &Record) {
    for ((marks, count), changes) in ever.iter_mut().zip(&record.layers) {
        for &index in &changes.grown {
            *count += usize::from(!std::mem::replace(&mut marks[index as usize], true));
        }
    }
}

/// Replays the records up to `iteration`, to the last sound one, and marks the weights that were ever active. The error says
/// why the journal cannot be continued.
fn sound(path: &Path, header: &Header, iteration: u64, ever: &mut [(Vec<bool>, usize)]) -> Result<Journal, String> {
    let mut journal = Journal::open(path).map_err(|e| e.to_string())?;
    if journal.header() != header {
        return Err(format!("{}: it has other layers", path.display()));
    }
    // A damaged record ends what is sound.
    while let Ok(Some(record)) = journal.next_until(iteration) {
        mark(ever, &record);
    }
    match journal.iteration() {
        Some(_) => Ok(journal),
        None => Err(format!(
            "{}: it has no masks of iteration {iteration} or before",
            path.display()
        )),
    }
}
