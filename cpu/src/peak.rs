//! The processor's multiply-add rate, for benchmarks.

use crate::parallel::ParallelFor;
use crate::simd::{Isa, Simd, Task};
use std::time::Instant;

/// Multiply-adds on registers alone.
struct Chains(usize);

impl Task for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Each chain waits for itself only; together they fill the registers of AVX2 or, as well, of AVX-512.
        let (a, b) = (s.splat(std::hint::black_box(0.5)), s.splat(std::hint::black_box(1.0)));
        let mut c = [s.splat(0.0); 6];
        let mut d = [s.splat(0.0); 6];
        for _ in 0..self.0 {
            for j in 0..6 {
                c[j] = s.fma(a, c[j], b);
            }
            if S::PARTS == 1 {
                for j in 0..6 {
                    d[j] = s.fma(a, d[j], b);
                }
            }
        }
        let mut sum = s.splat(0.0);
        for j in 0..6 {
            sum = s.add(sum, s.add(c[j], d[j]));
        }
        s.sums([sum; 8])[0] + S::PARTS as f32
    }
}

/// GFLOP/s of multiply-adds of vectors in registers, on `threads` threads at once: the limit of any kernel.
pub fn multiply_add_peak(isa: Isa, parallel: &ParallelFor<'_>, threads: usize) -> f64 {
    const ROUNDS: usize = 50_000;
    let per_round = if isa == Isa::Avx512 { 12 } else { 6 };
    let flops = (ROUNDS * per_round * crate::LANES * 2 * threads) as f64;
    let Ok(isa) = isa.checked() else { return 0.0 };
    let mut best = 0.0f64;
    for _ in 0..200 {
        let start = Instant::now();
        parallel(threads, &|_| {
            // SAFETY: the instruction set was checked.
            std::hint::black_box(unsafe { isa.run(Chains(ROUNDS)) });
        });
        best = best.max(flops / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}
