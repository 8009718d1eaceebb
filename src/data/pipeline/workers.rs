//! Worker threads of a pipeline and their shared state.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use hlo::Shape;

use super::{Batch, Options, Order, Place, Skipped, Source, batch_shape};
use crate::data::{Error, Result};

/// Yields batches in order from worker threads. Dropping it ends the threads.
pub struct Pipeline {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    skipped: Skipped,
    /// Maximum number of corrupt examples to skip.
    limit: usize,
}

impl Pipeline {
    /// Starts the threads. The first batch returned is number `first`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start<S: Source>(source: Arc<S>, order: Order, options: Options, first: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                rows: order.rows(),
                image: source.image(),
                order,
                open: VecDeque::new(),
                prefetch: options.prefetch.max(1),
                next: first,
                row: 0,
                ended: false,
                stopped: false,
            }),
            room: Condvar::new(),
            filled: Condvar::new(),
        });
        let mut pipeline = Pipeline {
            shared,
            threads: vec![],
            skipped: Skipped::new(),
            limit: options.skip_corrupt,
        };
        for i in 0..options.threads.max(1) {
            let (shared, source) = (Arc::clone(&pipeline.shared), Arc::clone(&source));
            let thread = thread::Builder::new().name(format!("data-{i}"));
            let started = thread.spawn(move || shared.work(&*source, options.skip_corrupt));
            pipeline.threads.push(started.map_err(Error::Thread)?);
        }
        Ok(pipeline)
    }

    /// Waits for the next complete batch; `None` past the last.
    ///
    /// # Errors
    /// Its first corrupt example beyond the allowed number, or any other error in it. No batches follow an error.
    pub fn take(&mut self) -> Result<Option<Batch>> {
        let Some(slot) = self.shared.take()? else {
            return Ok(None);
        };
        let filled = Arc::into_inner(slot).ok_or(Error::Workers)?.filled;
        let mut filled = filled.into_inner().unwrap_or_else(PoisonError::into_inner);
        filled.faults.sort_by_key(|fault| fault.row);
        for Fault {
            example, error, last, ..
        } in filled.faults
        {
            if !last && (self.skipped.contains_key(&example) || self.skipped.len() < self.limit) {
                self.skipped.entry(example).or_insert_with(|| error.to_string());
                continue;
            }
            self.shared.stop();
            return Err(error);
        }
        let images = hlo::Literal::from_bytes(filled.shape, filled.images);
        Ok(Some(Batch {
            images: images.ok_or(Error::Workers)?,
            labels: filled.labels,
            present: filled.present,
            indices: filled.indices,
        }))
    }

    /// The corrupt examples skipped in the batches returned so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A worker's panic was already reported; see `Guard`.
            let _ = thread.join();
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when a worker may find a job.
    room: Condvar,
    /// Signalled when a batch may be complete.
    filled: Condvar,
}

/// Pending jobs and batches in progress.
struct Queue {
    order: Order,
    /// Positions per batch, and the shape of one image.
    rows: usize,
    image: Shape,
    /// Batches started and not yet returned, in order.
    open: VecDeque<(Arc<Slot>, Progress)>,
    /// Maximum number of batches in progress.
    prefetch: usize,
    /// Number of the next batch to start.
    next: u64,
    /// Next position of the newest batch to hand out.
    row: usize,
    /// Whether the last batch has started.
    ended: bool,
    /// Whether the threads must end.
    stopped: bool,
}

/// Progress of a batch.
struct Progress {
    /// Its examples.
    places: Vec<Place>,
    /// Number of examples not yet done.
    missing: usize,
}

/// A batch in progress.
struct Slot {
    filled: Mutex<Filled>,
    number: u64,
}

struct Filled {
    shape: Shape,
    images: Vec<u8>,
    labels: Vec<i32>,
    present: Vec<bool>,
    indices: Vec<usize>,
    faults: Vec<Fault>,
}

/// An example that failed.
struct Fault {
    row: usize,
    example: usize,
    error: Error,
    /// Whether nothing can replace it.
    last: bool,
}

/// A position of a batch to fill.
struct Job {
    slot: Arc<Slot>,
    row: usize,
    place: Place,
    replace: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// The next position to fill; `None` if no batch can start.
    fn job(&mut self) -> Option<Job> {
        let newest_is_handed_out = self.open.back().is_none_or(|(_, p)| self.row == p.places.len());
        if newest_is_handed_out && !self.begin() {
            return None;
        }
        let (slot, progress) = self.open.back()?;
        let row = self.row;
        self.row += 1;
        Some(Job {
            slot: Arc::clone(slot),
            row,
            place: progress.places[row],
            replace: self.order.replaces(),
        })
    }

