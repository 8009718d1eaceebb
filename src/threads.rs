//! Threads: how many, and how they are started.

use std::io;
use std::sync::OnceLock;
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
