//! TFRecord files: read from front to back ([`Reader`]) or record by record ([`Indexed`]), written ([`Writer`]), found in
//! folders ([`shards`]); and what is in the records of data sets, `tf.train.Example` ([`example`]).
//!
//! A record is its length (little-endian `u64`), a masked CRC-32C of those 8 bytes, its bytes, and a masked CRC-32C of them.
//! A file is records and nothing else, the whole of it gzipped or in zlib's format at times.
//!
//! Files are read, not mapped: a mapping needs `unsafe`, and kills the process when another one shortens the file.

pub mod example;
mod indexed;
mod reader;
pub mod shards;
mod wire;
mod writer;

pub use example::Example;
pub use indexed::Indexed;
pub use reader::Reader;
pub use writer::{Writer, write};

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::tf::table::masked;

/// Bytes before a record's data: length and checksum.
const HEADER_BYTES: usize = 12;
/// Bytes after a record's data: a checksum.
const FOOTER_BYTES: usize = 4;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As by gzip.
    Gzip,
    /// As by zlib.
    Zlib,
}

/// How to read files.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the file is compressed with; recognised by content if `None`.
    pub compression: Option<Compression>,
    /// Bound on the bytes of a record, which no memory is taken beyond.
    pub max_record_bytes: u32,
}

impl Default for Options {
    /// Compression by content; records of up to 256 MiB.
    fn default() -> Self {
        Options {
            compression: None,
            max_record_bytes: 1 << 28,
        }
    }
}

/// A record whose checksum was right.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The file it is from.
    pub path: &'a Path,
    /// Where it begins there, in the uncompressed file.
    pub offset: u64,
    /// Its data.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record as `tf.train.Example`.
    ///
    /// # Errors
    /// When it is none, with the record's place.
    pub fn example(&self) -> Result<Example<'a>> {
        Example::parse(self.bytes).map_err(|problem| self.error(problem))
    }

    /// What is wrong with this record, with its place.
    pub fn error(&self, problem: impl Into<Problem>) -> Error {
        Error::Record {
            path: self.path.into(),
            offset: self.offset,
            problem: problem.into(),
        }
    }
}

/// Why records cannot be read or written. Each message names the file and, where there is one, the byte in it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: byte {offset}: {source}", path.display())]
    Read {
        path: PathBuf,
        offset: u64,
        source: io::Error,
    },
    #[error("{}: record at byte {offset}: {problem}", path.display())]
    Record {
        path: PathBuf,
        offset: u64,
        problem: Problem,
    },
    #[error("{}: compressed, expected a plain TFRecord file: only those can be read in any order", path.display())]
    Compressed { path: PathBuf },
    #[error("{}: no file named {expected}", dir.display())]
    NoShards { dir: PathBuf, expected: String },
    #[error("{}: shard {missing} is missing: {found} of {count} are there", dir.display())]
    MissingShard {
        dir: PathBuf,
        missing: String,
        found: usize,
        count: usize,
    },
    #[error("{}: {first} and {second} are of different sets, expected one", dir.display())]
    MixedShards {
        dir: PathBuf,
        first: String,
        second: String,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }

    /// Whether only the content of one record is wrong: those after it can be read.
    pub fn is_of_one_record(&self) -> bool {
        use Problem::{Data, Example, Feature, Other};
        matches!(
            self,
            Error::Record {
                problem: Data { .. } | Example(_) | Feature(_) | Other(_),
                ..
            }
        )
    }
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // as above
pub enum Problem {
    #[error("{found} bytes are left, expected the {HEADER_BYTES} of a length and its checksum")]
    ShortHeader { found: usize },
    #[error("checksum of the length {found:08x}, expected {expected:08x}: not a TFRecord file, or damaged")]
    Length { found: u32, expected: u32 },
    #[error("length {found}, expected at most {limit}")]
    TooLong { found: u64, limit: u64 },
    #[error("{found} bytes are left after its length, expected {expected}")]
    ShortData { found: u64, expected: u64 },
    #[error("checksum of the data {found:08x}, expected {expected:08x}: damaged")]
    Data { found: u32, expected: u32 },
    #[error("not a tf.train.Example: {0}")]
    Example(#[from] example::Malformed),
    #[error("{0}")]
    Feature(#[from] example::FeatureError),
    /// Whatever a user of the record found, as in a picture.
    #[error("{0}")]
    Other(String),
}

/// This module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// The length that a header tells, if its checksum and size are right.
fn length(header: &[u8; HEADER_BYTES], options: &Options) -> std::result::Result<u64, Problem> {
    let [a, b, c, d, e, f, g, h, crc @ ..] = *header;
    let length = [a, b, c, d, e, f, g, h];
    let (found, expected) = (u32::from_le_bytes(crc), checksum(&length));
    let (length, limit) = (u64::from_le_bytes(length), options.max_record_bytes.into());
    match length {
        _ if found != expected => Err(Problem::Length { found, expected }),
        _ if length > limit => Err(Problem::TooLong { found: length, limit }),
        _ => Ok(length),
    }
}

/// The data of data and footer, if the checksum is right.
fn data(stored: &[u8]) -> std::result::Result<&[u8], Problem> {
    let Some((data, footer)) = stored.split_last_chunk::<FOOTER_BYTES>() else {
        return Err(Problem::ShortData {
            found: stored.len() as u64,
            expected: FOOTER_BYTES as u64,
        });
    };
    let (found, expected) = (u32::from_le_bytes(*footer), checksum(data));
    match found == expected {
        true => Ok(data),
        false => Err(Problem::Data { found, expected }),
    }
}

/// The checksum that files hold of `bytes`.
fn checksum(bytes: &[u8]) -> u32 {
    masked(crc32c::crc32c(bytes))
}

/// What a file that begins so is compressed with.
fn detect(start: &[u8]) -> Compression {
    let plain = start.first_chunk::<HEADER_BYTES>().is_some_and(|header| {
        length(
            header,
            &Options {
                compression: None,
                max_record_bytes: u32::MAX,
            },
        )
        .is_ok()
    });
    match start {
        _ if plain => Compression::None,
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        // Method 8, a window of up to 32 KiB, and a header that is a multiple of 31.
        &[method, flags, ..]
            if method & 15 == 8 && method >> 4 <= 7 && (256 * u32::from(method) + u32::from(flags)) % 31 == 0 =>
        {
            Compression::Zlib
        }
        _ => Compression::None,
    }
}
