//! Whether the system allows a library the threads that it starts.

use std::io;
use std::sync::Mutex;
use std::thread::{self, Builder};

use crate::error::Error;

/// Fails unless the library can start `needed` threads. XLA, among others, aborts the process if it cannot start one.
///
/// # Errors
/// [`Error::Threads`].
pub fn require_threads(library: &'static str, needed: usize) -> crate::Result<()> {
    probe(needed).map_err(|(found, source)| Error::Threads {
        library,
        needed,
        found,
        source,
    })
}

/// Starts `count` threads at once and ends them; or the number of threads that started, and the system's error.
fn probe(count: usize) -> Result<(), (usize, io::Error)> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // The threads wait for it, so all run at once.
        let _closed = gate.lock();
        let start = |made| {
            let thread = Builder::new().name("probe".into());
            match thread.spawn_scoped(scope, || drop(gate.lock())) {
                Ok(_) => Ok(()),
                Err(error) => Err((made, error)),
            }
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
