//! Temporary folders that nothing leaves behind.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::signals::{self, Undone};

/// How their names end.
const SUFFIX: &str = ".tmp";

/// A folder that goes when it is dropped, and when a signal ends the process. What a killed process left goes when the next one
/// makes a folder of the same kind.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    /// Locked for as long as this process works on the folder. `None` where the system does not lock folders.
    _held: Option<File>,
    _undone: Undone,
}

impl Scratch {
    /// A new folder `<prefix><random>.tmp` with these permissions less the umask; those of this prefix that no process holds go.
    ///
    /// # Errors
    /// What the system reports of `parent`.
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
            // Another process may have swept it away before it was locked.
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

    /// Gives the folder a name of its own, under which it stays.
    ///
    /// # Errors
    /// What the system reports; the folder is removed then.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        fs::rename(self.path(), to)?;
        // Its name is gone, so there is nothing to remove.
        let _ = self.dir.keep();
        Ok(())
    }
}

/// Removes folders of this prefix that no process holds.
fn sweep(parent: &Path, prefix: &std::ffi::OsStr) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours = name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes());
        // An entry that another process has just removed is none.
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
        // What cannot be removed harms nobody.
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_processes_go_and_those_that_are_held_stay() {
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
