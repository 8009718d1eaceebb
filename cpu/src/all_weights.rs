//! The gradient of a dense layer with respect to all its weights.

use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task, load, store};

/// Inputs whose products are summed at once, and vectors of outputs.
const SIDE: usize = 4;
const VECTORS: usize = 4;
const WIDE: usize = VECTORS * LANES;

/// `gradient` `[inputs][outputs]`: the sums over the examples of the products of `x` `[inputs][examples]` and `dy`
/// `[outputs][examples]`.
///
/// # Panics
/// If arrays do not fit each other.
pub fn all_weights_gradient(
    x: &[f32],
    dy: &[f32],
    examples: usize,
    gradient: &mut [f32],
    parallel_for: &ParallelFor<'_>,
) {
    if examples == 0 {
        return gradient.fill(0.0);
    }
    let [inputs, outputs] = [x, dy].map(|of| of.len() / examples);
    assert_eq!(gradient.len(), inputs * outputs, "elements of the gradient");
    let dy = by_example(dy, examples, outputs);
    let gradient = SharedMut::new(gradient);
    parallel_for(inputs.div_ceil(SIDE), &|strip| {
        let inputs = strip * SIDE..((strip + 1) * SIDE).min(inputs);
        // SAFETY: no other piece has these inputs.
        let part = unsafe { gradient.part(inputs.start * outputs..inputs.end * outputs) };
        let task = Strip {
            x: &x[inputs.start * examples..inputs.end * examples],
            dy: &dy,
            examples,
            outputs,
            gradient: part,
        };
        // SAFETY: the processor has what was detected.
        unsafe { Isa::detect().run(task) };
    });
}

/// `[outputs][examples]` as `[examples][outputs]`, with outputs up to a multiple of [`WIDE`].
fn by_example(dy: &[f32], examples: usize, outputs: usize) -> Vec<f32> {
    let width = outputs.next_multiple_of(WIDE);
    let mut by_example = vec![0.0; examples * width];
    for (output, dy) in dy.chunks_exact(examples).enumerate() {
        for (example, &dy) in dy.iter().enumerate() {
            by_example[example * width + output] = dy;
        }
    }
    by_example
}

/// Up to [`SIDE`] inputs and all outputs.
struct Strip<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    examples: usize,
    outputs: usize,
    gradient: &'a mut [f32],
}

impl Task for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (examples, width) = (self.examples, self.outputs.next_multiple_of(WIDE));
        let last = self.x.len() / examples - 1;
        let rows: [&[f32]; SIDE] = std::array::from_fn(|i| &self.x[i.min(last) * examples..][..examples]);
        for first in (0..self.outputs).step_by(WIDE) {
            let mut sums = [[s.splat(0.0); VECTORS]; SIDE];
            for example in 0..examples {
                let dy = &self.dy[example * width + first..][..WIDE];
                let mut vectors = [s.splat(0.0); VECTORS];
                for j in 0..VECTORS {
                    vectors[j] = load(s, dy, j * LANES);
                }
                for i in 0..SIDE {
                    let x = s.splat(rows[i][example]);
                    for j in 0..VECTORS {
                        sums[i][j] = s.fma(x, vectors[j], sums[i][j]);
                    }
                }
            }
            let rows = self.gradient.chunks_exact_mut(self.outputs);
            for (row, sums) in rows.zip(&sums) {
                for (j, &sum) in sums.iter().enumerate() {
                    let at = (first + j * LANES).min(row.len());
                    store(s, row, at, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::on_this_thread;

    #[test]
    fn products_equal_sums_in_f64() {
        let mut stream = ::sparse::rng::stream(0, "all weights", "", 0);
        for [examples, inputs, outputs] in [[112, 9, 300], [16, 1, 1], [19, 3, 6], [1, 2, 5]] {
            let mut numbers = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
            let (x, dy) = (numbers(examples * inputs), numbers(examples * outputs));
            let mut found = vec![0.0; inputs * outputs];
            all_weights_gradient(&x, &dy, examples, &mut found, on_this_thread());
            for (i, x) in x.chunks(examples).enumerate() {
                for (j, dy) in dy.chunks(examples).enumerate() {
                    let want: f64 = x.iter().zip(dy).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                    let error = (f64::from(found[i * outputs + j]) - want).abs();
                    assert!(error <= 1e-5 * examples as f64, "{examples} {i} {j}: off by {error}");
                }
            }
        }
    }
}
