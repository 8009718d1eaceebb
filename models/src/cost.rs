//! The cost of a network: weights, floating-point operations and bits, counted from its layers.
//!
//! There are two conventions for operations. The *published* one reproduces the tables of the RigL paper (reference
//! 5.1): it treats every layer as if it had "same" padding, a bias and a ReLU, and uses real-valued sparsities. The
//! *plain* one counts two operations per multiply-add of the remaining connections, at the true size of the output.
//! Neither counts normalisation, pooling, shortcut additions or the softmax.

use crate::{Kind, Layer};
use std::ops::AddAssign;

/// The remaining part of a layer's kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Fraction of zeros as the sparsity distribution gives it, before rounding.
    pub sparsity: f64,
    /// Number of nonzero weights.
    pub nonzeros: usize,
}

impl Kept {
    /// The whole kernel.
    pub fn all(layer: &Layer) -> Self {
        Kept {
            sparsity: 0.0,
            nonzeros: layer.weights(),
        }
    }

    /// The kernel with a fraction `sparsity` of zeros; the number of zeros is rounded down.
    pub fn with_sparsity(layer: &Layer, sparsity: f64) -> Self {
        let zeros = (sparsity * layer.weights() as f64) as usize;
        Kept {
            sparsity,
            nonzeros: layer.weights() - zeros.min(layer.weights()),
        }
    }
}

/// Counts of a layer or a network; operations are per example and forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Number of kernel elements.
    pub weights: usize,
    /// Number of nonzero weights.
    pub nonzeros: usize,
    /// Operations in the published convention.
    pub published_flops: f64,
    /// Size in the published convention: 32 bits per kept weight and per output channel, plus one mask bit per weight
    /// in layers with zeros.
    pub published_bits: f64,
    /// Operations in the plain convention.
    pub plain_flops: f64,
}

impl Counts {
    /// Counts of one layer.
    pub fn new(layer: &Layer, kept: Kept) -> Self {
        let n = layer.weights() as f64;
        let density = 1.0 - kept.sparsity;
        let published = Published::new(layer);
        let mask = if kept.sparsity > 0.0 { n } else { 0.0 };
        let plain_positions = layer.output.iter().product::<usize>() as f64;
        Counts {
            weights: layer.weights(),
            nonzeros: kept.nonzeros,
            published_flops: published.outputs * (2.0 * published.inputs * density + 1.0),
            published_bits: n * 32.0 * density + mask + 32.0 * published.channels,
            plain_flops: 2.0 * kept.nonzeros as f64 * plain_positions,
        }
    }

    /// Fraction of zeros over all weights.
    pub fn sparsity(&self) -> f64 {
        match self.weights {
            0 => 0.0,
            n => 1.0 - self.nonzeros as f64 / n as f64,
        }
    }

    /// Size in the published convention, in units of 10^6 bytes.
    pub fn published_megabytes(&self) -> f64 {
        self.published_bits / 8e6
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.weights += other.weights;
        self.nonzeros += other.nonzeros;
        self.published_flops += other.published_flops;
        self.published_bits += other.published_bits;
        self.plain_flops += other.plain_flops;
    }
}

/// A layer in the published convention.
struct Published {
    /// Number of output elements.
    outputs: f64,
    /// Inputs of one output element in a dense layer.
    inputs: f64,
    /// Number of channels with a bias.
    channels: f64,
}

impl Published {
    /// Reads the kernel literally as `[height, width, in, out]`: a depthwise kernel has one output channel, and as many
    /// inputs as channels.
    fn new(layer: &Layer) -> Self {
        let channels = layer.dims.last().copied().unwrap_or(1);
        let positions: usize = match layer.kind {
            Kind::Dense => layer.output.iter().product(),
            Kind::Conv | Kind::Depthwise => (0..2)
                .map(|axis| {
                    let (size, stride) = (layer.dims[axis], layer.strides[axis]);
                    let starts = layer.counted_input[axis] + 1 + 2 * (size / 2) - size;
                    starts.div_ceil(stride)
                })
                .product(),
        };
        Published {
            outputs: (positions * channels) as f64,
            inputs: layer.weights() as f64 / channels as f64,
            channels: channels as f64,
        }
    }
}

