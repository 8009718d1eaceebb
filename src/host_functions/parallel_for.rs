//! Parallel loops on the threads of the calling program.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::threads::cores;
use pjrt::ffi::Call;

/// A parallel loop whose pieces several threads take.
struct Work {
    pieces: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicBool,
    /// Valid until all pieces are done.
    run: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `run` is `Sync`, and valid as long as there is a piece to take.
unsafe impl Send for Work {}
// SAFETY: as above.
unsafe impl Sync for Work {}

impl Work {
    /// Takes and runs pieces until none is left.
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

/// Runs `run` for each piece, on this thread and on idle threads of the calling program. A thread that comes too late finds
/// nothing to do.
///
/// # Panics
/// If `run` panics.
pub fn parallel_for(call: &Call<'_>, pieces: usize, run: &(dyn Fn(usize) + Sync)) {
    // SAFETY: extends the lifetime of the pointer, which is not used after this function returns: all pieces are done then.
    let run = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(run) };
    let work = Arc::new(Work {
        pieces,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        run,
    });
    for _ in 1..cores().min(pieces) {
        let data = Arc::into_raw(work.clone()).cast_mut().cast::<c_void>();
        // SAFETY: the task takes ownership of this reference.
        if !unsafe { call.schedule(task, data) } {
            // SAFETY: the task was not scheduled.
            drop(unsafe { Arc::from_raw(data.cast::<Work>()) });
            break;
        }
    }
    work.help();
    // Other threads may still run their last pieces.
    while work.done.load(Ordering::Acquire) < pieces {
        thread::yield_now();
    }
    assert!(!work.failed.load(Ordering::Relaxed), "a piece of the work panicked");
}

/// # Safety
/// `data` must come from `Arc::<Work>::into_raw`; this takes ownership.
unsafe extern "C" fn task(data: *mut c_void) {
    // SAFETY: as the caller says.
    let work = unsafe { Arc::from_raw(data.cast::<Work>()) };
    work.help();
}
