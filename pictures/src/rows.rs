//! Weighted sums of rows of bytes, eight at a time where the processor has AVX2.

/// Writes the weighted sum of four rows, added in this order.
///
/// # Panics
/// If a row is shorter than `line`.
pub fn sum_of_four(rows: [&[u8]; 4], weights: [f32; 4], line: &mut [f32]) {
    let rows = rows.map(|row| &row[..line.len()]);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        done = unsafe { x86::sum_of_four(rows, weights, line) };
    }
    for (i, sum) in line.iter_mut().enumerate().skip(done) {
        *sum = weighted(rows.map(|row| f32::from(row[i])), weights);
    }
}

/// The weighted sum of four numbers, in order.
#[inline(always)]
fn weighted(values: [f32; 4], weights: [f32; 4]) -> f32 {
    values[0] * weights[0] + values[1] * weights[1] + values[2] * weights[2] + values[3] * weights[3]
}

/// Adds `weight` times a row.
///
/// # Panics
/// If the row is shorter than `line`.
pub fn add(row: &[u8], weight: f32, line: &mut [f32]) {
    let row = &row[..line.len()];
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        done = unsafe { x86::add(row, weight, line) };
    }
    for (sum, &value) in line.iter_mut().zip(row).skip(done) {
        *sum += weight * f32::from(value);
    }
}

/// The weighted sum of four runs of four floats, in order, of the 13 from `near` on: those at 0, 3, 6 and 9.
#[inline(always)]
pub fn sum_of_pixels(near: &[f32; 13], weights: [f32; 4]) -> [f32; 4] {
    #[cfg(target_arch = "x86_64")]
    return x86::sum_of_pixels(near, weights);
    #[cfg(not(target_arch = "x86_64"))]
    return std::array::from_fn(|c| weighted([0, 3, 6, 9].map(|i| near[i + c]), weights));
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    const LANES: usize = 8;

    /// Eight bytes as floats.
    ///
    /// # Safety
    /// Eight bytes must be readable at `from`.
    #[target_feature(enable = "avx2")]
    unsafe fn floats(from: *const u8) -> __m256 {
        // SAFETY: as the caller says.
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }))
    }

    /// Returns how many floats it wrote. The rows are as long as `line`.
    #[target_feature(enable = "avx2")]
    pub fn sum_of_four(rows: [&[u8]; 4], weights: [f32; 4], line: &mut [f32]) -> usize {
        let weights = weights.map(|weight| _mm256_set1_ps(weight));
        let whole = line.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: at least eight bytes and floats follow.
            unsafe {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| _mm256_mul_ps(floats(rows[i].as_ptr().add(at)), weights[i]));
                let sum = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), c), d);
                _mm256_storeu_ps(line.as_mut_ptr().add(at), sum);
            }
        }
        whole
    }

    /// Returns how many floats it changed. The row is as long as `line`.
    #[target_feature(enable = "avx2")]
    pub fn add(row: &[u8], weight: f32, line: &mut [f32]) -> usize {
        let weight = _mm256_set1_ps(weight);
        let whole = line.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: at least eight bytes and floats follow.
            unsafe {
                let to = line.as_mut_ptr().add(at);
                let product = _mm256_mul_ps(weight, floats(row.as_ptr().add(at)));
                _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), product));
            }
        }
        whole
    }

    /// As [`super::sum_of_pixels`], in the instructions that every x86-64 has.
    #[inline(always)]
    pub fn sum_of_pixels(near: &[f32; 13], weights: [f32; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: the last run of four begins at 9 of 13.
        unsafe {
            let term = |i: usize| _mm_mul_ps(_mm_loadu_ps(near.as_ptr().add(3 * i)), _mm_set1_ps(weights[i]));
            let sum = _mm_add_ps(_mm_add_ps(_mm_add_ps(term(0), term(1)), term(2)), term(3));
            _mm_storeu_ps(sums.as_mut_ptr(), sum);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_the_bits_of_plain_loops() {
        let bytes: Vec<u8> = (0..400u32).map(|i| (i * 7919 % 251) as u8).collect();
        for length in [0, 1, 7, 8, 9, 31, 64, 97] {
            let rows = [0, 100, 200, 300].map(|start| &bytes[start..start + length]);
            let weights = [-0.07, 0.61, 0.49, -0.03];
            let mut line = vec![0.5; length];
            sum_of_four(rows, weights, &mut line);
            for i in 0..length {
                assert_eq!(line[i], weighted(rows.map(|row| f32::from(row[i])), weights));
            }
            let before = line.clone();
            add(rows[1], 0.37, &mut line);
            for i in 0..length {
                assert_eq!(line[i], before[i] + 0.37 * f32::from(rows[1][i]));
            }
        }
        let near: [f32; 13] = std::array::from_fn(|i| (i * i) as f32 / 7.0);
        let expected = std::array::from_fn(|c| weighted([0, 3, 6, 9].map(|i| near[i + c]), [0.1, 0.7, 0.3, -0.1]));
        assert_eq!(sum_of_pixels(&near, [0.1, 0.7, 0.3, -0.1]), expected);
    }
}
