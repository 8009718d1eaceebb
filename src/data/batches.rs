//! The order of examples in training.

use rand_chacha::rand_core::Rng;

use super::{Error, Result, stream};

/// Shuffled batches, epoch by epoch. Each epoch is a new permutation of all examples, and no batch mixes two epochs
/// (reference 4.4: a shuffle buffer as large as the set, before the repeat). The original's CIFAR driver repeats before
/// it shuffles, so its epochs mix (4.3). Its order is not reproducible in any case, and each example appears equally
/// often here.
///
/// The permutation is a pure function of (seed, epoch). The batch of any iteration can be computed without the ones
/// before it, so a resumed run continues exactly. If the batch size does not divide the number of examples, the
/// remainder of each permutation is dropped, because compiled steps have one batch shape; each epoch drops different
/// examples. (The original's recipes divide evenly, so there the two agree.)
#[derive(Clone, Debug)]
pub struct BatchOrder {
    examples: usize,
    batch: usize,
    seed: u64,
    /// The epoch drawn last and its permutation; consecutive calls mostly stay in one epoch.
    drawn: Option<(u64, Vec<i32>)>,
}

impl BatchOrder {
    /// Creates the order of `examples` examples in batches of `batch`.
    ///
    /// # Errors
    /// A `batch` of 0 or above `examples`, or an index above 31 bits.
    pub fn new(examples: usize, batch: usize, seed: u64) -> Result<Self> {
        if batch == 0 || batch > examples || i32::try_from(examples).is_err() {
            return Err(Error::Batch { batch, examples });
        }
        Ok(BatchOrder {
            examples,
            batch,
            seed,
            drawn: None,
        })
    }

    /// Full batches per epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.examples / self.batch
    }

    /// Returns the example indices of iterations `start .. start + count` (0-based, over all epochs): `s32[count,
    /// batch]`, row-major, values in `0..examples`.
    pub fn indices(&mut self, start: u64, count: usize) -> Vec<i32> {
        let steps_per_epoch = self.steps_per_epoch() as u64;
        let mut indices = Vec::with_capacity(count * self.batch);
        let (mut epoch, mut first) = (start / steps_per_epoch, (start % steps_per_epoch) as usize);
        while indices.len() < count * self.batch {
            let wanted = count - indices.len() / self.batch;
            let last = self.steps_per_epoch().min(first + wanted);
            let range = first * self.batch..last * self.batch;
            indices.extend_from_slice(&self.epoch(epoch)[range]);
            (epoch, first) = (epoch + 1, 0);
        }
        indices
    }

    fn epoch(&mut self, epoch: u64) -> &[i32] {
        let (examples, seed) = (self.examples as i32, self.seed);
        let drawn = match self.drawn.take() {
            Some(drawn) if drawn.0 == epoch => drawn,
            _ => (epoch, shuffled(examples, &mut stream(seed, "shuffle", epoch))),
        };
        &self.drawn.insert(drawn).1
    }
}

/// Fisher-Yates from the last element down. Each index is the high word of a 64-bit draw times its bound: one draw per
/// element, with a relative bias below 2^-32.
pub(super) fn shuffled(examples: i32, rng: &mut impl Rng) -> Vec<i32> {
    let mut order: Vec<i32> = (0..examples).collect();
    for i in (1..order.len()).rev() {
        let j = (u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_epoch_is_another_permutation() {
        let mut order = BatchOrder::new(60, 10, 1).unwrap();
        let epochs: Vec<_> = (0..3).map(|e| order.indices(6 * e, 6)).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), (0..60).collect());
        }
        assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_ne!(BatchOrder::new(60, 10, 2).unwrap().indices(0, 6), epochs[0]);
    }

    #[test]
    fn any_iteration_stands_alone() {
        let whole = BatchOrder::new(23, 5, 9).unwrap().indices(0, 40);
        for (start, count) in [(0, 1), (3, 2), (4, 4), (7, 13), (39, 1), (12, 0)] {
            let part = BatchOrder::new(23, 5, 9).unwrap().indices(start as u64, count);
            assert_eq!(part, whole[5 * start..5 * (start + count)]);
        }
    }

    #[test]
    fn remainder_is_dropped_and_differs_between_epochs() {
        let mut order = BatchOrder::new(23, 5, 0).unwrap();
        assert_eq!(order.steps_per_epoch(), 4);
        let [a, b] = [0, 4].map(|start| order.indices(start, 4).into_iter().collect::<BTreeSet<_>>());
        assert_eq!((a.len(), b.len()), (20, 20));
        assert_ne!(a, b);
    }

    #[test]
    fn shuffling_is_uniform() {
        // 24 permutations of 4 elements in 24000 draws: 1000 each, with a standard deviation of 31.
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(shuffled(4, &mut stream(3, "shuffle", epoch))).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&n| (850..1150).contains(&n)), "{counts:?}");
    }

    #[test]
    fn sizes_are_checked() {
        for (examples, batch) in [(10, 0), (10, 11), (0, 0), (1 << 31, 4)] {
            assert!(
                matches!(BatchOrder::new(examples, batch, 0), Err(Error::Batch { .. })),
                "{examples} {batch}"
            );
        }
    }
}
