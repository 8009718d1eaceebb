//! Threads that the system may refuse.

use std::io;
use std::sync::Mutex;
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

/// Number of processor cores that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Starts `work` on a thread of this name.
///
/// # Errors
/// The system refuses a thread.
pub fn spawn<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}

/// Checks that `count` more threads can run, for a library that aborts if it cannot start one.
///
/// # Errors
/// The number of threads that could be started, and the system's error.
pub fn probe(count: usize) -> Result<(), (usize, io::Error)> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // All wait for the lock, so that all run at once.
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
    fn probe_starts_and_ends_threads() {
        assert!(super::probe(20).is_ok());
    }
}
