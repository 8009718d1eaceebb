//! Finds plugins: named by the user, installed as Python packages, in the cache, or fetched into it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pjrt::{DeviceKind, Plugin};
use sparse::names::Unknown;

use super::error::{Error, Result};
use super::fetch::fetch_for;
use super::packages::{Package, Purpose};
use super::trouble::explain;
use super::whole::{self, Trust};
use crate::scratch::Scratch;
use crate::{cache, child};

/// Environment variable with the path or package name of a plugin.
pub(super) const VARIABLE: &str = "RIGL_XLA_PLUGIN";

/// OpenMP threads of host functions spin for about ten microseconds before they sleep, about the time between two small
/// convolutions. If they sleep at once, the prediction of one picture by a WideResNet takes 1.5 times as long. More spinning
/// has no effect: XLA calls from several threads, each with its own helpers, and GCC's runtime limits spinning to 1000 rounds
/// if there are more threads than cores.
const WAITING: [(&str, &str); 2] = [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "1000")];

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
    /// The cache folder.
    Cache,
}

/// A possible location of a plugin.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Candidate {
    /// Kind of location.
    pub origin: Origin,
    /// The package, unless the user named a file.
    pub package: Option<&'static str>,
    /// The library.
    #[serde(serialize_with = "crate::report::path")]
    pub path: PathBuf,
    /// Whether there is an undamaged file.
    pub found: bool,
    /// Difference between the file and the package's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

impl Candidate {
    fn new(origin: Origin, package: &Package, path: PathBuf, found: Result<bool>) -> Result<Self> {
        let (found, damaged) = match found {
            Err(Error::Damaged { found, expected, .. }) => (false, Some(format!("{found}, expected {expected}"))),
            found => (found?, None),
        };
        Ok(Candidate {
            origin,
            package: Some(package.name),
            path,
            found,
            damaged,
        })
    }
}

/// Opens the plugin for a device. Searches in this order: `explicit` (a path or a package name), `$RIGL_XLA_PLUGIN` (the same),
/// installed Python packages, the cache. If there is none, fetches the device's default package into the cache and reports it.
///
/// # Errors
/// If the named plugin does not exist or load, or no plugin was found and none can be fetched.
pub fn open(device: DeviceKind, explicit: Option<&str>) -> Result<Plugin> {
    let path = locate(device, explicit, Purpose::Run)?;
    // Respect a policy that the user has set.
    let waiting = std::env::var_os(WAITING[0].0).map_or(&WAITING[..], |_| &[]);
    Plugin::load_with(&path, waiting).map_err(|error| explain(device, error.into()))
}

/// As [`open`], but only to compile for absent devices ([`Plugin::topology`]). Fetches only the dependencies for compiling, into
/// a separate folder. Must be the first plugin of the process.
///
/// # Errors
/// As [`open`].
pub fn open_compiler(device: DeviceKind, explicit: Option<&str>) -> Result<Plugin> {
    Ok(Plugin::load_compiler(&locate(device, explicit, Purpose::Compile)?)?)
}

/// The file of the plugin; fetches it if it is absent or damaged.
fn locate(device: DeviceKind, explicit: Option<&str>, purpose: Purpose) -> Result<PathBuf> {
    for candidate in search(device, explicit, Trust::Stamp)? {
        if let Some(damage) = &candidate.damaged {
            crate::report::note!("{}: damaged: {damage}; not loaded", candidate.path.display());
        }
        match (candidate.found, candidate.package) {
            (true, _) | (_, None) => return Ok(candidate.path),
            // Fetch a damaged package again instead of using another one.
            (false, Some(name)) if candidate.damaged.is_some() && candidate.origin == Origin::Cache => {
                return fetch_for(Package::named(name)?, purpose);
            }
            (false, Some(_)) => {}
        }
    }
    let named = named(explicit).filter(|(name, _)| !is_path(name));
    fetch_for(
        named.map_or_else(|| default_package(device), |(name, _)| Package::named(&name))?,
        purpose,
    )
}

