//! The kernel's gradient at the connections.

use super::Operator;
use crate::error::{Result, check_equal, check_length};
use crate::grid::{Grid, check_shapes};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::products::{self, Products};
use crate::shared::SharedMut;
use crate::stage::{LaneStage, Stage, scratch};
use crate::structure::Structure;
use std::cell::RefCell;
use std::ops::Range;

/// Vectors of a row whose products are summed before they are added to a connection's gradient.
const PRODUCTS: usize = 7;

/// Partial sums, each over a part of the positions. Fixed, so that bits do not depend on threads.
const SLICES: usize = 8;

/// Number of connections above which rows are not sliced: partial sums would not stay in the cache.
const MANY: usize = 1 << 15;

thread_local! {
    /// Memory for partial sums: that of large layers would be mapped and unmapped by every call.
    static PARTIAL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Inputs of a kernel gradient. The forward operator built the structure; `dy` has a layout with the
/// shape of the operator's output.
#[derive(Clone, Copy)]
pub(crate) struct Slopes<'a> {
    pub structure: &'a Structure,
    pub x: &'a [f32],
    pub layout: &'a Layout,
    pub dy: &'a [f32],
}

impl Operator {
    /// The gradient of each connection, in the order of the structure.
    pub(crate) fn kernel_gradient(
        &self,
        of: &Slopes<'_>,
        gradient: &mut [f32],
        parallel: &ParallelFor<'_>,
    ) -> Result<()> {
        check_length("input", of.x.len(), self.x.len)?;
        check_length("output's gradient", of.dy.len(), of.layout.len)?;
        check_length("kernel's gradient", gradient.len(), of.structure.len())?;
        check_shapes(&self.kernel, &self.window, &self.x, of.layout)?;
        let by_lanes = self.y.order == Order::Lanes || self.grids[0].vectors == 0;
        check_equal(
            "layouts by lanes, or of single pixels",
            by_lanes && of.layout.order == self.y.order,
            true,
        )?;
        let grid = match &self.stage {
            Stage::Lanes(stage) => Grid::forward(&self.window, &stage.layout, of.layout),
            Stage::None | Stage::Pixels(_) => Grid::forward(&self.window, &self.x, of.layout),
        };
        let channels = (self.y.channels - 1) * of.layout.channel * 4;
        let reads = Grid {
            x: grid.y,
            ..grid.clone()
        };
        check_equal(
            "everything read lies in the array",
            reads.reach(of.dy.len()).1 >= channels as i64,
            true,
        )?;
        let rows = grid.blocks * grid.rows;
        match &self.stage {
            Stage::Lanes(stage) if of.structure.len() > MANY || rows < 2 * SLICES => scratch(self.read_len, |copy| {
                stage.fill(of.x, &self.x, copy, parallel);
                let of = Slopes { x: copy, ..*of };
                self.slices(&of, &grid, None, gradient, parallel);
            }),
            Stage::Lanes(stage) => self.slices(of, &grid, Some(stage), gradient, parallel),
            Stage::None | Stage::Pixels(_) => self.slices(of, &grid, None, gradient, parallel),
        }
        Ok(())
    }

    /// Sums over slices of the rows, then adds the slices. With a stage, each row is copied just before use.
    fn slices(
        &self,
        of: &Slopes<'_>,
        grid: &Grid,
        stage: Option<&LaneStage>,
        gradient: &mut [f32],
        parallel: &ParallelFor<'_>,
    ) {
        let (structure, rows) = (of.structure, grid.blocks * grid.rows);
        let slices = if structure.len() <= MANY { rows.min(SLICES) } else { 1 };
        // All groups use a copied row.
        let groups = if stage.is_some() { 1 } else { self.shape.groups() };
        let mut partial = PARTIAL.take();
        partial.clear();
        partial.resize(slices * structure.len(), 0.0);
        let shared = SharedMut::new(&mut partial);
        parallel(slices * groups, &|piece| {
            let (slice, group) = (piece / groups, piece % groups);
            let begin = slice * structure.len();
            let groups = if stage.is_some() {
                0..self.shape.groups()
            } else {
                group..group + 1
            };
            let connections = structure.starts[groups.start] as usize..structure.starts[groups.end] as usize;
            // SAFETY: no other piece has these groups of this slice.
            let part = unsafe { shared.part(begin + connections.start..begin + connections.end) };
            let slice = slice * rows / slices..(slice + 1) * rows / slices;
            match stage {
                None => slice.for_each(|row| self.row_products(of, 0, part, grid, row, groups.clone())),
                Some(stage) => self.copied_products(of, stage, part, grid, slice),
            }
        });
        gradient.copy_from_slice(&partial[..structure.len()]);
        for slice in partial.chunks_exact(structure.len().max(1)).skip(1) {
            for (sum, part) in gradient.iter_mut().zip(slice) {
                *sum += part;
            }
        }
        PARTIAL.replace(partial);
    }

