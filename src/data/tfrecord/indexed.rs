//! Random access to the records of a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::{Compression, Error, FOOTER_BYTES, HEADER_BYTES, Options, Problem, Record, Result, data, detect, length};
use crate::{cache, files};

/// Default limit of [`Scratch`]: 64 GiB.
const UNPACKED_BYTES: u64 = 1 << 36;

/// A TFRecord file with its record offsets, shared among threads.
///
/// A plain file is opened for every read. That is cheap compared with decoding a picture, and a data set may have more
/// files than a process may hold open. A compressed file is unpacked once, into a [`Scratch`].
#[derive(Debug)]
pub struct Indexed {
    path: PathBuf,
    /// Offset of each record, then the end of the last one.
    offsets: Vec<u64>,
    unpacked: Option<Unpacked>,
}

/// Position of a compressed file's unpacked content.
#[derive(Clone, Debug)]
struct Unpacked {
    file: Arc<File>,
    start: u64,
}

/// Storage for the content of compressed files: one unnamed temporary file in the cache folder. The system deletes it
/// when the process ends. One limit applies to all files together.
#[derive(Debug)]
pub struct Scratch {
    limit: u64,
    /// The temporary file, once created, and its length.
    file: Mutex<Option<(Arc<File>, u64)>>,
}

impl Default for Scratch {
    /// Storage of up to 64 GiB.
    fn default() -> Self {
        Scratch::new(UNPACKED_BYTES)
    }
}

impl Scratch {
    /// Storage of up to `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Scratch {
            limit,
            file: Mutex::default(),
        }
    }

    /// Appends everything from `input`. Returns its offset, its length, and the error that ended `input`, if any.
    fn unpack(&self, path: &Path, mut input: impl Read) -> Result<(Unpacked, u64, Option<io::Error>)> {
        let dir = cache::dir().unwrap_or_else(|_| std::env::temp_dir());
        let scratch = |source| Error::Scratch {
            dir: dir.clone(),
            source,
        };
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, end) = match &mut *held {
            Some(held) => held,
            none => none.insert((Arc::new(tempfile::tempfile_in(&dir).map_err(scratch)?), 0)),
        };
        let start = *end;
        let mut buffer = vec![0; 1 << 18];
        let failure = loop {
            match input.read(&mut buffer) {
                Ok(0) => break None,
                Ok(n) if *end + n as u64 > self.limit => {
                    let (path, limit) = (path.into(), self.limit);
                    return Err(Error::Unpacked { path, limit });
                }
                // Only appends use the file's own position; reads use offsets.
                Ok(n) => {
                    (&**file).write_all(&buffer[..n]).map_err(scratch)?;
                    *end += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        let file = Arc::clone(file);
        Ok((Unpacked { file, start }, *end - start, failure))
    }
}

impl Indexed {
    /// Opens a file and finds its records by their lengths, verifying the checksums of the lengths. Does not read the
    /// data.
    ///
    /// # Errors
    /// A file that cannot be read or ends within a record, a wrong checksum, a record longer than allowed, or a
    /// compressed file that exceeds the [`Scratch`].
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        match Self::open_sound(path, options, &Scratch::default())? {
            (_, Some(damage)) => Err(damage),
            (file, None) => Ok(file),
        }
    }

    /// As [`Indexed::open`], but at damage in a length or in compressed data it returns the records before it together
    /// with the error. Compressed files are unpacked into `scratch`.
    ///
    /// # Errors
    /// A file that cannot be read, or exceeds the scratch limit.
    pub fn open_sound(path: &Path, options: Options, scratch: &Scratch) -> Result<(Self, Option<Error>)> {
        let file = files::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let mut start = [0; HEADER_BYTES];
        let found = HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(HEADER_BYTES));
        read_at(&file, &mut start[..found], 0).map_err(Error::io(path))?;
        let compression = options.compression.unwrap_or_else(|| detect(&start[..found]));
        let packed = BufReader::new(&file);
        let (unpacked, bytes, failure) = match compression {
            Compression::None => (None, bytes, None),
            Compression::Gzip => scratch.unpack(path, MultiGzDecoder::new(packed)).map(some_first)?,
            Compression::Zlib => scratch.unpack(path, ZlibDecoder::new(packed)).map(some_first)?,
        };
        let (records, base) = match &unpacked {
            Some(unpacked) => (&*unpacked.file, unpacked.start),
            None => (&file, 0),
        };
        let (offsets, damage) = offsets(path, records, base, bytes, &options)?;
        // The unpacking error is the cause; a record cut short is its effect.
        let damage = failure
            .map(|source| Error::Read {
                path: path.into(),
                offset: bytes,
                source,
            })
            .or(damage);
        let path = path.into();
        Ok((
            Indexed {
                path,
                offsets,
                unpacked,
            },
            damage,
        ))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Total bytes of all records with their framing, uncompressed.
    pub fn stored_bytes(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Offset of record `index` in the uncompressed file.
    ///
    /// # Panics
    /// If `index` is not below [`Indexed::len`].
    pub fn offset(&self, index: usize) -> u64 {
        self.offsets[index]
    }

    /// Length of the data of record `index`, in bytes.
    ///
    /// # Panics
    /// As [`Indexed::offset`].
    pub fn bytes(&self, index: usize) -> u64 {
        self.offsets[index + 1] - self.offsets[index] - (HEADER_BYTES + FOOTER_BYTES) as u64
    }

    /// Reads record `index` into `buffer`, which grows if needed and should be reused.
    ///
    /// # Errors
    /// A file that cannot be read or was truncated, or a wrong checksum.
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
        let at = offset + HEADER_BYTES as u64;
        let read = match &self.unpacked {
            Some(unpacked) => read_at(&unpacked.file, buffer, unpacked.start + at),
            None => read_at(&files::open(path).map_err(Error::io(path))?, buffer, at),
        };
        read.map_err(|source| Error::Read {
            path: path.into(),
            offset,
            source,
        })?;
        let record = |bytes| Record { path, offset, bytes };
        data(buffer).map(record).map_err(|problem| record(&[]).error(problem))
    }
}

fn some_first<A, B, C>((a, b, c): (A, B, C)) -> (Option<A>, B, C) {
    (Some(a), b, c)
}

/// Finds record offsets in `bytes` bytes from `base`, then the end of the last record, and the fault of the next one,
/// if any.
fn offsets(path: &Path, file: &File, base: u64, bytes: u64, options: &Options) -> Result<(Vec<u64>, Option<Error>)> {
    let (mut offsets, mut offset) = (vec![0], 0);
    while offset < bytes {
        let mut header = [0; HEADER_BYTES];
        let found = HEADER_BYTES.min((bytes - offset).try_into().unwrap_or(HEADER_BYTES));
        read_at(file, &mut header[..found], base + offset).map_err(|source| Error::Read {
            path: path.into(),
            offset,
            source,
        })?;
        match stored(&header, found, bytes - offset, options) {
            Ok(stored) => offset += stored,
            Err(problem) => {
                let path = path.into();
                return Ok((offsets, Some(Error::Record { path, offset, problem })));
            }
        }
        offsets.push(offset);
    }
    Ok((offsets, None))
}

/// Distance from a header, of which `found` bytes were read, to the next one; `left` bytes of the file remain.
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

/// Reads `bytes` at `offset`, independent of other readers of the file.
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
