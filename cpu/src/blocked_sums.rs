//! Sums per channel of blocked images, as batch normalisation needs them.
//!
//! Images lie as `[blocks][height][channels][width][lanes]`: a channel is a run of `width * lanes` floats in each row.

use std::ops::Range;
use std::sync::OnceLock;

use crate::parallel::ParallelFor;
use crate::simd::{Isa, LANES, Simd, Task, load, store};

/// Parts of the rows that are summed apart: the same however many threads there are, so that the sums are too.
const PIECES: usize = 32;

/// `Σ x` and `Σ (x - mean)²` of each channel, the same to the bit for any number of threads. `dims` are those of the images:
/// `[blocks, lanes, height, width, channels]`.
///
/// # Panics
/// If `x` does not have these dimensions.
pub fn blocked_moments(x: &[f32], dims: [usize; 5], parallel_for: &ParallelFor<'_>) -> Vec<[f64; 2]> {
    let of = |run: Range<usize>, channel: usize| moments_of(&x[run], channel);
    both(&sums(Images::of(dims), &of, true, parallel_for))
}

/// `Σ a (b - m)` and `Σ a` of each channel, where `m` has a number per channel; otherwise as [`blocked_moments`].
///
/// # Panics
/// If `a` and `b` do not have these dimensions, or `m` not a number for each channel.
pub fn blocked_products(
    [a, b]: [&[f32]; 2],
    m: &[f32],
    dims: [usize; 5],
    parallel_for: &ParallelFor<'_>,
) -> Vec<[f64; 2]> {
    let of = |run: Range<usize>, channel: usize| products_of(&a[run.clone()], &b[run], m[channel]);
    both(&sums(Images::of(dims), &of, false, parallel_for))
}

fn both(sums: &[Sum]) -> Vec<[f64; 2]> {
    sums.iter().map(|sum| [sum.first, sum.second]).collect()
}

/// Where the channels of blocked images lie.
#[derive(Clone, Copy)]
struct Images {
    /// Rows of all blocks.
    rows: usize,
    channels: usize,
    /// Floats of a channel in a row.
    run: usize,
}

impl Images {
    fn of([blocks, lanes, height, width, channels]: [usize; 5]) -> Self {
        Images {
            rows: blocks * height,
            channels,
            run: width * lanes,
        }
    }
}

/// Both sums of a channel over some of its floats.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: f64,
    first: f64,
    second: f64,
}

impl Sum {
    /// Adds the sums over further floats. Squares about a mean become those about the mean of all (Chan, Golub and LeVeque, 1983).
    fn add(&mut self, count: f64, [first, second]: [f64; 2], about_mean: bool) {
        if about_mean && self.count > 0.0 {
            let apart = first / count - self.first / self.count;
            self.second += apart * apart * (self.count * count / (self.count + count));
        }
        self.count += count;
        self.first += first;
        self.second += second;
    }
}

/// The sums of every channel. `of` computes those of a channel over a run of floats.
fn sums(
    images: Images,
    of: &(dyn Fn(Range<usize>, usize) -> [f64; 2] + Sync),
    about_mean: bool,
    parallel_for: &ParallelFor<'_>,
) -> Vec<Sum> {
    let Images { rows, channels, run } = images;
    let pieces = PIECES.min(rows);
    let parts: Vec<OnceLock<Vec<Sum>>> = (0..pieces).map(|_| OnceLock::new()).collect();
    parallel_for(pieces, &|piece| {
        let mut part = vec![Sum::default(); channels];
        for row in rows * piece / pieces..rows * (piece + 1) / pieces {
            for (channel, sum) in part.iter_mut().enumerate() {
                let start = (row * channels + channel) * run;
                sum.add(run as f64, of(start..start + run, channel), about_mean);
            }
        }
        parts[piece].get_or_init(|| part);
    });
    let mut total = vec![Sum::default(); channels];
    for part in parts.iter().filter_map(OnceLock::get) {
        for (total, sum) in total.iter_mut().zip(part) {
            total.add(sum.count, [sum.first, sum.second], about_mean);
        }
    }
    total
}

/// Partial sums side by side, as many as two registers hold.
const PARTIAL: usize = 2 * LANES;

