//! Max and average pooling in the layouts of convolutions.

mod channels;

use crate::error::{Result, check_equal, check_length};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task};
use crate::window::Window;
use std::ops::Range;

/// Channels by pixels that a piece of work has.
const CHANNELS: usize = 16;

/// The reduction over a window. Padding does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The largest element; NaN if one is NaN.
    Max,
    /// The mean of the elements.
    Average,
}

/// Pooling from one layout to another.
///
/// ```
/// use cpu::{Halo, Layout, Pool, Reduction, Window, on_this_thread};
///
/// let x = Layout::pixels(1, 2, 2, 1, Halo::default());
/// let y = Layout::features(1, 1);
/// let pool = Pool::new(Reduction::Average, [2, 2], Window::unit(), x, y, None)?;
/// let (mut input, mut output) = (vec![0.0; x.len], [0.0]);
/// x.from_nhwc(&[1.0, 2.0, 3.0, 6.0], &mut input, on_this_thread())?;
/// pool.forward(&input, &mut output, on_this_thread())?;
/// assert_eq!(output, [3.0]);
/// # Ok::<(), cpu::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    reduction: Reduction,
    size: [usize; 2],
    window: Window,
    x: Layout,
    y: Layout,
    isa: Isa,
}

impl Pool {
    /// A pooling of `x` by windows of `size` that yields `y`. Layouts may differ in order if the output has one pixel.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn new(
        reduction: Reduction,
        size: [usize; 2],
        window: Window,
        x: Layout,
        y: Layout,
        isa: Option<Isa>,
    ) -> Result<Self> {
        x.check()?;
        y.check()?;
        let [height, width] = window.output(size, x.height, x.width)?;
        let shape = [x.batch, height, width, x.channels];
        check_equal("shape of the output", [y.batch, y.height, y.width, y.channels], shape)?;
        check_equal(
            "order of input and output",
            y.order == x.order || (height * width == 1 && x.order != Order::Channels && y.order != Order::Channels),
            true,
        )?;
        let vectors = x.order != Order::Channels || [x.column, y.column] == [LANES; 2];
        check_equal("vectors of 16 channels", vectors, true)?;
        let narrow = (0..2).all(|axis| window.pads[axis].iter().all(|&pad| pad < size[axis]));
        check_equal("padding narrower than the window", narrow, true)?;
        Ok(Self {
            reduction,
            size,
            window,
            x,
            y,
            isa: isa.unwrap_or_else(Isa::detect).checked()?,
        })
    }

    /// The reduction over windows.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If an array has another length than its layout.
    pub fn forward(&self, x: &[f32], y: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        check_length("input", x.len(), self.x.len)?;
        check_length("output", y.len(), self.y.len)?;
        let y = SharedMut::new(y);
        let (blocks, channels) = (self.x.blocks(), self.x.channels);
        match self.x.order {
            Order::Lanes => parallel(blocks * self.y.height, &|piece| {
                let (block, row) = (piece / self.y.height, piece % self.y.height);
                // SAFETY: the instruction set was checked.
                unsafe {
                    self.isa.run(Lanes {
                        pool: self,
                        x,
                        y,
                        block,
                        row,
                    })
                };
            }),
            Order::Pixels => {
                let parts = channels.div_ceil(CHANNELS);
                parallel(blocks * parts, &|piece| {
                    let (picture, part) = (piece / parts, piece % parts);
                    let planes = Planes {
                        pool: self,
                        x,
                        y,
                        picture,
                        channels: part * CHANNELS..((part + 1) * CHANNELS).min(channels),
                    };
                    // SAFETY: the instruction set was checked.
                    unsafe { self.isa.run(planes) };
                });
            }
            Order::Channels => {
                let parts = channels.div_ceil(self.x.column);
                parallel(blocks * parts, &|piece| {
                    let (picture, part) = (piece / parts, piece % parts);
                    let block = channels::Block {
                        pool: self,
                        x,
                        y,
                        picture,
                        channels: part,
                    };
                    // SAFETY: the instruction set was checked.
                    unsafe { self.isa.run(block) };
                });
            }
        }
        Ok(())
    }

    /// Computes the input gradient `dx` from the output gradient. If maxima are equal, the first one in a
    /// window gets the gradient, as in XLA. Both have the layouts of output and input, in lane order.
    ///
    /// # Errors
    /// If an array has another length than its layout, or the layouts are by pixels.
    pub fn gradient(&self, x: &[f32], dy: &[f32], dx: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        check_length("input", x.len(), self.x.len)?;
        check_length("output's gradient", dy.len(), self.y.len)?;
        check_length("input's gradient", dx.len(), self.x.len)?;
        check_equal(
            "order of the layouts",
            (self.x.order, self.y.order),
            (Order::Lanes, Order::Lanes),
        )?;
        let dx = SharedMut::new(dx);
        let channels = self.x.channels;
        parallel(self.x.blocks() * channels, &|piece| {
            let (block, channel) = (piece / channels, piece % channels);
            // SAFETY: the instruction set was checked.
            unsafe {
                self.isa.run(Gradient {
                    pool: self,
                    x,
                    dy,
                    dx,
                    block,
                    channel,
                })
            };
        });
        Ok(())
    }

    /// Rows of the input in the window of an output row.
    fn rows(&self, row: usize) -> Range<usize> {
        reach(
            row,
            self.size[0],
            self.window.stride[0],
            self.window.pads[0][0],
            self.x.height,
        )
    }

    /// Columns of the input in the window of an output column.
    fn columns(&self, column: usize) -> Range<usize> {
        reach(
            column,
            self.size[1],
            self.window.stride[1],
            self.window.pads[1][0],
            self.x.width,
        )
    }

    fn factor(&self, elements: usize) -> f32 {
        match self.reduction {
            Reduction::Max => 1.0,
            Reduction::Average => 1.0 / elements as f32,
        }
    }

    /// The maximum or sum so far, with another vector of elements.
    #[inline(always)]
    fn with<S: Simd>(&self, s: S, so_far: Option<S::V>, x: S::V) -> S::V {
        match (so_far, self.reduction) {
            (None, _) => x,
            (Some(so_far), Reduction::Max) => s.maximum(so_far, x),
            (Some(so_far), Reduction::Average) => s.add(so_far, x),
        }
    }

    /// The maximum or mean of a window: `reduced` is the maximum or sum of its `elements`, from [`Pool::with`].
    #[inline(always)]
    fn reduced<S: Simd>(&self, s: S, reduced: Option<S::V>, elements: usize) -> S::V {
        let reduced = reduced.unwrap_or_else(|| s.splat(0.0));
        match self.reduction {
            Reduction::Max => reduced,
            Reduction::Average => s.mul(reduced, s.splat(self.factor(elements))),
        }
    }
}

