//! Sparse operators: what is known before the connections are.

mod gradient;
mod run;

pub(crate) use gradient::Slopes;
pub(crate) use run::Call;

use crate::error::{Error, Result, check_equal};
use crate::grid::{Grid, Strides, check_shapes, transposed_tap};
use crate::layout::{Layout, Order};
use crate::simd::Isa;
use crate::stage::{LaneStage, PixelStage, Stage};
use crate::structure::{Blocking, Place, Shape, Structure};
use crate::window::{Kernel, Window};

/// A sparse convolution, or the transposed one that yields the input's gradient, between two layouts.
///
/// It holds what does not depend on the connections. They come as a [`Structure`].
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    kernel: Kernel,
    window: Window,
    x: Layout,
    y: Layout,
    transposed: bool,
    shape: Shape,
    grids: Vec<Grid>,
    strides: Strides,
    /// Floats of the array that offsets point into: the input or a copy of it.
    read_len: usize,
    /// From the first to the last row that a kernel reads, in floats.
    last_row: usize,
    stage: Stage,
    isa: Isa,
    tile: usize,
}

impl Operator {
    /// The convolution of `x` that yields `y`.
    ///
    /// # Errors
    /// If shapes do not fit, or a halo is too narrow.
    pub(crate) fn forward(kernel: Kernel, window: Window, x: Layout, y: Layout, options: &Options) -> Result<Self> {
        check_shapes(&kernel, &window, &x, &y)?;
        check_equal("order of input and output", x.order, y.order)?;
        let needed = window.halo();
        let single = y.height * y.width == 1;
        let stage = match x.order {
            Order::Lanes if x.halo.covers(needed) => Stage::None,
            Order::Lanes => Stage::Lanes(LaneStage::new(&x, needed, 0, [0, kernel.rows as i32 - 1])),
            Order::Pixels if single => {
                check_equal("halo of the input covers the padding", x.halo.covers(needed), true)?;
                Stage::None
            }
            Order::Pixels if window.stride == [1, 1] && x.row == y.row && x.halo.covers(needed) => Stage::None,
            Order::Pixels => Stage::Pixels(PixelStage::new(&kernel, &window, &x, &y)?),
            Order::Channels => {
                return Err(Error::Mismatch {
                    what: "order of a sparse layer's images",
                    found: "by channels".into(),
                    expected: "by lanes or by pixels".into(),
                });
            }
        };
        let grid = match &stage {
            Stage::Pixels(stage) => stage.grid(&y),
            Stage::Lanes(stage) => Grid::forward(&window, &stage.layout, &y),
            Stage::None if x.order == Order::Pixels && !single => Grid::pixels(&window, &x, &y),
            Stage::None => Grid::forward(&window, &x, &y),
        };
        Self::with_grids(kernel, window, x, y, false, vec![grid], stage, options)
    }

    /// The input's gradient `y` from the output's gradient `x`, of the convolution with the same `kernel` and `window`.
    ///
    /// # Errors
    /// If shapes do not fit, a halo is too narrow, or the layouts are not by lanes.
    pub(crate) fn transposed(kernel: Kernel, window: Window, x: Layout, y: Layout, options: &Options) -> Result<Self> {
        check_shapes(&kernel, &window, &y, &x)?;
        check_equal("order of the gradients", y.order, x.order)?;
        let single = kernel.rows * kernel.columns * y.height * y.width * x.height * x.width == 1;
        check_equal(
            "gradients by lanes, or of single pixels",
            x.order == Order::Lanes || single,
            true,
        )?;
        let taps = [kernel.rows, kernel.columns];
        let needed = window.gradient_halo(taps);
        let covered = single || x.halo.covers(needed);
        let last_shift = window.pads[0][0] as i32;
        let shifts =
            [last_shift - (kernel.rows as i32 - 1), last_shift].map(|shift| shift.div_euclid(window.stride[0] as i32));
        let stage = match covered {
            true => Stage::None,
            false => Stage::Lanes(LaneStage::new(&x, needed, needed.top, shifts)),
        };
        let read = match &stage {
            Stage::Lanes(stage) => &stage.layout,
            Stage::None | Stage::Pixels(_) => &x,
        };
        let [rows, columns] = window.stride;
        let phases = (0..rows * columns).map(|p| [p / columns, p % columns]);
        let grids = phases.map(|phase| Grid::transposed(&window, phase, read, &y)).collect();
        Self::with_grids(kernel, window, x, y, true, grids, stage, options)
    }

