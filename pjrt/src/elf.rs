//! Checks that a file is a complete shared library before it is loaded: loading a truncated one kills the process with SIGBUS.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of a 64-bit ELF header.
const HEADER_BYTES: usize = 64;

/// Rejects a missing file, a file that is not a 64-bit little-endian ELF library, and a truncated one. Does not check the formats
/// of other systems.
pub(super) fn check(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => Error::io(path)(e),
    })?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    let not_a_library = |reason: String| Error::NotALibrary {
        path: path.to_owned(),
        reason,
    };
    if !metadata.is_file() {
        return Err(not_a_library("it is not a file".into()));
    }
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let mut header = Vec::new();
    file.take(HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(Error::io(path))?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        let start = String::from_utf8_lossy(&header[..header.len().min(8)]).into_owned();
        return Err(not_a_library(format!(
            "it begins with {start:?}, expected a 64-bit ELF header"
        )));
    }
    let expected = if header.len() < HEADER_BYTES {
        HEADER_BYTES as u64
    } else {
        end_of_section_table(&header)
    };
    if metadata.len() < expected {
        return Err(Error::Damaged {
            path: path.to_owned(),
            found: format!("{} bytes", metadata.len()),
            expected: format!("at least {expected} bytes, as its header says"),
        });
    }
    Ok(())
}

/// End of the section header table, which linkers put last: `e_shoff + e_shentsize * e_shnum`.
fn end_of_section_table(header: &[u8]) -> u64 {
    let field = |at: usize, size: usize| {
        header[at..at + size]
            .iter()
            .rev()
            .fold(0, |n, &b| n << 8 | u64::from(b))
    };
    let (offset, entry_bytes, entries) = (field(0x28, 8), field(0x3a, 2), field(0x3c, 2));
    offset.saturating_add(entry_bytes * entries)
}
