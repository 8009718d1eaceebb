//! Compares masks of two iterations or runs.

use serde::Serialize;

/// How many connections two masks of a layer share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Overlap {
    /// Number of weights.
    pub weights: usize,
    /// Connections of the first mask.
    pub first: usize,
    /// Connections of the second mask.
    pub second: usize,
    /// Connections of both.
    pub shared: usize,
    /// Connections of both if each mask were drawn at random: `first · second / weights`.
    pub expected: f64,
}

impl Overlap {
    /// Compares two masks of one length; an entry is a connection if it is not 0.
    pub fn between(first: &[u8], second: &[u8]) -> Self {
        let ones = |mask: &[u8]| mask.iter().filter(|&&entry| entry != 0).count();
        let shared = first.iter().zip(second).filter(|&(&a, &b)| a != 0 && b != 0).count();
        let mut overlap = Overlap {
            weights: first.len(),
            first: ones(first),
            second: ones(second),
            shared,
            expected: 0.0,
        };
        if !first.is_empty() {
            overlap.expected = overlap.first as f64 * overlap.second as f64 / first.len() as f64;
        }
        overlap
    }

    /// The sums over several layers.
    pub fn total<'a>(layers: impl IntoIterator<Item = &'a Overlap>) -> Self {
        layers.into_iter().fold(Overlap::default(), |sum, layer| Overlap {
            weights: sum.weights + layer.weights,
            first: sum.first + layer.first,
            second: sum.second + layer.second,
            shared: sum.shared + layer.shared,
            expected: sum.expected + layer.expected,
        })
    }

    /// Share of the first mask's connections that the second has, and what is expected of random masks.
    pub fn shares(&self) -> [f64; 2] {
        let first = self.first.max(1) as f64;
        [self.shared as f64 / first, self.expected / first]
    }
}
