//! Scale, shift, residual sum and activation of an array that lies in memory.

use crate::dense::{Vectors, finish};
use crate::epilogue::{Activation, Epilogue, Raw};
use crate::error::{Result, check_length};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task};

/// Channels of a piece of work.
const CHANNELS: usize = LANES;

/// Applies `epilogue` to the elements of `x` into `y`, of the same layout. The halo of `y` stays.
pub(super) fn run(
    isa: Isa,
    layout: &Layout,
    x: &[f32],
    y: &mut [f32],
    epilogue: &Epilogue<'_>,
    parallel: &ParallelFor<'_>,
) -> Result<()> {
    check_length("input", x.len(), layout.len)?;
    check_length("output", y.len(), layout.len)?;
    epilogue.check(layout.channels, layout.len)?;
    let y = SharedMut::new(y);
    let parts = layout.channels.div_ceil(CHANNELS);
    let vectors = Vectors::new(epilogue, layout.channels);
    parallel(layout.blocks() * parts, &|piece| {
        let (block, part) = (piece / parts, piece % parts);
        if layout.order == Order::Channels {
            let of_block = Block {
                layout,
                x,
                y,
                epilogue: vectors.raw(epilogue),
                picture: block,
                block: part,
            };
            // SAFETY: the instruction set was checked.
            return unsafe { isa.run(of_block) };
        }
        for channel in part * CHANNELS..((part + 1) * CHANNELS).min(layout.channels) {
            for row in 0..layout.height {
                let (picture, length) = match layout.order {
                    Order::Lanes => (block * LANES, layout.width * LANES),
                    Order::Pixels | Order::Channels => (block, layout.width),
                };
                let at = layout.at(picture, row, 0, channel);
                let range = at..at + length;
                let of_channel = |values: Option<&[f32]>, none| values.map_or(none, |values| values[channel]);
                let line = Line {
                    x: &x[range.clone()],
                    // SAFETY: a row of a channel, which only this piece has.
                    y: unsafe { y.part(range.clone()) },
                    residual: epilogue.residual.map(|residual| &residual[range]),
                    scale: of_channel(epilogue.scale, 1.0),
                    shift: of_channel(epilogue.shift, 0.0),
                    activation: epilogue.activation,
                };
                // SAFETY: the instruction set was checked.
                unsafe { isa.run(line) };
            }
        }
    });
    Ok(())
}

/// 16 channels of an image by channels.
struct Block<'a> {
    layout: &'a Layout,
    x: &'a [f32],
    y: SharedMut<'a, f32>,
    epilogue: Raw,
    picture: usize,
    block: usize,
}

impl Task for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in 0..self.layout.height {
            for column in 0..self.layout.width {
                let at = self.layout.at(self.picture, row, column, self.block * LANES);
                // SAFETY: 16 channels of an element, which only this piece has.
                unsafe {
                    let x = s.load(self.x[at..at + LANES].as_ptr());
                    finish(s, &mut [x], &self.epilogue, self.block, at, self.y.start());
                }
            }
        }
    }
}

/// Neighbouring elements of a channel.
struct Line<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    residual: Option<&'a [f32]>,
    scale: f32,
    shift: f32,
    activation: Activation,
}

impl Task for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (scale, shift) = (self.scale, self.shift);
        match self.residual {
            None => self.y.iter_mut().zip(self.x).for_each(|(y, &x)| *y = x * scale + shift),
            Some(residual) => {
                let terms = self.x.iter().zip(residual);
                self.y
                    .iter_mut()
                    .zip(terms)
                    .for_each(|(y, (&x, &r))| *y = x * scale + shift + r);
            }
        }
        // Comparisons that keep NaN.
        let below = |y: &mut f32| *y = if *y <= 0.0 { 0.0 } else { *y };
        match self.activation {
            Activation::None => {}
            Activation::Relu => self.y.iter_mut().for_each(below),
            Activation::Relu6 => self.y.iter_mut().for_each(|y| {
                below(y);
                *y = if *y >= 6.0 { 6.0 } else { *y };
            }),
        }
    }
}
