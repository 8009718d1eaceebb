//! Dense convolutions, depthwise ones too, of images stored by channels.
//!
//! A vector is 16 output channels of a pixel. A tile of pixels stays in registers while the inputs' channels, one after the
//! other, are multiplied by vectors of weights; weights lie in the order in which they are used.

mod depthwise;
#[cfg(test)]
mod tests;
mod tile;
mod windows;

pub(crate) use depthwise::DepthwiseConv;
pub(crate) use tile::finish;
pub(crate) use windows::Windows;

use crate::buffer::Buffer;
use crate::epilogue::{Epilogue, Raw};
use crate::error::{Result, check_equal};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES};
use crate::window::{Kernel, Window};
use std::ops::Range;
use tile::{Ahead, Segment, Shared};

/// Bytes of input rows that stay in the second-level cache while all output channels are computed.
const ROWS: usize = 256 << 10;

/// Minimum number of pieces of work, where there are as many panels and rows.
const PIECES: usize = 16;

/// Maximum number of tiles that share a panel's weights for which the next panel is asked for ahead of its use.
const FEW: usize = 16;

/// Multiply-adds below which one thread does all the work.
const SMALL: usize = 300_000;

/// A convolution that computes all its weights.
#[derive(Debug)]
pub(crate) struct DenseConv {
    windows: Windows,
    /// `[outputs / 16][inputs / lanes][rows][columns][lanes][16]`, filled up with zeros.
    packed: Buffer,
    /// Rows and columns of the output as they are walked over: one row, where rows follow each other in memory.
    rows: usize,
    columns: usize,
}

impl DenseConv {
    /// A convolution of `x` that yields `y`, both by channels, with the weights `values` (HWIO).
    ///
    /// # Errors
    /// If shapes do not fit, or the halo is narrower than the padding.
    pub(crate) fn new(kernel: Kernel, window: Window, layouts: [Layout; 2], values: &[f32], isa: Isa) -> Result<Self> {
        let windows = Windows::new(kernel, &window, layouts, values.len(), isa)?;
        let Windows { kernel, x, y, .. } = &windows;
        check_equal("depthwise", kernel.depthwise, false)?;
        let single = kernel.rows * kernel.columns == 1 && window.stride == [1, 1];
        let flat = single && x.row == x.width * x.column && y.row == y.width * y.column;
        Ok(Self {
            packed: pack(kernel, x.column, values),
            rows: if flat { 1 } else { y.height },
            columns: if flat { y.height * y.width } else { y.width },
            windows,
        })
    }

    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Convolves `x` into `y`, and applies the epilogue. The halo of `y` stays.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        parallel: &ParallelFor<'_>,
    ) -> Result<()> {
        let vectors = self.windows.vectors(x, y, epilogue)?;
        let y = SharedMut::new(y);
        let shared = self.shared(x, y, epilogue, &vectors);
        let panels = self
            .windows
            .y
            .channels
            .div_ceil(LANES)
            .div_ceil(shared.panel_blocks(self.windows.isa));
        let row_bytes = self.windows.step[0].max(self.windows.step[1] * self.columns)
            * self.windows.x.channels.div_ceil(self.windows.x.column)
            * 4;
        let bands = (self.rows * row_bytes).div_ceil(ROWS).clamp(1, self.rows);
        let parts = panels.min(PIECES.div_ceil(bands));
        let pieces = self.windows.y.batch * bands * parts;
        let piece = |piece: usize| {
            let (picture, band, part) = (piece / parts / bands, piece / parts % bands, piece % parts);
            let rows = band * self.rows / bands..(band + 1) * self.rows / bands;
            let panels = part * panels / parts..(part + 1) * panels / parts;
            self.piece(&shared, picture, rows, panels);
        };
        if self.windows.kernel.size() * self.windows.y.height * self.windows.y.width * self.windows.y.batch < SMALL {
            (0..pieces).for_each(piece);
        } else {
            parallel(pieces, &piece);
        }
        Ok(())
    }

    fn shared(&self, x: &[f32], y: SharedMut<'_, f32>, epilogue: &Epilogue<'_>, vectors: &Vectors) -> Shared {
        let lanes = self.windows.x.column;
        let blocks = self.windows.x.channels.div_ceil(lanes);
        Shared {
            x: x.as_ptr(),
            y: y.start(),
            packed: self.packed.as_ptr(),
            panel: self.packed.len() / self.windows.y.channels.div_ceil(LANES),
            outputs: self.windows.y.channels.div_ceil(LANES),
            blocks,
            lanes,
            last: self.windows.x.channels - (blocks - 1) * lanes,
            kernel: [self.windows.kernel.rows, self.windows.kernel.columns],
            plane: self.windows.x.channel,
            row: self.windows.x.row,
            column: self.windows.x.column,
            step: self.windows.step[1],
            y_plane: self.windows.y.channel,
            epilogue: vectors.raw(epilogue),
        }
    }

    /// Computes some output channels of some rows.
    fn piece(&self, shared: &Shared, picture: usize, rows: Range<usize>, panels: Range<usize>) {
        let segments = self.segments(picture, rows);
        let tiles: Vec<&[Segment]> = segments
            .chunk_by(|a, b| a.width == b.width)
            .flat_map(|same| same.chunks(1 + usize::from(Shared::pairs(self.windows.isa, same[0].width))))
            .collect();
        let each = shared.panel_blocks(self.windows.isa);
        let inputs = shared.panel / LANES;
        for panel in panels {
            let blocks = panel * each..((panel + 1) * each).min(shared.outputs);
            for (i, tile) in tiles.iter().enumerate() {
                let next = tiles.get(i + 1).unwrap_or(&tiles[0]);
                // The tiles of a panel share in asking for the next one.
                let part = (each * LANES).div_ceil(tiles.len());
                let ahead = Ahead {
                    from: shared
                        .packed
                        .wrapping_add((panel + 1) * each * shared.panel + i * part * inputs),
                    each: if tiles.len() <= FEW { part } else { 0 },
                };
                // SAFETY: windows lie within the input, as its halo covers the padding; segments within the output, and no
                // other piece has the same ones of these channels; the instruction set was checked.
                unsafe { shared.run(self.windows.isa, blocks.clone(), tile, next, ahead) };
            }
        }
    }

    /// The rows' outputs in segments of neighbours that a tile may hold; those of equal length follow each other.
    fn segments(&self, picture: usize, rows: Range<usize>) -> Vec<Segment> {
        let count = self.columns.div_ceil(tile::most(self.windows.isa));
        let mut segments = Vec::with_capacity(rows.len() * count);
        for row in rows {
            for part in 0..count {
                let first = part * self.columns / count;
                segments.push(Segment {
                    x: self.windows.begin
                        + picture * self.windows.x.block
                        + row * self.windows.step[0]
                        + first * self.windows.step[1],
                    y: self.windows.y.start + picture * self.windows.y.block + row * self.windows.y.row + first * LANES,
                    width: (part + 1) * self.columns / count - first,
                });
            }
        }
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.width));
        segments
    }
}

