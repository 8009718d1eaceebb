//! Writer of TFRecord files.

use std::io::{self, Write};
use std::path::Path;

use flate2::write::{GzEncoder, ZlibEncoder};

use super::{Compression, Error, Result, checksum};
use crate::checkpoint::atomic;

/// Writes records.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Creates a writer to `out`.
    pub fn new(out: W) -> Self {
        Writer(out)
    }

    /// The output.
    pub fn get_ref(&self) -> &W {
        &self.0
    }

    /// Writes one record.
    ///
    /// # Errors
    /// I/O errors.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.0.write_all(&length)?;
        self.0.write_all(&checksum(&length).to_le_bytes())?;
        self.0.write_all(data)?;
        self.0.write_all(&checksum(data).to_le_bytes())
    }
}

/// Writes a file atomically; `records` passes the records to the writer.
///
/// # Errors
/// I/O errors, or those of `records`.
pub fn write(
    path: &Path,
    compression: Compression,
    records: impl FnOnce(&mut Writer<&mut dyn Write>) -> io::Result<()>,
) -> Result<()> {
    let level = flate2::Compression::default();
    atomic::write(path, |out| match compression {
        Compression::None => records(&mut Writer(out)),
        Compression::Gzip => {
            let mut out = GzEncoder::new(out, level);
            records(&mut Writer(&mut out))?;
            out.finish().map(drop)
        }
        Compression::Zlib => {
            let mut out = ZlibEncoder::new(out, level);
            records(&mut Writer(&mut out))?;
            out.finish().map(drop)
        }
    })
    .map_err(Error::io(path))
}