fn reach(output: usize, size: usize, stride: usize, pad: usize, inputs: usize) -> Range<usize> {
    let first = output * stride;
    first.saturating_sub(pad)..(first + size).saturating_sub(pad).min(inputs)
}

#[inline(always)]
fn maximum(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// A row of 16 images.
struct Lanes<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    y: SharedMut<'a, f32>,
    block: usize,
    row: usize,
}

impl Task for Lanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pool { x: from, y: to, .. } = self.pool;
        let rows = self.pool.rows(self.row);
        for channel in 0..from.channels {
            for column in 0..to.width {
                let columns = self.pool.columns(column);
                let mut acc = None;
                for h in rows.clone() {
                    for w in columns.clone() {
                        let at = from.at(self.block * LANES, h, w, channel);
                        // SAFETY: 16 lanes of an element.
                        let x = unsafe { s.load(self.x[at..at + LANES].as_ptr()) };
                        acc = Some(self.pool.with(s, acc, x));
                    }
                }
                let result = self.pool.reduced(s, acc, rows.len() * columns.len());
                self.write(s, result, column, channel);
            }
        }
    }
}

impl Lanes<'_> {
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, result: S::V, column: usize, channel: usize) {
        let to = &self.pool.y;
        let first = self.block * LANES;
        if to.order == Order::Lanes {
            let at = to.at(first, self.row, column, channel);
            // SAFETY: 16 lanes of an element that only this piece writes.
            return unsafe { s.store(self.y.part(at..at + LANES).as_mut_ptr(), result) };
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: an array of 16.
        unsafe { s.store(lanes.as_mut_ptr(), result) };
        for (picture, &value) in (first..to.batch).zip(&lanes) {
            // SAFETY: an element that only this piece writes.
            unsafe { self.y.write(to.at(picture, self.row, column, channel), value) };
        }
    }
}

/// Channels of an image by pixels.
struct Planes<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    y: SharedMut<'a, f32>,
    picture: usize,
    channels: Range<usize>,
}

