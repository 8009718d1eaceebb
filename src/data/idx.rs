//! IDX arrays of unsigned bytes, optionally gzipped: the container of MNIST and similar sets.
//!
//! Layout: two zero bytes, element type (8 = unsigned byte), rank, one big-endian `u32` per dimension, the elements in
//! C order, and nothing after them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use hlo::{DType, Literal, Shape};

use super::{Error, MAX_SET_BYTES, Result};
use crate::files;

const UNSIGNED_BYTE: u8 = 8;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Maximum bytes read after the end of an array, to report trailing data.
const MAX_REST: u64 = 1 << 20;

/// Reads a `u8` array of `rank` dimensions. Gzip is detected by content, not by name.
///
/// The size in the header is checked against the file's length before memory is allocated. The length of gzipped
/// content is unknown beforehand, so memory grows only as content arrives.
///
/// # Errors
/// A file that is unreadable, special or damaged, not IDX, of another element type or rank, truncated, with trailing
/// bytes, or larger than [`MAX_SET_BYTES`].
pub fn read(path: &Path, rank: u8) -> Result<Literal> {
    let file = files::open(path).map_err(Error::io(path))?;
    let stored = file.metadata().map_err(Error::io(path))?.len();
    let mut file = BufReader::new(file);
    let gzipped = file.fill_buf().map_err(Error::io(path))?.starts_with(&GZIP_MAGIC);
    let mut input = Input {
        path,
        done: 0,
        file: if gzipped {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        },
    };

    let dims = read_header(&mut input, rank)?;
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let Some((elements, expected)) = elements.and_then(|n| Some((n, n.checked_add(input.done)?))) else {
        return Err(Error::Overflow {
            path: path.into(),
            dims,
        });
    };
    if !gzipped && stored != expected {
        return Err(wrong_length(path, stored, expected));
    }
    if elements > MAX_SET_BYTES {
        return Err(Error::TooLarge {
            path: path.into(),
            found: elements,
            expected: MAX_SET_BYTES,
        });
    }
    let mut bytes = Vec::with_capacity(if gzipped { 0 } else { elements as usize });
    input.append(&mut bytes, elements, expected)?;
    bytes.shrink_to_fit();
    // Reading to the end makes gzip verify its checksum. A few trailing bytes are enough to report an error.
    let rest = io::copy(&mut (&mut input.file).take(MAX_REST), &mut io::sink()).map_err(Error::io(path))?;
    match Literal::from_bytes(Shape::new(DType::U8, dims), bytes) {
        Some(array) if rest == 0 => Ok(array),
        _ => Err(wrong_length(path, expected + rest, expected)),
    }
}

/// Writes a `u8` array, gzipped if the name ends in `.gz`. The same array gives the same bytes.
///
/// # Errors
/// An array that is not `u8` or has a dimension above 32 bits, or an I/O error.
pub fn write(path: &Path, array: &Literal) -> Result<()> {
    let not_bytes = || Error::NotBytes {
        path: path.into(),
        found: array.shape().clone(),
    };
    let rank = u8::try_from(array.shape().rank()).map_err(|_| not_bytes())?;
    if array.dtype() != DType::U8 {
        return Err(not_bytes());
    }
    let mut header = vec![0, 0, UNSIGNED_BYTE, rank];
    for &dim in array.dims() {
        header.extend(u32::try_from(dim).map_err(|_| not_bytes())?.to_be_bytes());
    }
    let all = |out: &mut dyn Write| out.write_all(&header).and_then(|()| out.write_all(array.bytes()));
    let to_file = || {
        let mut file = BufWriter::new(File::create(path)?);
        if path.extension().is_some_and(|e| e == "gz") {
            let mut gzip = GzEncoder::new(&mut file, Compression::default());
            all(&mut gzip)?;
            gzip.finish()?;
        } else {
            all(&mut file)?;
        }
        file.flush()
    };
    to_file().map_err(Error::io(path))
}

fn read_header(input: &mut Input, rank: u8) -> Result<Vec<usize>> {
    let path = input.path;
    let expected = 4 + 4 * u64::from(rank);
    let mut header = Vec::new();
    input.append(&mut header, 4, expected)?;
    if header[..2] != [0, 0] {
        return Err(Error::NotIdx {
            path: path.into(),
            found: [header[0], header[1]],
        });
    }
    if header[2] != UNSIGNED_BYTE {
        return Err(Error::ElementType {
            path: path.into(),
            found: header[2],
        });
    }
    if header[3] != rank {
        return Err(Error::Rank {
            path: path.into(),
            found: header[3],
            expected: rank,
        });
    }
    input.append(&mut header, expected - 4, expected)?;
    let dims = header[4..].chunks_exact(4);
    Ok(dims
        .map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize)
        .collect())
}

/// Guesses the kind of a file from its first bytes, for the end of a message.
pub(super) fn hint(start: [u8; 2]) -> &'static str {
    match &start {
        b"<!" | b"<h" | b"<H" => "; this is a web page, as where a download failed: fetch it again",
        [0x1f, 0x8b] => "; it is gzipped twice: unpack it once",
        b"PK" => "; this is a zip archive: unpack it",
        _ => "",
    }
}

fn wrong_length(path: &Path, found: u64, expected: u64) -> Error {
    let path = path.into();
    if found < expected {
        Error::Truncated { path, found, expected }
    } else {
        Error::Trailing { path, found, expected }
    }
}

struct Input<'a> {
    path: &'a Path,
    file: Box<dyn Read>,
    done: u64,
}

impl Input<'_> {
    /// Appends exactly `count` more bytes. `expected` is the total length, for the message.
    fn append(&mut self, bytes: &mut Vec<u8>, count: u64, expected: u64) -> Result<()> {
        let before = bytes.len();
        let outcome = (&mut self.file).take(count).read_to_end(bytes);
        let got = (bytes.len() - before) as u64;
        self.done += got;
        match outcome {
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => Err(Error::io(self.path)(source)),
            _ if got < count => Err(wrong_length(self.path, self.done, expected)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_published_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-idx2-ubyte");
        write(&path, &Literal::new(&[2, 3], &[1u8, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(
            std::fs::read(path).unwrap(),
            [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn round_trips_plain_and_gzipped() {
        let dir = tempfile::tempdir().unwrap();
        let array = Literal::new(&[3, 2, 2], &[9u8; 12]);
        for name in ["a", "a.gz"] {
            let path = dir.path().join(name);
            write(&path, &array).unwrap();
            assert_eq!(
                std::fs::read(&path).unwrap().starts_with(&GZIP_MAGIC),
                name.ends_with(".gz")
            );
            assert_eq!(read(&path, 3).unwrap(), array);
        }
    }

    #[test]
    fn only_bytes_are_written() {
        let error = write(Path::new("unused"), &Literal::new(&[1], &[1i32])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unused: cannot hold s32[1]: IDX arrays written here are u8"
        );
    }
}
