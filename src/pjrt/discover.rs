//! Finding a plugin: named by the user, installed as a Python package, in our cache, or fetched into it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{Error, Result};
use super::fetch::fetch_for;
use super::packages::{DeviceKind, Package, Purpose};
use super::plugin::Plugin;
use super::whole::{self, Trust};
use crate::scratch::Scratch;
use crate::{cache, child};
use sparse::names::Unknown;

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
    #[serde(serialize_with = "crate::report::path")]
    pub path: PathBuf,
    /// True when there is a file, not damaged.
    pub found: bool,
    /// How the file differs from the package's.
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

/// Opens the plugin for a device. Order: `explicit` (a path or a package name), `$RIGL_XLA_PLUGIN` (the same), installed
/// Python packages, our cache; then the device's default package is fetched into the cache, with a note on standard error.
///
/// # Errors
/// If what was named does not exist or does not load, or when nothing was found and nothing can be fetched.
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

/// The plugin's file, fetched where there is none or a damaged one.
fn locate(device: DeviceKind, explicit: Option<&str>, purpose: Purpose) -> Result<PathBuf> {
    for candidate in search(device, explicit, Trust::Stamp)? {
        if let Some(damage) = &candidate.damaged {
            crate::report::note!("{}: damaged: {damage}; not loaded", candidate.path.display());
        }
        match (candidate.found, candidate.package) {
            (true, _) | (_, None) => return Ok(candidate.path),
            // Replaced, not passed over for another package.
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

/// What the user names, and where.
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

/// Every place where [`open`] looks, in its order; what the user names leaves no other choice. `trust`: whether files are read
/// that were read before.
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
            // Only what is there: the product of folders and packages would say nothing more.
            if path.exists() {
                // Another version may be installed, whose digest is not known.
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

/// A path has a separator, or names a file and no package: a file of the working directory does not take a package's place.
fn is_path(name: &str) -> bool {
    name.contains(std::path::MAIN_SEPARATOR) || (Package::plugin(name).is_err() && Path::new(name).exists())
}

/// The folders that `python3` imports packages from; none where there is no Python.
fn python_folders() -> Vec<PathBuf> {
    const SCRIPT: &str = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(os.fsencode(p) for p in sys.path if p))";
    let run = || {
        let folder = Scratch::new(&cache::dir()?, ".python-".as_ref(), 0o700)?;
        child::output(Command::new("python3").args(["-c", SCRIPT]), folder.path())
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

/// The package's library in our cache, if it is there; a damaged one is not, which is noted.
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
