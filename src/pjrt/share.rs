//! Work of a function that a program calls, shared with the program's own threads.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::ffi::Call;

/// What does pieces of work, all of them before it returns.
pub type Share<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Work that several threads take pieces of.
struct Work {
    pieces: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicBool,
    /// Lives until all pieces are done.
    run: *const (dyn Fn(usize) + Sync),
}

// SAFETY: what runs may be shared among threads, and is there as long as there is a piece to take.
unsafe impl Send for Work {}
// SAFETY: as above.
unsafe impl Sync for Work {}

impl Work {
    /// Does pieces until there are no more to take.
    fn help(&self) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.pieces {
                return;
            }
            // SAFETY: this piece is not done yet.
            let run = unsafe { &*self.run };
            if catch_unwind(AssertUnwindSafe(|| run(piece))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

/// Runs `run` for each of so many pieces: on this thread, and on those of the running program that are free meanwhile. One that
/// comes too late finds nothing to do.
///
/// # Panics
/// When `run` does.
pub fn share(call: &Call<'_>, pieces: usize, run: &(dyn Fn(usize) + Sync)) {
    // SAFETY: of the pointer only, which is not used after all pieces are done, and they are before this returns.
    let run = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(run) };
    let work = Arc::new(Work {
        pieces,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        run,
    });
    for _ in 1..threads().min(pieces) {
        let data = Arc::into_raw(work.clone()).cast_mut().cast::<c_void>();
        // SAFETY: the task takes this share of the work.
        if !unsafe { call.schedule(task, data) } {
            // SAFETY: nobody took it.
            drop(unsafe { Arc::from_raw(data.cast::<Work>()) });
            break;
        }
    }
    work.help();
    // Others are within their last pieces.
    while work.done.load(Ordering::Acquire) < pieces {
        thread::yield_now();
    }
    assert!(!work.failed.load(Ordering::Relaxed), "a piece of the work panicked");
}

/// # Safety
/// `data` must be a share of [`Work`], which this takes.
unsafe extern "C" fn task(data: *mut c_void) {
    // SAFETY: as the caller says.
    let work = unsafe { Arc::from_raw(data.cast::<Work>()) };
    work.help();
}

/// Threads that run at once on this machine. Asked for once: the answer takes reading of files.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(crate::threads::cores)
}
