//! Threads: how many, and those that the system may refuse.

use std::io;
use std::sync::{Mutex, OnceLock};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

/// Number of cores that this process may use. Asked for once: the answer takes reading of files.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Starts `work` on a thread of this name.
///
/// # Errors
/// If the system refuses the thread.
pub fn spawn<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}

/// Checks that `count` more threads can run. For libraries that abort if they cannot start a thread.
///
/// # Errors
/// The number of threads that started, and the system's error.
pub fn probe(count: usize) -> Result<(), (usize, io::Error)> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // The threads wait for it, so all run at once.
        let _closed = gate.lock();
        let start = |made| match spawn(scope, "probe", || drop(gate.lock())) {
            Ok(_) => Ok(()),
            Err(error) => Err((made, error)),
        };
        (0..count).try_for_each(start)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn probe_succeeds_and_ends() {
        assert!(super::probe(20).is_ok());
    }
}