    /// Copies rows one by one and adds their products.
    fn copied_products(
        &self,
        of: &Slopes<'_>,
        stage: &LaneStage,
        gradient: &mut [f32],
        grid: &Grid,
        rows: Range<usize>,
    ) {
        let Layout { row: length, block, .. } = stage.layout;
        let stride = self.window.stride[0];
        let mut next = rows.start;
        while next < rows.end {
            let at = next / grid.rows;
            let band = next % grid.rows..(rows.end - at * grid.rows).min(grid.rows);
            next = at * grid.rows + band.end;
            let reads = stage.reads(band.clone(), stride);
            scratch(reads.len() * length, |copy| {
                let mut copied = reads.start;
                for row in band {
                    let until = stage.reads(row..row + 1, stride).end.max(copied);
                    stage.copy_rows(of.x, &self.x, at, copied..until, reads.start, copy);
                    copied = until;
                    let of = Slopes { x: copy, ..*of };
                    let begin = at * block + reads.start * length;
                    self.row_products(&of, begin, gradient, grid, at * grid.rows + row, 0..self.shape.groups());
                }
            });
        }
    }

    /// Adds the products of one row to the gradients of the connections of some groups. `begin` is the place of `x[0]` in the
    /// array that the grid describes.
    fn row_products(
        &self,
        of: &Slopes<'_>,
        begin: usize,
        gradient: &mut [f32],
        grid: &Grid,
        row: usize,
        groups: Range<usize>,
    ) {
        let (block, row) = (row / grid.rows, row % grid.rows);
        let mut gradient = gradient;
        for group in groups {
            let starts = &of.structure.starts[group..];
            let (part, rest) = gradient.split_at_mut((starts[1] - starts[0]) as usize);
            gradient = rest;
            let offsets = &of.structure.offsets[starts[0] as usize..][..part.len()];
            let segments = self.shape.first_segment(0, group)..self.shape.first_segment(0, group + 1);
            let (outputs, counts) = (&of.structure.outputs[segments.clone()], &of.structure.counts[segments]);
            if grid.vectors == 0 {
                let segments = outputs.iter().copied().zip(counts.iter().copied());
                let at = grid.y.at(block, row, 0);
                let dy = |output: usize| of.dy[at + output * of.layout.channel];
                products::scalar(segments, offsets, part, of.x, grid.x.at(block, row, 0), dy);
                continue;
            }
            let ahead = self.shape.inputs.div_ceil(self.shape.groups());
            for (vectors, keep) in products::runs(grid.keep(block), grid.vectors, PRODUCTS) {
                let next = match vectors.end < grid.vectors {
                    true => grid.x.at(block, row, vectors.end),
                    false => grid.x.at(block, row + 1, 0),
                };
                let next = next + self.last_row + group * ahead * self.strides.channel;
                // SAFETY: the grids were checked to lie within the arrays, and the structure to reach nothing beyond them; the
                // instruction set was checked.
                unsafe {
                    self.isa.run(Products {
                        offsets: offsets.as_ptr(),
                        outputs: outputs.as_ptr(),
                        counts: counts.as_ptr(),
                        blocks: self.shape.blocks(),
                        size: self.shape.group(group).len(),
                        gradient: part.as_mut_ptr(),
                        x: of.x.as_ptr().add(grid.x.at(block, row, vectors.start) - begin),
                        x_step: grid.x.step,
                        y: of.dy.as_ptr().add(grid.y.at(block, row, vectors.start)),
                        y_step: grid.y.step,
                        channel: of.layout.channel,
                        vectors: vectors.len(),
                        keep,
                        ahead: of.x.as_ptr().wrapping_add(next).wrapping_sub(begin),
                        ahead_channel: self.strides.channel,
                        ahead_channels: ahead,
                    });
                }
            }
        }
    }
}
