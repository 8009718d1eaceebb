//! Whole networks, for prediction.

mod elementwise;
mod plan;
mod route;

use crate::epilogue::Activation;
use crate::error::{Error, Result, check_equal, check_length};
use crate::layout::Halo;
use crate::parallel::{Threads, on_this_thread};
use crate::pool::Reduction;
use crate::shared::SharedMut;
use crate::window::{Kernel, Window};
use plan::Plan;
use route::Route;
use std::borrow::Cow;

/// Batch sizes that networks of dense layers are prepared for. Networks with convolutions compute one image at a time.
const BATCHES: [usize; 3] = [1, 16, 64];

/// An array between two layers, or the input, of a network under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(usize);

/// Operations after a layer: `activation(scale × x + shift + residual)`, as [`Epilogue`](crate::Epilogue).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct After {
    /// A factor per channel.
    pub scale: Option<Vec<f32>>,
    /// A bias per channel.
    pub shift: Option<Vec<f32>>,
    /// A residual of the result's shape.
    pub residual: Option<Features>,
    /// Applied last.
    pub activation: Activation,
}

impl After {
    fn residual_array(&self) -> Option<usize> {
        self.residual.map(|Features(array)| array)
    }

    /// Takes the scale out, to be folded into weights. An infinite one is not folded: 0 × inf is NaN, also for channels without
    /// connections.
    fn finite_scale(&mut self) -> Option<Vec<f32>> {
        self.scale
            .take_if(|scale| scale.iter().all(|factor| factor.is_finite()))
    }
}

/// A layer with a kernel.
#[derive(Clone, Debug)]
pub struct Weights<'a> {
    /// Shape of the kernel.
    pub kernel: Kernel,
    /// Stride and padding.
    pub window: Window,
    /// Which weights are connections, in the kernel's order; `None` for all.
    pub mask: Option<Cow<'a, [bool]>>,
    /// The kernel: HWIO, `[rows][columns][inputs][multiplier]` of a depthwise one, `[inputs][outputs]` of a dense layer.
    pub values: Cow<'a, [f32]>,
}

impl Weights<'_> {
    /// Share of weights that are connections.
    fn density(&self) -> f64 {
        let connections = |mask: &Cow<'_, [bool]>| mask.iter().filter(|&&set| set).count();
        self.mask
            .as_ref()
            .map_or(1.0, |mask| connections(mask) as f64 / mask.len().max(1) as f64)
    }

    /// All weights, with zeros where there is no connection.
    fn masked(&self) -> Vec<f32> {
        match &self.mask {
            None => self.values.to_vec(),
            Some(mask) => {
                let pairs = self.values.iter().zip(&**mask);
                pairs.map(|(&value, &set)| if set { value } else { 0.0 }).collect()
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Kind<'a> {
    Conv {
        weights: Weights<'a>,
        after: After,
    },
    Pool {
        reduction: Reduction,
        size: [usize; 2],
        window: Window,
    },
    Elementwise {
        after: After,
    },
}

#[derive(Clone, Debug)]
struct Step<'a> {
    from: usize,
    to: usize,
    kind: Kind<'a>,
}

impl Step<'_> {
    fn after(&self) -> Option<&After> {
        match &self.kind {
            Kind::Conv { after, .. } | Kind::Elementwise { after } => Some(after),
            Kind::Pool { .. } => None,
        }
    }

    fn reads(&self, array: usize) -> bool {
        let residual = self.after().and_then(|after| after.residual);
        self.from == array || residual == Some(Features(array))
    }
}

/// Builds a [`Network`] layer by layer.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    /// Rows, columns and channels of each array; the first is the input.
    shapes: Vec<[usize; 3]>,
    steps: Vec<Step<'a>>,
}

impl<'a> Builder<'a> {
    /// A network without layers, and its input: images of `[rows, columns, channels]`, or `[1, 1, features]`.
    pub fn new(input: [usize; 3]) -> (Self, Features) {
        let builder = Self {
            shapes: vec![input],
            steps: vec![],
        };
        (builder, Features(0))
    }

