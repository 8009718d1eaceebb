//! Copies of images between the orders by pixels and by channels.

use crate::error::{Error, Result, check_equal, check_length};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task};

/// A copy from one layout to another of the same shape, one by pixels and one by channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    x: Layout,
    y: Layout,
    isa: Isa,
}

impl Conversion {
    /// # Errors
    /// If shapes differ, or an order is another one.
    pub(crate) fn new(x: Layout, y: Layout, isa: Isa) -> Result<Self> {
        x.check()?;
        y.check()?;
        let shape = |l: &Layout| [l.batch, l.height, l.width, l.channels];
        check_equal("shape of the copy", shape(&y), shape(&x))?;
        if !matches!(
            (x.order, y.order),
            (Order::Pixels, Order::Channels) | (Order::Channels, Order::Pixels)
        ) {
            return Err(Error::Mismatch {
                what: "orders of a copy",
                found: format!("{:?} and {:?}", x.order, y.order),
                expected: "Pixels and Channels".into(),
            });
        }
        Ok(Self {
            x,
            y,
            isa: isa.checked()?,
        })
    }

    /// Copies `x` into `y`. The halo of `y` stays.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        check_length("input", x.len(), self.x.len)?;
        check_length("output", y.len(), self.y.len)?;
        let y = SharedMut::new(y);
        let blocks = self.x.channels.div_ceil(LANES);
        parallel(self.x.batch * blocks, &|piece| {
            let block = Block {
                of: self,
                x,
                y,
                picture: piece / blocks,
                first: piece % blocks * LANES,
            };
            // SAFETY: the instruction set was checked.
            unsafe { self.isa.run(block) };
        });
        Ok(())
    }
}

/// 16 channels of an image.
struct Block<'a> {
    of: &'a Conversion,
    x: &'a [f32],
    y: SharedMut<'a, f32>,
    picture: usize,
    /// The first channel.
    first: usize,
}

impl Task for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Conversion { x: from, y: to, .. } = self.of;
        let count = (from.channels - self.first).min(LANES);
        let plane = from.height * from.width > 1;
        let vectors = plane
            && count == LANES
            && [from.column, to.column]
                .iter()
                .all(|&column| column == 1 || column == LANES);
        for row in 0..from.height {
            if vectors {
                for column in (0..from.width).step_by(LANES) {
                    self.square(s, row, column, (from.width - column).min(LANES));
                }
                continue;
            }
            for column in 0..from.width {
                for channel in self.first..self.first + count {
                    let value = self.x[from.at(self.picture, row, column, channel)];
                    // SAFETY: an element that only this piece writes.
                    unsafe { self.y.write(to.at(self.picture, row, column, channel), value) };
                }
            }
        }
    }
}

impl Block<'_> {
    /// `columns` pixels, at most 16, of 16 channels.
    #[inline(always)]
    fn square<S: Simd>(&self, s: S, row: usize, column: usize, columns: usize) {
        let Conversion { x: from, y: to, .. } = self.of;
        let read = from.at(self.picture, row, column, self.first);
        let write = to.at(self.picture, row, column, self.first);
        let mut square = [s.splat(0.0); LANES];
        if from.order == Order::Channels {
            for i in 0..columns {
                let at = read + i * from.column;
                // SAFETY: the channels of a pixel.
                square[i] = unsafe { s.load(self.x[at..at + LANES].as_ptr()) };
            }
            let square = s.transpose(square);
            for i in 0..LANES {
                let at = write + i * to.channel;
                // SAFETY: pixels that only this piece writes.
                let target = unsafe { self.y.part(at..at + columns) };
                if columns == LANES {
                    // SAFETY: 16 pixels.
                    unsafe { s.store(target.as_mut_ptr(), square[i]) };
                    continue;
                }
                let mut row = [0.0; LANES];
                // SAFETY: a vector of the stack.
                unsafe { s.store(row.as_mut_ptr(), square[i]) };
                target.copy_from_slice(&row[..columns]);
            }
            return;
        }
        for i in 0..LANES {
            // Whole vectors may be read past the last plane.
            let at = read + i * from.channel;
            // SAFETY: a vector of the input.
            square[i] = unsafe { s.load(self.x[at..at + LANES].as_ptr()) };
        }
        let square = s.transpose(square);
        for i in 0..columns {
            let at = write + i * to.column;
            // SAFETY: the channels of a pixel, which only this piece writes.
            unsafe { s.store(self.y.part(at..at + LANES).as_mut_ptr(), square[i]) };
        }
    }
}
