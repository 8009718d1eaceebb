//! Reads sections of a file in chunks and computes their checksums.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Size of a chunk, in bytes.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// The unread rest of a section. Several sections may share a file, each with its own position.
pub(super) struct Section<'a> {
    file: &'a File,
    position: u64,
    left: u64,
    chunk: Vec<u8>,
    used: usize,
    crc: u32,
}

impl<'a> Section<'a> {
    /// A section of `size` bytes at `offset`, read in chunks of at most `chunk_bytes`.
    pub fn new(file: &'a File, offset: u64, size: u64, chunk_bytes: usize) -> Self {
        let bytes = size.min(chunk_bytes as u64) as usize;
        Section {
            file,
            position: offset,
            left: size,
            chunk: vec![0; bytes],
            used: bytes,
            crc: 0,
        }
    }

    /// Copies the next `count` bytes, which must exist.
    pub fn copy(&mut self, mut count: u64, out: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while count > 0 {
            if self.used == self.chunk.len() {
                self.fill()?;
            }
            let rest = &self.chunk[self.used..];
            let given = &rest[..rest.len().min(usize::try_from(count).unwrap_or(usize::MAX))];
            out(given)?;
            self.used += given.len();
            count -= given.len() as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let size = self.left.min(self.chunk.len() as u64) as usize;
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.chunk.truncate(size);
        self.file.seek(SeekFrom::Start(self.position))?;
        self.file.read_exact(&mut self.chunk)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.chunk);
        self.position += size as u64;
        self.left -= size as u64;
        self.used = 0;
        Ok(())
    }

    /// CRC-32C of the bytes read so far; after the last copy, of the whole section.
    pub fn crc(&self) -> u32 {
        self.crc
    }
}

/// A writer that counts and checksums what passes through.
pub(super) struct Checked<W> {
    out: W,
    pub bytes: u64,
    pub crc: u32,
}

impl<W: Write> Checked<W> {
    pub fn new(out: W) -> Self {
        Checked { out, bytes: 0, crc: 0 }
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
