//! The output folder of a run: `config.toml`, `metrics.jsonl`, `profile.jsonl`, `ckpt-<iteration>.safetensors`, and
//! `best.safetensors`, a link to one of those.
//!
//! `config.toml` is written first and deleted last, and every write is atomic. So at any moment a folder with a
//! `config.toml` holds a run that [`Mode::Resume`] can continue, and one without is free for [`Mode::Fresh`].

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use hlo::Literal;

use super::{Checkpoint, Error, Metadata, Result, atomic, file, foreign};
use crate::signals::{self, Undone};

/// The file with the configuration of a run.
pub const CONFIG: &str = "config.toml";
/// The metrics of a run.
pub const METRICS: &str = "metrics.jsonl";
const PROFILE: &str = "profile.jsonl";
/// The summary of a run that has ended.
pub const SUMMARY: &str = "summary.json";
/// Digests of a run that has ended.
pub const CERTIFICATE: &str = "certificate.json";
/// Link to the best checkpoint.
pub const BEST: &str = "best.safetensors";
const NEW_BEST: &str = ".best.safetensors.tmp";
/// The copy of an exported model.
const MODEL: &str = crate::exported::FILE;
/// Files of a run beside its configuration and checkpoints.
const OTHERS: [&str; 8] = [
    METRICS,
    PROFILE,
    BEST,
    MODEL,
    SUMMARY,
    CERTIFICATE,
    crate::topology::FILE,
    crate::report::events::FILE,
];
const LOCK: &str = ".lock";
const DEFAULT_KEEP: usize = 3;

/// How to treat a folder that already holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse it.
    Fresh,
    /// Continue it. Refuse a folder without a run.
    Resume,
    /// Start a new run. The old one stays until [`RunDir::clear`].
    Overwrite,
}

/// A run folder, locked against other processes until dropped, unless opened read-only.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    keep: usize,
    keep_every: Option<u64>,
    stored_config: Option<String>,
    /// Declared first, so that it is dropped before the next field.
    _held: Option<Held>,
    _undone: Option<Undone>,
}

impl RunDir {
    /// Opens the folder. Creates it if missing, except to resume.
    ///
    /// # Errors
    /// [`Error::Occupied`] or [`Error::NoRun`] depending on `mode`, [`Error::Locked`], or I/O.
    pub fn create(path: &Path, mode: Mode) -> Result<Self> {
        let found = not_a_folder(path);
        if let Some((path, found)) = found {
            return Err(Error::NoFolder { path, found });
        }
        refuse_missing(path, mode)?;
        let (held, undone) = signals::undone(|| Held::new(path), Held::release)?;
        refuse_occupied(path, mode)?;
        entries(path)?
            .iter()
            .filter(|entry| is_leftover(entry))
            .try_for_each(remove)?;
        Ok(RunDir {
            _held: Some(held),
            _undone: Some(undone),
            ..RunDir::opened(path, mode)?
        })
    }

    /// Opens the folder read-only, for a process that leaves writing and locking to another one.
    ///
    /// # Errors
    /// [`Error::NoRun`] depending on `mode`, or I/O.
    pub fn read_only(path: &Path, mode: Mode) -> Result<Self> {
        refuse_missing(path, mode)?;
        RunDir::opened(path, mode)
    }

    /// Opens the folder, which need not exist, read-only with the checks of [`RunDir::create`] except for the lock.
    ///
    /// # Errors
    /// [`Error::Occupied`] or [`Error::NoRun`] depending on `mode`, or I/O.
    pub fn preview(path: &Path, mode: Mode) -> Result<Self> {
        if path.exists() {
            refuse_occupied(path, mode)?;
        }
        RunDir::read_only(path, mode)
    }

    fn opened(path: &Path, mode: Mode) -> Result<Self> {
        let config = path.join(CONFIG);
        let read_config =
            || crate::files::read_text(&config, crate::config::MAX_CONFIG_BYTES).map_err(Error::io(&config));
        let stored_config = (mode == Mode::Resume).then(read_config).transpose()?;
        Ok(RunDir {
            path: path.into(),
            keep: DEFAULT_KEEP,
            keep_every: None,
            stored_config,
            _held: None,
            _undone: None,
        })
    }

