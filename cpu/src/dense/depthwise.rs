//! Depthwise convolutions of images by channels.

use super::{Windows, tile};
use crate::buffer::Buffer;
use crate::epilogue::{Epilogue, Raw};
use crate::error::{Result, check_equal};
use crate::layout::Layout;
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task};
use crate::window::{Kernel, Window};
use std::ops::Range;

/// Outputs of a row that are computed together.
const TILE: usize = 6;

/// A depthwise convolution with an output per channel.
#[derive(Debug)]
pub(crate) struct DepthwiseConv {
    windows: Windows,
    /// `[channels / 16][rows][columns][16]`, filled up with zeros.
    packed: Buffer,
}

impl DepthwiseConv {
    /// A convolution of `x` that yields `y`, both by channels, with the weights `values` (`[rows][columns][channels]`).
    ///
    /// # Errors
    /// If shapes do not fit, or the halo is narrower than the padding.
    pub(crate) fn new(kernel: Kernel, window: Window, layouts: [Layout; 2], values: &[f32], isa: Isa) -> Result<Self> {
        let windows = Windows::new(kernel, &window, layouts, values.len(), isa)?;
        let kernel = &windows.kernel;
        check_equal("channels of a vector of the input", windows.x.column, LANES)?;
        check_equal(
            "depthwise, with an output per channel",
            kernel.depthwise && kernel.inputs == kernel.outputs,
            true,
        )?;
        let taps = kernel.rows * kernel.columns;
        let mut packed = Buffer::zeros(kernel.outputs.div_ceil(LANES) * taps * LANES);
        for (i, &value) in values.iter().enumerate() {
            let (tap, channel) = (i / kernel.outputs, i % kernel.outputs);
            packed[(channel / LANES * taps + tap) * LANES + channel % LANES] = value;
        }
        Ok(Self { windows, packed })
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
        let Windows { y: to, isa, .. } = &self.windows;
        let blocks = to.channels.div_ceil(LANES);
        // A few pieces per thread also where there are few channels.
        let bands = 16usize.div_ceil(blocks).min(to.height);
        parallel(to.batch * blocks * bands, &|piece| {
            let (picture, block, band) = (piece / bands / blocks, piece / bands % blocks, piece % bands);
            let rows = Rows {
                of: self,
                x: x.as_ptr(),
                y: y.start(),
                epilogue: vectors.raw(epilogue),
                picture,
                block,
                rows: band * to.height / bands..(band + 1) * to.height / bands,
            };
            // SAFETY: the instruction set was checked.
            unsafe { isa.run(rows) };
        });
        Ok(())
    }
}

/// Rows of 16 channels of an image.
struct Rows<'a> {
    of: &'a DepthwiseConv,
    x: *const f32,
    y: *mut f32,
    epilogue: Raw,
    picture: usize,
    block: usize,
    rows: Range<usize>,
}

impl Task for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.of.windows.y.width;
        for row in self.rows.clone() {
            let mut column = 0;
            // SAFETY: windows lie within the input, as its halo covers the padding; no other piece has these outputs.
            unsafe {
                while column + TILE <= width {
                    self.tile::<S, TILE>(s, row, column);
                    column += TILE;
                }
                match width - column {
                    0 => {}
                    1 => self.tile::<S, 1>(s, row, column),
                    2 => self.tile::<S, 2>(s, row, column),
                    3 => self.tile::<S, 3>(s, row, column),
                    4 => self.tile::<S, 4>(s, row, column),
                    _ => self.tile::<S, 5>(s, row, column),
                }
            }
        }
    }
}

impl Rows<'_> {
    /// # Safety
    /// `H` outputs from this row and column on must be in the image.
    #[inline(always)]
    unsafe fn tile<S: Simd, const H: usize>(&self, s: S, row: usize, column: usize) {
        let Windows {
            kernel,
            x,
            y,
            begin,
            step,
            ..
        } = &self.of.windows;
        let taps = kernel.rows * kernel.columns;
        let from = begin + self.picture * x.block + self.block * x.channel;
        let from = self.x.wrapping_add(from + row * step[0] + column * step[1]);
        let weights = self.of.packed[self.block * taps * LANES..].as_ptr();
        let mut acc = [s.splat(0.0); H];
        let at = y.start + self.picture * y.block + row * y.row + column * LANES;
        // SAFETY: the caller vouches.
        unsafe {
            for kernel_row in 0..kernel.rows {
                for kernel_column in 0..kernel.columns {
                    let w = s.load(weights.add((kernel_row * kernel.columns + kernel_column) * LANES));
                    let from = from.add(kernel_row * x.row + kernel_column * x.column);
                    for j in 0..H {
                        acc[j] = s.fma(w, s.load(from.add(j * step[1])), acc[j]);
                    }
                }
            }
            tile::finish(
                s,
                &mut acc,
                &self.epilogue,
                self.block,
                at + self.block * y.channel,
                self.y,
            );
        }
    }
}
