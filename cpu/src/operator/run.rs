//! Runs an operator.

use super::Operator;
use crate::epilogue::{Epilogue, Raw, Sums};
use crate::error::{Result, check_length};
use crate::grid::Grid;
use crate::layout::{Layout, Order};
use crate::parallel::{ParallelFor, balance};
use crate::shared::SharedMut;
use crate::simd::Isa;
use crate::stage::{LaneStage, Stage, scratch};
use crate::structure::Structure;
use crate::tile::{Forward, Group, Scalar};
use std::ops::Range;

/// Pieces of work: several times the threads of common machines, so that threads finish together.
const PIECES: usize = 48;

/// Vector multiply-adds below which one thread does all the work.
const SMALL: usize = 20_000;

/// Minimum bytes of an output that is stored with non-temporal stores.
const STREAMED: usize = 24 << 20;

/// Rows of a band, which is copied and computed together, and the minimum number of bands.
const BAND: usize = 8;
const BANDS: usize = 6;

/// Arguments of an operator.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Built by the operator.
    pub structure: &'a Structure,
    /// One per connection, in the order of the structure.
    pub values: &'a [f32],
    pub x: &'a [f32],
    pub epilogue: &'a Epilogue<'a>,
    pub pivots: Option<&'a [f32]>,
    pub parallel: &'a ParallelFor<'a>,
}

/// A part of an output row.
#[derive(Clone)]
struct Unit {
    phase: usize,
    block: usize,
    row: usize,
    tiles: Range<usize>,
}

/// Arguments shared by all units of a call. Pointers are valid while it runs; units write disjoint parts of the output.
#[derive(Clone, Copy)]
struct Run<'a> {
    structure: &'a Structure,
    values: &'a [f32],
    epilogue: Raw,
    pivots: *const f32,
    y: SharedMut<'a, f32>,
    sums: Option<SharedMut<'a, [f32; 2]>>,
    stream: bool,
}

// SAFETY: arrays of the epilogue and pivots are only read, others are written by disjoint units.
unsafe impl Sync for Run<'_> {}

/// The array that a unit reads: its first float, and the place of that in the array that the grid describes.
#[derive(Clone, Copy)]
struct Source<'a> {
    x: &'a [f32],
    begin: usize,
}

impl Operator {
    /// Runs the operator; adds to `sums`.
    pub(crate) fn run(&self, call: &Call<'_>, y: &mut [f32], sums: Option<&mut Sums>) -> Result<()> {
        let channels = self.y.channels;
        check_length("values", call.values.len(), call.structure.len())?;
        check_length("input", call.x.len(), self.x.len)?;
        check_length("output", y.len(), self.y.len)?;
        check_length("pivots", call.pivots.map_or(channels, <[f32]>::len), channels)?;
        call.epilogue.check(channels, self.y.len)?;
        let units = self.units();
        let mut partial = vec![[0.0f32; 2]; if sums.is_some() { units.len() * channels } else { 0 }];
        let run = Run {
            structure: call.structure,
            values: call.values,
            epilogue: call.epilogue.raw(),
            pivots: call.pivots.map_or(std::ptr::null(), <[f32]>::as_ptr),
            stream: self.streams(y),
            y: SharedMut::new(y),
            sums: sums.is_some().then_some(SharedMut::new(&mut partial)),
        };
        let whole = |x: &[f32]| self.run_whole(&run, &units, Source { x, begin: 0 }, call.parallel);
        match &self.stage {
            Stage::None => whole(call.x),
            Stage::Lanes(stage) if self.bands() >= BANDS => self.run_bands(&run, &units, stage, call),
            Stage::Lanes(stage) => scratch(self.read_len, |copy| {
                stage.fill(call.x, &self.x, copy, call.parallel);
                whole(copy);
            }),
            Stage::Pixels(stage) => scratch(self.read_len, |copy| {
                stage.fill(self.isa, call.x, &self.x, copy, call.parallel);
                whole(copy);
            }),
        }
        if let Some(sums) = sums {
            add_sums(sums, &partial, channels, self.y.batch * self.y.height * self.y.width);
        }
        Ok(())
    }

