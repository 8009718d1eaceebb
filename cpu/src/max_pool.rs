//! Max pooling of images in `[batch, height, width, channels]`, and its gradient, as XLA computes them.

use std::sync::{Mutex, PoisonError};

use crate::parallel::ParallelFor;
use crate::simd::{Isa, LANES, Simd, Task, add_to, load, store};

/// Shapes of the images and windows; pairs are height and width.
#[derive(Clone, Debug)]
pub struct MaxPool {
    /// Number of images.
    pub batch: usize,
    /// Size of an image.
    pub image: [usize; 2],
    /// Windows along each axis.
    pub positions: [usize; 2],
    /// Channels.
    pub channels: usize,
    /// Size of a window.
    pub size: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Padding before the first pixel.
    pub pad_low: [usize; 2],
}

impl MaxPool {
    /// Number of elements of an image, and of its maxima.
    fn elements(&self) -> [usize; 2] {
        [self.image, self.positions].map(|[height, width]| height * width * self.channels)
    }

    /// Maxima of all images. Each row of an image is a piece of work.
    ///
    /// # Panics
    /// If the arrays do not have these shapes, as in all methods.
    pub fn maxima(&self, x: &[f32], out: &mut [f32], parallel_for: &ParallelFor<'_>) {
        let image = self.elements()[0];
        let [rows, columns] = self.positions;
        let length = columns * self.channels;
        if length == 0 {
            return;
        }
        let pieces: Vec<_> = out.chunks_exact_mut(length).map(Mutex::new).collect();
        parallel_for(self.batch * rows, &|i| {
            let mut out = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let x = &x[i / rows * image..][..image];
            for (column, out) in out.chunks_exact_mut(self.channels).enumerate() {
                out.fill(f32::NEG_INFINITY);
                for pixel in self.inside([i % rows, column]) {
                    let x = &x[pixel * self.channels..][..self.channels];
                    run(Maximum { x, largest: &mut *out });
                }
            }
        });
    }

    /// Gradients of all images for the gradients `y` of the maxima. Each image is a piece of work.
    pub fn gradients(&self, x: &[f32], y: &[f32], out: &mut [f32], parallel_for: &ParallelFor<'_>) {
        let [image, positions] = self.elements();
        if image == 0 || positions == 0 {
            return out.fill(0.0);
        }
        let images: Vec<_> = out.chunks_exact_mut(image).map(Mutex::new).collect();
        parallel_for(images.len(), &|i| {
            let mut out = images[i].lock().unwrap_or_else(PoisonError::into_inner);
            let [x, y] = [(x, image), (y, positions)].map(|(all, size)| &all[i * size..][..size]);
            self.gradient(x, y, &mut out);
        });
    }

    /// Gradient of one image. Where windows overlap, gradients are added in the order of the windows, as in XLA.
    fn gradient(&self, x: &[f32], y: &[f32], out: &mut [f32]) {
        let channels = self.channels;
        let (mut largest, mut place) = (vec![0.0; channels], vec![0.0; channels]);
        out.fill(0.0);
        for (position, y) in y.chunks_exact(channels).enumerate() {
            let at = [position / self.positions[1], position % self.positions[1]];
            let inside = || self.inside(at).map(|pixel| pixel * channels..(pixel + 1) * channels);
            for (number, pixel) in inside().enumerate() {
                match number {
                    0 => {
                        largest.copy_from_slice(&x[pixel]);
                        place.fill(0.0);
                    }
                    _ => run(ArgMax {
                        x: &x[pixel],
                        number: number as f32,
                        largest: &mut largest,
                        place: &mut place,
                    }),
                }
            }
            for (number, pixel) in inside().enumerate() {
                run(Scatter {
                    y,
                    number: number as f32,
                    place: &place,
                    out: &mut out[pixel],
                });
            }
        }
    }

    /// Indices of the pixels in the window at a position, in row-major order.
    fn inside(&self, at: [usize; 2]) -> impl Iterator<Item = usize> + use<> {
        let [rows, columns] = [0, 1].map(|axis| {
            let start = at[axis] * self.stride[axis];
            let index = move |padded: usize| padded.saturating_sub(self.pad_low[axis]).min(self.image[axis]);
            index(start)..index(start + self.size[axis])
        });
        let width = self.image[1];
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }
}

/// Elementwise maximum; NaN wins.
struct Maximum<'a> {
    x: &'a [f32],
    largest: &'a mut [f32],
}

impl Task for Maximum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.x.len()).step_by(LANES) {
            let larger = s.maximum(load(s, self.x, at), load(s, self.largest, at));
            store(s, self.largest, at, larger);
        }
    }
}