/// Counts of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Counts of each layer, in layer order.
    pub layers: Vec<Counts>,
    /// Sum over all layers.
    pub total: Counts,
}

impl Cost {
    /// Counts of `layers`; `kept` gives the remaining part of each.
    pub fn new<'a>(layers: impl IntoIterator<Item = &'a Layer>, kept: impl Fn(&Layer) -> Kept) -> Self {
        let layers: Vec<Counts> = layers.into_iter().map(|l| Counts::new(l, kept(l))).collect();
        let mut total = Counts::default();
        layers.iter().for_each(|&counts| total += counts);
        Cost { layers, total }
    }

    /// Counts of a dense network.
    pub fn dense<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        Cost::new(layers, Kept::all)
    }
}

/// The layers of a network, widened in the published convention: multiplies by `width` the input channels of all layers
/// but the first and the output channels of all but the last, truncated, unless there is only one channel. The
/// published rows of smaller dense and larger sparse networks use this, with the sparsities of the original shapes. The
/// networks themselves may round differently.
pub fn widened(layers: &[Layer], width: f64) -> Vec<Layer> {
    let scaled = |dim: usize| if dim == 1 { 1 } else { (dim as f64 * width) as usize };
    let last = layers.len().saturating_sub(1);
    let widen = |(i, layer): (usize, &Layer)| {
        let mut layer = layer.clone();
        if let [.., inputs, outputs] = &mut layer.dims[..] {
            *inputs = if i == 0 { *inputs } else { scaled(*inputs) };
            *outputs = if i == last { *outputs } else { scaled(*outputs) };
        }
        layer
    };
    layers.iter().enumerate().map(widen).collect()
}

/// When a training method runs dense passes (reference 5.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Training {
    /// Every pass is dense.
    Dense,
    /// Every pass is sparse: fixed masks, SNIP, SET.
    Sparse,
    /// Sparse passes with a dense gradient in every iteration: SNFS.
    DenseGradient,
    /// Sparse passes, with a dense gradient in one iteration after every `frequency_steps`: RigL. Counted over the
    /// whole run as in the paper, although mask updates end earlier.
    DenseGradientEvery {
        /// Gradient steps between mask updates.
        frequency_steps: u64,
        /// Iterations with a dense gradient at the end of each cycle: 1 in the paper.
        batches: u64,
    },
}

impl Training {
    /// Average operations per example and iteration of a network whose forward pass takes `sparse` operations with
    /// masks and `dense` without. A backward pass costs two forward passes: one for the inputs, one for the weights.
    pub fn flops(self, sparse: f64, dense: f64) -> f64 {
        match self {
            Training::Dense => 3.0 * dense,
            Training::Sparse => 3.0 * sparse,
            Training::DenseGradient => 2.0 * sparse + dense,
            Training::DenseGradientEvery {
                frequency_steps,
                batches,
            } => {
                let (cycle, batches) = (frequency_steps as f64 + 1.0, batches as f64);
                (3.0 * sparse * (cycle - batches) + (2.0 * sparse + dense) * batches) / cycle
            }
        }
    }
}

/// Gradual pruning: the sparsity grows to `target` between two steps by a cubic law (reference 5.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruning {
    /// Final sparsity.
    pub target: f64,
    /// Last step with sparsity 0.
    pub begin_step: u64,
    /// First step with the final sparsity.
    pub end_step: u64,
}

impl Pruning {
    /// Sparsity at a step.
    pub fn sparsity_at(&self, step: u64) -> f64 {
        if step < self.begin_step {
            return 0.0;
        }
        if step >= self.end_step {
            return self.target;
        }
        let done = (step - self.begin_step) as f64 / (self.end_step - self.begin_step) as f64;
        self.target * (1.0 - (1.0 - done).powi(3))
    }

    /// Operations per example and iteration, averaged over steps 0, `every_steps`, … up to and including `steps`.
    /// `forward` maps a sparsity to the operations of a forward pass.
    pub fn training_flops(&self, steps: u64, every_steps: u64, forward: impl Fn(f64) -> f64) -> f64 {
        let points: Vec<f64> = (0..=steps)
            .step_by(every_steps.max(1) as usize)
            .map(|step| 3.0 * forward(self.sparsity_at(step)))
            .collect();
        points.iter().sum::<f64>() / points.len() as f64
    }
}
