//! Detects truncated tar files: they must end with blocks of zeros, which the reader of entries does not check.

use std::fs::File;

use crate::data::tfrecord::read_at;

const BLOCK: u64 = 512;
/// Bytes inspected after the last entry: writers pad to a record of 10 kB, some to 1 MiB.
const MAX_REST: u64 = 1 << 20;

/// Offset of the next header after `bytes` bytes of data at `offset`.
pub(super) fn after(offset: u64, bytes: u64) -> u64 {
    offset.saturating_add(bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX))
}

/// Checks that a tar file of `bytes` bytes, at `start` in `file`, ends at `end` with at least one block of zeros and
/// nothing else.
///
/// # Errors
/// A description of the bytes found instead.
pub(super) fn check(file: &File, [start, bytes]: [u64; 2], end: u64) -> Result<(), &'static str> {
    let rest = bytes.saturating_sub(end).min(MAX_REST);
    if rest < BLOCK {
        return Err("the file ends there without the zeros that end a tar file: it was cut");
    }
    let mut zeros = vec![0; rest as usize];
    match read_at(file, &mut zeros, start + end) {
        Err(_) => Err("the file cannot be read there"),
        Ok(()) if zeros[..BLOCK as usize].iter().any(|byte| *byte != 0) => Err("no entry and no end follows"),
        Ok(()) if zeros.iter().any(|byte| *byte != 0) => {
            Err("more follows the zeros that end a tar file, as where two were joined; unpack it and give the folder")
        }
        Ok(()) => Ok(()),
    }
}
