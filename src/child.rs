//! Runs other programs: Python, pip, npm, apt-get, dpkg-deb.
//!
//! The user's working folder may contain untrusted files, so a child starts in a folder of its own: Python looks for modules in the
//! working folder, pip and npm for configuration, and relative entries of `PATH` and `PYTHONPATH` start there.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::signals::{self, Undone};

/// The Python of the environment that this program is installed in, as by pip, else the one of `PATH`.
pub fn python() -> PathBuf {
    let beside = std::env::current_exe().map(|program| program.with_file_name("python3"));
    beside
        .ok()
        .filter(|python| python.is_file())
        .unwrap_or_else(|| "python3".into())
}

/// Runs a program in `folder`, which must be private to this process, and waits for its end. The program's temporary files are
/// there too. A signal that ends this process first ends the program and all its children.
///
/// # Errors
/// The program cannot be started.
pub fn output(command: &mut Command, folder: &Path) -> io::Result<Output> {
    let (child, _undone) = start(command, folder)?;
    child.wait_with_output()
}

/// As [`output`], of a program that writes little and should end within `limit`; later it is ended.
///
/// # Errors
/// The program cannot be started, or does not end in time ([`io::ErrorKind::TimedOut`]).
pub fn output_within(limit: Duration, command: &mut Command, folder: &Path) -> io::Result<Output> {
    let (mut child, _undone) = start(command, folder)?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > limit {
            kill(&child)();
            child.wait()?;
            let message = format!("no answer within {} s", limit.as_secs_f32());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output()
}

/// Starts a program, to be ended with this process.
fn start(command: &mut Command, folder: &Path) -> io::Result<(Child, Undone)> {
    command
        .current_dir(folder)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    end_with_parent(command, Signal::KILL);
    signals::undone(|| command.spawn(), kill)
}

/// Ends a program and all its children.
fn kill(child: &Child) -> impl FnOnce() + Send + use<> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    move || {
        // It may have ended already.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
}

/// Lets the system send the program a signal if this process is killed. On systems other than Linux it ends by itself.
pub(crate) fn end_with_parent(command: &mut Command, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        let ask = move || Ok(rustix::process::set_parent_process_death_signal(Some(signal))?);
        // SAFETY: between fork and exec, where only such functions may be called as signal handlers may call: this is one system
        // call and allocates nothing.
        unsafe { command.pre_exec(ask) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (command, signal);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ends_programs_that_do_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let answer = |script: &str, seconds| {
            let mut command = Command::new("sh");
            output_within(
                Duration::from_secs_f32(seconds),
                command.args(["-c", script]),
                folder.path(),
            )
        };
        assert_eq!(answer("echo 1.2", 60.0).unwrap().stdout, b"1.2\n");
        let started = Instant::now();
        let error = answer("sleep 100 & wait", 0.1).unwrap_err();
        assert_eq!(error.to_string(), "no answer within 0.1 s");
        assert!(started.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn children_run_in_their_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "pwd; echo \"$TMPDIR\"; cat"]);
        let output = output(&mut shell, folder.path()).unwrap();
        let real = folder.path().canonicalize().unwrap();
        let expected = format!("{}\n{}\n", real.display(), folder.path().display());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
