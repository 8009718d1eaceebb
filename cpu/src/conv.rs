//! Sparse convolutions and dense layers.

use crate::epilogue::{Activation, Epilogue, Sums};
use crate::error::{Error, Result, check_equal, check_length};
use crate::layout::Layout;
use crate::operator::{Call, Operator, Options, Slopes};
use crate::parallel::ParallelFor;
use crate::structure::Structure;
use crate::window::{Kernel, Window};

/// Layouts of the gradients, which may have another halo than the arrays that they are gradients of.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Layout of the output gradient; its halo covers [`Window::gradient_halo`].
    pub output: Layout,
    /// Layout of the input gradient.
    pub input: Layout,
}

/// A convolution that computes its connections alone.
///
/// It is made for one pair of layouts and holds which connections there are. Their values are condensed, one per connection in the
/// order of [`SparseConv::structure`], and given with each call, so that threads may share a convolution. A layout by lanes
/// needs no halo: where it has none, rows are copied into padded memory while they are used. A connection that is there passes NaN and infinities on as a dense convolution does. One that is
/// not there passes nothing, where a dense product of a zero weight would give NaN for an infinite or NaN input: the only
/// difference. Zeros of the padding are multiplied, so an infinite weight over the padding gives NaN, as in a dense one.
///
/// Results do not depend on the number of threads, to the bit.
///
/// ```
/// use cpu::{Epilogue, Halo, Kernel, Layout, Options, SparseConv, Window, on_this_thread};
///
/// // A 3 x 3 kernel, 1 -> 1 channels, with two connections, on an image of 4 x 4.
/// let kernel = Kernel::new(3, 3, 1, 1);
/// let mut mask = [false; 9];
/// (mask[1], mask[4]) = (true, true); // above, and the pixel itself
/// let window = Window::same([3, 3], [1, 1], 4, 4);
/// let x = Layout::pixels(1, 4, 4, 1, Halo::all(1));
/// let conv = SparseConv::new(kernel, window, x, x, &mask, &Options::default())?;
/// let values = conv.gather(&[0.0, 10.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])?;
///
/// let image: Vec<f32> = (0..16).map(|i| i as f32).collect();
/// let (mut input, mut output) = (vec![0.0; x.len], vec![0.0; x.len]);
/// x.from_nhwc(&image, &mut input, on_this_thread())?;
/// conv.forward(&values, &input, &mut output, &Epilogue::default(), on_this_thread())?;
/// let mut result = vec![0.0; 16];
/// x.to_nhwc(&output, &mut result, on_this_thread())?;
/// assert_eq!(result[..5], [0.0, 1.0, 2.0, 3.0, 4.0 + 10.0 * 0.0]);
/// assert_eq!(result[15], 15.0 + 10.0 * 11.0);
/// # Ok::<(), cpu::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SparseConv {
    kernel: Kernel,
    forward: Operator,
    structure: Structure,
    backward: Option<Backward>,
}

/// The transposed operator.
#[derive(Clone, Debug)]
struct Backward {
    operator: Operator,
    structure: Structure,
    gradient: Layout,
}

impl SparseConv {
    /// A convolution of `input` that yields `output`, with the connections that `mask` has (as the kernel: HWIO).
    ///
    /// # Errors
    /// If shapes do not fit, or a layout by pixels has too narrow a halo.
    pub fn new(
        kernel: Kernel,
        window: Window,
        input: Layout,
        output: Layout,
        mask: &[bool],
        options: &Options,
    ) -> Result<Self> {
        Self::from_positions(kernel, window, [input, output], &kernel.positions(mask)?, options)
    }

    /// As [`SparseConv::new`], with the positions of the connections in the flat kernel, ascending.
    ///
    /// # Errors
    /// As [`SparseConv::new`], or if positions do not ascend or are beyond the kernel.
    pub fn from_positions(
        kernel: Kernel,
        window: Window,
        [input, output]: [Layout; 2],
        positions: &[u32],
        options: &Options,
    ) -> Result<Self> {
        let options = with_density(options, &kernel, positions.len());
        let forward = Operator::forward(kernel, window, input, output, &options)?;
        check_positions(&kernel, positions)?;
        let (structure, _) = forward.structure(positions, None);
        forward.check(&structure)?;
        Ok(Self {
            kernel,
            forward,
            structure,
            backward: None,
        })
    }

