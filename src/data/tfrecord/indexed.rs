//! A file's records in any order.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Compression, Error, FOOTER_BYTES, HEADER_BYTES, Options, Problem, Record, Result, data, detect, length};

/// A plain TFRecord file and where its records are, for threads to share.
///
/// It is opened for each record anew, which costs little beside a picture: a data set may have more files than a process may
/// have open.
#[derive(Debug)]
pub struct Indexed {
    path: PathBuf,
    /// Where each record begins, and at last the end of the last one.
    offsets: Vec<u64>,
}

impl Indexed {
    /// Opens a file and finds its records by their lengths, whose checksums are verified; their data are not read yet.
    ///
    /// # Errors
    /// A compressed file, one that cannot be read or ends within a record, a wrong checksum, or a record longer than allowed.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        match Self::open_sound(path, options)? {
            (_, Some(damage)) => Err(damage),
            (file, None) => Ok(file),
        }
    }

    /// As [`Indexed::open`], but where a length is damaged the records before it are found, and the error is beside them.
    ///
    /// # Errors
    /// A compressed file, or one that cannot be read.
    pub fn open_sound(path: &Path, options: Options) -> Result<(Self, Option<Error>)> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let (mut offsets, mut offset, mut damage) = (vec![0], 0, None);
        while offset < bytes {
            let mut header = [0; HEADER_BYTES];
            let found = HEADER_BYTES.min((bytes - offset).try_into().unwrap_or(HEADER_BYTES));
            read_at(&file, &mut header[..found], offset).map_err(|source| Error::Read {
                path: path.into(),
                offset,
                source,
            })?;
            if offset == 0 && detect(&header[..found]) != Compression::None {
                return Err(Error::Compressed { path: path.into() });
            }
            match stored(&header, found, bytes - offset, &options) {
                Ok(stored) => offset += stored,
                Err(problem) => {
                    let path = path.into();
                    damage = Some(Error::Record { path, offset, problem });
                    break;
                }
            }
            offsets.push(offset);
        }
        let path = path.into();
        Ok((Indexed { path, offsets }, damage))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where record `index` begins in the file.
    ///
    /// # Panics
    /// If `index` is not below [`Indexed::len`].
    pub fn offset(&self, index: usize) -> u64 {
        self.offsets[index]
    }

    /// Bytes of the data of record `index`.
    ///
    /// # Panics
    /// As [`Indexed::offset`].
    pub fn bytes(&self, index: usize) -> u64 {
        self.offsets[index + 1] - self.offsets[index] - (HEADER_BYTES + FOOTER_BYTES) as u64
    }

    /// Reads record `index` into `buffer`, which is grown where that is needed and had better be used again.
    ///
    /// # Errors
    /// A file that cannot be read or was shortened, or a wrong checksum.
    ///
    /// # Panics
    /// As [`Indexed::offset`].
    pub fn read<'a>(&'a self, index: usize, buffer: &'a mut Vec<u8>) -> Result<Record<'a>> {
        let (path, offset) = (self.path.as_path(), self.offsets[index]);
        let stored = self.bytes(index) as usize + FOOTER_BYTES;
        if buffer.len() < stored {
            buffer.resize(stored, 0);
        }
        let buffer = &mut buffer[..stored];
        let file = File::open(path).map_err(Error::io(path))?;
        read_at(&file, buffer, offset + HEADER_BYTES as u64).map_err(|source| Error::Read {
            path: path.into(),
            offset,
            source,
        })?;
        let record = |bytes| Record { path, offset, bytes };
        data(buffer).map(record).map_err(|problem| record(&[]).error(problem))
    }
}

/// Bytes from the header, of which `found` were read, to the next one, where `left` bytes are left in the file.
fn stored(
    header: &[u8; HEADER_BYTES],
    found: usize,
    left: u64,
    options: &Options,
) -> std::result::Result<u64, Problem> {
    if found < HEADER_BYTES {
        return Err(Problem::ShortHeader { found });
    }
    let expected = length(header, options)?.saturating_add(FOOTER_BYTES as u64);
    match left - HEADER_BYTES as u64 {
        found if found < expected => Err(Problem::ShortData { found, expected }),
        _ => Ok(HEADER_BYTES as u64 + expected),
    }
}

/// Fills `bytes` from `offset` on, wherever others read the file.
#[cfg(unix)]
pub(in crate::data) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(in crate::data) fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let read = file.seek_read(bytes, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}