    #[allow(clippy::too_many_arguments)] // the fields
    fn with_grids(
        kernel: Kernel,
        window: Window,
        x: Layout,
        y: Layout,
        transposed: bool,
        grids: Vec<Grid>,
        stage: Stage,
        options: &Options,
    ) -> Result<Self> {
        for grid in &grids {
            check_equal(
                "everything written lies within the output",
                grid.fits(y.len, y.channel, y.channels),
                true,
            )?;
        }
        let read = match &stage {
            Stage::None => &x,
            Stage::Lanes(stage) => &stage.layout,
            Stage::Pixels(stage) => &stage.layout,
        };
        let (strides, inputs, read_len) = (Strides::of(read), read.channels, read.len);
        let isa = options.isa.unwrap_or_else(Isa::detect).checked()?;
        let vectors = grids[0].vectors;
        let tuned = crate::tuning::choose(
            isa,
            &kernel,
            inputs,
            &y,
            vectors,
            options.density.unwrap_or(0.1).max(1e-3),
        );
        let tile = options.tile.unwrap_or(tuned.tile).clamp(1, isa.max_tile());
        let blocking = options.blocking.unwrap_or(tuned.blocking);
        let shape = Shape {
            phases: grids.len(),
            inputs,
            outputs: y.channels,
            blocking: Blocking {
                inputs: blocking.inputs.clamp(1, inputs),
                outputs: blocking.outputs.clamp(1, y.channels),
            },
        };
        Ok(Self {
            kernel,
            window,
            x,
            y,
            transposed,
            shape,
            grids,
            strides,
            read_len,
            last_row: match &stage {
                Stage::Pixels(_) => 0,
                Stage::None | Stage::Lanes(_) => (kernel.rows - 1) * strides.row,
            },
            stage,
            isa,
            tile,
        })
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// The layout that is read.
    pub(crate) fn input(&self) -> &Layout {
        &self.x
    }

    /// The layout that is written.
    pub(crate) fn output(&self) -> &Layout {
        &self.y
    }

    /// Builds the structure of the connections at `positions` of the flat kernel, which ascend, and the rank of each in it.
    /// `source` gives the ranks in the order of values; without it that order is this structure's.
    pub(crate) fn structure(&self, positions: &[u32], source: Option<&[u32]>) -> (Structure, Vec<u32>) {
        Structure::build(&self.shape, positions, source, |position| self.place(position))
    }

    fn place(&self, position: u32) -> Place {
        let tap = self.kernel.tap(position);
        if self.transposed {
            let ([row, column], [down, right]) = transposed_tap(&self.window, &tap);
            return Place {
                phase: row * self.window.stride[1] + column,
                input: tap.output as usize,
                output: tap.input as usize,
                offset: self.strides.offset(down, right, tap.output as usize),
            };
        }
        let (row, column, input) = match &self.stage {
            Stage::Pixels(stage) => stage.tap(&self.window, &tap),
            Stage::None | Stage::Lanes(_) => (tap.row, tap.column, tap.input as usize),
        };
        Place {
            phase: 0,
            input,
            output: tap.output as usize,
            offset: self.strides.offset(row, column, input),
        }
    }

    /// Checks that a structure is one of this operator.
    ///
    /// # Errors
    /// If it is not a structure of this operator.
    pub(crate) fn check(&self, structure: &Structure) -> Result<()> {
        let reach: Vec<_> = self.grids.iter().map(|grid| grid.reach(self.read_len)).collect();
        structure.check(&self.shape, &reach)
    }
}

/// How an operator is computed. The default chooses all by shape and processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The instruction set.
    pub isa: Option<Isa>,
    /// The share of connections that there are, about, for the choice of what follows.
    pub density: Option<f64>,
    /// Vectors of a tile, at most 14 (AVX-512) or 7.
    pub tile: Option<usize>,
    /// How channels are grouped.
    pub blocking: Option<Blocking>,
}
