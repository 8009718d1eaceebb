//! TFRecord files: sequential ([`Reader`]) and random access ([`Indexed`]), writing ([`Writer`]), discovery in folders
//! ([`shards`]), and the `tf.train.Example` messages in records ([`example`]).
//!
//! A record is its length (little-endian `u64`), a masked CRC-32C of those 8 bytes, its data, and a masked CRC-32C of
//! the data. A file consists of records only; some files are compressed as a whole, with gzip or zlib.
//!
//! Files are read, not mapped: mapping needs `unsafe`, and the process dies if another one truncates the file.

pub mod example;
mod indexed;
pub mod labelled;
mod reader;
pub mod shards;
mod wire;
mod writer;

pub use example::Example;
pub(in crate::data) use indexed::read_at;
pub use indexed::{Indexed, Scratch};
pub use reader::Reader;
pub use writer::{Writer, write};

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::tf::table::masked;
use crate::report::escape;

/// Bytes before a record's data: length and checksum.
const HEADER_BYTES: usize = 12;
/// Bytes after a record's data: checksum.
const FOOTER_BYTES: usize = 4;

/// Compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// gzip.
    Gzip,
    /// zlib.
    Zlib,
}

/// Options for reading.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Compression of the file; `None` detects it by content.
    pub compression: Option<Compression>,
    /// Maximum bytes of a record. No more memory is allocated.
    pub max_record_bytes: u32,
}

impl Default for Options {
    /// Detects compression; limits records to 128 MiB, as pictures have 20 MB at most.
    fn default() -> Self {
        Options {
            compression: None,
            max_record_bytes: 1 << 27,
        }
    }
}

/// A record with a verified checksum.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The file that holds it.
    pub path: &'a Path,
    /// Its offset in the uncompressed file.
    pub offset: u64,
    /// Its data.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses the record as `tf.train.Example`.
    ///
    /// # Errors
    /// A record that is not an example; the error has its file and offset.
    pub fn example(&self) -> Result<Example<'a>> {
        Example::parse(self.bytes).map_err(|problem| self.error(problem))
    }

    /// An error about this record, with its file and offset.
    pub fn error(&self, problem: impl Into<Problem>) -> Error {
        Error::Record {
            path: self.path.into(),
            offset: self.offset,
            problem: problem.into(),
        }
    }
}

/// Why records could not be read or written. Each message names the file and, if there is one, the offset.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: byte {offset}: {source}", escape::path(path))]
    Read {
        path: PathBuf,
        offset: u64,
        source: io::Error,
    },
    #[error("{}: record at byte {offset}: {problem}", escape::path(path))]
    Record {
        path: PathBuf,
        offset: u64,
        problem: Problem,
    },
    #[error(
        "{}: more than {limit} bytes when unpacked, with the compressed files before it; unpack the files (gunzip) to read \
         them in any order",
        escape::path(path)
    )]
    Unpacked { path: PathBuf, limit: u64 },
    #[error("a temporary file for unpacked records, in {}: {source}", escape::path(dir))]
    Scratch { dir: PathBuf, source: io::Error },
    #[error(
        "{}: no TFRecord files named {expected}-00000-of-00001, {expected}.tfrecord or the like, or in a folder {expected}{}",
        escape::path(dir),
        found_names(found)
    )]
    NoShards {
        dir: PathBuf,
        expected: &'static str,
        /// Names of the first files of other sets.
        found: Vec<String>,
    },
    #[error(
        "{}: {} and {} are the same shard, expected one of them",
        escape::path(dir),
        escape::name(first),
        escape::name(second)
    )]
    SameShard {
        dir: PathBuf,
        first: String,
        second: String,
    },
    #[error(
        "{}: a file has number {index} of '{stem}', expected numbers of {count} files",
        escape::path(dir)
    )]
    BeyondCount {
        dir: PathBuf,
        index: usize,
        stem: String,
        count: usize,
    },
    #[error("{}: shard {missing} is missing: {found} of {count} are there", escape::path(dir))]
    MissingShard {
        dir: PathBuf,
        missing: String,
        found: usize,
        count: usize,
    },
    #[error(
        "{}: {first} and {second} are of different sets, expected one; put each set into a folder of its own",
        escape::path(dir)
    )]
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

    /// Whether the fault is limited to one record, so that the following ones are readable.
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