    /// Rows, columns and channels of an array.
    pub fn shape(&self, of: Features) -> [usize; 3] {
        self.shapes[of.0]
    }

    /// A convolution, depthwise or not, or a dense layer (a 1 × 1 kernel on one pixel).
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn conv(&mut self, x: Features, weights: Weights<'a>, after: After) -> Result<Features> {
        let [height, width, channels] = self.shape(x);
        let Weights { kernel, window, .. } = &weights;
        kernel.check()?;
        check_equal("input channels", channels, kernel.inputs)?;
        check_length("kernel", weights.values.len(), kernel.size())?;
        if let Some(mask) = &weights.mask {
            check_length("mask", mask.len(), kernel.size())?;
        }
        let [rows, columns] = window.output([kernel.rows, kernel.columns], height, width)?;
        let shape = [rows, columns, kernel.outputs];
        self.check_after(&after, shape)?;
        Ok(self.push(x, shape, Kind::Conv { weights, after }))
    }

    /// Pooling by windows of `size`.
    ///
    /// # Errors
    /// If the window does not fit.
    pub fn pool(&mut self, x: Features, reduction: Reduction, size: [usize; 2], window: Window) -> Result<Features> {
        let [height, width, channels] = self.shape(x);
        let [rows, columns] = window.output(size, height, width)?;
        let kind = Kind::Pool {
            reduction,
            size,
            window,
        };
        Ok(self.push(x, [rows, columns, channels], kind))
    }

    /// `after` of an array that more than one layer needs, so that no kernel can take it over.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn elementwise(&mut self, x: Features, after: After) -> Result<Features> {
        let shape = self.shape(x);
        self.check_after(&after, shape)?;
        Ok(self.push(x, shape, Kind::Elementwise { after }))
    }

    fn check_after(&self, after: &After, shape: [usize; 3]) -> Result<()> {
        let [.., channels] = shape;
        for (what, values) in [("scale", &after.scale), ("shift", &after.shift)] {
            check_length(what, values.as_ref().map_or(channels, Vec::len), channels)?;
        }
        let residual = after.residual.map_or(shape, |residual| self.shape(residual));
        check_equal("shape of the residual", residual, shape)
    }

    fn push(&mut self, from: Features, shape: [usize; 3], kind: Kind<'a>) -> Features {
        self.shapes.push(shape);
        let to = self.shapes.len() - 1;
        self.steps.push(Step { from: from.0, to, kind });
        Features(to)
    }

    /// The network that yields `output`.
    ///
    /// # Errors
    /// If a shape is beyond what kernels reach.
    pub fn build(&self, output: Features) -> Result<Network> {
        let padded = |step: &Step<'_>| match &step.kind {
            Kind::Conv { weights, .. } => weights.window.halo() != Halo::default(),
            Kind::Pool { .. } | Kind::Elementwise { .. } => false,
        };
        let flat = self.shapes.iter().all(|[height, width, _]| height * width == 1);
        let lanes = flat && !self.steps.iter().any(padded);
        let plan = |&batch: &usize| {
            let route = match batch {
                1 => Route::of_image(&self.steps, &self.shapes),
                _ => Route::of_features(&self.steps, &self.shapes, batch),
            };
            Plan::new(route, output.0)
        };
        let batches = if lanes { &BATCHES[..] } else { &BATCHES[..1] };
        let size = |of: Features| self.shape(of).iter().product();
        Ok(Network {
            plans: batches.iter().map(plan).collect::<Result<_>>()?,
            inputs: size(Features(0)),
            outputs: size(output),
        })
    }
}

