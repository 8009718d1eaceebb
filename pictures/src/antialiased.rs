//! Resizing as Pillow and torchvision do it: half-pixel centres, and antialiasing (a wider kernel) when shrinking.

use crate::{Image, rows};

/// Keys' cubic kernel with the constant that Pillow and torchvision use.
fn kernel(x: f32) -> f32 {
    const A: f32 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    }
}

/// Input pixels along one axis that contribute to an output pixel, starting at `first`. The weights sum to 1.
#[derive(Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Computes the taps of each of `to` output pixels from `from` input pixels.
fn taps(from: usize, to: usize) -> impl DoubleEndedIterator<Item = Taps> {
    let scale = from as f32 / to as f32;
    let stretch = scale.max(1.0);
    (0..to).map(move |i| {
        let centre = (i as f32 + 0.5) * scale;
        let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        let mut weights: Vec<f32> = (first..end)
            .map(|j| kernel((j as f32 + 0.5 - centre) / stretch))
            .collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Taps { first, weights }
    })
}

/// Resizes pictures to squares. Reuses its row buffer.
#[derive(Debug, Default)]
pub struct Antialiased {
    line: Vec<f32>,
}

impl Antialiased {
    /// Writes `out`, `f32[size, size, 3]`, with whole numbers from 0 to 255. `mirrored` swaps left and right.
    pub fn resize(&mut self, pixels: &Image, size: usize, mirrored: bool, out: &mut [f32]) {
        let mut columns: Vec<Taps> = taps(pixels.width(), size).collect();
        if mirrored {
            columns.reverse();
        }
        let lines = taps(pixels.height(), size).zip(out.chunks_exact_mut(3 * size));
        for (rows, out) in lines {
            self.line.clear();
            self.line.resize(3 * pixels.width(), 0.0);
            for (row, &weight) in (rows.first..).zip(&rows.weights) {
                rows::add(pixels.row(row), weight, &mut self.line);
            }
            for (pixel, taps) in out.chunks_exact_mut(3).zip(&columns) {
                let mut sums = [0.0; 3];
                for (values, &weight) in self.line[3 * taps.first..].chunks_exact(3).zip(&taps.weights) {
                    (0..3).for_each(|c| sums[c] += weight * values[c]);
                }
                pixel.copy_from_slice(&sums.map(|sum| sum.round().clamp(0.0, 255.0)));
            }
        }
    }
}
