//! Padded copies of images by lanes.

use crate::layout::{Halo, Layout};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::LANES;
use std::ops::Range;

/// A copy with a halo, in rows of an odd number of columns.
#[derive(Clone, Debug)]
pub(crate) struct LaneStage {
    pub layout: Layout,
    /// First and last row of the copy, halo included, that the first row of a grid reads.
    reads: [usize; 2],
}

impl LaneStage {
    /// A copy of `x` with `halo`. Elements of the kernel read `shifts` rows, least and greatest, from row `start` of the copy on.
    pub fn new(x: &Layout, halo: Halo, start: usize, shifts: [i32; 2]) -> Self {
        Self {
            layout: Layout::skewed_lanes(x.batch, x.height, x.width, x.channels, halo),
            reads: shifts.map(|shift| start.saturating_add_signed(shift as isize)),
        }
    }

    /// Rows of a block of the copy.
    pub fn rows(&self) -> usize {
        self.layout.halo.top + self.layout.height + self.layout.halo.bottom
    }

    /// Rows of the copy that rows `grid` of a grid read, `stride` rows apart.
    pub fn reads(&self, grid: Range<usize>, stride: usize) -> Range<usize> {
        let end = (grid.end.max(1) - 1) * stride + self.reads[1] + 1;
        (grid.start * stride + self.reads[0]).min(self.rows())..end.min(self.rows())
    }

    /// Copies all of `x`.
    pub fn fill(&self, x: &[f32], from: &Layout, copy: &mut [f32], parallel: &ParallelFor<'_>) {
        let rows = self.rows();
        let copy = SharedMut::new(copy);
        parallel(self.layout.blocks() * rows, &|piece| {
            let begin = piece * self.layout.row;
            // SAFETY: a row, which no other piece has.
            let target = unsafe { copy.part(begin..begin + self.layout.row) };
            self.copy(x, from, piece / rows, piece % rows, target);
        });
    }

    /// Copies rows `rows` of the copy of a block to `target`, which begins with row `first`.
    pub fn copy_rows(
        &self,
        x: &[f32],
        from: &Layout,
        block: usize,
        rows: Range<usize>,
        first: usize,
        target: &mut [f32],
    ) {
        for row in rows {
            let target = &mut target[(row - first) * self.layout.row..][..self.layout.row];
            self.copy(x, from, block, row, target);
        }
    }

    /// Copies row `row` of the copy of a block.
    fn copy(&self, x: &[f32], from: &Layout, block: usize, row: usize, target: &mut [f32]) {
        let Layout { halo, channel, .. } = self.layout;
        let Some(source) = row.checked_sub(halo.top).filter(|&row| row < from.height) else {
            return target.fill(0.0);
        };
        let (left, width) = (halo.left * LANES, from.width * LANES);
        for (c, target) in target.chunks_exact_mut(channel).enumerate() {
            let at = from.at(block * LANES, source, 0, c);
            target[..left].fill(0.0);
            target[left..left + width].copy_from_slice(&x[at..at + width]);
            target[left + width..].fill(0.0);
        }
    }
}
