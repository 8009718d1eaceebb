//! Opens and reads untrusted files: only regular ones, up to a size limit.

use std::fmt::Write;
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Opens a regular file for reading. Refuses anything else before opening it: opening a FIFO waits for a writer, and a device such
/// as `/dev/zero` has no end.
///
/// # Errors
/// I/O errors, and files that are not regular.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => {
            let message = format!("a {}, expected a regular file", name(kind));
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and a file with more bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = vec![];
    // The length that the system reports may be wrong (`/proc`) or grow: the bound holds for what is read.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        false => Ok(bytes),
        true => {
            let found = fs::metadata(path)?.len().max(bytes.len() as u64);
            let message = format!("{found} bytes, expected at most {limit}");
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

/// Reads a text file of at most `limit` bytes in UTF-8.
///
/// # Errors
/// As [`read`], and text that is not UTF-8; the message has the position of the first invalid byte.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("byte {at} is not UTF-8, expected a text file in UTF-8");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// SHA-256 of a regular file, in hexadecimal.
///
/// # Errors
/// As [`open`], and I/O errors.
pub fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut block) = (open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The kind of a file that is not regular.
pub(crate) fn name(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let special = [
            (kind.is_fifo(), "FIFO (named pipe)"),
            (kind.is_socket(), "socket"),
            (kind.is_char_device(), "character device"),
            (kind.is_block_device(), "block device"),
        ];
        if let Some((_, name)) = special.into_iter().find(|(is, _)| *is) {
            return name;
        }
    }
    if kind.is_dir() { "folder" } else { "special file" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"abc");
        assert_eq!(read_text(&path, 3).unwrap(), "abc");
        let message = read(&path, 2).unwrap_err().to_string();
        assert_eq!(message, "3 bytes, expected at most 2");
        fs::write(&path, b"ab\xff").unwrap();
        let message = read_text(&path, 3).unwrap_err().to_string();
        assert!(message.starts_with("byte 2 is not UTF-8"), "{message}");
    }

    #[test]
    #[cfg(unix)]
    fn refuses_special_files() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let message = |path: &Path| open(path).unwrap_err().to_string();
        assert_eq!(message(&fifo), "a FIFO (named pipe), expected a regular file");
        assert_eq!(
            message(Path::new("/dev/zero")),
            "a character device, expected a regular file"
        );
        assert_eq!(message(dir.path()), "a folder, expected a regular file");
    }
}
