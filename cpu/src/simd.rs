//! Vectors of 16 `f32` in three instruction sets, chosen at run time.
//!
//! Kernels are written once, generic over [`Simd`], and compiled for each instruction set by [`Isa::run`].

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{Error, Result};

/// Lanes of a vector, in every instruction set.
pub const LANES: usize = 16;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, VL, BW and DQ: one register per vector.
    Avx512,
    /// AVX2 and FMA: two registers per vector.
    Avx2,
    /// Whatever the target has; multiply-adds are rounded twice.
    Portable,
}

impl Isa {
    /// All instruction sets, the fastest first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// Returns the fastest instruction set of this processor.
    pub fn detect() -> Isa {
        let found = Isa::ALL.into_iter().find(|isa| isa.is_available());
        found.unwrap_or(Isa::Portable)
    }

    /// Whether this processor has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }

    /// Returns itself if this processor has the instruction set.
    ///
    /// # Errors
    /// [`Error::Isa`] if it has not.
    pub fn checked(self) -> Result<Isa> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(Error::Isa { isa: self })
        }
    }

    /// Most vectors that a kernel keeps in registers as accumulators.
    pub(crate) fn max_tile(self) -> usize {
        match self {
            Isa::Avx512 => 14,
            Isa::Avx2 | Isa::Portable => 7,
        }
    }

    /// Runs `task` compiled for this instruction set.
    ///
    /// # Safety
    /// The processor must have it: [`Isa::is_available`].
    pub(crate) unsafe fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            // SAFETY: the caller vouches for the instruction set.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::run_avx512(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(task) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => task.run(portable::Portable),
            Isa::Portable => task.run(portable::Portable),
        }
    }
}

/// A kernel that is generic over the instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Operations on vectors of 16 `f32`. All are `#[inline(always)]`.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// Registers of a vector.
    const PARTS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// 16 floats must be readable at `p`, at any alignment.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// 16 floats must be writable at `p`, at any alignment.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores past the caches, where the instruction set can.
    ///
    /// # Safety
    /// As for [`Simd::store`], at an alignment of 64 bytes.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: Self::V) {
        // SAFETY: as the caller vouches.
        unsafe { self.store(p, v) };
    }
    /// Orders streamed stores before all that follows.
    #[inline(always)]
    fn fence(self) {}
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of `bound` and `x`; NaN if `x` is. `bound` is a number.
    fn at_least(self, bound: Self::V, x: Self::V) -> Self::V;
    /// The smaller of `bound` and `x`; NaN if `x` is. `bound` is a number.
    fn at_most(self, bound: Self::V, x: Self::V) -> Self::V;
    /// The larger one; NaN if one is, like XLA's maximum.
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lanes in which `a` is at least `b`; none in which one is NaN.
    fn reaches(self, a: Self::V, b: Self::V) -> u16;
    /// Zeroes the lanes whose bit is not set.
    fn keep(self, v: Self::V, bits: u16) -> Self::V;
    /// Asks for a cache line ahead of its use, for the second-level cache.
    fn prefetch(self, p: *const f32);
    /// Asks for a cache line shortly before its use.
    fn prefetch_near(self, p: *const f32);
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`.
    fn transpose(self, v: [Self::V; LANES]) -> [Self::V; LANES];
    /// The sums of the lanes of 8 vectors.
    fn sums(self, v: [Self::V; 8]) -> [f32; 8];
}

/// The vector at `at`, with zeros past the end of the slice.
#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, from: &[f32], at: usize) -> S::V {
    let rest = &from[at..];
    if rest.len() >= LANES {
        // SAFETY: there are 16 floats.
        return unsafe { s.load(rest.as_ptr()) };
    }
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    // SAFETY: as above.
    unsafe { s.load(padded.as_ptr()) }
}

/// Stores the vector at `at`, up to the end of the slice.
#[inline(always)]
pub(crate) fn store<S: Simd>(s: S, to: &mut [f32], at: usize, v: S::V) {
    let rest = &mut to[at..];
    if rest.len() >= LANES {
        // SAFETY: there is room for 16 floats.
        return unsafe { s.store(rest.as_mut_ptr(), v) };
    }
    let mut padded = [0.0; LANES];
    // SAFETY: as above.
    unsafe { s.store(padded.as_mut_ptr(), v) };
    rest.copy_from_slice(&padded[..rest.len()]);
}

/// Adds the vector to the floats at `at`, up to the end of the slice.
#[inline(always)]
pub(crate) fn add_to<S: Simd>(s: S, to: &mut [f32], at: usize, v: S::V) {
    let sum = s.add(load(s, to, at), v);
    store(s, to, at, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Reaches([f32; LANES], [f32; LANES]);

    impl Task for Reaches {
        type Output = u16;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u16 {
            s.reaches(load(s, &self.0, 0), load(s, &self.1, 0))
        }
    }

    #[test]
    fn lanes_are_compared_alike_by_all_instruction_sets() {
        let a = std::array::from_fn(|i| if i == 3 { f32::NAN } else { (i % 4) as f32 });
        let b = std::array::from_fn(|i| if i == 9 { f32::NAN } else { (i % 3) as f32 });
        let expected = (0..LANES).fold(0, |bits, i| bits | u16::from(a[i] >= b[i]) << i);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // SAFETY: the processor has the instructions.
            assert_eq!(unsafe { isa.run(Reaches(a, b)) }, expected, "{isa:?}");
        }
    }
}
