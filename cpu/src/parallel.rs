//! Threads that kernels run on: the caller's, or simple ones of this crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Runs a function for each of `0..pieces`, in any order, on any threads, and returns when all are done.
pub type ParallelFor<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Runs all pieces on the calling thread.
pub fn on_this_thread() -> &'static ParallelFor<'static> {
    &serial
}

fn serial(pieces: usize, run: &(dyn Fn(usize) + Sync)) {
    (0..pieces).for_each(run);
}

/// How long a thread without work stays awake: longer than the gap between two layers.
const AWAKE: Duration = Duration::from_micros(200);

/// A function to run for pieces, which lives until [`Threads::run`] returns.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    pieces: usize,
}

// SAFETY: the function is `Sync`; the pointer is used only while `Threads::run` waits.
unsafe impl Send for Job {}

#[derive(Default)]
struct Shared {
    /// Counts jobs; changes under the lock of `job`.
    epoch: AtomicUsize,
    job: Mutex<Option<Job>>,
    wake: Condvar,
    /// The next piece.
    next: AtomicUsize,
    /// Workers that have begun the current job and not finished it; grows under the lock of `job`.
    busy: AtomicUsize,
    failed: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn work(&self, job: Job) {
        let work = || {
            loop {
                let piece = self.next.fetch_add(1, Ordering::Relaxed);
                if piece >= job.pieces {
                    return;
                }
                // SAFETY: `Threads::run` waits for all that have begun, so the function is alive.
                unsafe { (*job.run)(piece) };
            }
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    fn worker(&self) {
        let mut seen = 0;
        loop {
            let idle = Instant::now();
            while self.epoch.load(Ordering::Acquire) == seen && idle.elapsed() < AWAKE {
                std::hint::spin_loop();
            }
            let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
            while self.epoch.load(Ordering::Acquire) == seen && !self.stop.load(Ordering::Relaxed) {
                job = self.wake.wait(job).unwrap_or_else(PoisonError::into_inner);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            seen = self.epoch.load(Ordering::Acquire);
            // None: the others finished it before.
            let Some(current) = *job else { continue };
            self.busy.fetch_add(1, Ordering::Relaxed);
            drop(job);
            self.work(current);
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A fixed number of threads, the caller's included. They stay awake shortly after each job, then sleep.
///
/// ```
/// let threads = cpu::Threads::new(2);
/// let sum = std::sync::atomic::AtomicUsize::new(0);
/// threads.run(10, &|piece| {
///     sum.fetch_add(piece, std::sync::atomic::Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// ```
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs: jobs of several callers run one after the other.
    turn: Mutex<()>,
}

impl Threads {
    /// Starts `count - 1` threads, or fewer if the system refuses them.
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |i| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("cpu-{i}"));
            builder.spawn(move || shared.worker()).ok()
        };
        let workers = (1..count).map_while(start).collect();
        Self {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Threads that run at once, the caller's included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run` for each of `0..pieces`, and returns when all are done. Must not be called from within `run`.
    ///
    /// # Panics
    /// If `run` panics.
    pub fn run(&self, pieces: usize, run: &(dyn Fn(usize) + Sync)) {
        if pieces <= 1 || self.workers.is_empty() {
            return serial(pieces, run);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: extends a lifetime: no worker uses the pointer after this function returns.
        let run =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(run) };
        let job = Job { run, pieces };
        let shared = &*self.shared;
        {
            let mut current = shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            *current = Some(job);
            shared.next.store(0, Ordering::Relaxed);
            shared.epoch.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();
        shared.work(job);
        // No piece is left: a worker that has not begun, as it sleeps or other programs have its core, is not waited for.
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let waiting = Instant::now();
        while shared.busy.load(Ordering::Acquire) > 0 {
            if waiting.elapsed() < AWAKE {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        assert!(
            !shared.failed.swap(false, Ordering::Relaxed),
            "a piece of the work panicked"
        );
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        {
            let _job = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.epoch.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches panics of pieces.
            drop(worker.join());
        }
    }
}

/// Cuts `0..weights.len()` into at most `pieces` ranges of about equal weight.
pub(crate) fn balance(
    weights: impl ExactSizeIterator<Item = usize> + Clone,
    pieces: usize,
) -> Vec<std::ops::Range<usize>> {
    let (count, total) = (weights.len(), weights.clone().sum::<usize>());
    let mut ranges = Vec::with_capacity(pieces);
    let (mut start, mut sum) = (0, 0);
    for (i, weight) in weights.enumerate() {
        sum += weight;
        if sum * pieces >= total * (ranges.len() + 1) || i + 1 == count {
            ranges.push(start..i + 1);
            start = i + 1;
        }
    }
    ranges
}
