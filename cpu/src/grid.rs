//! The vectors of an output that a kernel visits, and the inputs they read.

use crate::error::{Result, check_equal};
use crate::layout::{Layout, Order};
use crate::simd::LANES;
use crate::window::{Kernel, Tap, Window};

/// Strides, in floats, between the vectors that a kernel visits in an array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    pub start: usize,
    pub block: usize,
    pub row: usize,
    pub step: usize,
}

impl Walk {
    pub fn at(&self, block: usize, row: usize, vector: usize) -> usize {
        self.start + block * self.block + row * self.row + vector * self.step
    }
}

/// The vectors of an output (or of one phase of it), and the input vectors at offset 0.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub blocks: usize,
    pub rows: usize,
    /// Vectors per row. 0 if the output has one value per image and is computed without vectors.
    pub vectors: usize,
    pub x: Walk,
    pub y: Walk,
    /// Valid lanes of each vector of a row, in blocks from `keep_from` on; earlier blocks use all lanes.
    pub keep: Vec<u16>,
    pub keep_from: usize,
}

/// Strides of the array that is read, in floats per row, column and input channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strides {
    pub row: usize,
    pub column: usize,
    pub channel: usize,
}

impl Strides {
    pub fn of(layout: &Layout) -> Self {
        Self {
            row: layout.row,
            column: layout.column,
            channel: layout.channel,
        }
    }

    /// Byte offset of an element. Layouts are checked to be below 2 GiB.
    pub fn offset(&self, row: i32, column: i32, channel: usize) -> i32 {
        let floats = row as isize * self.row as isize
            + column as isize * self.column as isize
            + (channel * self.channel) as isize;
        (floats * 4) as i32
    }
}

fn walk(layout: &Layout) -> Walk {
    Walk {
        start: layout.start,
        block: layout.block,
        row: layout.row,
        step: layout.column,
    }
}

impl Grid {
    /// The grid of a convolution of images that lie by lanes, or of one value per image.
    pub fn forward(window: &Window, x: &Layout, y: &Layout) -> Self {
        let [[top, _], [left, _]] = window.pads;
        let mut from = walk(x);
        from.start -= top * x.row + left * x.column;
        from.row *= window.stride[0];
        from.step *= window.stride[1];
        Self::of(y, y.height, y.width, from, walk(y))
    }

    /// The grid of one phase of a transposed convolution: `x` is the output's gradient, `y` the input's.
    pub fn transposed(window: &Window, phase: [usize; 2], x: &Layout, y: &Layout) -> Self {
        let count = |size: usize, axis: usize| size.saturating_sub(phase[axis]).div_ceil(window.stride[axis]);
        let mut to = walk(y);
        to.start += phase[0] * y.row + phase[1] * y.column;
        to.row *= window.stride[0];
        to.step *= window.stride[1];
        Self::of(y, count(y.height, 0), count(y.width, 1), walk(x), to)
    }

    /// The grid of a convolution by steps of 1 of flattened pixels; `x` has the rows of `y`.
    pub fn pixels(window: &Window, x: &Layout, y: &Layout) -> Self {
        let [[top, _], [left, _]] = window.pads;
        let span = (y.height - 1) * y.row + y.width;
        let vectors = span.div_ceil(LANES);
        let inside = |flat: usize| flat < span && flat % y.row < y.width;
        let keep =
            |vector: usize| (0..LANES).fold(0, |bits, lane| bits | u16::from(inside(vector * LANES + lane)) << lane);
        Self {
            blocks: y.batch,
            rows: 1,
            vectors,
            x: Walk {
                start: x.start - top * x.row - left,
                step: LANES,
                ..walk(x)
            },
            y: Walk { step: LANES, ..walk(y) },
            keep: (0..vectors).map(keep).collect(),
            keep_from: 0,
        }
    }

    fn of(y: &Layout, rows: usize, columns: usize, from: Walk, to: Walk) -> Self {
        let blocks = y.blocks();
        if y.order == Order::Pixels {
            return Self {
                blocks,
                rows,
                vectors: 0,
                x: from,
                y: to,
                keep: Vec::new(),
                keep_from: 0,
            };
        }
        // A phase without columns gets no rows, as `vectors: 0` means one value per image.
        let rows = if columns == 0 { 0 } else { rows };
        let last = y.filled(blocks - 1);
        if rows == 1 && columns == 1 {
            // The blocks are the vectors of a row.
            let by_block = |walk: Walk| Walk {
                step: walk.block,
                ..walk
            };
            return Self {
                blocks: 1,
                rows,
                vectors: blocks,
                x: by_block(from),
                y: by_block(to),
                keep: (0..blocks).map(|block| y.filled(block)).collect(),
                keep_from: usize::from(last == u16::MAX),
            };
        }
        Self {
            blocks,
            rows,
            vectors: columns,
            x: from,
            y: to,
            keep: vec![last; columns],
            keep_from: if last == u16::MAX { blocks } else { blocks - 1 },
        }
    }

    /// Valid lanes of each vector of a block's rows; `None` for all.
    pub fn keep(&self, block: usize) -> Option<&[u16]> {
        (block >= self.keep_from).then_some(&self.keep)
    }

    /// Least and greatest byte offsets for which everything read lies within an array of `len` floats.
    pub fn reach(&self, len: usize) -> (i64, i64) {
        if self.blocks * self.rows == 0 {
            return (i64::MIN, i64::MAX);
        }
        let width = if self.vectors == 0 { 1 } else { LANES };
        let last = self.x.at(self.blocks - 1, self.rows - 1, self.vectors.max(1) - 1) + width;
        (-(self.x.start as i64) * 4, (len as i64 - last as i64) * 4)
    }

    /// Whether everything written lies within an array of `len` floats, for all `channels` that are `channel` floats apart.
    pub fn fits(&self, len: usize, channel: usize, channels: usize) -> bool {
        let width = if self.vectors == 0 { 1 } else { LANES };
        let empty = self.blocks * self.rows == 0;
        empty
            || self.y.at(self.blocks - 1, self.rows - 1, self.vectors.max(1) - 1) + (channels - 1) * channel + width
                <= len
    }
}

/// Splits `value` into a multiple of `by` and a remainder of at least 0.
pub(crate) fn floor_div(value: i32, by: usize) -> (i32, usize) {
    let by = by as i32;
    (value.div_euclid(by), value.rem_euclid(by) as usize)
}

/// The phase of a transposed convolution that an element of the kernel belongs to, and the row and column that it reads there.
pub(crate) fn transposed_tap(window: &Window, tap: &Tap) -> ([usize; 2], [i32; 2]) {
    let axis = |tap: i32, axis: usize| {
        let shift = tap - window.pads[axis][0] as i32;
        let (back, phase) = floor_div(shift, window.stride[axis]);
        (phase, -back)
    };
    let (rows, columns) = (axis(tap.row, 0), axis(tap.column, 1));
    ([rows.0, columns.0], [rows.1, columns.1])
}

/// Checks that the shapes of a convolution's layouts fit.
pub(crate) fn check_shapes(kernel: &Kernel, window: &Window, x: &Layout, y: &Layout) -> Result<()> {
    kernel.check()?;
    x.check()?;
    y.check()?;
    let [height, width] = window.output([kernel.rows, kernel.columns], x.height, x.width)?;
    check_equal("input channels", x.channels, kernel.inputs)?;
    check_equal("output channels", y.channels, kernel.outputs)?;
    check_equal(
        "batch, rows and columns of the output",
        [y.batch, y.height, y.width],
        [x.batch, height, width],
    )
}
