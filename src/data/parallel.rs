//! Runs the same work on many items with a few threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Returns `work` of each of `0..count` in order, computed by `threads` threads. After an error no further item starts,
/// and the error of the lowest index is returned.
pub(super) fn map<T: Send, E: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(BTreeMap::new());
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let result = work(index);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(index, result);
        }
    };
    thread::scope(|scope| {
        // If fewer threads can start, those do the work; if none can, the current one does.
        let wanted = 0..threads.clamp(1, count.max(1));
        let started = wanted.map_while(|_| crate::threads::spawn(scope, "files", worker).ok());
        if started.count() == 0 {
            worker();
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_first_error_stands() {
        for threads in [1, 3, 100] {
            assert_eq!(
                map(50, threads, |i| Ok::<_, ()>(i * i)),
                Ok((0..50).map(|i| i * i).collect())
            );
            assert_eq!(map(50, threads, |i| if i % 20 == 19 { Err(i) } else { Ok(i) }), Err(19));
        }
        assert_eq!(map(0, 2, |_| Err::<(), _>(())), Ok(vec![]));
    }
}
