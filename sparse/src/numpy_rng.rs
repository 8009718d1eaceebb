//! NumPy's legacy generator, which reproduces the original's seeded masks exactly (reference 1.2).

use crate::rng::BoundedRng;

const N: usize = 624;
const M: usize = 397;

/// MT19937 with `init_genrand` seeding and bounded integers by masked rejection, as in `numpy.random.RandomState(seed)`.
#[derive(Clone, Debug)]
pub struct NumpyRng {
    state: [u32; N],
    next: usize,
}

impl NumpyRng {
    /// The generator of `RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }
}

impl BoundedRng for NumpyRng {
    /// Masks outputs to the bits of `max` and draws again while they exceed it. Uses 64-bit outputs only for a `max` of more
    /// than 32 bits, and none for 0.
    fn up_to(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let bits = if max <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                self.next_u64()
            };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_mt19937() {
        // The ten-thousandth output for the default seed, from the C++ standard.
        let mut rng = NumpyRng::new(5489);
        assert_eq!((0..10_000).map(|_| rng.next_u32()).last(), Some(4_123_659_995));
        // RandomState(0), first outputs.
        let mut rng = NumpyRng::new(0);
        assert_eq!([rng.next_u32(), rng.next_u32()], [2_357_136_044, 2_546_248_239]);
    }
}
