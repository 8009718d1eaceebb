//! Threads that the system may refuse.

use std::io;
use std::sync::Mutex;
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

/// Starts `work` on a thread of this name.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}

/// Makes sure that so many threads can run besides those that do, for a library that aborts where it cannot start one.
///
/// # Errors
/// How many could be started, and the system's error.
pub fn probe(count: usize) -> Result<(), (usize, io::Error)> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // All of them wait for it, so that all run at once.
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
    fn threads_of_a_probe_run_at_once_and_end() {
        assert!(super::probe(20).is_ok());
    }
}