/// Elementwise maximum with its position. Like XLA's select-and-scatter: a NaN replaces, and is replaced by, any number.
struct ArgMax<'a> {
    x: &'a [f32],
    number: f32,
    largest: &'a mut [f32],
    place: &'a mut [f32],
}

impl Task for ArgMax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let number = s.splat(self.number);
        for at in (0..self.x.len()).step_by(LANES) {
            let (x, largest, place) = (load(s, self.x, at), load(s, self.largest, at), load(s, self.place, at));
            let stays = s.reaches(largest, x);
            let either = |new: S::V, old: S::V| s.add(s.keep(new, !stays), s.keep(old, stays));
            store(s, self.largest, at, either(x, largest));
            store(s, self.place, at, either(number, place));
        }
    }
}

/// Adds `y` where the maximum is at position `number`.
struct Scatter<'a> {
    y: &'a [f32],
    number: f32,
    place: &'a [f32],
    out: &'a mut [f32],
}

impl Task for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let number = s.splat(self.number);
        for at in (0..self.y.len()).step_by(LANES) {
            let place = load(s, self.place, at);
            let here = s.reaches(place, number) & s.reaches(number, place);
            add_to(s, self.out, at, s.keep(load(s, self.y, at), here));
        }
    }
}

fn run(task: impl Task<Output = ()>) {
    // SAFETY: this processor has the instructions.
    unsafe { Isa::detect().run(task) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that repeats, so that windows have ties, and now and then none.
    fn number(i: usize) -> f32 {
        match i * 7919 % 23 {
            0 => f32::NAN,
            value => value as f32 - 11.0,
        }
    }

    /// Maxima and gradients in plain loops.
    fn expected(pool: &MaxPool, x: &[f32], y: &[f32]) -> [Vec<f32>; 2] {
        let ([height, width], [rows, columns]) = (pool.image, pool.positions);
        let (mut maxima, mut gradients) = (vec![f32::NEG_INFINITY; y.len()], vec![0.0; x.len()]);
        for (i, (maximum, y)) in maxima.iter_mut().zip(y).enumerate() {
            let channel = i % pool.channels;
            let [image, row, column] = [
                i / pool.channels / columns / rows,
                i / pool.channels / columns % rows,
                i / pool.channels % columns,
            ];
            let pixels = (0..pool.size[0] * pool.size[1]).filter_map(|at| {
                let down = (row * pool.stride[0] + at / pool.size[1]).checked_sub(pool.pad_low[0])?;
                let right = (column * pool.stride[1] + at % pool.size[1]).checked_sub(pool.pad_low[1])?;
                let pixel = (image * height + down) * width + right;
                (down < height && right < width).then_some(pixel * pool.channels + channel)
            });
            let mut largest: Option<usize> = None;
            for pixel in pixels {
                let value = x[pixel];
                *maximum = if value > *maximum || value.is_nan() {
                    value
                } else {
                    *maximum
                };
                if !largest.is_some_and(|largest| x[largest] >= value) {
                    largest = Some(pixel);
                }
            }
            gradients[largest.expect("a window meets the image")] += y;
        }
        [maxima, gradients]
    }

    #[test]
    fn windows_have_the_maxima_and_gradients_of_plain_loops() {
        for (channels, size, stride, pad) in [(3, 2, 2, 0), (16, 3, 2, 1), (40, 3, 1, 1), (33, 2, 1, 0)] {
            let (image, positions) = ([7, 6], [7, 6].map(|side| (side + 2 * pad - size) / stride + 1));
            let pool = MaxPool {
                batch: 2,
                image,
                positions,
                channels,
                size: [size; 2],
                stride: [stride; 2],
                pad_low: [pad; 2],
            };
            let x: Vec<f32> = (0..2 * 42 * channels).map(number).collect();
            let y: Vec<f32> = (0..2 * positions[0] * positions[1] * channels)
                .map(|i| (i % 5) as f32 - 2.0)
                .collect();
            let each = |pieces: usize, run: &(dyn Fn(usize) + Sync)| (0..pieces).for_each(run);
            let (mut maxima, mut gradients) = (vec![0.0; y.len()], vec![1.0; x.len()]);
            pool.maxima(&x, &mut maxima, &each);
            pool.gradients(&x, &y, &mut gradients, &each);
            let bits = |of: &[f32]| {
                of.iter()
                    .map(|x| if x.is_nan() { None } else { Some(*x) })
                    .collect::<Vec<_>>()
            };
            let [of_maxima, of_gradients] = expected(&pool, &x, &y);
            assert_eq!(bits(&maxima), bits(&of_maxima), "{pool:?}");
            assert_eq!(bits(&gradients), bits(&of_gradients), "{pool:?}");
        }
    }
}