    /// Starts a batch if the limit allows it and one is left.
    fn begin(&mut self) -> bool {
        if self.ended || self.open.len() >= self.prefetch {
            return false;
        }
        let Some(places) = self.order.batch(self.next) else {
            self.ended = true;
            return false;
        };
        let shape = batch_shape(&self.image, self.rows);
        let filled = Filled {
            images: vec![0; shape.bytes()],
            shape,
            labels: vec![0; self.rows],
            present: vec![false; self.rows],
            indices: places.iter().map(|place| place.index).collect(),
            faults: vec![],
        };
        let slot = Arc::new(Slot {
            filled: Mutex::new(filled),
            number: self.next,
        });
        let missing = places.len();
        self.open.push_back((slot, Progress { places, missing }));
        (self.next, self.row) = (self.next + 1, 0);
        // A process may have no part of a short batch.
        missing > 0 || self.begin()
    }
}

impl Shared {
    /// Worker loop: ends when stopped or when nothing is left.
    fn work<S: Source>(&self, source: &S, limit: usize) {
        let guard = Guard(self);
        let mut scratch = S::Scratch::default();
        // A buffer of words aligns elements of any type.
        let mut image = vec![0u64; source.image().bytes().div_ceil(size_of::<u64>())];
        while let Some(job) = self.next_job() {
            let bytes = &mut bytemuck::cast_slice_mut(&mut image)[..source.image().bytes()];
            let (label, faults) = job.make(source, limit, &mut scratch, bytes);
            job.finish(label, faults, bytes);
            self.count(job);
        }
        std::mem::forget(guard);
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            let open = queue.open.len();
            let job = queue.job();
            if queue.ended || queue.open.len() > open {
                self.filled.notify_all();
                self.room.notify_all();
            }
            match job {
                Some(job) => return Some(job),
                None if queue.ended => return None,
                None => queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Marks a position as done. The job first drops its reference to the batch, so that a complete batch has a single
    /// owner.
    fn count(&self, job: Job) {
        let number = job.slot.number;
        drop(job);
        let mut queue = lock(&self.queue);
        let under_way = queue.open.iter_mut().find(|(slot, _)| slot.number == number);
        if let Some((_, progress)) = under_way {
            progress.missing -= 1;
            if progress.missing == 0 {
                self.filled.notify_all();
            }
        }
    }

    /// Takes the oldest batch once it is complete.
    fn take(&self) -> Result<Option<Arc<Slot>>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return Err(Error::Workers);
            }
            if queue.open.front().is_some_and(|(_, progress)| progress.missing == 0) {
                let taken = queue.open.pop_front();
                self.room.notify_all();
                return Ok(taken.map(|(slot, _)| slot));
            }
            if queue.open.is_empty() && queue.ended {
                return Ok(None);
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        lock(&self.queue).stopped = true;
        self.room.notify_all();
        self.filled.notify_all();
    }
}

/// Stops the pipeline when a worker panics, because its batch would never complete.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Job {
    /// Loads the example or, in training with skipping allowed, the first sound one after it. Returns label and
    /// example, and the faults of those tried before.
    fn make<S: Source>(
        &self,
        source: &S,
        limit: usize,
        scratch: &mut S::Scratch,
        out: &mut [u8],
    ) -> (Option<(i32, usize)>, Vec<Fault>) {
        let mut faults = vec![];
        let mut place = self.place;
        loop {
            match source.read(place, scratch, out) {
                Ok(label) => return (Some((label, place.index)), faults),
                Err(error) => {
                    let last = !error.is_corrupt() || faults.len() >= limit.min(source.len() - 1);
                    faults.push(Fault {
                        row: self.row,
                        example: place.index,
                        error,
                        last,
                    });
                    if last || !self.replace {
                        return (None, faults);
                    }
                }
            }
            place.index = (place.index + 1) % source.len().max(1);
        }
    }

    fn finish(&self, made: Option<(i32, usize)>, faults: Vec<Fault>, image: &[u8]) {
        let mut filled = lock(&self.slot.filled);
        filled.faults.extend(faults);
        let Some((label, example)) = made else { return };
        filled.images[self.row * image.len()..][..image.len()].copy_from_slice(image);
        (filled.labels[self.row], filled.present[self.row]) = (label, true);
        filled.indices[self.row] = example;
    }
}
