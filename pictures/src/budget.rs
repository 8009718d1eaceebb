//! Limits the memory that all threads together hold in large records and pictures: each thread waits for its share.

use std::sync::{Condvar, Mutex, PoisonError};

/// Budget for pictures being decoded, in bytes.
pub(crate) static PIXELS: Budget = Budget::new(crate::LARGEST_DECODED as u64, 8 << 20);

/// A number of bytes shared among threads.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    /// Requests up to this size need no permit: threads are few, and most records and pictures are smaller.
    small: u64,
    taken: Mutex<u64>,
    returned: Condvar,
}

/// Bytes reserved by a thread until drop. A thread must not take from one budget twice, which would deadlock, and take from
/// several in the same order as others.
#[derive(Debug)]
pub struct Permit {
    budget: &'static Budget,
    bytes: u64,
}

impl Budget {
    /// A budget of `total` bytes. Requests of up to `small` bytes need no permit.
    pub const fn new(total: u64, small: u64) -> Self {
        Budget {
            total,
            small,
            taken: Mutex::new(0),
            returned: Condvar::new(),
        }
    }

    /// Waits until `bytes` are free, capped at the whole budget. Returns `None` if so few need no permit.
    pub fn take(&'static self, bytes: u64) -> Option<Permit> {
        if bytes <= self.small {
            return None;
        }
        let bytes = bytes.min(self.total);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken + bytes > self.total {
            taken = self.returned.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Some(Permit { budget: self, bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn threads_never_hold_more_than_the_total() {
        static BUDGET: Budget = Budget::new(100, 10);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (held, most) = (&held, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = 11 + (i * 37 + round * 13) % 300;
                        let permit = BUDGET.take(bytes);
                        let now = held.fetch_add(bytes.min(100), Ordering::SeqCst) + bytes.min(100);
                        most.fetch_max(now, Ordering::SeqCst);
                        held.fetch_sub(bytes.min(100), Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 100);
        assert!(BUDGET.take(10).is_none());
    }
}
