//! TensorFlow 1's bicubic resizing, bit for bit (reference 4.2).
//!
//! Output pixel `o` samples input position `o * (in / out)`: no half-pixel centres and no antialiasing. The weights are
//! Keys' with `A = -0.75`, read from a table of 1024 steps. Sums are in `f32`, first over four rows and then over four
//! columns, in ascending order; each column sum is computed once and shared by all pixels that need it. Results are
//! neither rounded nor clipped.

use std::sync::LazyLock;

use crate::{Image, rows};

const STEPS: usize = 1024;
const A: f64 = -0.75;

/// Weights of the nearer and the farther neighbour on one side, indexed by the distance to the nearer one.
static WEIGHTS: LazyLock<Vec<[f32; 2]>> = LazyLock::new(|| {
    let weights = |step: usize| {
        let near = step as f64 / STEPS as f64;
        let far = near + 1.0;
        [
            (((A + 2.0) * near - (A + 3.0)) * near * near + 1.0) as f32,
            (((A * far - 5.0 * A) * far + 8.0 * A) * far - 4.0 * A) as f32,
        ]
    };
    (0..=STEPS).map(weights).collect()
});

/// Four neighbours along an axis; the first is one pixel before `second`.
#[derive(Clone, Copy, Debug)]
struct Tap {
    second: usize,
    weights: [f32; 4],
}

impl Tap {
    fn new(out: usize, scale: f32) -> Self {
        let source = out as f32 * scale;
        let whole = source.floor();
        let step = ((source - whole) * STEPS as f32).round_ties_even() as usize;
        let [near, far] = WEIGHTS[step];
        let [near_after, far_after] = WEIGHTS[STEPS - step];
        Tap {
            second: whole as usize,
            weights: [far, near, near_after, far_after],
        }
    }
}

/// Resizes pictures to squares. Reuses its buffers.
#[derive(Debug, Default)]
pub struct Bicubic {
    columns: Vec<Tap>,
    /// Sums of four rows. The first column is repeated once before and the last one twice after; one number of padding
    /// follows.
    line: Vec<f32>,
}

impl Bicubic {
    /// Writes `out`, `f32[size, size, 3]`. `mirrored` swaps left and right.
    pub fn resize(&mut self, pixels: &Image, size: usize, mirrored: bool, out: &mut [f32]) {
        let (height, width) = (pixels.height(), pixels.width());
        let scale = |length: usize| length as f32 / size as f32;
        self.columns.clear();
        self.columns.extend((0..size).map(|x| Tap::new(x, scale(width))));
        if mirrored {
            self.columns.reverse();
        }
        self.line.resize(3 * (width + 3) + 1, 0.0);
        for (y, out) in out.chunks_exact_mut(3 * size).enumerate() {
            let Tap { second, weights } = Tap::new(y, scale(height));
            let rows = [0, 1, 2, 3].map(|i| pixels.row((second + i).saturating_sub(1).min(height - 1)));
            let inner = 3..3 * (width + 1);
            rows::sum_of_four(rows, weights, &mut self.line[inner.clone()]);
            self.line.copy_within(3..6, 0);
            for repeated in [inner.end, inner.end + 3] {
                self.line.copy_within(inner.end - 3..inner.end, repeated);
            }
            sum_columns(&self.line, &self.columns, out);
        }
    }
}

/// Weighted sum of four pixels of a row, three channels each. A fourth lane is summed as well, because a register holds
/// four.
fn sum_columns(line: &[f32], columns: &[Tap], out: &mut [f32]) {
    for (pixel, tap) in out.chunks_exact_mut(3).zip(columns) {
        // The slices are always long enough. Borrowing avoids a copy that is read back before it is written.
        let Some(near) = line[3 * tap.second..].first_chunk::<13>() else {
            return;
        };
        let sums = rows::sum_of_pixels(near, tap.weights);
        pixel.copy_from_slice(&sums[..3]);
    }
}
