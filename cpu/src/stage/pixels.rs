//! Copies of images by pixels whose windows do not slide by one over rows of the output's length.

use crate::error::{Result, check_equal};
use crate::grid::{Grid, floor_div};
use crate::layout::{Halo, Layout};
use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, Simd, Task};
use crate::window::{Kernel, Tap, Window};

/// A copy in which each channel is split into the phases of the stride, as channels of their own, in rows as long as the output's:
/// there the window slides by one.
#[derive(Clone, Debug)]
pub(crate) struct PixelStage {
    pub layout: Layout,
    /// Phases of the stride that elements of the kernel read: others are not copied.
    phases: Vec<[usize; 2]>,
    window: Window,
    channels: usize,
    /// Columns of a row that are copied.
    columns: usize,
}

/// Least and greatest shift of an axis, and the phases that are read.
fn shifts(size: usize, pad: usize, stride: usize) -> (usize, usize, Vec<usize>) {
    let taps = (0..size as i32).map(|tap| floor_div(tap - pad as i32, stride));
    let low = taps.clone().map(|(shift, _)| shift).min().unwrap_or(0);
    let high = taps.clone().map(|(shift, _)| shift).max().unwrap_or(0);
    let phases = (0..stride)
        .filter(|&phase| taps.clone().any(|(_, p)| p == phase))
        .collect();
    ((-low).max(0) as usize, high.max(0) as usize, phases)
}

/// Real columns beyond the output's, which may not be taken for the padding on the left of the next row.
fn real_columns(window: &Window, inputs: usize, outputs: usize, right: usize) -> usize {
    inputs.div_ceil(window.stride[1]).saturating_sub(outputs).min(right)
}

impl PixelStage {
    /// Columns that rows of an output of `outputs` columns need between them, for an input of `inputs` columns.
    pub fn gap(kernel: &Kernel, window: &Window, inputs: usize, outputs: usize) -> usize {
        let (left, right, _) = shifts(kernel.columns, window.pads[1][0], window.stride[1]);
        right.max(left + real_columns(window, inputs, outputs, right))
    }

    pub fn new(kernel: &Kernel, window: &Window, x: &Layout, y: &Layout) -> Result<Self> {
        let (top, bottom, rows) = shifts(kernel.rows, window.pads[0][0], window.stride[0]);
        let (left, right, columns) = shifts(kernel.columns, window.pads[1][0], window.stride[1]);
        let phases: Vec<_> = rows
            .iter()
            .flat_map(|&row| columns.iter().map(move |&column| [row, column]))
            .collect();
        let real = real_columns(window, x.width, y.width, right);
        let needed = Self::gap(kernel, window, x.width, y.width);
        let gap = y.row - y.width;
        check_equal(
            "columns between the rows of the output, at least",
            gap.min(needed),
            needed,
        )?;
        // A halo on the right as wide as the output's makes rows of the same length.
        let halo = Halo {
            top,
            bottom,
            left,
            right: gap,
        };
        let layout = Layout::pixels(x.batch, y.height, y.width, phases.len() * x.channels, halo);
        layout.check()?;
        Ok(Self {
            layout,
            phases,
            window: *window,
            channels: x.channels,
            columns: y.width + real,
        })
    }

    /// The grid of the copy.
    pub fn grid(&self, y: &Layout) -> Grid {
        Grid::pixels(&Window::unit(), &self.layout, y)
    }

    /// Row, column and channel of the copy that an element of the kernel reads.
    pub fn tap(&self, window: &Window, tap: &Tap) -> (i32, i32, usize) {
        let (row, row_phase) = floor_div(tap.row - window.pads[0][0] as i32, window.stride[0]);
        let (column, column_phase) = floor_div(tap.column - window.pads[1][0] as i32, window.stride[1]);
        let phase = self.phases.iter().position(|&phase| phase == [row_phase, column_phase]);
        (row, column, phase.unwrap_or(0) * self.channels + tap.input as usize)
    }

    /// Copies all of `x`.
    pub fn fill(&self, isa: Isa, x: &[f32], from: &Layout, copy: &mut [f32], parallel: &ParallelFor<'_>) {
        // Read by the last vectors, but not used.
        copy[self.layout.batch * self.layout.block..].fill(0.0);
        let copy = SharedMut::new(copy);
        parallel(from.batch * self.channels, &|piece| {
            let (picture, channel) = (piece / self.channels, piece % self.channels);
            for (i, &phase) in self.phases.iter().enumerate() {
                let begin = picture * self.layout.block + (i * self.channels + channel) * self.layout.channel;
                // SAFETY: a plane of the copy, which no other piece has.
                let plane = unsafe { copy.part(begin..begin + self.layout.channel) };
                let x = &x[from.at(picture, 0, 0, channel)..];
                // SAFETY: the operator has checked the instruction set.
                unsafe {
                    isa.run(Plane {
                        stage: self,
                        x,
                        from,
                        phase,
                        plane,
                    })
                };
            }
        });
    }

    /// Copies one phase of one channel, in vectors where the instruction set can, whose first element is `x[0]`.
    #[inline(always)]
    fn copy(&self, x: &[f32], from: &Layout, phase: [usize; 2], plane: &mut [f32]) {
        let Layout { halo, row, start, .. } = self.layout;
        plane.fill(0.0);
        let [down, right] = self.window.stride;
        for h in 0..halo.top + self.layout.height + halo.bottom {
            // Row of the image: those above it are in the halo.
            let Some(source) = (h * down + phase[0])
                .checked_sub(halo.top * down)
                .filter(|&row| row < from.height)
            else {
                continue;
            };
            let source = &x[source * from.row..][..from.width];
            let first = start + h * row - halo.top * row;
            let target = &mut plane[first..][..self.columns];
            let source = &source[phase[1].min(from.width)..];
            match right {
                1 => {
                    let columns = self.columns.min(source.len());
                    target[..columns].copy_from_slice(&source[..columns]);
                }
                2 => {
                    let pairs = source.chunks_exact(2);
                    if let (Some(to), Some(&last)) = (target.get_mut(pairs.len()), pairs.remainder().first()) {
                        *to = last;
                    }
                    target.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[0]);
                }
                _ => target
                    .iter_mut()
                    .zip(source.iter().step_by(right))
                    .for_each(|(to, &from)| *to = from),
            }
        }
    }
}

/// A plane of the copy, and what it is copied from.
struct Plane<'a> {
    stage: &'a PixelStage,
    x: &'a [f32],
    from: &'a Layout,
    phase: [usize; 2],
    plane: &'a mut [f32],
}

impl Task for Plane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.stage.copy(self.x, self.from, self.phase, self.plane);
    }
}
