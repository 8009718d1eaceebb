//! How activations lie in memory.

use crate::error::{Error, Result, check_length};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::LANES;

/// The meaning of a vector's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// 16 images: `[batch / 16][height][channels][width][16]`, the batch filled up to a multiple of 16.
    Lanes,
    /// 16 neighbouring pixels of one image: `[batch][channels][height × width]`, rows flattened.
    Pixels,
    /// 16 neighbouring channels of one pixel: `[batch][channels / 16][height][width][16]`, for layers that
    /// are computed as dense ones.
    Channels,
}

/// Zero padding stored around each image, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halo {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the left.
    pub left: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Halo {
    /// The same width on all four sides.
    pub fn all(n: usize) -> Self {
        Self {
            top: n,
            bottom: n,
            left: n,
            right: n,
        }
    }

    /// Whether every side is at least as wide as that of `other`.
    pub fn covers(self, other: Self) -> bool {
        self.top >= other.top && self.bottom >= other.bottom && self.left >= other.left && self.right >= other.right
    }
}

/// How a batch of images is stored in a flat array. Strides are in floats.
///
/// The halo is zero and must stay zero; lanes beyond the batch are never used. In
/// [`Order::Pixels`] neighbouring rows share the columns between them, and planes are whole vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The meaning of a vector's lanes.
    pub order: Order,
    /// Images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Zeros around each image.
    pub halo: Halo,
    /// Index of element (0, 0, 0, 0).
    pub start: usize,
    /// From 16 images to the next 16 (lanes), or from an image to the next.
    pub block: usize,
    /// From a row to the next.
    pub row: usize,
    /// From a channel (lanes, pixels), or from a block of channels, to the next.
    pub channel: usize,
    /// From a column to the next.
    pub column: usize,
    /// Total number of floats.
    pub len: usize,
}

impl Layout {
    /// `[batch / 16][height][channels][width][16]`: of a batch of 16, an XLA array `f32[N,H,W,C]` with the minor-to-major order
    /// `{0,2,3,1}`. With a halo, `[batch / 16][top + height + bottom][channels][left + width + right][16]`.
    pub fn lanes(batch: usize, height: usize, width: usize, channels: usize, halo: Halo) -> Self {
        Self::lanes_with_columns(batch, height, width, channels, halo, halo.left + width + halo.right)
    }

    /// As [`Layout::lanes`], with an odd number of columns in memory: then the channels of a column do not compete for the
    /// same sets of the first-level cache. For arrays that only this crate uses.
    pub fn skewed_lanes(batch: usize, height: usize, width: usize, channels: usize, halo: Halo) -> Self {
        Self::lanes_with_columns(
            batch,
            height,
            width,
            channels,
            halo,
            (halo.left + width + halo.right) | 1,
        )
    }

    fn lanes_with_columns(
        batch: usize,
        height: usize,
        width: usize,
        channels: usize,
        halo: Halo,
        columns: usize,
    ) -> Self {
        let channel = columns * LANES;
        let row = channels * channel;
        let block = (halo.top + height + halo.bottom) * row;
        Self {
            order: Order::Lanes,
            batch,
            height,
            width,
            channels,
            halo,
            start: halo.top * row + halo.left * LANES,
            block,
            row,
            channel,
            column: LANES,
            len: batch.div_ceil(LANES) * block,
        }
    }

    /// `[batch][channels][plane]`. A plane holds rows of `width + max(left, right)` floats, the first element at a multiple of 16.
    pub fn pixels(batch: usize, height: usize, width: usize, channels: usize, halo: Halo) -> Self {
        let row = width + halo.left.max(halo.right);
        let start = (halo.top * row + halo.left).next_multiple_of(LANES);
        // An odd number of vectors, so that planes do not compete for the same sets of the first-level cache.
        let vectors = (start + (height + halo.bottom) * row + halo.right).div_ceil(LANES) | 1;
        let channel = vectors * LANES;
        let block = channels * channel;
        // Kernels may read whole vectors past the last plane.
        let slack = (halo.bottom * row + halo.right).next_multiple_of(LANES) + LANES;
        Self {
            order: Order::Pixels,
            batch,
            height,
            width,
            channels,
            halo,
            start,
            block,
            row,
            channel,
            column: 1,
            len: batch * block + slack,
        }
    }

    /// `[batch][channels / 16][top + height + bottom][left + width + right][16]`, channels filled up to a multiple of 16 with
    /// values that are never used.
    pub fn channels(batch: usize, height: usize, width: usize, channels: usize, halo: Halo) -> Self {
        Self::blocked(batch, [height, width, channels], halo, LANES)
    }

    /// `[batch][top + height + bottom][left + width + right][channels]`: NHWC with a halo, which layers may read by channels.
    pub fn interleaved(batch: usize, height: usize, width: usize, channels: usize, halo: Halo) -> Self {
        Self::blocked(batch, [height, width, channels], halo, channels)
    }

    /// `column` channels of a pixel lie side by side.
    fn blocked(batch: usize, [height, width, channels]: [usize; 3], halo: Halo, column: usize) -> Self {
        let row = (halo.left + width + halo.right) * column;
        let channel = (halo.top + height + halo.bottom) * row;
        let block = channels.div_ceil(column.max(1)) * channel;
        Self {
            order: Order::Channels,
            batch,
            height,
            width,
            channels,
            halo,
            start: halo.top * row + halo.left * column,
            block,
            row,
            channel,
            column,
            len: batch * block,
        }
    }

