//! What a network costs: weights, floating-point operations and bits, counted from its layers.
//!
//! Two conventions of operations stand side by side. The *published* one is behind the tables of the RigL paper
//! (reference 5.1): every layer as if it had "same" padding, a bias and a ReLU, from real-valued sparsities. The *plain*
//! one is two operations per multiply-add of the connections that there are, at the true size of the output, and nothing
//! else. Neither counts normalisation, pooling, additions of shortcuts or the softmax.

use crate::{Kind, Layer};
use std::ops::AddAssign;

/// What is left of a layer's kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Share of zeros as the distribution has it, before rounding.
    pub sparsity: f64,
    /// Connections.
    pub nonzeros: usize,
}

impl Kept {
    /// All of it.
    pub fn all(layer: &Layer) -> Self {
        Kept {
            sparsity: 0.0,
            nonzeros: layer.weights(),
        }
    }

    /// A share `sparsity` of zeros, their number rounded down.
    pub fn share(layer: &Layer, sparsity: f64) -> Self {
        let zeros = (sparsity * layer.weights() as f64) as usize;
        Kept {
            sparsity,
            nonzeros: layer.weights() - zeros.min(layer.weights()),
        }
    }
}

/// Counts of a layer or a network, operations per example of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Elements of the kernels.
    pub weights: usize,
    /// Connections.
    pub nonzeros: usize,
    /// Operations by the published convention.
    pub published_flops: f64,
    /// Size by the published convention: 32 bits per kept weight and per output channel, and in a layer with zeros a mask
    /// of one bit per weight.
    pub published_bits: f64,
    /// Operations by the plain convention.
    pub plain_flops: f64,
}

impl Counts {
    /// Of one layer.
    pub fn of(layer: &Layer, kept: Kept) -> Self {
        let n = layer.weights() as f64;
        let density = 1.0 - kept.sparsity;
        let published = Published::of(layer);
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

    /// Share of zeros of the whole.
    pub fn sparsity(&self) -> f64 {
        match self.weights {
            0 => 0.0,
            n => 1.0 - self.nonzeros as f64 / n as f64,
        }
    }

    /// Size by the published convention in units of 10^6 bytes.
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

/// A layer as the published convention sees it.
struct Published {
    /// Elements of the output.
    outputs: f64,
    /// Inputs of each of them in a dense layer.
    inputs: f64,
    /// Channels with a bias.
    channels: f64,
}

impl Published {
    /// Kernels are taken at their word, `[height, width, in, out]`: a depthwise one has one output channel, and as many
    /// inputs as its channels.
    fn of(layer: &Layer) -> Self {
        let channels = layer.dims.last().copied().unwrap_or(1);
        let positions: usize = match layer.kind {
            Kind::Dense => 1,
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
    /// Of each layer, in the order of the layers.
    pub layers: Vec<Counts>,
    /// Of all together.
    pub total: Counts,
}

impl Cost {
    /// Of `layers`, each with what is left of it.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a Layer>, kept: impl Fn(&Layer) -> Kept) -> Self {
        let layers: Vec<Counts> = layers.into_iter().map(|l| Counts::of(l, kept(l))).collect();
        let mut total = Counts::default();
        layers.iter().for_each(|&counts| total += counts);
        Cost { layers, total }
    }

    /// Of a dense network.
    pub fn dense<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        Cost::of(layers, Kept::all)
    }
}

/// The layers of a network widened as the published convention has it: input channels of all layers but the first and
/// output channels of all but the last times `width`, truncated, unless there is only one. The published rows of smaller
/// dense and of larger sparse networks are counted this way, with sparsities for the shapes before; the networks
/// themselves may round differently.
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

/// How a training method spends operations (reference 5.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Training {
    /// Every pass dense.
    Dense,
    /// Every pass sparse: fixed masks, SNIP, SET.
    Sparse,
    /// Sparse passes, but a dense gradient on every iteration: SNFS.
    DenseGradient,
    /// Sparse passes, and a dense gradient on one iteration after every `frequency_steps`: RigL. As in the paper, over
    /// the whole run, though updates end before.
    DenseGradientEvery {
        /// Gradient steps from one mask update to the next.
        frequency_steps: u64,
        /// Iterations with a dense gradient, the last of each such cycle: 1 in the paper.
        batches: u64,
    },
}

impl Training {
    /// Operations per example of one iteration, on average, of a network whose forward pass takes `sparse` operations,
    /// and `dense` without masks. A backward pass takes two forward ones: towards the inputs, and towards the weights.
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

/// Gradual pruning: the share of zeros grows to `target` between two steps, by a cubic law (reference 5.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruning {
    /// Share of zeros at the end.
    pub target: f64,
    /// Step up to which there are none.
    pub begin_step: u64,
    /// Step from which there are all.
    pub end_step: u64,
}

impl Pruning {
    /// Share of zeros at a step.
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

    /// Operations per example of one iteration, averaged over steps 0, `every_steps`, … up to and including `steps`;
    /// `forward` has those of a forward pass at a share of zeros.
    pub fn training_flops(&self, steps: u64, every_steps: u64, forward: impl Fn(f64) -> f64) -> f64 {
        let points: Vec<f64> = (0..=steps)
            .step_by(every_steps.max(1) as usize)
            .map(|step| 3.0 * forward(self.sparsity_at(step)))
            .collect();
        points.iter().sum::<f64>() / points.len() as f64
    }
}
