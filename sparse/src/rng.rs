//! Random numbers as a pure function of seed, purpose, name and step.
//!
//! A [`Stream`] is a ChaCha8 generator whose key is the SHA-256 of (seed, purpose, name, step). Streams are independent: a
//! layer's mask does not depend on other draws, their order or their thread. Bounded integers, shuffles and real
//! distributions are implemented here, so that no library version changes them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A source of uniformly distributed bounded integers.
pub trait BoundedRng {
    /// A uniform integer in `[0, max]`, `max` included.
    fn up_to(&mut self, max: u64) -> u64;

    /// Shuffles in place by Fisher-Yates from the end: for `i = n-1 .. 1`, swap with a uniform `j` in `[0, i]`.
    fn shuffle<T>(&mut self, items: &mut [T])
    where
        Self: Sized,
    {
        for i in (1..items.len()).rev() {
            items.swap(i, self.up_to(i as u64) as usize);
        }
    }
}

/// The stream for a `purpose` (`"mask"`, `"init"`), the `name` of a layer or data set, and a `step`.
pub fn stream(seed: u64, purpose: &str, name: &str, step: u64) -> Stream {
    // Lengths before texts: different arguments never give the same bytes.
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(step.to_le_bytes());
    for text in [purpose, name] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Stream {
        rng: ChaCha8Rng::from_seed(hash.finalize().into()),
        spare: None,
    }
}

/// A 64-bit hash of (purpose, name), for generators that run inside graphs.
pub fn hash64(purpose: &str, name: &str) -> u64 {
    stream(0, purpose, name, 0).next_u64()
}

/// A random number generator for one purpose.
#[derive(Clone, Debug)]
pub struct Stream {
    rng: ChaCha8Rng,
    /// The second number of the last Box-Muller pair, if unused.
    spare: Option<f64>,
}

impl Stream {
    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Normal with mean 0 and standard deviation 1, by Box-Muller.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform_f64()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Standard normal, drawn again until it lies within two standard deviations.
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let z = self.normal();
            if z.abs() <= 2.0 {
                return z;
            }
        }
    }
}

impl BoundedRng for Stream {
    /// Lemire's multiplication with rejection: exactly uniform.
    fn up_to(&mut self, max: u64) -> u64 {
        let Some(range) = max.checked_add(1) else {
            return self.next_u64();
        };
        // Products whose low half is below 2^64 mod range belong to intervals of one element too many.
        let excess = range.wrapping_neg() % range;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(range);
            if product as u64 >= excess {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_never_change() {
        let mut s = stream(7, "mask", "layer1", 3);
        assert_eq!([s.next_u32(), s.next_u32()], [2_576_803_157, 2_202_533_586]);
        assert_eq!(s.next_u64(), 11_430_322_129_837_457_391);
        assert_eq!(s.uniform_f32(), 0.110_973_48);
        assert_eq!(s.uniform_f64(), 0.975_140_162_233_466_2);
        let normals = [s.normal() as f32, s.normal() as f32, s.truncated_normal() as f32];
        assert_eq!(normals, [-0.504_260_6, -2.251_474_1, -1.028_678_4]);
        let mut items: Vec<u8> = (0..10).collect();
        s.shuffle(&mut items);
        assert_eq!(items, [0, 4, 1, 7, 5, 3, 8, 6, 9, 2]);
    }

    #[test]
    fn every_argument_changes_the_stream() {
        let first = |seed, purpose, name, step| stream(seed, purpose, name, step).next_u64();
        let all = [
            first(0, "ab", "c", 0),
            first(1, "ab", "c", 0),
            first(0, "a", "bc", 0),
            first(0, "ab", "d", 0),
            first(0, "ab", "c", 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{all:?}");
        }
    }

    #[test]
    fn bounded_integers_are_in_range_and_uniform() {
        let mut s = stream(0, "test", "", 0);
        let mut counts = [0u32; 3];
        for _ in 0..30_000 {
            counts[s.up_to(2) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_700..10_300).contains(c)), "{counts:?}");
        assert_eq!(s.up_to(0), 0);
        assert!((0..100).all(|_| s.up_to(u64::MAX - 1) < u64::MAX));
        s.up_to(u64::MAX);
    }

    #[test]
    fn real_distributions_have_the_expected_moments() {
        let mut s = stream(0, "test", "", 1);
        let moments = |draw: &mut dyn FnMut() -> f64| {
            let values: Vec<f64> = (0..100_000).map(|_| draw()).collect();
            let mean = values.iter().sum::<f64>() / 1e5;
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e5)
        };
        let close = |(mean, variance): (f64, f64), want: (f64, f64)| {
            assert!(
                (mean - want.0).abs() < 0.01 && (variance - want.1).abs() < 0.015,
                "{mean} {variance} {want:?}"
            );
        };
        close(moments(&mut || s.uniform_f64()), (0.5, 1.0 / 12.0));
        close(moments(&mut || f64::from(s.uniform_f32())), (0.5, 1.0 / 12.0));
        close(moments(&mut || s.normal()), (0.0, 1.0));
        close(moments(&mut || s.truncated_normal()), (0.0, 0.773_741));
    }
}