    /// Adds what gradients need.
    ///
    /// # Errors
    /// If shapes do not fit, or layouts are by pixels.
    pub fn with_gradients(mut self, gradients: Gradients, options: &Options) -> Result<Self> {
        let options = with_density(options, &self.kernel, self.structure.len());
        let (from, to) = (gradients.output, gradients.input);
        let operator = Operator::transposed(self.kernel, *self.forward.window(), from, to, &options)?;
        let input = *self.forward.input();
        let shape = |l: &Layout| [l.batch, l.height, l.width, l.channels];
        check_equal("shape of the input's gradient", shape(&to), shape(&input))?;
        let (positions, ranks) = sorted(&self.structure);
        let (structure, _) = operator.structure(&positions, Some(&ranks));
        operator.check(&structure)?;
        self.backward = Some(Backward {
            operator,
            structure,
            gradient: from,
        });
        Ok(self)
    }

    /// Changes which connections there are, and with them the order of values.
    ///
    /// # Errors
    /// If the mask has another length.
    pub fn set_mask(&mut self, mask: &[bool]) -> Result<()> {
        self.set_positions(&self.kernel.positions(mask)?)
    }

    /// As [`SparseConv::set_mask`], with positions in the flat kernel, ascending.
    ///
    /// # Errors
    /// If positions do not ascend or are beyond the kernel.
    pub fn set_positions(&mut self, positions: &[u32]) -> Result<()> {
        check_positions(&self.kernel, positions)?;
        let (structure, ranks) = self.forward.structure(positions, None);
        self.forward.check(&structure)?;
        if let Some(backward) = &mut self.backward {
            let (structure, _) = backward.operator.structure(positions, Some(&ranks));
            backward.operator.check(&structure)?;
            backward.structure = structure;
        }
        self.structure = structure;
        Ok(())
    }

    /// The connections: `structure().index` says which, in the order of values.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// Connections.
    pub fn connections(&self) -> usize {
        self.structure.len()
    }

    /// The connections' values in a dense kernel.
    ///
    /// # Errors
    /// If the kernel has another length.
    pub fn gather(&self, dense: &[f32]) -> Result<Vec<f32>> {
        check_length("dense kernel", dense.len(), self.kernel.size())?;
        Ok(self.structure.index.iter().map(|&i| dense[i as usize]).collect())
    }

    /// The dense kernel with these values, and zeros where there is no connection.
    ///
    /// # Errors
    /// If there is not one value per connection.
    pub fn scatter(&self, values: &[f32]) -> Result<Vec<f32>> {
        let mut dense = vec![0.0; self.kernel.size()];
        self.structure.scatter(values, &mut dense)?;
        Ok(dense)
    }

    /// Multiplies values by a factor per output channel: folds the scale of a normalisation into the kernel.
    ///
    /// # Errors
    /// If there is not one value per connection and one factor per output channel.
    pub fn scale(&self, values: &mut [f32], factors: &[f32]) -> Result<()> {
        check_length("values", values.len(), self.structure.len())?;
        check_length("factors", factors.len(), self.kernel.outputs)?;
        for (value, &i) in values.iter_mut().zip(&self.structure.index) {
            *value *= factors[self.kernel.tap(i).output as usize];
        }
        Ok(())
    }

    /// The shape of the kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The layout of the input.
    pub fn input(&self) -> &Layout {
        self.forward.input()
    }

    /// The layout of the output.
    pub fn output(&self) -> &Layout {
        self.forward.output()
    }

    /// Convolves `x` into `y`, and applies the epilogue. The halo of `y` stays.
    ///
    /// # Errors
    /// If there is not one value per connection, or an array has another length than its layout.
    pub fn forward(
        &self,
        values: &[f32],
        x: &[f32],
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        parallel: &ParallelFor<'_>,
    ) -> Result<()> {
        self.forward
            .run(&self.call(values, x, epilogue, None, parallel), y, None)
    }

    /// As [`SparseConv::forward`], and sums the convolution's elements (before the epilogue) less `pivots` per channel.
    ///
    /// # Errors
    /// As [`SparseConv::forward`].
    pub fn forward_with_sums(
        &self,
        values: &[f32],
        x: &[f32],
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        pivots: Option<&[f32]>,
        parallel: &ParallelFor<'_>,
    ) -> Result<Sums> {
        let mut sums = Sums::default();
        self.forward
            .run(&self.call(values, x, epilogue, pivots, parallel), y, Some(&mut sums))?;
        Ok(sums)
    }

