//! Sequential reader of TFRecord files.

use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::{Compression, Error, FOOTER_BYTES, HEADER_BYTES, Options, Problem, Record, Result, data, detect, length};
use crate::data::budget::RECORDS;
use crate::files;
use pictures::Permit;

/// Read size: the bytes are still in the processor's cache when their checksum is computed.
const READ_BYTES: usize = 1 << 18;

/// Reads the records of a file in order. Memory is at most twice the longest record, or [`Options::max_record_bytes`]
/// if a length is wrong, and grows only as content arrives.
pub struct Reader {
    path: PathBuf,
    input: Box<dyn Read + Send>,
    options: Options,
    /// Bytes read and not yet returned: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `buffer[start]` in the uncompressed file.
    offset: u64,
    /// No further records: at the end, or after a damaged length.
    over: bool,
    /// Permit for a large record in the buffer.
    permit: Option<Permit>,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let mut file = files::open(path).map_err(Error::io(path))?;
        let mut start = Vec::with_capacity(HEADER_BYTES);
        let read = (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut start);
        read.map_err(Error::io(path))?;
        let compression = options.compression.unwrap_or_else(|| detect(&start));
        let whole = Cursor::new(start).chain(file);
        Ok(match compression {
            Compression::None => Self::new(path, whole, options),
            Compression::Gzip => Self::new(path, MultiGzDecoder::new(BufReader::new(whole)), options),
            Compression::Zlib => Self::new(path, ZlibDecoder::new(BufReader::new(whole)), options),
        })
    }

    /// Reads records from an uncompressed source. `path` is for messages.
    pub fn new(path: &Path, input: impl Read + Send + 'static, options: Options) -> Self {
        Reader {
            path: path.into(),
            input: Box::new(input),
            options,
            buffer: vec![],
            start: 0,
            end: 0,
            offset: 0,
            over: false,
            permit: None,
        }
    }

    /// Returns the next record, or `None` at the end. Reading can continue after an error [of one
    /// record](Error::is_of_one_record), not after any other.
    ///
    /// # Errors
    /// A file that cannot be read or ends within a record, a wrong checksum, or a record longer than allowed.
    #[allow(clippy::should_implement_trait)] // a record borrows from the reader, which no `Iterator` can say
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        if self.over {
            return Ok(None);
        }
        self.free_large();
        // Reset once the record is known to be complete.
        self.over = true;
        let found = self.fill(HEADER_BYTES)?;
        if found == 0 {
            return Ok(None);
        }
        let header = self.buffer[self.start..self.end].first_chunk();
        let header = header.ok_or(Problem::ShortHeader { found });
        let length = header.and_then(|header| length(header, &self.options));
        let length = length.map_err(|problem| self.error(problem))?;
        let stored = HEADER_BYTES + length as usize + FOOTER_BYTES;
        self.permit = RECORDS.take(stored as u64);
        let found = self.fill(stored)?;
        if found < stored {
            return Err(self.error(Problem::ShortData {
                found: (found - HEADER_BYTES) as u64,
                expected: length + FOOTER_BYTES as u64,
            }));
        }
        self.over = false;
        let (start, offset) = (self.start, self.offset);
        self.start += stored;
        self.offset += stored as u64;
        let path = &self.path;
        match data(&self.buffer[start + HEADER_BYTES..start + stored]) {
            Ok(bytes) => Ok(Some(Record { path, offset, bytes })),
            Err(problem) => Err(Error::Record {
                path: path.clone(),
                offset,
                problem,
            }),
        }
    }

    /// Offset of the next record in the uncompressed file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn error(&self, problem: Problem) -> Error {
        Error::Record {
            path: self.path.clone(),
            offset: self.offset,
            problem,
        }
    }

    /// Reads until `wanted` bytes are buffered or the file ends. Returns the number buffered, at most `wanted`.
    fn fill(&mut self, wanted: usize) -> Result<usize> {
        while self.end - self.start < wanted {
            self.make_room(wanted);
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let (path, offset) = (self.path.clone(), self.offset + (self.end - self.start) as u64);
                    return Err(Error::Read { path, offset, source });
                }
            }
        }
        Ok(wanted.min(self.end - self.start))
    }

    /// Frees the memory of a large record, except for bytes already read of the next one.
    fn free_large(&mut self) {
        if self.permit.take().is_some() {
            self.buffer = self.buffer[self.start..self.end].to_vec();
            (self.start, self.end) = (0, self.buffer.len());
        }
    }

    /// Free space after `end`. The buffer at most doubles, so a false length cannot allocate more than the file
    /// justifies.
    fn make_room(&mut self, wanted: usize) {
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            let doubled = self.buffer.len() * 2;
            self.buffer.resize(doubled.clamp(READ_BYTES, wanted.max(READ_BYTES)), 0);
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
