//! Column sums of matrices, as batch normalisation needs them.

use std::sync::OnceLock;

use crate::parallel::ParallelFor;
use crate::simd::{Isa, LANES, Simd, Task, add_to, load};

/// Maximum number of elements of a block. It fits in a core's cache, and its sums are f32.
const BLOCK: usize = 1 << 15;

/// Maximum number of rows of a block.
const ROWS: usize = 128;

/// Approximate number of elements of a piece of work. It does not depend on the number of threads, so neither do the sums.
const PIECE: usize = 1 << 17;

/// The terms of [`column_sums`]. Matrices are in row-major order; `m` has a number per column.
#[derive(Clone, Copy)]
pub enum Summand<'a> {
    /// `a`, and `(a - mean of a)²`.
    Moments(&'a [f32]),
    /// `(a - m)²`.
    Squares(&'a [f32], &'a [f32]),
    /// `a (b - m)`, and `a`.
    Products(&'a [f32], &'a [f32], &'a [f32]),
}

/// Both sums of each column, the same to the bit for any number of threads. The second is 0 for [`Summand::Squares`].
///
/// # Panics
/// If arrays do not fit each other.
pub fn column_sums(of: Summand<'_>, columns: usize, parallel_for: &ParallelFor<'_>) -> [Vec<f32>; 2] {
    let Part { first, second, .. } = sums(of, columns, parallel_for);
    [first, second].map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
}

/// One or two sums per column, over some of the rows.
struct Part {
    rows: f64,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Part {
    fn zero(columns: usize) -> Part {
        let [first, second] = [(); 2].map(|()| vec![0.0; columns]);
        Part {
            rows: 0.0,
            first,
            second,
        }
    }

    /// Adds the sums of more rows. Squared deviations are combined as by Chan, Golub and LeVeque (1983).
    fn take<T: Copy + Into<f64>>(&mut self, rows: f64, [first, second]: [&[T]; 2], moments: bool) {
        let both = self.rows + rows;
        let between = if moments && self.rows > 0.0 {
            self.rows * rows / both
        } else {
            0.0
        };
        let sums = self.first.iter_mut().zip(&mut self.second);
        for ((own_first, own_second), (first, second)) in sums.zip(first.iter().zip(second)) {
            let (first, second): (f64, f64) = ((*first).into(), (*second).into());
            let apart = if between > 0.0 {
                first / rows - *own_first / self.rows
            } else {
                0.0
            };
            *own_first += first;
            *own_second += second + apart * apart * between;
        }
        self.rows = both;
    }
}

/// Sums over `columns` columns.
fn sums(of: Summand<'_>, columns: usize, parallel_for: &ParallelFor<'_>) -> Part {
    let (Summand::Moments(a) | Summand::Squares(a, _) | Summand::Products(a, ..)) = of;
    let moments = matches!(of, Summand::Moments(_));
    let block = (BLOCK / columns.max(1)).clamp(1, ROWS) * columns.max(1);
    let piece = block * (PIECE / block).max(1);
    let parts: Vec<OnceLock<Part>> = (0..a.len().div_ceil(piece)).map(|_| OnceLock::new()).collect();
    parallel_for(parts.len(), &|index| {
        let mut part = Part::zero(columns);
        let [mut first, mut second] = [(); 2].map(|()| vec![0.0f32; columns]);
        let end = ((index + 1) * piece).min(a.len());
        for start in (index * piece..end).step_by(block) {
            let block = start..(start + block).min(end);
            let rows = (block.len() / columns) as f32;
            first.fill(0.0);
            second.fill(0.0);
            match of {
                Summand::Moments(a) => {
                    plain(&a[block.clone()], &mut first);
                    let means: Vec<f32> = first.iter().map(|sum| sum / rows).collect();
                    squares(&a[block], &means, &mut second);
                }
                Summand::Squares(a, m) => squares(&a[block], m, &mut first),
                Summand::Products(a, b, m) => products(&a[block.clone()], &b[block], m, &mut first, &mut second),
            }
            part.take(f64::from(rows), [&first, &second], moments);
        }
        parts[index].get_or_init(|| part);
    });
    let mut total = Part::zero(columns);
    for Part { rows, first, second } in parts.iter().filter_map(OnceLock::get) {
        total.take(*rows, [first, second], moments);
    }
    total
}

/// A term of a sum over the numbers of a column.
trait Term: Copy {
    fn of<S: Simd>(self, s: S, a: S::V, b: S::V, m: S::V) -> S::V;
}

/// `a`.
#[derive(Clone, Copy)]
struct Plain;

/// `(a - m)²`.
#[derive(Clone, Copy)]
struct Square;

/// `a (b - m)`.
#[derive(Clone, Copy)]
struct Product;

impl Term for Plain {
    #[inline(always)]
    fn of<S: Simd>(self, _: S, a: S::V, _: S::V, _: S::V) -> S::V {
        a
    }
}

impl Term for Square {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, a: S::V, _: S::V, m: S::V) -> S::V {
        let apart = s.sub(a, m);
        s.mul(apart, apart)
    }
}

impl Term for Product {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, a: S::V, b: S::V, m: S::V) -> S::V {
        s.mul(a, s.sub(b, m))
    }
}