/// Suffix of a message about missing files.
fn found_names(found: &[String]) -> String {
    match found {
        [] => String::new(),
        names => format!(
            "; found {}",
            names.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// A fault of a record.
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
    /// A fault found by the user of the record, for example in its picture.
    #[error("{0}")]
    Other(String),
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Decodes the length in a header after checking its checksum and size.
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

/// Splits data from footer after checking the checksum.
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

/// The masked CRC-32C of `bytes`.
fn checksum(bytes: &[u8]) -> u32 {
    masked(crc32c::crc32c(bytes))
}

/// Detects the compression by the first bytes of a file.
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
        // zlib: method 8, a window of up to 32 KiB, and a header that is a multiple of 31.
        &[method, flags, ..]
            if method & 15 == 8 && method >> 4 <= 7 && (256 * u32::from(method) + u32::from(flags)) % 31 == 0 =>
        {
            Compression::Zlib
        }
        _ => Compression::None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Records of various lengths, one longer than the read size.
    fn records() -> Vec<Vec<u8>> {
        let lengths = [0, 1, 5, 1000, 300_000, 3, 0, 700_000, 2];
        let record = |(i, length): (usize, usize)| (0..length).map(|at| ((at * (i + 1)) >> 3) as u8).collect();
        lengths.into_iter().enumerate().map(record).collect()
    }

    fn write_all(path: &Path, compression: Compression, records: &[Vec<u8>]) {
        write(path, compression, |out| {
            records.iter().try_for_each(|record| out.write(record))
        })
        .unwrap();
    }

    fn read_all(path: &Path, options: Options) -> Vec<(u64, Vec<u8>)> {
        let mut reader = Reader::open(path, options).unwrap();
        let mut all = vec![];
        while let Some(record) = reader.next().unwrap() {
            all.push((record.offset, record.bytes.to_vec()));
        }
        assert!(reader.next().unwrap().is_none());
        all
    }

    #[test]
    fn the_layout_is_the_published_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_all(&path, Compression::None, &[b"123456789".to_vec()]);
        // The checksum of these digits is CRC-32C's check value, e3069283.
        let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
        let want = [
            &[9, 0, 0, 0, 0, 0, 0, 0][..],
            &mask(crc32c::crc32c(&[9, 0, 0, 0, 0, 0, 0, 0])),
            b"123456789",
            &mask(0xe306_9283),
        ];
        assert_eq!(std::fs::read(&path).unwrap(), want.concat());
    }

    #[test]
    fn what_is_written_is_read_in_order_and_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let records = records();
        for compression in [Compression::None, Compression::Gzip, Compression::Zlib] {
            write_all(&path, compression, &records);
            let given = Options {
                compression: Some(compression),
                ..Options::default()
            };
            let read = read_all(&path, given);
            assert!(read.iter().map(|(_, bytes)| bytes).eq(&records), "{compression:?}");
            assert_eq!(read_all(&path, Options::default()), read, "{compression:?}, by content");
        }
        for compression in [Compression::None, Compression::Gzip, Compression::Zlib] {
            write_all(&path, compression, &records);
            let read = read_all(&path, Options::default());
            let indexed = Indexed::open(&path, Options::default()).unwrap();
            assert_eq!(indexed.len(), records.len());
            let mut buffer = vec![];
            for i in [8, 4, 0, 7, 2, 4, 1, 3, 5, 6] {
                assert_eq!(
                    (indexed.offset(i), indexed.bytes(i)),
                    (read[i].0, records[i].len() as u64)
                );
                let record = indexed.read(i, &mut buffer).unwrap();
                assert_eq!((record.offset, record.bytes), (read[i].0, &records[i][..]));
            }
        }
    }

    #[test]
    fn unpacks_compressed_files_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(2_000_000);
        for name in ["first", "second"] {
            let path = dir.path().join(name);
            write_all(&path, Compression::Gzip, &records());
            let indexed = Indexed::open_sound(&path, Options::default(), &scratch);
            match name {
                "first" => assert_eq!(indexed.unwrap().0.len(), records().len()),
                _ => {
                    let message = indexed.unwrap_err().to_string();
                    assert!(
                        message.contains("second: more than 2000000 bytes when unpacked"),
                        "{message}"
                    );
                }
            }
        }
    }

    #[test]
    fn keeps_records_before_damage_in_a_compressed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut records = records();
        // Noise does not compress, so the cut affects only the last record.
        let noise = crate::data::synthetic::generate(&[100_000], 2, 1, crate::data::Split::Train, 0);
        records.push(noise.images.bytes().to_vec());
        write_all(&path, Compression::Gzip, &records);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 1000);
        std::fs::write(&path, bytes).unwrap();
        let (indexed, damage) = Indexed::open_sound(&path, Options::default(), &Scratch::default()).unwrap();
        assert_eq!(indexed.len(), records.len() - 1);
        let message = damage.unwrap().to_string();
        assert!(message.contains("file: byte"), "{message}");
    }

    #[test]
    fn an_empty_file_has_no_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for compression in [Compression::None, Compression::Gzip, Compression::Zlib] {
            write_all(&path, compression, &[]);
            assert!(read_all(&path, Options::default()).is_empty());
        }
        std::fs::write(&path, []).unwrap();
        assert!(Indexed::open(&path, Options::default()).unwrap().is_empty());
    }

    #[test]
    fn after_damaged_data_the_next_record_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_all(
            &path,
            Compression::None,
            &[b"first".to_vec(), b"second".to_vec(), b"third".to_vec()],
        );
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[21 + 12] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().bytes, b"first");
        let error = reader.next().unwrap_err();
        assert!(error.is_of_one_record() && error.to_string().contains("record at byte 21: checksum of the data"));
        assert_eq!(reader.next().unwrap().unwrap().bytes, b"third");
        let indexed = Indexed::open(&path, Options::default()).unwrap();
        assert_eq!(indexed.read(1, &mut vec![]).unwrap_err().to_string(), error.to_string());
    }
}