impl Task for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Pool { x: from, y: to, .. } = self.pool;
        let (mut line, mut result) = (vec![0.0; from.width], vec![0.0; to.width]);
        for channel in self.channels.clone() {
            for row in 0..to.height {
                let rows = self.pool.rows(row);
                for (i, h) in rows.clone().enumerate() {
                    let at = from.at(self.picture, h, 0, channel);
                    let source = &self.x[at..at + from.width];
                    match self.pool.reduction {
                        _ if i == 0 => line.copy_from_slice(source),
                        Reduction::Max => line.iter_mut().zip(source).for_each(|(a, &b)| *a = maximum(*a, b)),
                        Reduction::Average => line.iter_mut().zip(source).for_each(|(a, &b)| *a += b),
                    }
                }
                match self.pool.reduction {
                    Reduction::Max => self.maxima(&line, &mut result),
                    Reduction::Average => self.means(&line, &mut result, rows.len()),
                }
                let at = to.at(self.picture, row, 0, channel);
                for (column, &value) in result.iter().enumerate() {
                    // SAFETY: an element that only this piece writes.
                    unsafe { self.y.write(at + column * to.column, value) };
                }
            }
        }
    }
}

impl Planes<'_> {
    /// The maxima of a line's windows: element by element of the window, so that columns are computed as vectors.
    #[inline(always)]
    fn maxima(&self, line: &[f32], result: &mut [f32]) {
        let (pad, stride) = (self.pool.window.pads[1][0], self.pool.window.stride[1]);
        result.fill(f32::NEG_INFINITY);
        for tap in 0..self.pool.size[1] {
            // Columns before this one read padding.
            let first = pad.saturating_sub(tap).div_ceil(stride);
            let Some(source) = line.get(first * stride + tap - pad..) else {
                continue;
            };
            let result = result.get_mut(first..).unwrap_or_default();
            match stride {
                1 => result.iter_mut().zip(source).for_each(|(a, &b)| *a = maximum(*a, b)),
                2 => {
                    let pairs = source.chunks_exact(2);
                    let last = (pairs.len(), pairs.remainder().first());
                    result.iter_mut().zip(pairs).for_each(|(a, b)| *a = maximum(*a, b[0]));
                    if let (Some(a), Some(&b)) = (result.get_mut(last.0), last.1) {
                        *a = maximum(*a, b);
                    }
                }
                _ => result
                    .iter_mut()
                    .zip(source.iter().step_by(stride))
                    .for_each(|(a, &b)| *a = maximum(*a, b)),
            }
        }
    }

    #[inline(always)]
    fn means(&self, line: &[f32], result: &mut [f32], rows: usize) {
        for (column, result) in result.iter_mut().enumerate() {
            let columns = self.pool.columns(column);
            let factor = self.pool.factor(rows * columns.len());
            *result = line[columns].iter().sum::<f32>() * factor;
        }
    }
}

/// A channel of 16 images.
struct Gradient<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    dy: &'a [f32],
    dx: SharedMut<'a, f32>,
    block: usize,
    channel: usize,
}

impl Task for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Pool { x: from, y: to, .. } = self.pool;
        let place = |h, w| from.at(self.block * LANES, h, w, self.channel);
        // SAFETY: the lanes of an element of this channel, which only this piece has.
        let target = |h, w| unsafe { self.dx.part(place(h, w)..place(h, w) + LANES) };
        for h in 0..from.height {
            for w in 0..from.width {
                target(h, w).fill(0.0);
            }
        }
        for row in 0..to.height {
            let rows = self.pool.rows(row);
            for column in 0..to.width {
                let columns = self.pool.columns(column);
                let at = to.at(self.block * LANES, row, column, self.channel);
                let dy = &self.dy[at..at + LANES];
                let factor = self.pool.factor(rows.len() * columns.len());
                let elements = || rows.clone().flat_map(|h| columns.clone().map(move |w| (h, w)));
                let chosen = self.chosen(elements().map(|(h, w)| place(h, w)));
                for (i, (h, w)) in elements().enumerate() {
                    let dx = target(h, w);
                    for lane in 0..LANES {
                        let has = self.pool.reduction == Reduction::Average || chosen[lane] == i as u32;
                        dx[lane] += if has { dy[lane] * factor } else { 0.0 };
                    }
                }
            }
        }
    }
}

impl Gradient<'_> {
    /// Index of the window's maximum per lane; the first of equal elements.
    #[inline(always)]
    fn chosen(&self, places: impl Iterator<Item = usize>) -> [u32; LANES] {
        let mut chosen = [0; LANES];
        let mut best = [0.0; LANES];
        for (i, at) in places.enumerate() {
            let x = &self.x[at..at + LANES];
            for lane in 0..LANES {
                let stays = i > 0 && best[lane] >= x[lane];
                best[lane] = if stays { best[lane] } else { x[lane] };
                chosen[lane] = if stays { chosen[lane] } else { i as u32 };
            }
        }
        chosen
    }
}