/// Adds a term of each row to the sums, four rows at a time.
struct Add<'a, T> {
    a: &'a [f32],
    b: &'a [f32],
    m: &'a [f32],
    sums: &'a mut [f32],
    term: T,
}

impl<T: Term> Task for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Add { a, b, m, sums, term } = self;
        let columns = sums.len();
        let of = |row: usize, at: usize| {
            let [a, b] = [a, b].map(|of| load(s, &of[row * columns..][..columns], at));
            term.of(s, a, b, load(s, &m[..columns], at))
        };
        let rows = a.len().min(b.len()) / columns;
        for row in (0..rows / 4 * 4).step_by(4) {
            for at in (0..columns).step_by(LANES) {
                let first = s.add(of(row, at), of(row + 1, at));
                let four = s.add(first, s.add(of(row + 2, at), of(row + 3, at)));
                add_to(s, sums, at, four);
            }
        }
        for row in rows / 4 * 4..rows {
            for at in (0..columns).step_by(LANES) {
                add_to(s, sums, at, of(row, at));
            }
        }
    }
}

fn add<T: Term>(a: &[f32], b: &[f32], m: &[f32], sums: &mut [f32], term: T) {
    // SAFETY: this processor has the instructions.
    unsafe { Isa::detect().run(Add { a, b, m, sums, term }) };
}

fn plain(a: &[f32], sums: &mut [f32]) {
    // The second and third operand are ignored.
    add(a, a, a, sums, Plain);
}

fn squares(a: &[f32], m: &[f32], sums: &mut [f32]) {
    add(a, a, m, sums, Square);
}

fn products(a: &[f32], b: &[f32], m: &[f32], products: &mut [f32], sums: &mut [f32]) {
    add(a, b, m, products, Product);
    // `a` is in the cache now.
    add(a, a, a, sums, Plain);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums computed in f64.
    fn expected(of: Summand<'_>, columns: usize) -> [Vec<f64>; 2] {
        let column = |of: &[f32], c: usize| {
            of.iter()
                .skip(c)
                .step_by(columns)
                .map(|&x| f64::from(x))
                .collect::<Vec<_>>()
        };
        let squares = |a: &[f64], m: f64| a.iter().map(|a| (a - m).powi(2)).sum::<f64>();
        let of = |c: usize| match of {
            Summand::Moments(a) => {
                let a = column(a, c);
                let sum: f64 = a.iter().sum();
                [sum, squares(&a, sum / a.len() as f64)]
            }
            Summand::Squares(a, m) => [squares(&column(a, c), f64::from(m[c])), 0.0],
            Summand::Products(a, b, m) => {
                let (a, b) = (column(a, c), column(b, c));
                let products = a.iter().zip(b).map(|(a, b)| a * (b - f64::from(m[c])));
                [products.sum(), a.iter().sum()]
            }
        };
        [0, 1].map(|i| (0..columns).map(|c| of(c)[i]).collect())
    }

    #[test]
    fn sums_match_f64_in_any_order() {
        let mut stream = ::sparse::rng::stream(0, "sums", "", 0);
        let mut numbers = |count: usize| (0..count).map(|_| stream.normal() as f32 + 3.0).collect::<Vec<_>>();
        for (rows, columns) in [(0, 3), (1, 1), (3, 5), (130, 64), (1003, 7), (5000, 129), (40, 9000)] {
            let (a, b, m) = (numbers(rows * columns), numbers(rows * columns), numbers(columns));
            for of in [
                Summand::Moments(&a),
                Summand::Squares(&a, &m),
                Summand::Products(&a, &b, &m),
            ] {
                let got = sums(of, columns, &|pieces, run| (0..pieces).for_each(run));
                let backwards = sums(of, columns, &|pieces, run| (0..pieces).rev().for_each(run));
                assert_eq!([&got.first, &got.second], [&backwards.first, &backwards.second]);
                for (got, want) in [got.first, got.second].iter().zip(expected(of, columns)) {
                    for (got, want) in got.iter().zip(want) {
                        let room = 1e-6 * (20 * rows) as f64;
                        assert!((got - want).abs() <= room, "{rows} of {columns}: {got}, not {want}");
                    }
                }
            }
        }
    }
}