/// The plugin that the user names, and where.
fn named(explicit: Option<&str>) -> Option<(String, Origin)> {
    let variable = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    explicit
        .map(|name| (name.to_owned(), Origin::Flag))
        .or_else(|| variable.map(|name| (name, Origin::Environment)))
}

fn default_package(device: DeviceKind) -> Result<&'static Package> {
    Package::of(device)
        .next()
        .map_or_else(|| Package::named(device.name()), Ok)
}

/// The locations that [`open`] searches, in order. A plugin that the user names is the only one. `trust`: whether to verify files
/// again.
///
/// # Errors
/// If the name is neither a path nor a package, or there is no cache folder.
pub fn search(device: DeviceKind, explicit: Option<&str>, trust: Trust) -> Result<Vec<Candidate>> {
    let packages: Vec<&'static Package> = match named(explicit) {
        None => Package::of(device).collect(),
        Some((name, origin)) if is_path(&name) => {
            let path = PathBuf::from(name);
            return Ok(vec![Candidate {
                origin,
                package: None,
                found: path.exists(),
                damaged: None,
                path,
            }]);
        }
        Some((name, origin)) => vec![Package::plugin(&name).map_err(|error| said_by(origin, error))?],
    };
    let mut candidates = Vec::new();
    for folder in python_folders() {
        for package in &packages {
            let path = folder.join(package.library);
            // List only existing files, not all combinations of folders and packages.
            if path.exists() {
                // The digest of another installed version is unknown.
                let same_size = path.metadata().is_ok_and(|m| Some(m.len()) == package.bytes);
                let checked = same_size.then(|| whole::check(package, &path, trust)).transpose();
                candidates.push(Candidate::new(Origin::Python, package, path, checked.map(|_| true))?);
            }
        }
    }
    for package in &packages {
        let path = cached_path(package)?;
        let found = match path.exists() {
            true => whole::check(package, &path, trust).map(|()| true),
            false => Ok(false),
        };
        candidates.push(Candidate::new(Origin::Cache, package, path, found)?);
    }
    Ok(candidates)
}

/// Names the environment variable if an unknown name comes from it.
fn said_by(origin: Origin, error: Error) -> Error {
    match (origin, error) {
        (Origin::Environment, Error::UnknownPackage(unknown)) => Error::UnknownPackage(Unknown {
            found: format!("{VARIABLE}={}", unknown.found),
            ..unknown
        }),
        (_, error) => error,
    }
}

/// Whether a name is a path: it has a separator, or is a file and not the name of a package.
fn is_path(name: &str) -> bool {
    name.contains(std::path::MAIN_SEPARATOR) || (Package::plugin(name).is_err() && Path::new(name).exists())
}

/// The folders from which [`child::python`] imports packages; none without Python.
fn python_folders() -> Vec<PathBuf> {
    const SCRIPT: &str = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.fsencode(p) for p in sys.path if p))";
    let run = || {
        let folder = Scratch::new(&cache::dir()?, ".python-".as_ref(), 0o700)?;
        child::output(Command::new(child::python()).args(["-c", SCRIPT]), folder.path())
    };
    let text = run().map(|output| output.stdout).unwrap_or_default();
    let folders = text.split(|&byte| byte == 0).filter(|path| !path.is_empty());
    folders
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .filter(|path| path.is_dir())
        .collect()
}

pub(super) fn cached_folder(package: &Package, purpose: Purpose) -> Result<PathBuf> {
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

/// The package's library in the cache. Reports and ignores a damaged one.
///
/// # Errors
/// If there is no cache folder, or the file cannot be read.
pub fn cached(package: &Package, trust: Trust) -> Result<Option<PathBuf>> {
    let path = cached_path(package)?;
    if !path.exists() {
        return Ok(None);
    }
    match whole::check(package, &path, trust) {
        Ok(()) => Ok(Some(path)),
        Err(damage @ Error::Damaged { .. }) => {
            crate::report::note!("{damage}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
