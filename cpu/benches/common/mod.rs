//! Helpers of the benchmarks: a clock, and arrays of noise.
#![allow(dead_code, missing_docs)]

use cpu::Buffer;
use std::time::Instant;

/// Seconds of this thread on a processor, which other programs do not lengthen.
#[cfg(target_os = "linux")]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The least seconds of repetitions within a budget: by the clock, or of one thread on a processor.
pub fn time(threads: usize, budget: f64, mut run: impl FnMut()) -> f64 {
    let epoch = Instant::now();
    let now = || match threads {
        #[cfg(target_os = "linux")]
        1 => processor_seconds(),
        _ => epoch.elapsed().as_secs_f64(),
    };
    run();
    let (begin, mut least) = (now(), f64::INFINITY);
    while now() - begin < budget {
        let start = now();
        run();
        least = least.min(now() - start);
    }
    least
}

/// Numbers in [-1, 1).
pub fn noise(n: usize, seed: u32) -> Buffer {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut buffer = Buffer::zeros(n);
    for value in buffer.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
    }
    buffer
}

pub fn list<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split(',').filter_map(|part| part.parse().ok()).collect()
}
