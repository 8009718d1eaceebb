//! Arrays that several threads write disjoint parts of.

use std::marker::PhantomData;

/// A mutable array shared by threads.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    array: PhantomData<&'a mut [T]>,
}

// SAFETY: writing is unsafe, and its callers vouch that no two threads use the same element.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(array: &'a mut [T]) -> Self {
        Self {
            start: array.as_mut_ptr(),
            len: array.len(),
            array: PhantomData,
        }
    }

    pub(crate) fn start(&self) -> *mut T {
        self.start
    }

    /// # Safety
    /// `i` must be within the array, and no other thread may use the element meanwhile.
    pub(crate) unsafe fn write(&self, i: usize, value: T) {
        debug_assert!(i < self.len);
        // SAFETY: as the caller vouches.
        unsafe { self.start.add(i).write(value) };
    }

    /// # Safety
    /// The range must be within the array, and no other thread may use it meanwhile.
    #[allow(clippy::mut_from_ref)] // each caller takes a part of its own
    pub(crate) unsafe fn part(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: as the caller vouches.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
