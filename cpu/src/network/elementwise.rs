//! Scale, shift, residual sum and activation of an array that lies in memory.

use crate::epilogue::{Activation, Epilogue};
use crate::error::{Result, check_length};
use crate::layout::{Layout, Order};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task};

/// Channels of a piece of work.
const CHANNELS: usize = 16;

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
    parallel(layout.blocks() * parts, &|piece| {
        let (block, part) = (piece / parts, piece % parts);
        for channel in part * CHANNELS..((part + 1) * CHANNELS).min(layout.channels) {
            for row in 0..layout.height {
                let (picture, length) = match layout.order {
                    Order::Lanes => (block * LANES, layout.width * LANES),
                    Order::Pixels => (block, layout.width),
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
