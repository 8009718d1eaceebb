//! The one folder for everything downloaded or compiled.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// The cache folder, created if need be: `$RIGL_XLA_CACHE`, else `$XDG_CACHE_HOME/rigl-xla`, else
/// `$HOME/.cache/rigl-xla`.
///
/// # Errors
/// When none of the three variables is set, or the folder cannot be made.
pub fn dir() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value: &OsString| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = set("RIGL_XLA_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("rigl-xla")))
        .or_else(|| Some(set("HOME")?.join(".cache/rigl-xla")))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "no cache folder: set RIGL_XLA_CACHE, XDG_CACHE_HOME or HOME",
            )
        })?;
    std::fs::create_dir_all(&dir)
        .map_err(|e| Error::new(e.kind(), format!("cannot make the cache folder {}: {e}", dir.display())))?;
    Ok(dir)
}

/// Waits for an exclusive lock against other processes; it is held until the file is dropped.
///
/// # Errors
/// When the lock file `<cache>/locks/<name>` cannot be made or locked.
pub fn lock(name: &str) -> Result<File> {
    let locks = dir()?.join("locks");
    std::fs::create_dir_all(&locks)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(locks.join(name))?;
    file.lock()?;
    Ok(file)
}
