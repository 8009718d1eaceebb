//! Files that appear whole or not at all, and survive a power failure once reported as written.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter},
    path::Path,
};

use crate::signals;

/// Writes `path` through a temporary file in the same folder: written, synced, renamed over `path`, folder synced.
/// When anything fails, the temporary file is removed and what `path` held before stays.
///
/// A symbolic link is followed; what exists and is no regular file (a device, a pipe, a folder) is refused, not replaced.
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
        // As for any file that is created; the umask is applied to it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let prefix = [".".as_ref(), path.file_name().unwrap_or_default(), ".".as_ref()].join(OsStr::new(""));
    builder.prefix(&prefix).suffix(TEMPORARY);
    let (temporary, _undone) = signals::temporary(|| builder.tempfile_in(dir))?;
    // 1 MiB: state of hundreds of small arrays becomes few writes.
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file().try_clone()?);
    content(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    sync_folder(dir)
}

/// How the names of temporary files end; a killed process leaves one behind.
pub(crate) const TEMPORARY: &str = ".tmp";

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes the rename itself durable, where the system knows how to.
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