    /// Features without pixels, for dense layers: `[features]` of one example, else `[features][batch]`, the batch filled up to
    /// a multiple of 16.
    pub fn features(batch: usize, features: usize) -> Self {
        let columns = if batch == 1 { 1 } else { batch.next_multiple_of(LANES) };
        Self {
            order: if batch == 1 { Order::Pixels } else { Order::Lanes },
            batch,
            height: 1,
            width: 1,
            channels: features,
            halo: Halo::default(),
            start: 0,
            block: LANES,
            row: features * columns,
            channel: columns,
            column: LANES,
            len: features * columns,
        }
    }

    /// Blocks of 16 images, or images.
    pub fn blocks(&self) -> usize {
        match self.order {
            Order::Lanes => self.batch.div_ceil(LANES),
            Order::Pixels | Order::Channels => self.batch,
        }
    }

    /// Index of an element.
    pub fn at(&self, picture: usize, row: usize, column: usize, channel: usize) -> usize {
        let (block, lane) = match self.order {
            Order::Lanes => (picture / LANES, picture % LANES),
            Order::Pixels => (picture, 0),
            Order::Channels => (picture, channel % self.column),
        };
        let channel = match self.order {
            Order::Lanes | Order::Pixels => channel,
            Order::Channels => channel / self.column,
        };
        self.start + block * self.block + lane + row * self.row + column * self.column + channel * self.channel
    }

    /// Lanes of block `block` that hold images, as bits. For [`Order::Lanes`].
    pub(crate) fn filled(&self, block: usize) -> u16 {
        let filled = self.batch - (block * LANES).min(self.batch);
        if filled >= LANES { u16::MAX } else { (1 << filled) - 1 }
    }

    /// Checks that distances fit into the 32-bit offsets of kernels, in bytes.
    pub(crate) fn check(&self) -> Result<()> {
        let found = self.len.max(self.block) as i128;
        if self.batch == 0 || self.channels == 0 || self.height == 0 || self.width == 0 {
            return Err(Error::Range {
                what: "pictures, channels, rows and columns of a layout",
                found: 0,
                expected: "at least 1",
            });
        }
        let distance = (self.block + self.row + self.channel) as i128 * 4;
        if distance > i128::from(i32::MAX) {
            return Err(Error::Range {
                what: "bytes of a block of pictures",
                found: distance,
                expected: "below 2 GiB",
            });
        }
        debug_assert!(found > 0);
        Ok(())
    }

    /// Copies `[batch, height, width, channels]` into this layout. The halo is left as it is.
    ///
    /// # Errors
    /// If an array has another length.
    pub fn from_nhwc(&self, source: &[f32], target: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        check_length(
            "NHWC array",
            source.len(),
            self.batch * self.height * self.width * self.channels,
        )?;
        check_length("array in a layout", target.len(), self.len)?;
        let target = SharedMut::new(target);
        self.each_row(parallel, |picture, row| {
            let from = (picture * self.height + row) * self.width * self.channels;
            if self.column == self.channels && self.order == Order::Channels {
                let at = self.at(picture, row, 0, 0);
                let length = self.width * self.channels;
                // SAFETY: within the layout, and each row is written by one piece only.
                let target = unsafe { target.part(at..at + length) };
                return target.copy_from_slice(&source[from..from + length]);
            }
            for column in 0..self.width {
                let pixel = &source[from + column * self.channels..][..self.channels];
                for (channel, &value) in pixel.iter().enumerate() {
                    // SAFETY: within the layout, and each element is written by one piece only.
                    unsafe { target.write(self.at(picture, row, column, channel), value) };
                }
            }
        });
        Ok(())
    }

    /// Copies from this layout to `[batch, height, width, channels]`.
    ///
    /// # Errors
    /// If an array has another length.
    pub fn to_nhwc(&self, source: &[f32], target: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        check_length("array in a layout", source.len(), self.len)?;
        check_length(
            "NHWC array",
            target.len(),
            self.batch * self.height * self.width * self.channels,
        )?;
        let target = SharedMut::new(target);
        self.each_row(parallel, |picture, row| {
            let to = (picture * self.height + row) * self.width * self.channels;
            for column in 0..self.width {
                for channel in 0..self.channels {
                    let value = source[self.at(picture, row, column, channel)];
                    // SAFETY: within the array, and each element is written by one piece only.
                    unsafe { target.write(to + column * self.channels + channel, value) };
                }
            }
        });
        Ok(())
    }

    /// Calls `f` with each row of each image; the images of a block one after the other, as they share cache lines.
    fn each_row(&self, parallel: &ParallelFor<'_>, f: impl Fn(usize, usize) + Sync) {
        let share = match self.order {
            Order::Lanes => LANES,
            Order::Pixels | Order::Channels => 1,
        };
        parallel(self.blocks() * self.height, &|piece| {
            let (block, row) = (piece / self.height, piece % self.height);
            for picture in block * share..((block + 1) * share).min(self.batch) {
                f(picture, row);
            }
        });
    }
}
