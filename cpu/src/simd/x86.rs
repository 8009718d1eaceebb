//! AVX-512 and AVX2.

use super::{Simd, Task};
use std::arch::x86_64::*;

/// Proof that AVX-512 F, VL, BW and DQ are there.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Proof that AVX2 and FMA are there.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
pub(super) fn run_avx512<T: Task>(task: T) -> T::Output {
    task.run(Avx512(()))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn run_avx2<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

/// Calls an intrinsic.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the value `self` exists only where the instruction set does; pointers are vouched for by the caller.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const PARTS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(p))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        op!(_mm512_storeu_ps(p, v))
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: __m512) {
        op!(_mm512_stream_ps(p, v))
    }

    #[inline(always)]
    fn fence(self) {
        op!(_mm_sfence())
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }

    // The instructions return the second operand if one is NaN.
    #[inline(always)]
    fn at_least(self, bound: __m512, x: __m512) -> __m512 {
        op!(_mm512_max_ps(bound, x))
    }

    #[inline(always)]
    fn at_most(self, bound: __m512, x: __m512) -> __m512 {
        op!(_mm512_min_ps(bound, x))
    }

    #[inline(always)]
    fn maximum(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_mov_ps(
            _mm512_max_ps(a, b),
            _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a),
            a
        ))
    }

    #[inline(always)]
    fn reaches(self, a: __m512, b: __m512) -> u16 {
        op!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b))
    }

    #[inline(always)]
    fn keep(self, v: __m512, bits: u16) -> __m512 {
        op!(_mm512_maskz_mov_ps(bits, v))
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()));
    }

    #[inline(always)]
    fn prefetch_near(self, p: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()));
    }

    #[inline(always)]
    fn transpose(self, v: [__m512; 16]) -> [__m512; 16] {
        op!({
            // Within quarters: squares of 4 x 4.
            let mut quarters = v;
            for i in 0..4 {
                let [a, b, c, d] = [v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]];
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                quarters[4 * i] = _mm512_shuffle_ps::<0x44>(ab, cd);
                quarters[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(ab, cd);
                quarters[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
                quarters[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(ab_high, cd_high);
            }
            // Then the squares.
            let mut result = v;
            for i in 0..4 {
                let [a, b, c, d] = [quarters[i], quarters[4 + i], quarters[8 + i], quarters[12 + i]];
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
                let (ab_high, cd_high) = (_mm512_shuffle_f32x4::<0xEE>(a, b), _mm512_shuffle_f32x4::<0xEE>(c, d));
                result[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                result[4 + i] = _mm512_shuffle_f32x4::<0xDD>(ab, cd);
                result[8 + i] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
                result[12 + i] = _mm512_shuffle_f32x4::<0xDD>(ab_high, cd_high);
            }
            result
        })
    }

    #[inline(always)]
    fn sums(self, v: [__m512; 8]) -> [f32; 8] {
        /// Adds the even and the odd lanes of pairs: lanes `a0+a2, b0+b2, a1+a3, b1+b3` of each quarter.
        macro_rules! pair {
            ($a:expr, $b:expr) => {
                _mm512_add_ps(_mm512_unpacklo_ps($a, $b), _mm512_unpackhi_ps($a, $b))
            };
        }
        /// The sums of each quarter of four vectors.
        macro_rules! four {
            ($a:expr, $b:expr) => {{
                let (a, b) = ($a, $b);
                _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xEE>(a, b))
            }};
        }
        op!({
            let low = four!(pair!(v[0], v[1]), pair!(v[2], v[3]));
            let high = four!(pair!(v[4], v[5]), pair!(v[6], v[7]));
            let halves = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x44>(low, high),
                _mm512_shuffle_f32x4::<0xEE>(low, high),
            );
            let whole = _mm512_add_ps(halves, _mm512_shuffle_f32x4::<0xB1>(halves, halves));
            let mut sums = [0.0; 8];
            _mm256_storeu_ps(
                sums.as_mut_ptr(),
                _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0x08>(whole, whole)),
            );
            sums
        })
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    const PARTS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        op!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        op!([_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))])
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        op!({
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        });
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: Self::V) {
        op!({
            _mm256_stream_ps(p, v[0]);
            _mm256_stream_ps(p.add(8), v[1]);
        });
    }

    #[inline(always)]
    fn fence(self) {
        op!(_mm_sfence())
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        op!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        op!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        op!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn at_least(self, bound: Self::V, x: Self::V) -> Self::V {
        op!([_mm256_max_ps(bound[0], x[0]), _mm256_max_ps(bound[1], x[1])])
    }

    #[inline(always)]
    fn at_most(self, bound: Self::V, x: Self::V) -> Self::V {
        op!([_mm256_min_ps(bound[0], x[0]), _mm256_min_ps(bound[1], x[1])])
    }

    #[inline(always)]
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V {
        op!([maximum(a[0], b[0]), maximum(a[1], b[1])])
    }

    #[inline(always)]
    fn reaches(self, a: Self::V, b: Self::V) -> u16 {
        let half = |i: usize| op!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[i], b[i]))) as u16;
        half(0) | half(1) << 8
    }

    #[inline(always)]
    fn keep(self, v: Self::V, bits: u16) -> Self::V {
        op!({
            let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let low = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), lanes);
            let high = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits >> 8)), lanes);
            [
                _mm256_and_ps(v[0], _mm256_castsi256_ps(_mm256_cmpeq_epi32(low, lanes))),
                _mm256_and_ps(v[1], _mm256_castsi256_ps(_mm256_cmpeq_epi32(high, lanes))),
            ]
        })
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()));
    }

    #[inline(always)]
    fn prefetch_near(self, p: *const f32) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()));
    }

    #[inline(always)]
    fn transpose(self, v: [Self::V; 16]) -> [Self::V; 16] {
        let mut result = v;
        for row in 0..2 {
            for half in 0..2 {
                let mut square = [v[0][0]; 8];
                for i in 0..8 {
                    square[i] = v[8 * row + i][half];
                }
                // SAFETY: AVX2 is there.
                let square = unsafe { transpose(square) };
                for j in 0..8 {
                    result[8 * half + j][row] = square[j];
                }
            }
        }
        result
    }

    #[inline(always)]
    fn sums(self, v: [Self::V; 8]) -> [f32; 8] {
        macro_rules! fold {
            ($i:expr) => {
                _mm256_add_ps(v[$i][0], v[$i][1])
            };
        }
        macro_rules! four {
            ($i:expr) => {
                _mm256_hadd_ps(
                    _mm256_hadd_ps(fold!($i), fold!($i + 1)),
                    _mm256_hadd_ps(fold!($i + 2), fold!($i + 3)),
                )
            };
        }
        op!({
            let (low, high) = (four!(0), four!(4));
            let sum = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            );
            let mut sums = [0.0; 8];
            _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            sums
        })
    }
}

/// # Safety
/// AVX must be there.
#[inline(always)]
unsafe fn maximum(a: __m256, b: __m256) -> __m256 {
    op!(_mm256_blendv_ps(
        _mm256_max_ps(a, b),
        a,
        _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)
    ))
}

/// # Safety
/// AVX must be there.
#[inline(always)]
unsafe fn transpose(v: [__m256; 8]) -> [__m256; 8] {
    op!({
        let mut halves = v;
        for i in 0..2 {
            let [a, b, c, d] = [v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]];
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            halves[4 * i] = _mm256_shuffle_ps::<0x44>(ab, cd);
            halves[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(ab, cd);
            halves[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
            halves[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(ab_high, cd_high);
        }
        let mut result = v;
        for i in 0..4 {
            result[i] = _mm256_permute2f128_ps::<0x20>(halves[i], halves[4 + i]);
            result[4 + i] = _mm256_permute2f128_ps::<0x31>(halves[i], halves[4 + i]);
        }
        result
    })
}
