//! Atomic and durable file writes: a file appears whole or not at all, and survives a power failure once written.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter},
    path::Path,
};

use crate::signals;

/// Writes `path` through a temporary file in the same folder: write, sync, rename over `path`, sync the folder. On
/// failure the temporary file is removed and the previous content of `path` stays.
///
/// Follows a symbolic link. Refuses to replace anything that is not a regular file (a device, a pipe, a folder).
pub(crate) fn write(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let real = if path.is_symlink() {
        fs::canonicalize(path)?
    } else {
        path.to_path_buf()
    };
    let path = real.as_path();
    if path.exists() && !path.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it exists and is not a regular file",
        ));
    }
    let dir = folder(path);
    if !dir.is_dir() {
        let reason = format!("there is no folder {}: make it first", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Default permissions of a new file; the umask applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let prefix = [".".as_ref(), path.file_name().unwrap_or_default(), ".".as_ref()].join(OsStr::new(""));
    builder.prefix(&prefix).suffix(TEMPORARY);
    let (temporary, _undone) = signals::temporary(|| builder.tempfile_in(dir))?;
    // A 1 MiB buffer: hundreds of small arrays take few writes.
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file().try_clone()?);
    content(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    sync_folder(dir)
}

/// Suffix of temporary files. A killed process leaves one behind.
pub(crate) const TEMPORARY: &str = ".tmp";

/// The folder that contains a file.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes a rename durable, if the system supports syncing folders.
pub(crate) fn sync_folder(dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, Unsupported};
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir)?.sync_all() {
        Err(e) if !matches!(e.kind(), InvalidInput | Unsupported) => Err(e),
        _ => Ok(()),
    }
}