    /// Path of the checkpoint after `iteration` iterations, which need not exist.
    pub fn checkpoint(&self, iteration: u64) -> PathBuf {
        self.path.join(format!("ckpt-{iteration}.safetensors"))
    }

    /// Sets how many of the newest checkpoints to keep after each save (at least 1, by default 3).
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.keep = checkpoints.max(1);
        self
    }

    /// Keeps checkpoints at multiples of `iterations` besides the newest.
    pub fn keep_every(mut self, iterations: Option<u64>) -> Self {
        self.keep_every = iterations;
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `config.toml` of the run being resumed, for comparison with the requested configuration.
    pub fn stored_config(&self) -> Option<&str> {
        self.stored_config.as_deref()
    }

    /// Deletes the files of the existing run and nothing else. Call it in [`Mode::Overwrite`] once the new run can
    /// start.
    ///
    /// # Errors
    /// I/O.
    pub fn clear(&self) -> Result<()> {
        let files = run_files(&self.path)?;
        let (config, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| path.ends_with(CONFIG));
        others.iter().chain(&config).try_for_each(remove)
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// [`Error::Save`]; the previous file is unchanged.
    pub fn write_config(&self, text: &str) -> Result<()> {
        write(&self.path.join(CONFIG), text.as_bytes())
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// [`Error::Save`]; the previous file is unchanged.
    pub fn write_summary(&self, text: &[u8]) -> Result<()> {
        write(&self.path.join(SUMMARY), text)
    }

    /// Removes `summary.json` and `certificate.json`, before a run goes on.
    ///
    /// # Errors
    /// I/O.
    pub fn forget_end(&self) -> Result<()> {
        let files = [SUMMARY, CERTIFICATE].map(|name| self.path.join(name));
        files
            .iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .try_for_each(remove)
    }

    /// Whether a process is using the run folder.
    ///
    /// # Errors
    /// I/O.
    pub fn is_locked(path: &Path) -> Result<bool> {
        let path = path.join(LOCK);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(Error::io(&path))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(Error::io(path)(source)),
        }
    }

    /// Copies the file of an exported model into the folder, unless it is that one.
    ///
    /// # Errors
    /// [`Error::Save`], or a file that cannot be read.
    pub fn copy_model(&self, from: &Path) -> Result<()> {
        let to = self.path.join(MODEL);
        let same = |a: &Path, b: &Path| Some(fs::canonicalize(a).ok()? == fs::canonicalize(b).ok()?);
        if same(from, &to) == Some(true) {
            return Ok(());
        }
        let mut file = crate::files::open(from).map_err(Error::io(from))?;
        let copied = atomic::write(&to, |out| io::copy(&mut file, out).map(drop));
        copied.map_err(|source| Error::Save {
            path: to.clone(),
            source,
        })
    }

    /// Saves `ckpt-<metadata.iteration>.safetensors`, points `best.safetensors` at the checkpoint of iteration `best`, then
    /// deletes the oldest checkpoints beyond the number to keep. Never deletes a newer one, the best one, or one at a multiple
    /// of [`RunDir::keep_every`].
    ///
    /// # Errors
    /// [`Error::Save`] with nothing changed on disk, or I/O if an old checkpoint cannot be deleted.
    pub fn save(&self, tensors: &BTreeMap<String, Literal>, metadata: &Metadata, best: Option<u64>) -> Result<PathBuf> {
        let path = self.checkpoint(metadata.iteration);
        file::save(&path, tensors, metadata)?;
        if let Some(best) = best {
            self.link_best(best)?;
        }
        let stays = |iteration| {
            let at_multiple = self.keep_every.is_some_and(|every| iteration % every == 0);
            at_multiple || best == Some(iteration)
        };
        let mut older = checkpoints(&self.path)?;
        older.retain(|&(iteration, _)| iteration < metadata.iteration && !stays(iteration));
        let surplus = older.len().saturating_sub(self.keep - 1);
        older[..surplus].iter().map(|(_, path)| path).try_for_each(remove)?;
        Ok(path)
    }

    /// Points `best.safetensors` at the checkpoint of this iteration, if that exists.
    fn link_best(&self, iteration: u64) -> Result<()> {
        let target = self.checkpoint(iteration);
        let (link, new) = (self.path.join(BEST), self.path.join(NEW_BEST));
        let name = target.file_name().unwrap_or_default();
        if !target.is_file() || fs::read_link(&link).is_ok_and(|old| old == name) {
            return Ok(());
        }
        // A process killed between the two calls below leaves it behind.
        let _ = fs::remove_file(&new);
        let linked = std::os::unix::fs::symlink(name, &new).and_then(|()| fs::rename(&new, &link));
        linked.map_err(|source| Error::Save { path: link, source })
    }

    /// Reads the records of `metrics.jsonl` up to `iterations` iterations, in order.
    ///
    /// # Errors
    /// I/O.
    pub fn records(&self, iterations: u64) -> Result<Vec<serde_json::Value>> {
        let path = self.path.join(METRICS);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.map_err(Error::io(&path))?,
        };
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        let done = lines.filter(|line| is_done(line, iterations));
        Ok(done.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Loads the newest checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::NewestDamaged`] if it cannot be loaded. The error names the newest sound one, but the user decides to
    /// go back.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut all = checkpoints(&self.path)?;
        let Some((_, newest)) = all.pop() else { return Ok(None) };
        file::load(&newest).map(Some).map_err(|newest| {
            let older = all.into_iter().rev().map(|(_, path)| path);
            Error::NewestDamaged {
                newest: Box::new(newest),
                previous: older.into_iter().find(|path| file::load(path).is_ok()),
            }
        })
    }

    /// Opens `metrics.jsonl` for appending after `iterations` iterations. Removes lines with a larger `"iteration"`,
    /// which a resumed run writes again, and a last line truncated by a crash.
    ///
    /// # Errors
    /// I/O.
    pub fn metrics(&self, iterations: u64) -> Result<File> {
        let path = self.path.join(METRICS);
        let old = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(Error::io(&path))?,
        };
        let kept: Vec<_> = old
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| is_done(line, iterations))
            .collect();
        let kept = kept.concat();
        if kept != old {
            write(&path, &kept)?;
        }
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(path))
    }

    /// Truncates `profile.jsonl`, which covers one session, and returns it with its path.
    ///
    /// # Errors
    /// I/O.
    pub fn profile(&self) -> Result<(PathBuf, File)> {
        let path = self.path.join(PROFILE);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok((path, file))
    }
}

/// Resolves a path to a checkpoint: the file itself, or the newest in a run folder. Takes no lock.
///
/// # Errors
/// [`Error::NoCheckpoint`] for a folder without checkpoints, or I/O.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    match checkpoints(path)?.pop() {
        Some((_, newest)) => Ok(newest),
        None => Err(foreign::tensorflow(path).unwrap_or_else(|| Error::NoCheckpoint { path: path.into() })),
    }
}

/// A locked run folder, created if missing. If no run has begun by the time it is dropped, the folder is restored to
/// its previous state.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// Folders created for it, innermost first.
    made: Vec<PathBuf>,
    _lock: File,
}

impl Held {
    fn new(path: &Path) -> Result<Self> {
        let absent = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<_> = path.ancestors().take_while(absent).map(Path::to_owned).collect();
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = lock(path).inspect_err(|_| remove_empty(&made))?;
        Ok(Held {
            path: path.to_owned(),
            made,
            _lock: lock,
        })
    }

    /// Cleanup to run when a signal ends the process.
    fn release(&self) -> impl FnOnce() + Send + use<> {
        let (path, made) = (self.path.clone(), self.made.clone());
        move || release(&path, &made)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        release(&self.path, &self.made);
    }
}

/// Removes the lock and the created folders, unless a run has begun. The caller still holds the lock.
fn release(path: &Path, made: &[PathBuf]) {
    if run_files(path).is_ok_and(|files| files.is_empty()) {
        // Failing to clean up is harmless.
        let _ = fs::remove_file(path.join(LOCK));
        remove_empty(made);
    }
}

fn remove_empty(folders: &[PathBuf]) {
    let _ = folders.iter().try_for_each(fs::remove_dir);
}

/// Describes the obstacle if `path` cannot be a folder: a file or a dangling link, at the path or above it.
fn not_a_folder(path: &Path) -> Option<(PathBuf, String)> {
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let found = path.ancestors().find(there).filter(|found| !found.is_dir())?;
    let what = match fs::read_link(found) {
        Ok(target) if !found.exists() => format!("a symbolic link to {}, which does not exist", target.display()),
        Ok(target) => format!("a symbolic link to {}, which is not a folder", target.display()),
        Err(_) if found.is_file() => "a file".to_owned(),
        Err(_) => "not a folder".to_owned(),
    };
    Some((found.to_owned(), what))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: dir.into() }),
            Err(TryLockError::Error(source)) => return Err(Error::io(path)(source)),
        }
        // A failed process removes its lock file; this lock may be on a removed file, which nobody else sees.
        let (ours, seen) = (file.metadata(), path.metadata());
        if ours.is_ok_and(|ours| seen.is_ok_and(|seen| (ours.dev(), ours.ino()) == (seen.dev(), seen.ino()))) {
            return Ok(file);
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    atomic::write(path, |out| out.write_all(content)).map_err(|source| Error::Save {
        path: path.into(),
        source,
    })
}

fn remove(path: &PathBuf) -> Result<()> {
    fs::remove_file(path).map_err(Error::io(path))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(Error::io(dir))
}

/// Lists `(iteration, path)` of each checkpoint in a run folder, sorted by iteration.
///
/// # Errors
/// I/O errors.
pub fn checkpoints(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let with_iteration = |path: PathBuf| Some((iteration(&path)?, path));
    let mut all: Vec<_> = entries(dir)?.into_iter().filter_map(with_iteration).collect();
    all.sort();
    Ok(all)
}

fn iteration(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix("ckpt-")?
        .strip_suffix(".safetensors")?
        .parse()
        .ok()
}

/// Fails if there is no run to resume.
fn refuse_missing(path: &Path, mode: Mode) -> Result<()> {
    match mode == Mode::Resume && !path.join(CONFIG).is_file() {
        true => Err(Error::NoRun { path: path.into() }),
        false => Ok(()),
    }
}

/// Fails if a new run would meet files of another one.
fn refuse_occupied(path: &Path, mode: Mode) -> Result<()> {
    let files = run_files(path)?;
    // Temporary files of earlier versions that were killed before `config.toml` existed.
    let nothing = |path: &PathBuf| path.ends_with(METRICS) && path.metadata().is_ok_and(|file| file.len() == 0);
    let first = files.first().filter(|_| !files.iter().all(nothing));
    if let (Mode::Fresh, Some(found)) = (mode, first) {
        let found = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(Error::Occupied {
            path: path.into(),
            found,
        });
    }
    Ok(())
}

/// Lists the files that mark a folder as a run folder, sorted.
fn run_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = entries(dir)?;
    let named = |path: &PathBuf| [CONFIG].iter().chain(&OTHERS).any(|name| path.ends_with(name));
    files.retain(|path| named(path) || iteration(path).is_some());
    files.sort();
    Ok(files)
}

/// Whether a file is a temporary file of ours, left by a process killed during a save.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ours = [
        ".ckpt-",
        ".config.toml.",
        ".metrics.jsonl.",
        ".best.",
        ".model.rigl.",
        ".summary.json.",
        ".certificate.json.",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix));
    ours && name.ends_with(atomic::TEMPORARY)
}

/// Whether a metrics line is complete and belongs to an iteration already done.
fn is_done(line: &[u8], iterations: u64) -> bool {
    #[derive(serde::Deserialize)]
    struct Line {
        iteration: u64,
    }
    line.ends_with(b"\n") && serde_json::from_slice::<Line>(line).map_or(true, |line| line.iteration <= iterations)
}

#[cfg(test)]
mod tests;
