//! Verifies that a library is exactly the one of its package; a damaged one would crash the process that loads it.
//!
//! Reading 250 MB at each start would take a fifth of the start. So a stamp in the cache stores the digest with the file's size,
//! path, modification time and change time; programs cannot set the latter. If any of these differs the file is read again.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::packages::Package;
use crate::cache;
use crate::checkpoint::atomic;
use crate::files::{self, hex};

/// Source of the digest of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The stamp, if the file has not changed since.
    Stamp,
    /// The file itself.
    Nothing,
}

/// A digest, with the metadata of the file at that time.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

impl Stamp {
    fn new(of: &Metadata, sha256: String) -> Self {
        Stamp {
            bytes: of.len(),
            device: of.dev(),
            inode: of.ino(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
            sha256,
        }
    }
}

/// Compares a library with its package by size and digest. Without a pinned digest, compares with the first reading.
///
/// # Errors
/// [`Error::Damaged`], or if the file cannot be read.
pub(super) fn check(package: &Package, path: &Path, trust: Trust) -> Result<()> {
    // Read metadata before the digest, so that a concurrent change invalidates the stamp.
    let metadata = path.metadata().map_err(Error::io(path))?;
    if let Some(expected) = package.bytes.filter(|&bytes| bytes != metadata.len()) {
        return Err(Error::Damaged {
            path: path.to_owned(),
            found: format!("{} bytes", metadata.len()),
            expected: format!("{expected} ({})", package.requirement()),
        });
    }
    let place = place(path).ok();
    let text = place.as_ref().and_then(|place| fs::read(place).ok());
    let stamp = text.and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    let expected = package.sha256.or(stamp.as_ref().map(|stamp| stamp.sha256.as_str()));
    if trust == Trust::Stamp
        && let (Some(stamp), Some(expected)) = (&stamp, expected)
        && *stamp == Stamp::new(&metadata, expected.to_owned())
    {
        return Ok(());
    }
    let found = digest(path)?;
    if let Some(expected) = expected {
        compare(package, path, &found, expected).inspect_err(|_| forget(package, place.as_deref()))?;
    }
    // If the stamp cannot be written the file is read again next time.
    if let (Some(place), Ok(text)) = (place, serde_json::to_vec(&Stamp::new(&metadata, found))) {
        let _ = atomic::write(&place, |out| std::io::Write::write_all(out, &text));
    }
    Ok(())
}

/// Removes the stamp, so that the file is read again. For a package without a pinned digest it is the only reference.
fn forget(package: &Package, stamp: Option<&Path>) {
    if let (Some(_), Some(stamp)) = (package.sha256, stamp) {
        let _ = fs::remove_file(stamp);
    }
}

/// Compares a file with the package's pinned digest; a package without one always passes.
///
/// # Errors
/// If the file cannot be read or its digest differs.
pub fn verify(package: &Package, path: &Path) -> Result<()> {
    let Some(expected) = package.sha256 else { return Ok(()) };
    compare(package, path, &digest(path)?, expected)
}

fn compare(package: &Package, path: &Path, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Damaged {
        path: path.to_owned(),
        found: format!("SHA-256 {found}"),
        expected: format!("{expected} ({})", package.requirement()),
    })
}

fn digest(path: &Path) -> Result<String> {
    files::sha256(path).map_err(Error::io(path))
}

/// Path of a library's stamp.
fn place(path: &Path) -> std::io::Result<PathBuf> {
    let folder = cache::dir()?.join("verified");
    fs::create_dir_all(&folder)?;
    let name = hex(&Sha256::digest(path.canonicalize()?.as_os_str().as_encoded_bytes()));
    Ok(folder.join(format!("{}.json", &name[..32])))
}