/// Checks that both layouts are by channels, and the input's halo covers the padding.
fn check_layouts(window: &Window, x: &Layout, y: &Layout) -> Result<()> {
    check_equal("order of the input", x.order, Order::Channels)?;
    check_equal("order of the output", y.order, Order::Channels)?;
    check_equal("channels of a vector of the output", y.column, LANES)?;
    check_equal(
        "halo of the input covers the padding",
        x.halo.covers(window.halo()),
        true,
    )
}

/// Weights in the order in which tiles use them.
fn pack(kernel: &Kernel, lanes: usize, values: &[f32]) -> Buffer {
    let taps = kernel.rows * kernel.columns;
    let (blocks, panels) = (kernel.inputs.div_ceil(lanes), kernel.outputs.div_ceil(LANES));
    let mut packed = Buffer::zeros(panels * taps * kernel.inputs * LANES);
    let mut targets = packed.chunks_exact_mut(LANES);
    for panel in 0..panels {
        let outputs = panel * LANES..((panel + 1) * LANES).min(kernel.outputs);
        for block in 0..blocks {
            let inputs = block * lanes..((block + 1) * lanes).min(kernel.inputs);
            for tap in 0..taps {
                for input in inputs.clone() {
                    let from = (tap * kernel.inputs + input) * kernel.outputs;
                    if let Some(target) = targets.next() {
                        target[..outputs.len()].copy_from_slice(&values[from + outputs.start..from + outputs.end]);
                    }
                }
            }
        }
    }
    packed
}

/// Arrays of an epilogue, filled up to whole vectors.
pub(crate) struct Vectors {
    scale: Option<Vec<f32>>,
    shift: Option<Vec<f32>>,
}

impl Vectors {
    pub(crate) fn new(epilogue: &Epilogue<'_>, channels: usize) -> Self {
        let filled = |values: Option<&[f32]>| {
            values.map(|values| {
                let mut filled = values.to_vec();
                filled.resize(channels.next_multiple_of(LANES), 0.0);
                filled
            })
        };
        Self {
            scale: filled(epilogue.scale),
            shift: filled(epilogue.shift),
        }
    }

    pub(crate) fn raw(&self, epilogue: &Epilogue<'_>) -> Raw {
        let pointer = |array: &Option<Vec<f32>>| array.as_ref().map_or(std::ptr::null(), |array| array.as_ptr());
        Raw {
            scale: pointer(&self.scale),
            shift: pointer(&self.shift),
            ..epilogue.raw()
        }
    }
}
