//! The one place that decides how a convolution is computed on a CPU.

use super::{Form, Lowering};
use crate::op::{ConvPass, WindowDim};
use crate::shape::DType;

/// Which channels of the input meet which of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// All meet all.
    Dense,
    /// Each meets its own only, and the sum runs over the window: a depthwise convolution, or the gradient of its input.
    PerChannel,
    /// Each meets its own only, and the sum runs over examples and window: the gradient of a depthwise kernel.
    PerExample,
}

/// What there is to know of a convolution: its shape. Examples and channels are meant as the operator has them: the
/// gradient of a kernel takes channels for examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvFacts {
    /// Element type.
    pub dtype: DType,
    /// Which channels meet.
    pub grouping: Grouping,
    /// Examples of the input.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub filters: usize,
    /// Extent of each spatial axis of the input.
    pub extents: Vec<usize>,
    /// The window over them.
    pub window: Vec<WindowDim>,
    /// Positions of the window per spatial axis.
    pub positions: Vec<usize>,
    /// Whether the kernel's output channels lie outside of its input channels, as in the gradient of an input: the reverse of
    /// what the compiler's convolution takes as it is.
    pub transposed: bool,
    /// What the operator is to a library of convolutions, where it is anything ([`crate::DirectConvolution::of`]).
    pub pass: Option<ConvPass>,
    /// Whether gradients of kernels are computed beside it. Otherwise what follows may be computed in the same pass over memory.
    pub training: bool,
}

impl ConvFacts {
    /// Elements of the window.
    pub fn elements(&self) -> usize {
        self.window.iter().map(|w| w.size).product()
    }

    /// Positions of the window.
    pub fn places(&self) -> usize {
        self.positions.iter().product()
    }

    /// Whether the input has holes: the convolution is the gradient of a strided one's input.
    pub fn has_holes(&self) -> bool {
        self.window.iter().any(|w| w.base_dilation > 1)
    }

    /// In how many parts the channels are summed. Gradients of kernels sum over examples: of 128 in a 32×32 image, parts of
    /// 32 are 1.4 times as fast, for what the parts read stays in the cache. In smaller images all of them does.
    pub(super) fn summed_in_parts(&self) -> usize {
        let gradient = self.grouping == Grouping::Dense && self.places() < self.elements();
        match gradient && self.channels >= 64 && self.channels.is_multiple_of(4) && self.elements() >= 256 {
            true => 4,
            false => 1,
        }
    }

    /// Multiplications and additions. Zeros of padding count, holes do not.
    pub fn flops(&self) -> f64 {
        let holes: usize = self.window.iter().map(|w| w.base_dilation).product();
        let (pairs, sums) = match self.grouping {
            Grouping::Dense => (self.batch * self.filters, self.channels),
            Grouping::PerChannel => (self.batch * self.filters, 1),
            Grouping::PerExample => (self.filters, self.channels),
        };
        2.0 * pairs as f64 * sums as f64 * self.elements() as f64 * self.places() as f64 / holes as f64
    }
}

/// Most window elements, or positions, that are written out one by one.
const UNROLLED: usize = 49;

/// Most terms of a sum for which patches are worth making: a window of 3×3 on three colours.
const FEW_TERMS: usize = 32;

