//! Compiled programs on disk, so that a second start compiles nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pjrt::{Client, CompileOptions, Executable};
use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use crate::files::hex;
use crate::signals;

/// A folder of serialised executables, named by the digest of everything they depend on. Evicts the least recently used.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
    limit_bytes: u64,
}

/// Outcome of a cached compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Loaded from the cache.
    Hit,
    /// Compiled and saved.
    Miss,
    /// The entry did not load, for this reason; compiled and replaced.
    Damaged(String),
    /// Compiled, but not saved, for this reason.
    NotSaved(String),
}

impl Cache {
    /// Default limit of the folder's size: 2 GiB.
    pub const LIMIT_BYTES: u64 = 2 << 30;

    /// The program's own cache: `executables` in [`crate::cache::dir`].
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open() -> Result<Cache> {
        let dir = crate::cache::dir().map_err(Error::io(Path::new("cache folder")))?;
        Cache::in_dir(&dir.join("executables"), Cache::LIMIT_BYTES)
    }

    /// Opens a cache in this folder, of at most `limit_bytes`.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn in_dir(dir: &Path, limit_bytes: u64) -> Result<Cache> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        Ok(Cache {
            dir: dir.to_owned(),
            limit_bytes,
        })
    }

    /// The file for a program compiled with these options by this client.
    fn entry(&self, client: &Client, program: &[u8], options: &CompileOptions) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        for part in [program, &options.to_proto(), identity(client)?.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(self.dir.join(hex(&hash.finalize())))
    }

    /// Writes an entry atomically, then evicts old ones.
    fn save(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let (mut file, _undone) = signals::temporary(|| tempfile::NamedTempFile::new_in(&self.dir))?;
        file.write_all(bytes)?;
        file.persist(path)?;
        self.evict(path)
    }

    fn evict(&self, keep: &Path) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)?.flatten() {
            // An entry may be gone already: another process makes room too.
            let Ok(metadata) = entry.metadata() else { continue };
            entries.push((
                metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                metadata.len(),
                entry.path(),
            ));
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= self.limit_bytes {
                break;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
        Ok(())
    }

    /// Compiles a program, or loads it if the cache has it for the same options, build of the plugin and devices. Replaces damaged
    /// entries. Succeeds even if the cache cannot be written.
    ///
    /// # Errors
    /// Errors of the compiler.
    pub fn compile(
        &self,
        client: &Client,
        hlo_module_proto: &[u8],
        options: &CompileOptions,
    ) -> Result<(Executable, CacheOutcome)> {
        let path = self.entry(client, hlo_module_proto, options)?;
        if let Some(Ok(executable)) = load(client, &path) {
            return Ok((executable, CacheOutcome::Hit));
        }
        let _lock = Lock::wait(&path);
        let damage = match load(client, &path) {
            Some(Ok(executable)) => return Ok((executable, CacheOutcome::Hit)),
            Some(Err(damage)) => Some(damage.to_string()),
            None => None,
        };
        let executable = client.compile(hlo_module_proto, options)?;
        let saved = executable
            .compiled()
            .serialize()
            .map_err(Error::from)
            .and_then(|bytes| self.save(&path, &bytes).map_err(Error::io(&path)));
        let outcome = match (saved, damage) {
            (Err(e), _) => CacheOutcome::NotSaved(e.to_string()),
            (Ok(()), Some(why)) => CacheOutcome::Damaged(why),
            (Ok(()), None) => CacheOutcome::Miss,
        };
        Ok((executable, outcome))
    }
}

/// Loads an entry; `None` if there is none.
fn load(client: &Client, path: &Path) -> Option<pjrt::Result<Executable>> {
    let executable = client.deserialize(&fs::read(path).ok()?);
    if executable.is_ok() {
        // Marks the entry as used; where this fails it is only evicted sooner.
        let _ = File::options()
            .append(true)
            .open(path)
            .and_then(|f| f.set_modified(SystemTime::now()));
    }
    Some(executable)
}

/// Everything that a compiled program depends on besides graph and options: the plugin's build, the platform, its devices, and
/// for CPU programs the processor's model, features and number of cores.
fn identity(client: &Client) -> Result<String> {
    let kinds: Vec<String> = client
        .devices()?
        .into_iter()
        .map(|d| format!("{}:{}", d.id, d.kind))
        .collect();
    let parts = [
        client.plugin().fingerprint()?.to_owned(),
        client.platform_name()?,
        client.platform_version()?,
        kinds.join(","),
        processor(),
    ];
    Ok(parts.join("\n"))
}

/// Held by the process that compiles an entry, so that others wait for it instead of compiling the same program. Where locks fail,
/// each compiles.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn wait(entry: &Path) -> Option<Self> {
        let path = entry.with_extension("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .ok()?;
        file.lock().ok()?;
        Some(Lock { path, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Waiting processes have the file open already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Model and features of the first processor, and the number of cores.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let stable = |line: &&str| {
        ["model name", "flags", "Features", "CPU part"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let lines: Vec<&str> = first.lines().filter(stable).collect();
    let cores = crate::threads::cores();
    format!("{} {cores}\n{}", std::env::consts::ARCH, lines.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn evicts_the_oldest_entries() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path(), 25).unwrap();
        for (age_s, name) in [(300, "old"), (200, "middle"), (100, "young")] {
            let path = dir.path().join(name);
            cache.save(&path, &[0; 10]).unwrap();
            let then = SystemTime::now() - std::time::Duration::from_secs(age_s);
            if let Ok(file) = File::options().append(true).open(&path) {
                file.set_modified(then).unwrap();
            }
        }
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["middle", "young"]);
    }
}
