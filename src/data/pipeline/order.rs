//! Which examples a batch is made of.

use super::Place;
use crate::data::Result;
use crate::data::batches::BatchOrder;

/// The share of one of several processes in every batch: all of them together see what one alone would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the process, from 0.
    pub process: usize,
    /// How many there are, at least 1.
    pub count: usize,
}

impl Part {
    /// A process that is alone.
    pub const WHOLE: Part = Part { process: 0, count: 1 };

    /// Its places of a batch of `n`.
    fn of(self, n: usize) -> std::ops::Range<usize> {
        let at = |process: usize| n * process / self.count.max(1);
        at(self.process)..at(self.process + 1)
    }
}

/// The examples of every batch.
#[derive(Clone, Debug)]
pub struct Order {
    kind: Kind,
    batch: usize,
    part: Part,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Without end; `augment`: with random numbers of their own.
    Shuffled { order: BatchOrder, augment: bool },
    /// Each example once.
    InTurn { examples: usize },
}

impl Order {
    /// For training: every epoch in an order of its own, over all files, the remainder left out ([`BatchOrder`]).
    ///
    /// The original (reference 4.2) reads 64 files at a time in turn and mixes within a buffer of 1024 records, unseeded:
    /// which examples meet in a batch is left to chance there, and to the seed here.
    ///
    /// # Errors
    /// A batch that is empty or larger than the set.
    pub fn shuffled(examples: usize, batch: usize, seed: u64, augment: bool, part: Part) -> Result<Self> {
        let order = BatchOrder::new(examples, batch, seed)?;
        let kind = Kind::Shuffled { order, augment };
        Ok(Order { kind, batch, part })
    }

    /// For evaluation: every example once, by index; the last batch may be short.
    pub fn in_turn(examples: usize, batch: usize, part: Part) -> Self {
        Order {
            kind: Kind::InTurn { examples },
            batch: batch.max(1),
            part,
        }
    }

    /// Places in this process's share of a batch.
    pub fn rows(&self) -> usize {
        self.part.of(self.batch).len()
    }

    /// Whether another example takes the place of a corrupt one.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.kind, Kind::Shuffled { .. })
    }

    /// The examples of batch `number`, this process's alone; `None` past the end.
    pub(super) fn batch(&mut self, number: u64) -> Option<Vec<Place>> {
        let places: Vec<Place> = match &mut self.kind {
            Kind::Shuffled { order, augment } => {
                let epoch = number / order.steps_per_epoch() as u64;
                let indices = order.indices(number, 1);
                let place = |index: i32| Place {
                    index: index as usize,
                    epoch: augment.then_some(epoch),
                };
                indices.into_iter().map(place).collect()
            }
            Kind::InTurn { examples } => {
                let first = usize::try_from(number).ok()?.checked_mul(self.batch)?;
                let last = first.saturating_add(self.batch).min(*examples);
                (first..last).map(|index| Place { index, epoch: None }).collect()
            }
        };
        let rows = self.part.of(self.batch);
        let mine = rows.start.min(places.len())..rows.end.min(places.len());
        (!places.is_empty()).then(|| places[mine].to_vec())
    }
}
