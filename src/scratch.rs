//! Temporary folders that are removed even if the process is killed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::signals::{self, Undone};

/// Suffix of their names.
const SUFFIX: &str = ".tmp";

/// A folder that is removed when it is dropped, or when a signal ends the process. If the process is killed, the next process that
/// makes a folder of the same kind removes it.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    /// Locked while this process uses the folder. `None` if the system cannot lock folders.
    _held: Option<File>,
    _undone: Undone,
}

impl Scratch {
    /// Creates a folder `<prefix><random>.tmp` with these permissions (minus the umask), and removes those of the same prefix
    /// that no process holds.
    ///
    /// # Errors
    /// I/O errors in `parent`.
    pub fn new(parent: &Path, prefix: &std::ffi::OsStr, mode: u32) -> io::Result<Self> {
        sweep(parent, prefix)?;
        loop {
            let mut builder = tempfile::Builder::new();
            builder
                .permissions(Permissions::from_mode(mode))
                .prefix(prefix)
                .suffix(SUFFIX);
            let (dir, undone) = signals::temporary(|| builder.tempdir_in(parent))?;
            let held = File::open(dir.path()).ok().filter(|dir| dir.lock().is_ok());
            // Another process may have removed it before it was locked.
            if dir.path().is_dir() {
                return Ok(Scratch {
                    dir,
                    _held: held,
                    _undone: undone,
                });
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Renames the folder and keeps it.
    ///
    /// # Errors
    /// I/O errors; the folder is then removed.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        fs::rename(self.path(), to)?;
        // The old name is gone, so there is nothing to remove.
        let _ = self.dir.keep();
        Ok(())
    }
}

/// Removes folders with this prefix that no process holds.
fn sweep(parent: &Path, prefix: &std::ffi::OsStr) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours = name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes());
        // Another process may have just removed the entry.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if ours && is_dir {
            remove_unheld(&entry.path());
        }
    }
    Ok(())
}

/// Removes a folder unless a process holds it.
fn remove_unheld(path: &Path) {
    let held = File::open(path);
    if held.as_ref().is_ok_and(|dir| dir.try_lock().is_ok()) {
        // A folder that cannot be removed does no harm.
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn removes_folders_of_dead_processes_and_keeps_held_ones() {
        let parent = tempfile::tempdir().unwrap();
        for name in [".set.dead.tmp", ".set.note", ".other.dead.tmp"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        fs::write(parent.path().join(".set.dead.tmp/train-00000-of-00001"), "half").unwrap();
        let [first, second] = [0, 1].map(|_| Scratch::new(parent.path(), ".set.".as_ref(), 0o777).unwrap());
        assert!(first.path().exists() && second.path().exists());
        first.rename(&parent.path().join("set")).unwrap();
        drop(second);
        let names = fs::read_dir(parent.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".other.dead.tmp", ".set.note", "set"]);
    }
}
