//! CIFAR-10 in its binary format: 32x32 colour images in ten classes, stored in six record files.
//!
//! A record is one label byte, then the image as three planes (red, green, blue) of 32 rows of 32 bytes.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use hlo::Literal;

use super::mnist::in_other_case;
use super::{Dataset, Error, MAX_SET_BYTES, Result, Split};
use crate::files;
use crate::report::{escape, note};

/// Number of examples in the published training and test sets.
pub const EXAMPLES: [usize; 2] = [50_000, 10_000];
/// Height and width of an image.
pub const SIDE: usize = 32;
/// Colour channels per pixel.
pub const CHANNELS: usize = 3;
/// Number of classes.
pub const CLASSES: usize = 10;
/// Bytes of a record.
pub const RECORD: usize = 1 + CHANNELS * SIDE * SIDE;

/// Description of a folder that holds the set, for messages.
pub const FILES: &str = "its binary version (data_batch_1.bin to data_batch_5.bin, test_batch.bin)";

/// File name that identifies a CIFAR-10 folder.
pub const TEST_FILE: &str = "test_batch.bin";

/// Returns the folder with the files: `dir` or its subfolder.
pub fn folder(dir: &Path) -> PathBuf {
    let unpacked = dir.join("cifar-10-batches-bin");
    if unpacked.is_dir() { unpacked } else { dir.into() }
}

/// Whether a folder holds a file of either split.
pub fn is_in(dir: &Path) -> bool {
    let dir = folder(dir);
    let files = [Split::Train, Split::Test].map(names).concat();
    files.iter().any(|name| find(&dir, name).is_some())
}

fn names(split: Split) -> Vec<String> {
    match split {
        Split::Train => (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
        Split::Test => vec![TEST_FILE.into()],
    }
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    if path.exists() {
        Some(path)
    } else {
        in_other_case(dir, name)
    }
}

/// Reads one split: images `u8[N, 32, 32, 3]`, labels `s32[N]`, in file order. The published set has 50000 training
/// examples in `data_batch_1.bin` to `data_batch_5.bin` and 10000 test examples in `test_batch.bin`.
///
/// The files may be in `dir` or in its subfolder `cifar-10-batches-bin`, which the published archive unpacks to. A file
/// may hold any number of records. A training set may have fewer files, numbered from 1 without a gap; a note then
/// names the missing ones.
///
/// # Errors
/// A missing file, an empty file or one with a partial record, more than [`MAX_SET_BYTES`] in total, or a label of at
/// least [`CLASSES`].
pub fn load(dir: &Path, split: Split) -> Result<Dataset> {
    let (paths, missing) = files(dir, split)?;
    if !missing.is_empty() {
        let (n, missing) = (paths.len(), missing.join(", "));
        note!(
            "note: {}: {n} of 5 training files of CIFAR-10; missing: {missing}",
            escape::path(dir)
        );
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in &paths {
        read(path, &mut pixels, &mut labels)?;
    }
    let n = labels.len();
    Ok(Dataset {
        images: Literal::new(&[n, SIDE, SIDE, CHANNELS], &pixels),
        labels: Literal::new(&[n], &labels),
        classes: CLASSES,
    })
}

/// Returns the files of a split up to the first missing one, and the names of the missing files.
///
/// # Errors
/// No file at all, or a gap in the numbering.
pub fn files(dir: &Path, split: Split) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let (dir, mut names) = (folder(dir), names(split));
    let found: Vec<Option<PathBuf>> = names.iter().map(|name| find(&dir, name)).collect();
    if found.iter().all(Option::is_none) {
        return Err(Error::Missing { dir, expected: names });
    }
    let first_missing = found.iter().position(Option::is_none).unwrap_or(found.len());
    if let Some(after) = (first_missing..found.len()).find(|&i| found[i].is_some()) {
        let (missing, found) = (
            names.swap_remove(first_missing),
            format!("data_batch_{}.bin", after + 1),
        );
        return Err(Error::MissingPart { dir, missing, found });
    }
    let missing = names.split_off(first_missing);
    Ok((found.into_iter().flatten().collect(), missing))
}

/// Appends the records of a file to the set.
fn read(path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<i32>) -> Result<()> {
    let file = files::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    if bytes == 0 || bytes % RECORD as u64 != 0 {
        return Err(Error::Records {
            path: path.into(),
            found: bytes,
            record: RECORD,
        });
    }
    if pixels.len() as u64 + bytes > MAX_SET_BYTES {
        return Err(Error::TooLarge {
            path: path.into(),
            found: pixels.len() as u64 + bytes,
            expected: MAX_SET_BYTES,
        });
    }
    let records = bytes / RECORD as u64;
    pixels.reserve_exact((RECORD - 1) * records as usize);
    let mut input = BufReader::new(file);
    let mut record = [0; RECORD];
    for index in 0..records as usize {
        input.read_exact(&mut record).map_err(Error::io(path))?;
        let (label, planes) = (record[0], &record[1..]);
        if usize::from(label) >= CLASSES {
            return Err(Error::Label {
                path: path.into(),
                index,
                found: label,
                classes: CLASSES,
            });
        }
        labels.push(label.into());
        let plane = SIDE * SIDE;
        pixels.extend((0..plane).flat_map(|at| [0, 1, 2].map(|colour| planes[colour * plane + at])));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    /// Record `i`: label `i`; pixel (row, column) of plane `p` is `i + row + 2 column + 100 p` modulo 256.
    fn record(i: u8) -> Vec<u8> {
        let pixel = |p: usize, at: usize| i.wrapping_add((at / SIDE + 2 * (at % SIDE) + 100 * p) as u8);
        let planes = (0..CHANNELS).flat_map(|p| (0..SIDE * SIDE).map(move |at| pixel(p, at)));
        [i].into_iter().chain(planes).collect()
    }

    #[test]
    fn planes_become_pixels_and_files_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().into(), dir.path().join("cifar-10-batches-bin")] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("data_batch_1.bin"), [record(7), record(2)].concat()).unwrap();
            fs::write(folder.join("data_batch_2.bin"), record(9)).unwrap();
            let set = load(dir.path(), Split::Train).unwrap();
            assert_eq!(set.labels.to_vec::<i32>().unwrap(), [7, 2, 9]);
            assert_eq!(set.images.dims(), [3, 32, 32, 3]);
            let at = |image: usize, row: usize, column: usize| {
                let first = ((image * SIDE + row) * SIDE + column) * CHANNELS;
                set.images.bytes()[first..first + CHANNELS].to_vec()
            };
            assert_eq!(at(0, 0, 0), [7, 107, 207]);
            assert_eq!(at(1, 3, 5), [2 + 13, 115, 215]);
            assert_eq!(at(2, 31, 31), [102, 202, 46]);
            assert!(matches!(load(dir.path(), Split::Test), Err(Error::Missing { .. })));
            fs::rename(folder.join("data_batch_1.bin"), folder.join("data_batch_3.bin")).unwrap();
            let message = load(dir.path(), Split::Train).unwrap_err().to_string();
            assert!(
                message.contains("data_batch_1.bin is missing, but data_batch_2.bin is there"),
                "{message}"
            );
            fs::rename(folder.join("data_batch_3.bin"), folder.join("data_batch_1.bin")).unwrap();
        }
    }
}