/// The form that measured best on two cores (scripts/bench/results/conv_lowering.md).
///
/// Dense convolutions over several elements, forward and for either gradient, stay the operator, which reaches 50 to 155
/// GFLOP/s with its axes in order; sums of taps 20 to 90 and patches 5 to 70. So does what is not `f32`, since sums of
/// rounded terms would be less exact than the operator.
pub(super) fn choose(facts: &ConvFacts) -> Lowering {
    let phases = facts.has_holes();
    let (elements, places) = (facts.elements(), facts.places());
    let strided = facts.window.iter().any(|w| w.stride > 1);
    let form = match facts.grouping {
        // Shifted products, summed: 10 to 100 times as fast.
        Grouping::PerExample if places <= UNROLLED && facts.dtype == DType::F32 => Form::Positions,
        Grouping::PerExample => return Lowering::KEEP,
        _ if facts.dtype != DType::F32 => return Lowering::ORDERED,
        // The operator computes below 1 GFLOP/s; shifted multiplications are 13 to 600 times as fast, phases another 1.1
        // to 25 times.
        Grouping::PerChannel if elements <= UNROLLED => Form::Taps,
        // The gradient of a 1×1 kernel: 1.1 to 8 times as fast.
        Grouping::Dense if places == 1 => Form::Positions,
        // A strided convolution's input gradient: 1.1 to 2 times as fast without holes.
        Grouping::Dense if phases => Form::Ordered,
        // The rest of 1×1, where the operator is a matrix product too: as fast.
        Grouping::Dense if elements == 1 => Form::Taps,
        // 3×3 on three colours: about twice as fast; with a stride, or 7×7, slower.
        Grouping::Dense if facts.channels * elements <= FEW_TERMS && !strided => Form::Patches,
        _ => return Lowering::ORDERED,
    };
    Lowering { form, phases }
}

/// Fewest terms of a kernel's gradient, over examples and positions, that the library sums faster than a matrix product: of
/// 1×1 kernels, whose windows need no copies for that, and of larger ones.
const TERMS: [usize; 2] = [2500, 1000];

/// Fewest terms of the gradient of a 1×1 kernel whose input has at least twice as many channels as its output.
const NARROWING_TERMS: usize = 1500;

/// Fewest channels of which the library makes a fourth as many or fewer by a 1×1 kernel faster than a matrix product.
const NARROWED: usize = 512;

/// Most elements of a kernel, per element of its window, that the library brings into its own order in less time than it saves
/// on any number of windows.
const REORDERED: usize = 64 * 64;

/// As [`choose`], where the host has a library of convolutions: what measured best with that on two processors
/// (conv_lowering.md, conv_lowering_amd.md and, for kernels that are made ready once, conv_prepared_amd.md, under
/// scripts/bench/results).
pub(super) fn choose_with_library(facts: &ConvFacts) -> Lowering {
    let compiled = choose(facts);
    let (Some(pass), DType::F32) = (facts.pass, facts.dtype) else {
        return compiled;
    };
    let direct = match (facts.grouping, pass) {
        // 2.8 to 11 times as fast.
        (Grouping::PerChannel | Grouping::PerExample, ConvPass::Kernel) => true,
        // Without a stride going back, 1.7 to 7.5 times as fast; but in inference the compiler's is computed together with what
        // follows it, and the library's is not.
        (Grouping::PerChannel | Grouping::PerExample, _) => pass == ConvPass::Forward && facts.training,
        // 1.1 to 3.2 times as fast.
        (Grouping::Dense, ConvPass::Kernel) => {
            let terms = facts.channels * facts.elements();
            let narrowing = facts.places() == 1 && facts.batch >= 2 * facts.filters;
            terms >= TERMS[usize::from(facts.places() > 1)] || (narrowing && terms >= NARROWING_TERMS)
        }
        // A strided convolution's input gradient by phases: 1.1 to 1.4 times as fast as the library.
        (Grouping::Dense, ConvPass::Input) => false,
        // A matrix product: in training up to 1.3 times as fast as the library; of many channels that become few, 0.8 to 1
        // times. In inference, where the kernel is brought into the library's order once, 0.5 to 1.1 times.
        (Grouping::Dense, ConvPass::Forward) if facts.elements() == 1 => {
            !facts.training || facts.channels >= NARROWED.max(4 * facts.filters)
        }
        // 1.2 to 1.5 times as fast, on three colours up to 12. Of larger kernels those that the compiler transposes, 1.05 to
        // 1.6 times; others where the library's order pays, because it is made once for all launches or for many windows.
        (Grouping::Dense, ConvPass::Forward) => {
            let kernel = facts.channels * facts.filters;
            let many = kernel <= REORDERED || kernel <= 2 * facts.batch * facts.places();
            !facts.training || facts.transposed || many
        }
    };
    if direct { Lowering::DIRECT } else { compiled }
}
