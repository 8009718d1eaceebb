//! Examples of a batch and sums over them: what a compiled program's calls of the functions of [`models::layers::examples`] run.

use std::ffi::c_void;

use pjrt::ffi::{self, Byte, Call, CallFrame};

/// Runs [`models::layers::examples::TAKE_EXAMPLES`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn take_examples(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run_take) }
}

/// Runs [`models::layers::examples::UNIT_SUMS`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn unit_sums(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run_sums) }
}

fn run_sums(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some([examples, units])) = (call.argument(0), call.argument_dims::<2>(0)) else {
        return Err("the call lacks activations".into());
    };
    let written = call.write(0, |sums: &mut [f32]| {
        match examples {
            0 => sums.fill(0.0),
            _ => sums
                .iter_mut()
                .zip(x.chunks_exact(examples))
                .for_each(|(sum, x)| *sum = sum_of(x)),
        }
        sums.len() == units
    });
    match written {
        Some(true) => Ok(()),
        Some(false) | None => Err("the call's result does not fit its activations".into()),
    }
}

/// Partial sums side by side.
const PARTIAL: usize = 16;

fn sum_of(x: &[f32]) -> f32 {
    let mut partial = [0.0f32; PARTIAL];
    let mut chunks = x.chunks_exact(PARTIAL);
    for chunk in chunks.by_ref() {
        partial.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    partial
        .iter_mut()
        .zip(chunks.remainder())
        .for_each(|(sum, x)| *sum += x);
    partial.iter().sum()
}

fn run_take(call: &Call<'_>) -> Result<(), String> {
    let arguments = (
        call.argument_of::<Byte>(0),
        call.argument_of::<i32>(1),
        call.argument_dims::<2>(0),
        call.result_dims::<2>(0),
    );
    let (Some(set), Some(indices), Some([examples, values]), Some([rows, width])) = arguments else {
        return Err("the call lacks a set of examples, their indices or a result".into());
    };
    if width != values || rows < indices.len() || !rows.is_multiple_of(SQUARE) || (examples == 0 && !indices.is_empty())
    {
        return Err("the call's arrays do not fit each other".into());
    }
    let last = examples.saturating_sub(1);
    let row = |&index: &i32| {
        let at = usize::try_from(index).unwrap_or(0).min(last) * values;
        &set[at..at + values]
    };
    let taken: Vec<&[Byte]> = indices.iter().map(row).collect();
    call.write(0, |out: &mut [Byte]| transpose(&taken, rows, out))
        .ok_or("the call lacks a result".into())
}

/// Rows and columns that are transposed at once: the bytes of a `u64`.
const SQUARE: usize = 8;

/// Writes `[values][rows]`: the examples, then zeros up to `rows`, a multiple of [`SQUARE`].
fn transpose(examples: &[&[Byte]], rows: usize, out: &mut [Byte]) {
    let values = examples.first().map_or(0, |example| example.len());
    let width = values.next_multiple_of(SQUARE);
    // Read one after the other: examples lie anywhere in memory.
    let mut copy = vec![Byte(0); rows * width];
    for (copy, example) in copy.chunks_exact_mut(width.max(1)).zip(examples) {
        copy[..values].copy_from_slice(example);
    }
    for top in (0..rows).step_by(SQUARE) {
        let strip = &copy[top * width..][..SQUARE * width];
        for first in (0..width).step_by(SQUARE) {
            let square = std::array::from_fn(|i| word(&strip[i * width + first..]));
            let columns = transposed(square).into_iter().zip(first..values);
            for (column, value) in columns {
                let out = &mut out[value * rows + top..][..SQUARE];
                out.copy_from_slice(&column.to_le_bytes().map(Byte));
            }
        }
    }
}

/// The first bytes as a number.
fn word(bytes: &[Byte]) -> u64 {
    let first: [Byte; SQUARE] = bytes.first_chunk().copied().unwrap_or([Byte(0); SQUARE]);
    u64::from_le_bytes(first.map(|byte| byte.0))
}

/// The transpose of a square of bytes, by exchanging ever smaller parts.
fn transposed(mut rows: [u64; SQUARE]) -> [u64; SQUARE] {
    for (half, mask) in [
        (4, 0x0000_0000_FFFF_FFFF_u64),
        (2, 0x0000_FFFF_0000_FFFF),
        (1, 0x00FF_00FF_00FF_00FF),
    ] {
        for i in (0..SQUARE).filter(|i| i & half == 0) {
            let bits = 8 * half;
            let exchanged = ((rows[i] >> bits) ^ rows[i + half]) & mask;
            rows[i + half] ^= exchanged;
            rows[i] ^= exchanged << bits;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_all_elements() {
        for count in [0, 1, 15, 16, 100, 129] {
            let x: Vec<f32> = (1..=count).map(|i| i as f32).collect();
            assert_eq!(sum_of(&x), (count * (count + 1) / 2) as f32);
        }
    }

    #[test]
    fn transposes_examples_of_any_number_and_size() {
        for (examples, values, rows) in [(1, 1, 16), (100, 784, 112), (16, 8, 16), (5, 13, 16), (20, 17, 24)] {
            let set: Vec<Vec<Byte>> = (0..examples)
                .map(|e| (0..values).map(|v| Byte((e * 31 + v * 7 + e * v) as u8)).collect())
                .collect();
            let taken: Vec<&[Byte]> = set.iter().map(Vec::as_slice).collect();
            let mut out = vec![Byte(9); values * rows];
            transpose(&taken, rows, &mut out);
            for (value, column) in out.chunks(rows).enumerate() {
                for (row, found) in column.iter().enumerate() {
                    let want = set.get(row).map_or(Byte(0), |example| example[value]);
                    assert_eq!(*found, want, "{examples} {values} {rows}: {row} {value}");
                }
            }
        }
    }
}
