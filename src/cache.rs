//! The folder for downloads.

use std::{env, fs, io, path::PathBuf};

/// The cache folder as an absolute path, created if absent: `$RIGL_XLA_CACHE`, else `$XDG_CACHE_HOME/rigl-xla`, else
/// `$HOME/.cache/rigl-xla`; an empty variable counts as unset.
///
/// # Errors
/// None of the three variables is set, or the folder cannot be created; the message names it.
pub fn dir() -> io::Result<PathBuf> {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = var("RIGL_XLA_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("rigl-xla")))
        .or_else(|| Some(var("HOME")?.join(".cache").join("rigl-xla")))
        .ok_or_else(|| io::Error::other("no cache folder: set RIGL_XLA_CACHE, XDG_CACHE_HOME or HOME"))?;
    // Other programs run in folders of their own.
    let dir = std::path::absolute(dir)?;
    fs::create_dir_all(&dir).map_err(|e| io::Error::new(e.kind(), format!("cache folder {}: {e}", dir.display())))?;
    Ok(dir)
}

/// Waits for the exclusive lock `<cache>/<name>.lock` and holds it until the file is dropped, so that two processes
/// do not fetch the same thing at once.
///
/// # Errors
/// As [`dir`], or the lock file cannot be opened or locked.
pub fn lock(name: &str) -> io::Result<fs::File> {
    let path = dir()?.join(format!("{name}.lock"));
    let open = || {
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|e: io::Error| io::Error::new(e.kind(), format!("lock file {}: {e}", path.display())))
}