/// A network that is ready to predict, from any number of threads.
///
/// Layers compute their connections alone. Layers that keep a large share of their weights are computed as dense ones, where a
/// weight of 0 passes on NaN and infinities as NaN. Normalisation, ReLU and residual sums run in their epilogues. One image is shared
/// by all threads; a batch is split into whole images per thread. Buffers are reused by later predictions.
///
/// ```
/// use cpu::{Activation, After, Kernel, NetworkBuilder, Threads, Weights, Window};
///
/// // Two features, one connection each: y0 = relu(2 x1 + 1), y1 = relu(-x0).
/// let (mut builder, x) = NetworkBuilder::new([1, 1, 2]);
/// let weights = Weights {
///     kernel: Kernel::new(1, 1, 2, 2),
///     window: Window::unit(),
///     mask: Some(vec![false, true, true, false].into()),
///     values: vec![0.0, -1.0, 2.0, 0.0].into(),
/// };
/// let shift = Some(vec![1.0, 0.0]);
/// let y = builder.conv(x, weights, After { shift, activation: Activation::Relu, ..After::default() })?;
/// let network = builder.build(y)?;
/// let mut outputs = [0.0; 4];
/// network.predict(&[5.0, 10.0, -5.0, -10.0], &mut outputs, &Threads::new(1))?;
/// assert_eq!(outputs, [21.0, 0.0, 0.0, 5.0]);
/// # Ok::<(), cpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Network {
    /// By batch, ascending.
    plans: Vec<Plan>,
    inputs: usize,
    outputs: usize,
}

/// A step of a [`Network`], as [`Network::profile`] measures it.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// Kind and shapes.
    pub name: String,
    /// Multiply-adds per image; 0 for steps without a kernel.
    pub multiply_adds: usize,
    /// Wall time.
    pub seconds: f64,
}

impl Network {
    /// Numbers of one input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers of one output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiply-adds of one image: of the connections, and of all weights.
    pub fn multiply_adds(&self) -> [usize; 2] {
        self.plans[0].multiply_adds()
    }

    /// Predicts for inputs `[n][rows][columns][channels]` into `[n][outputs]`, row-major. May be called from many threads at
    /// once; calls that shall run in parallel need separate [`Threads`], possibly with one thread each.
    ///
    /// # Errors
    /// If an array is not of the network's inputs or outputs.
    pub fn predict(&self, inputs: &[f32], outputs: &mut [f32], threads: &Threads) -> Result<()> {
        let count = inputs.len() / self.inputs;
        check_length("inputs", inputs.len(), count * self.inputs)?;
        check_length("outputs", outputs.len(), count * self.outputs)?;
        let plan = self.plans.iter().find(|plan| plan.batch() >= count);
        let plan = plan.or(self.plans.last()).ok_or(NO_PLAN)?;
        let pieces = count.div_ceil(plan.batch());
        // Whole pieces per thread; all threads share each remaining piece.
        let apart = pieces / threads.count() * threads.count();
        let input = |piece: usize| {
            let end = ((piece + 1) * plan.batch()).min(count);
            piece * plan.batch()..end
        };
        let run = |piece: usize, output: &mut [f32], parallel: &crate::ParallelFor<'_>| {
            let range = input(piece);
            plan.run(
                &inputs[range.start * self.inputs..range.end * self.inputs],
                output,
                parallel,
            )
        };
        let failed = std::sync::Mutex::new(None);
        let shared = SharedMut::new(outputs);
        let of = |piece: usize| {
            let range = input(piece);
            range.start * self.outputs..range.end * self.outputs
        };
        if apart > 0 {
            threads.run(apart, &|piece| {
                // SAFETY: the outputs of a piece, which only this call has.
                let output = unsafe { shared.part(of(piece)) };
                if let Err(error) = run(piece, output, on_this_thread())
                    && let Ok(mut failed) = failed.lock()
                {
                    *failed = Some(error);
                }
            });
        }
        let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
        for piece in apart..pieces {
            // SAFETY: as above.
            run(piece, unsafe { shared.part(of(piece)) }, &parallel)?;
        }
        match failed.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Predicts for one image and measures each step.
    ///
    /// # Errors
    /// As [`Network::predict`].
    pub fn profile(&self, input: &[f32], threads: &Threads) -> Result<Vec<StepTime>> {
        check_length("input", input.len(), self.inputs)?;
        let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
        self.plans[0].profile(input, &parallel)
    }
}

const NO_PLAN: Error = Error::Range {
    what: "batches of a network",
    found: 0,
    expected: "at least 1",
};
