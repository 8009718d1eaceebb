//! The folder that a set is written into before it appears.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

use super::{Error, Result};
use crate::checkpoint::atomic;

/// A hidden folder beside the one that it becomes; removed when it is dropped before.
pub(super) struct Staging {
    dir: TempDir,
    /// Locked for as long as this process works on the folder. `None` where the system does not open folders.
    _held: Option<File>,
}

impl Staging {
    /// A new one for `output`. What processes left that were killed at the same output goes.
    pub(super) fn new(output: &Path) -> Result<Self> {
        let name = output
            .file_name()
            .ok_or_else(|| Error::Exists { path: output.into() })?;
        let parent = atomic::folder(output);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        sweep(parent, &prefix).map_err(Error::io(parent))?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As for any folder that is created; the umask is applied to it.
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let builder = builder.prefix(&prefix).suffix(atomic::TEMPORARY);
        let dir = builder.tempdir_in(parent).map_err(Error::io(parent))?;
        let held = File::open(dir.path()).ok().filter(|dir| dir.lock().is_ok());
        Ok(Staging { dir, _held: held })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the folder its name.
    pub(super) fn finish(self, output: &Path) -> Result<()> {
        fs::rename(self.path(), output).map_err(Error::io(output))?;
        // Its name is gone, so there is nothing to remove.
        let _ = self.dir.keep();
        let parent = atomic::folder(output);
        atomic::sync_folder(parent).map_err(Error::io(parent))
    }
}

/// Removes folders of this kind that no process holds.
fn sweep(parent: &Path, prefix: &str) -> std::io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(prefix) && name.ends_with(atomic::TEMPORARY) && entry.file_type()?.is_dir();
        if ours && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            // What cannot be removed harms nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_others_hold_stays() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("set");
        for name in [".set.dead.tmp", ".set.note", ".other.dead.tmp"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        fs::write(parent.path().join(".set.dead.tmp/train-00000-of-00001"), "half").unwrap();
        let [first, second] = [0, 1].map(|_| Staging::new(&output).unwrap());
        assert!(first.path().exists() && second.path().exists());
        first.finish(&output).unwrap();
        drop(second);
        let names = fs::read_dir(parent.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".other.dead.tmp", ".set.note", "set"]);
    }
}