    /// The gradient of the input, from that of the output.
    ///
    /// # Errors
    /// As [`SparseConv::forward`], or if there was no [`SparseConv::with_gradients`].
    pub fn input_gradient(&self, values: &[f32], dy: &[f32], dx: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        let backward = self.backward()?;
        let structure = &backward.structure;
        check_length("values", values.len(), structure.len())?;
        let sorted: Vec<f32> = structure.source.iter().map(|&k| values[k as usize]).collect();
        let call = Call {
            structure,
            ..self.call(&sorted, dy, &NO_EPILOGUE, None, parallel)
        };
        backward.operator.run(&call, dx, None)
    }

    /// The gradient of each connection, in the order of values.
    ///
    /// # Errors
    /// As [`SparseConv::input_gradient`].
    pub fn kernel_gradient(
        &self,
        x: &[f32],
        dy: &[f32],
        gradient: &mut [f32],
        parallel: &ParallelFor<'_>,
    ) -> Result<()> {
        let (structure, layout) = (&self.structure, &self.backward()?.gradient);
        let of = Slopes {
            structure,
            x,
            layout,
            dy,
        };
        self.forward.kernel_gradient(&of, gradient, parallel)
    }

    fn call<'a>(
        &'a self,
        values: &'a [f32],
        x: &'a [f32],
        epilogue: &'a Epilogue<'a>,
        pivots: Option<&'a [f32]>,
        parallel: &'a ParallelFor<'a>,
    ) -> Call<'a> {
        Call {
            structure: &self.structure,
            values,
            x,
            epilogue,
            pivots,
            parallel,
        }
    }

    fn backward(&self) -> Result<&Backward> {
        self.backward.as_ref().ok_or_else(|| Error::Mismatch {
            what: "gradients",
            found: "a convolution without them".into(),
            expected: "SparseConv::with_gradients".into(),
        })
    }
}

const NO_EPILOGUE: Epilogue<'static> = Epilogue {
    scale: None,
    shift: None,
    residual: None,
    activation: Activation::None,
};

fn check_positions(kernel: &Kernel, positions: &[u32]) -> Result<()> {
    let ascend = positions.windows(2).all(|pair| pair[0] < pair[1]);
    let within = positions.last().is_none_or(|&last| (last as usize) < kernel.size());
    check_equal(
        "positions ascend, and are within the kernel",
        (ascend, within),
        (true, true),
    )
}

/// Positions of a structure's connections, ascending, and the rank of each.
fn sorted(structure: &Structure) -> (Vec<u32>, Vec<u32>) {
    let mut pairs: Vec<(u32, u32)> = structure.index.iter().copied().zip(0..).collect();
    pairs.sort_unstable();
    pairs.into_iter().unzip()
}

fn with_density(options: &Options, kernel: &Kernel, connections: usize) -> Options {
    let density = connections as f64 / kernel.size() as f64;
    Options {
        density: options.density.or(Some(density)),
        ..*options
    }
}

/// A dense layer (`y = x W + b`) that computes its connections alone. Activations lie as [`Layout::features`] says.
///
/// ```
/// use cpu::{Activation, Epilogue, Options, SparseDense, on_this_thread};
///
/// // 3 features -> 2, kernel [inputs][outputs]; x0 -> y0, x2 -> y1.
/// let mask = [true, false, false, false, false, true];
/// let layer = SparseDense::new(1, 3, 2, &mask, &Options::default())?;
/// let values = layer.gather(&[2.0, 0.0, 0.0, 0.0, 0.0, 3.0])?;
/// let mut y = [0.0; 2];
/// let epilogue = Epilogue { shift: Some(&[0.5, -40.0]), activation: Activation::Relu, ..Epilogue::default() };
/// layer.forward(&values, &[1.0, 5.0, 10.0], &mut y, &epilogue, on_this_thread())?;
/// assert_eq!(y, [2.5, 0.0]);
/// # Ok::<(), cpu::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SparseDense(SparseConv);

impl SparseDense {
    /// A layer for `batch` examples, with the connections that `mask` (`[inputs][outputs]`) has, and gradients.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn new(batch: usize, inputs: usize, outputs: usize, mask: &[bool], options: &Options) -> Result<Self> {
        let (x, y) = (Layout::features(batch, inputs), Layout::features(batch, outputs));
        let kernel = Kernel::new(1, 1, inputs, outputs);
        let conv = SparseConv::new(kernel, Window::unit(), x, y, mask, options)?;
        let gradients = Gradients { output: y, input: x };
        Ok(Self(conv.with_gradients(gradients, options)?))
    }
}

impl std::ops::Deref for SparseDense {
    type Target = SparseConv;

    fn deref(&self) -> &SparseConv {
        &self.0
    }
}

impl std::ops::DerefMut for SparseDense {
    fn deref_mut(&mut self) -> &mut SparseConv {
        &mut self.0
    }
}