/// Sums a term of each pair of floats, in [`PARTIAL`] partial sums.
#[inline(always)]
fn sum_of<S: Simd>(
    s: S,
    a: &[f32],
    b: &[f32],
    vectors: impl Fn(S::V, S::V) -> S::V,
    term: impl Fn(f32, f32) -> f32,
) -> f64 {
    let mut sums = [s.splat(0.0); 2];
    let whole = a.len().min(b.len()) / PARTIAL * PARTIAL;
    for at in (0..whole).step_by(PARTIAL) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = at + i * LANES;
            *sum = s.add(*sum, vectors(load(s, a, at), load(s, b, at)));
        }
    }
    let mut partial = [0.0f32; PARTIAL];
    store(s, &mut partial, 0, sums[0]);
    store(s, &mut partial, LANES, sums[1]);
    for (sum, (&a, &b)) in partial.iter_mut().zip(a[whole..].iter().zip(&b[whole..])) {
        *sum += term(a, b);
    }
    partial.iter().map(|&sum| f64::from(sum)).sum()
}

/// `Σ x` and `Σ (x - mean)²`.
struct Moments<'a>(&'a [f32]);

impl Task for Moments<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; 2] {
        let x = self.0;
        let sum = sum_of(s, x, x, |x, _| x, |x, _| x);
        let mean = (sum / x.len() as f64) as f32;
        let means = s.splat(mean);
        let square = |x, _| {
            let apart = s.sub(x, means);
            s.mul(apart, apart)
        };
        [sum, sum_of(s, x, x, square, |x, _| (x - mean) * (x - mean))]
    }
}

fn moments_of(x: &[f32], _channel: usize) -> [f64; 2] {
    // SAFETY: this processor has the instructions.
    unsafe { Isa::detect().run(Moments(x)) }
}

/// `Σ a (b - m)` and `Σ a`.
struct Products<'a>(&'a [f32], &'a [f32], f32);

impl Task for Products<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; 2] {
        let Products(a, b, m) = self;
        let means = s.splat(m);
        let product = sum_of(s, a, b, |a, b| s.mul(a, s.sub(b, means)), |a, b| a * (b - m));
        [product, sum_of(s, a, a, |a, _| a, |a, _| a)]
    }
}

fn products_of(a: &[f32], b: &[f32], m: f32) -> [f64; 2] {
    // SAFETY: this processor has the instructions.
    unsafe { Isa::detect().run(Products(a, b, m)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_those_in_f64_for_any_order_of_pieces() {
        let mut stream = ::sparse::rng::stream(0, "blocked", "", 0);
        for dims in [[1, 16, 1, 1, 1], [2, 16, 5, 3, 7], [1, 16, 40, 9, 4]] {
            let images = Images::of(dims);
            let floats = images.rows * images.channels * images.run;
            let mut numbers = || (0..floats).map(|_| stream.normal() as f32 + 3.0).collect::<Vec<_>>();
            let (a, b) = (numbers(), numbers());
            let m: Vec<f32> = (0..images.channels).map(|c| c as f32 / 3.0).collect();
            let channel = |x: &[f32], c: usize| -> Vec<f64> {
                let rows = x.chunks(images.run).skip(c).step_by(images.channels);
                rows.flatten().map(|&x| f64::from(x)).collect()
            };
            let moments = |run: Range<usize>, c: usize| moments_of(&a[run], c);
            let products = |run: Range<usize>, c: usize| products_of(&a[run.clone()], &b[run], m[c]);
            let forward = |n: usize, run: &(dyn Fn(usize) + Sync)| (0..n).for_each(run);
            let backward = |n: usize, run: &(dyn Fn(usize) + Sync)| (0..n).rev().for_each(run);
            let found = [
                sums(images, &moments, true, &forward),
                sums(images, &products, false, &forward),
            ];
            let again = [
                sums(images, &moments, true, &backward),
                sums(images, &products, false, &backward),
            ];
            for c in 0..images.channels {
                let (a, b, m) = (channel(&a, c), channel(&b, c), f64::from(m[c]));
                let sum: f64 = a.iter().sum();
                let mean = sum / a.len() as f64;
                let squares: f64 = a.iter().map(|a| (a - mean).powi(2)).sum();
                let products: f64 = a.iter().zip(&b).map(|(a, b)| a * (b - m)).sum();
                for (which, want) in [(0, [sum, squares]), (1, [products, sum])] {
                    let Sum { first, second, .. } = found[which][c];
                    assert_eq!([first, second], [again[which][c].first, again[which][c].second]);
                    for (found, want) in [first, second].into_iter().zip(want) {
                        assert!(
                            (found - want).abs() <= 1e-6 * 20.0 * a.len() as f64,
                            "{found}, not {want}"
                        );
                    }
                }
            }
        }
    }
}
