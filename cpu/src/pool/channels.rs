//! Pooling of images by channels.

use super::Pool;
use crate::shared::SharedMut;
use crate::simd::{LANES, Simd, Task};

/// 16 channels of an image.
pub(super) struct Block<'a> {
    pub pool: &'a Pool,
    pub x: &'a [f32],
    pub y: SharedMut<'a, f32>,
    pub picture: usize,
    /// Number of the block of channels.
    pub channels: usize,
}

impl Task for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pool { x: from, y: to, .. } = self.pool;
        for row in 0..to.height {
            let rows = self.pool.rows(row);
            for column in 0..to.width {
                let columns = self.pool.columns(column);
                let mut acc = None;
                for h in rows.clone() {
                    let at = from.at(self.picture, h, columns.start, self.channels * LANES);
                    let line = &self.x[at..at + columns.len() * LANES];
                    for x in line.chunks_exact(LANES) {
                        // SAFETY: 16 channels of an element.
                        let x = unsafe { s.load(x.as_ptr()) };
                        acc = Some(self.pool.with(s, acc, x));
                    }
                }
                let result = self.pool.reduced(s, acc, rows.len() * columns.len());
                let at = to.at(self.picture, row, column, self.channels * LANES);
                // SAFETY: 16 channels of an element that only this piece writes.
                unsafe { s.store(self.y.part(at..at + LANES).as_mut_ptr(), result) };
            }
        }
    }
}