    /// Whether to use non-temporal stores: a large output is evicted anyway, and they avoid reading it first.
    fn streams(&self, y: &[f32]) -> bool {
        let large = size_of_val(y) >= STREAMED && self.y.order == Order::Lanes && self.shape.blocks() == 1;
        large && y.as_ptr().addr().is_multiple_of(64)
    }

    /// Splits the output into units, by shape only.
    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for (phase, grid) in self.grids.iter().enumerate() {
            let tiles = grid.vectors.div_ceil(self.tile).max(1);
            // Rows of pixels or of blocks are long, so each tile is a unit.
            let per_unit = if grid.rows == 1 { 1 } else { tiles };
            for block in 0..grid.blocks {
                for row in 0..grid.rows {
                    units.extend((0..tiles).step_by(per_unit).map(|first| Unit {
                        phase,
                        block,
                        row,
                        tiles: first..first + per_unit,
                    }));
                }
            }
        }
        units
    }

    /// Splits the work into ranges of units and, if there are few units, of groups.
    fn run_whole(&self, run: &Run<'_>, units: &[Unit], source: Source<'_>, parallel: &ParallelFor<'_>) {
        let groups = self.shape.groups();
        let starts = &run.structure.starts;
        let vectors: usize = self.grids.iter().map(|g| g.blocks * g.rows * g.vectors.max(1)).sum();
        let parts = units.len().min(PIECES);
        let weight = |group: usize| {
            let starts_of = (0..self.shape.phases).map(|phase| phase * groups + group);
            starts_of.map(|i| (starts[i + 1] - starts[i]) as usize + 1).sum()
        };
        let of_groups = balance((0..groups).map(weight), PIECES.div_ceil(parts.max(1)).min(groups));
        let piece = |piece: usize| {
            let (part, group) = (piece / of_groups.len(), piece % of_groups.len());
            for i in part * units.len() / parts..(part + 1) * units.len() / parts {
                self.unit(run, source, &units[i], i, of_groups[group].clone());
            }
        };
        let pieces = parts * of_groups.len();
        if run.structure.len() / self.shape.phases * vectors < SMALL {
            return (0..pieces).for_each(piece);
        }
        parallel(pieces, &piece);
    }

    /// Number of bands of the output; 0 if it cannot be computed in bands.
    fn bands(&self) -> usize {
        match &self.grids[..] {
            [grid] => grid.blocks * grid.rows.div_ceil(BAND),
            _ => 0,
        }
    }

    /// Copies and computes one band of rows at a time, so that the copy stays in the second-level cache.
    fn run_bands(&self, run: &Run<'_>, units: &[Unit], stage: &LaneStage, call: &Call<'_>) {
        let grid = &self.grids[0];
        let per_block = grid.rows.div_ceil(BAND);
        let stride = if self.transposed { 1 } else { self.window.stride[0] };
        let Layout { row: length, block, .. } = stage.layout;
        (call.parallel)(grid.blocks * per_block, &|piece| {
            let (at, band) = (piece / per_block, piece % per_block);
            let rows = band * grid.rows / per_block..(band + 1) * grid.rows / per_block;
            let reads = stage.reads(rows.clone(), stride);
            scratch(reads.len() * length, |copy| {
                let mut copied = reads.start;
                for row in rows {
                    let until = stage.reads(row..row + 1, stride).end.max(copied);
                    stage.copy_rows(call.x, &self.x, at, copied..until, reads.start, copy);
                    copied = until;
                    let begin = at * block + reads.start * length;
                    let unit = at * grid.rows + row;
                    self.unit(
                        run,
                        Source { x: copy, begin },
                        &units[unit],
                        unit,
                        0..self.shape.groups(),
                    );
                }
            });
        });
    }

    /// Runs one unit of some groups.
    fn unit(&self, run: &Run<'_>, source: Source<'_>, unit: &Unit, number: usize, groups: Range<usize>) {
        let grid = &self.grids[unit.phase];
        // May point outside of the array until a connection's offset is added.
        let from = |at: usize| source.x.as_ptr().wrapping_add(at).wrapping_sub(source.begin);
        let tiles = grid.vectors.div_ceil(self.tile);
        let keep = grid.keep(unit.block);
        for tile in unit.tiles.clone() {
            let first = tile * grid.vectors / tiles.max(1);
            let x = from(grid.x.at(unit.block, unit.row, first));
            let at = grid.y.at(unit.block, unit.row, first);
            let count = (tile + 1) * grid.vectors / tiles.max(1) - first;
            let next = match tile + 1 < tiles {
                true => grid.x.at(unit.block, unit.row, first + count),
                false => grid.x.at(unit.block, unit.row + 1, 0),
            };
            for group in groups.clone() {
                let shared = self.group(run, grid, unit.phase, number, group);
                let y = run.y.start().wrapping_add(at);
                if grid.vectors == 0 {
                    // SAFETY: the grid was checked to lie within the arrays, and the structure to reach nothing beyond them; no
                    // other unit writes these outputs; the instruction set was checked.
                    unsafe {
                        self.isa.run(Scalar {
                            group: shared,
                            x,
                            y,
                            at,
                        })
                    };
                    continue;
                }
                let ahead = from(next + self.last_row + group * shared.ahead * shared.ahead_channel);
                let keep = keep.map_or(std::ptr::null(), |keep| keep[first..].as_ptr());
                let tile = Tile { x, y, at, keep, ahead };
                // SAFETY: as above.
                unsafe { forward(self.isa, count, shared, tile) };
            }
        }
    }

    /// Arguments shared by the tiles of a group.
    fn group(&self, run: &Run<'_>, grid: &Grid, phase: usize, unit: usize, group: usize) -> Group {
        let connection = run.structure.starts[phase * self.shape.groups() + group] as usize;
        let segment = self.shape.first_segment(phase, group);
        let sums = run.sums.map_or(std::ptr::null_mut(), |sums| {
            // SAFETY: there are sums of each unit.
            unsafe { sums.start().add(unit * self.y.channels) }
        });
        // Images in pixel order fit into the caches, so prefetching would only cost time.
        let ahead = match self.y.order {
            Order::Lanes => self.shape.inputs.div_ceil(self.shape.groups()),
            Order::Pixels | Order::Channels => 0,
        };
        Group {
            values: run.values[connection..].as_ptr(),
            offsets: run.structure.offsets[connection..].as_ptr(),
            outputs: run.structure.outputs[segment..].as_ptr(),
            counts: run.structure.counts[segment..].as_ptr(),
            blocks: self.shape.blocks(),
            size: self.shape.group(group).len(),
            epilogue: run.epilogue,
            channel: self.y.channel,
            x_step: grid.x.step,
            y_step: grid.y.step,
            sums,
            pivots: run.pivots,
            ahead,
            uniform: run.structure.uniform,
            stream: run.stream,
            ahead_channel: self.strides.channel,
            ahead_each: ahead.div_ceil(self.shape.blocks() * self.shape.group(group).len()),
        }
    }
}

fn add_sums(sums: &mut Sums, partial: &[[f32; 2]], channels: usize, count: usize) {
    sums.first.resize(channels, 0.0);
    sums.second.resize(channels, 0.0);
    for unit in partial.chunks_exact(channels) {
        for (channel, &[first, second]) in unit.iter().enumerate() {
            sums.first[channel] += f64::from(first);
            sums.second[channel] += f64::from(second);
        }
    }
    sums.count += count;
}

/// Where a tile is: fields of [`Forward`].
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    y: *mut f32,
    at: usize,
    keep: *const u16,
    ahead: *const f32,
}

/// Runs a tile of `count` vectors.
///
/// # Safety
/// As for the fields of [`Forward`]; the processor must have `isa`.
unsafe fn forward(isa: Isa, count: usize, group: Group, tile: Tile) {
    let Tile { x, y, at, keep, ahead } = tile;
    macro_rules! tiles {
        ($($m:literal)*) => {
            match count {
                // SAFETY: the caller vouches.
                $($m => unsafe { isa.run(Forward::<$m> { group, x, y, at, keep, ahead }) },)*
                _ => unreachable!("tiles have 1 to 14 vectors"),
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}
