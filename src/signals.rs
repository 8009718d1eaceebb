//! Signals that ask the process to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP.
//!
//! [`watch`] handles them on a thread. Until some work polls the process's [`Stop`], there is nothing to save: a signal runs the
//! cleanup registered by [`undone`] and ends the process at once. From then on, signals only ask the work to stop, except that a
//! second Ctrl-C ends the process at once.
//!
//! The process ends by `_exit`, because `exit` would run the destructors of C++ libraries while their threads are running, which
//! crashes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::report::note;

/// A SIGINT this soon after the first is the same Ctrl-C, delivered by both the terminal and a wrapper program.
const SAME_KEY: Duration = Duration::from_millis(500);
/// Number of attempts, and the pause between them, to remove a folder that another program may still write to.
const REMOVALS: (usize, Duration) = (100, Duration::from_millis(20));

/// A request to stop, which work polls.
#[derive(Debug, Default)]
pub struct Stop {
    /// The first signal, 0 without any.
    signal: AtomicI32,
    /// Message to show on a signal; set once some work polls [`Stop::signal`].
    heeded: Mutex<Option<&'static str>>,
}

impl Stop {
    /// No request, and nobody polls.
    pub const fn new() -> Self {
        Stop {
            signal: AtomicI32::new(0),
            heeded: Mutex::new(None),
        }
    }

    /// Declares that the caller polls from now on, so that a signal does not end the process but shows `answer`.
    pub fn heed(&self, answer: &'static str) {
        *lock(&self.heeded) = Some(answer);
    }

    /// The signal that requested the stop, if any.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
    }

    /// Requests the stop, unless it was requested before.
    pub fn ask(&self, signal: i32) {
        let _ = self
            .signal
            .compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Exit code of a process that ended because of a signal, by the shells' convention: 130 for SIGINT, 143 for SIGTERM.
pub fn exit_code(signal: Option<i32>) -> u8 {
    128 + u8::try_from(signal.unwrap_or(SIGTERM)).unwrap_or(0)
}

/// The process's request.
static STOP: Stop = Stop::new();

/// Starts the thread that handles this process's signals. SIGHUP stays ignored if it is, as under `nohup`.
///
/// # Errors
/// The system refuses a thread or a handler.
pub fn watch() -> io::Result<&'static Stop> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    let mut watcher = Watcher::default();
    let watch = move || signals.forever().for_each(|signal| watcher.receive(signal));
    Builder::new().name("signals".into()).spawn(watch)?;
    Ok(&STOP)
}

/// Whether the process was started with a signal ignored. True if unknown.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The signals received so far.
#[derive(Default)]
struct Watcher {
    first_key: Option<Instant>,
    ending: bool,
}

impl Watcher {
    fn receive(&mut self, signal: i32) {
        let again = signal == SIGINT && self.first_key.is_some_and(|first| first.elapsed() >= SAME_KEY);
        if signal == SIGINT {
            self.first_key.get_or_insert_with(Instant::now);
        }
        if self.ending {
            // The cleanup takes long.
            if again {
                low_level::exit(exit_code(Some(signal)).into());
            }
            return;
        }
        let heeded = lock(&STOP.heeded);
        match *heeded {
            Some(answer) if !again => {
                let first = STOP.signal().is_none();
                STOP.ask(signal);
                drop(heeded);
                if first {
                    note!("{answer}");
                }
            }
            _ => {
                // Never unlocked, so that no work starts to poll after the end has begun.
                std::mem::forget(heeded);
                self.ending = true;
                let times = if again { "a second " } else { "" };
                let name = low_level::signal_name(signal).unwrap_or("a signal");
                note!("stopped by {times}{name}");
                let end = move || exit(exit_code(Some(signal)).into());
                // On its own thread, so that a second Ctrl-C is handled.
                if Builder::new().name("end".into()).spawn(end).is_err() {
                    end();
                }
            }
        }
    }
}

/// Runs the cleanup registered by [`undone`], then ends the process with this exit code.
pub fn exit(code: i32) -> ! {
    let mut registered = lock(&REGISTERED);
    while let Some((_, undo)) = registered.pop_last() {
        undo();
    }
    low_level::exit(code)
}

/// Ends the process with this exit code without cleanup, for a thread that others wait for.
pub fn abandon(code: i32) -> ! {
    low_level::exit(code)
}

type Undo = Box<dyn FnOnce() + Send>;

/// Cleanup to run, last registered first. The thread that ends the process never unlocks it.
static REGISTERED: Mutex<BTreeMap<u64, Undo>> = Mutex::new(BTreeMap::new());

/// A registered cleanup; dropping it cancels the registration.
#[must_use]
#[derive(Debug)]
pub struct Undone(u64);

impl Drop for Undone {
    fn drop(&mut self) {
        lock(&REGISTERED).remove(&self.0);
    }
}

/// Makes something that must not outlive a process ended by a signal. `undo` returns its cleanup.
///
/// # Errors
/// As `make`.
pub fn undone<T, E, U: FnOnce() + Send + 'static>(
    make: impl FnOnce() -> Result<T, E>,
    undo: impl FnOnce(&T) -> U,
) -> Result<(T, Undone), E> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Locked meanwhile, so that no signal comes between.
    let mut registered = lock(&REGISTERED);
    let made = make()?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    registered.insert(number, Box::new(undo(&made)));
    Ok((made, Undone(number)))
}

/// Makes a temporary file or folder, which is removed if a signal ends the process.
///
/// # Errors
/// As `make`.
pub fn temporary<T: AsRef<Path>, E>(make: impl FnOnce() -> Result<T, E>) -> Result<(T, Undone), E> {
    undone(make, |made| {
        let path = made.as_ref().to_owned();
        move || remove(&path)
    })
}

/// Removes a file, or a folder that others may still write to.
fn remove(path: &PathBuf) {
    for _ in 0..REMOVALS.0 {
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        match removed {
            Ok(()) => return,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(_) => thread::sleep(REMOVALS.1),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
