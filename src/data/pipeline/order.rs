//! Assigns examples to batches.

use super::Place;
use crate::data::Result;
use crate::data::batches::BatchOrder;

/// The part of every batch that one of several processes loads. All parts together are the batch of a single process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the process, from 0.
    pub process: usize,
    /// Number of processes, at least 1.
    pub count: usize,
}

impl Part {
    /// A single process.
    pub const WHOLE: Part = Part { process: 0, count: 1 };

    /// Positions of this process in a batch of `n`.
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
    /// Endless; with `augment`, each example has its own random numbers.
    Shuffled { order: BatchOrder, augment: bool },
    /// Each example once.
    InTurn { examples: usize },
}

impl Order {
    /// Training order: each epoch is shuffled over all files, without the remainder ([`BatchOrder`]).
    ///
    /// The original (reference 4.2) interleaves 64 files and shuffles within an unseeded buffer of 1024 records. Its
    /// batches depend on chance; here they depend on the seed.
    ///
    /// # Errors
    /// A batch that is empty or larger than the set.
    pub fn shuffled(examples: usize, batch: usize, seed: u64, augment: bool, part: Part) -> Result<Self> {
        let order = BatchOrder::new(examples, batch, seed)?;
        let kind = Kind::Shuffled { order, augment };
        Ok(Order { kind, batch, part })
    }

    /// Evaluation order: every example once, by index. The last batch may be short.
    pub fn in_turn(examples: usize, batch: usize, part: Part) -> Self {
        Order {
            kind: Kind::InTurn { examples },
            batch: batch.max(1),
            part,
        }
    }

    /// Number of positions in this process's part of a batch.
    pub fn rows(&self) -> usize {
        self.part.of(self.batch).len()
    }

    /// Whether another example replaces a corrupt one.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.kind, Kind::Shuffled { .. })
    }

    /// The examples of batch `number` for this process; `None` past the end.
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
