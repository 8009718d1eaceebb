//! Chooses how each convolution is computed on a CPU. No other code decides this.

use super::{ConvForm, ConvLowering};
use crate::direct::ConvPass;
use hlo::{DType, WindowDim};

/// How a convolution groups channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Every input channel contributes to every output channel.
    Dense,
    /// Depthwise, with a sum over the window: a depthwise convolution, or the gradient of its input.
    PerChannel,
    /// Depthwise, with a sum over examples and window: the gradient of a depthwise kernel.
    PerExample,
}

/// The properties of a convolution that decide its lowering. Examples and channels are those of the operator: in a
/// kernel gradient, the input's channels are the examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvFacts {
    /// Element type.
    pub dtype: DType,
    /// Channel grouping.
    pub grouping: Grouping,
    /// Number of examples.
    pub batch: usize,
    /// Number of input channels.
    pub channels: usize,
    /// Number of output channels.
    pub filters: usize,
    /// Extent of each spatial axis of the input.
    pub extents: Vec<usize>,
    /// The window over the spatial axes.
    pub window: Vec<WindowDim>,
    /// Window positions per spatial axis.
    pub positions: Vec<usize>,
    /// Whether the kernel's output channels come before its input channels in memory, as in the gradient of an input.
    /// The compiler's own convolution expects the reverse.
    pub transposed: bool,
    /// The pass that a convolution library would run for this operator, if there is one
    /// ([`crate::DirectConvolution::from_op`]).
    pub pass: Option<ConvPass>,
    /// Whether the computation also computes kernel gradients. Otherwise the compiler may fuse the convolution with the
    /// operators after it.
    pub training: bool,
}

impl ConvFacts {
    /// Number of window elements.
    pub fn window_elements(&self) -> usize {
        self.window.iter().map(|w| w.size).product()
    }

    /// Number of window positions.
    pub fn positions_count(&self) -> usize {
        self.positions.iter().product()
    }

    /// Whether the input is dilated: the convolution is the input gradient of a strided one.
    pub fn has_holes(&self) -> bool {
        self.window.iter().any(|w| w.base_dilation > 1)
    }

    /// Number of parts into which the sum over channels is split. Kernel gradients sum over examples: with 128 examples
    /// of a 32×32 image, parts of 32 are 1.4 times as fast because their operands stay in cache. Smaller images fit in
    /// cache whole.
    pub(super) fn channel_splits(&self) -> usize {
        let gradient = self.grouping == Grouping::Dense && self.positions_count() < self.window_elements();
        match gradient && self.channels >= 64 && self.channels.is_multiple_of(4) && self.window_elements() >= 256 {
            true => 4,
            false => 1,
        }
    }

    /// Number of multiplications and additions. Zeros of padding count, holes do not.
    pub fn flops(&self) -> f64 {
        let holes: usize = self.window.iter().map(|w| w.base_dilation).product();
        let (pairs, sums) = match self.grouping {
            Grouping::Dense => (self.batch * self.filters, self.channels),
            Grouping::PerChannel => (self.batch * self.filters, 1),
            Grouping::PerExample => (self.filters, self.channels),
        };
        2.0 * pairs as f64 * sums as f64 * self.window_elements() as f64 * self.positions_count() as f64 / holes as f64
    }
}

/// Largest number of window elements or positions that is unrolled.
const MAX_UNROLLED: usize = 49;

/// Largest number of terms of a sum for which patches pay: a 3×3 window on three channels.
const MAX_PATCH_TERMS: usize = 32;

/// The form that measured best on two cores (scripts/bench/results/conv_lowering.md).
///
/// Dense convolutions with larger windows, forward and both gradients, keep the operator, which reaches 50 to 155
/// GFLOP/s with its axes in order. Sums of taps reach 20 to 90, patches 5 to 70. Other element types than `f32` keep
/// the operator too, because sums of rounded terms would be less exact.
pub(super) fn choose(facts: &ConvFacts) -> ConvLowering {
    let phases = facts.has_holes();
    let (elements, places) = (facts.window_elements(), facts.positions_count());
    let strided = facts.window.iter().any(|w| w.stride > 1);
    let form = match facts.grouping {
        // A sum of shifted products: 10 to 100 times as fast.
        Grouping::PerExample if places <= MAX_UNROLLED && facts.dtype == DType::F32 => ConvForm::Positions,
        Grouping::PerExample => return ConvLowering::KEEP,
        Grouping::Dense | Grouping::PerChannel if facts.dtype != DType::F32 => return ConvLowering::ORDERED,
        // The operator stays below 1 GFLOP/s. Shifted multiplications are 13 to 600 times as fast, phases another 1.1
        // to 25 times.
        Grouping::PerChannel if elements <= MAX_UNROLLED => ConvForm::Taps,
        // The kernel gradient of a 1×1 convolution: 1.1 to 8 times as fast.
        Grouping::Dense if places == 1 => ConvForm::Positions,
        // The input gradient of a strided convolution: 1.1 to 2 times as fast without holes.
        Grouping::Dense if phases => ConvForm::Ordered,
        // Other 1×1 convolutions: equally fast, since the operator is a matrix product too.
        Grouping::Dense if elements == 1 => ConvForm::Taps,
        // A 3×3 window on three channels: about twice as fast. Slower with a stride or a 7×7 window.
        Grouping::Dense if facts.channels * elements <= MAX_PATCH_TERMS && !strided => ConvForm::Patches,
        Grouping::Dense | Grouping::PerChannel => return ConvLowering::ORDERED,
    };
    ConvLowering { form, phases }
}

/// Fewest terms (examples times positions) of a kernel gradient for which the library beats a matrix product: for 1×1
/// kernels, which need no copies of windows, and for larger ones.
const MIN_TERMS: [usize; 2] = [2500, 1000];

/// As [`MIN_TERMS`], for a 1×1 kernel whose input has at least twice as many channels as its output.
const MIN_NARROWING_TERMS: usize = 1500;

/// Fewest input channels for which the library beats a matrix product in a 1×1 convolution that reduces channels to a
/// quarter or less.
const MIN_NARROWED_CHANNELS: usize = 512;

/// Largest kernel, in elements per window element, that the library repacks in less time than it saves, for any number
/// of windows.
const MAX_REPACKED_KERNEL: usize = 64 * 64;

/// As [`choose`], for a host with a convolution library: the choices that measured best on two processors
/// (conv_lowering.md, conv_lowering_amd.md and, for kernels packed once, conv_prepared_amd.md, in
/// scripts/bench/results).
pub(super) fn choose_with_library(facts: &ConvFacts) -> ConvLowering {
    let compiled = choose(facts);
    let (Some(pass), DType::F32) = (facts.pass, facts.dtype) else {
        return compiled;
    };
    let direct = match (facts.grouping, pass) {
        // 2.8 to 11 times as fast.
        (Grouping::PerChannel | Grouping::PerExample, ConvPass::Kernel) => true,
        // Forward and without a stride, 1.7 to 7.5 times as fast. In inference, the compiler fuses its own convolution
        // with the operators after it, but cannot fuse the library's.
        (Grouping::PerChannel | Grouping::PerExample, _) => pass == ConvPass::Forward && facts.training,
        // 1.1 to 3.2 times as fast.
        (Grouping::Dense, ConvPass::Kernel) => {
            let terms = facts.channels * facts.window_elements();
            let narrowing = facts.positions_count() == 1 && facts.batch >= 2 * facts.filters;
            terms >= MIN_TERMS[usize::from(facts.positions_count() > 1)] || (narrowing && terms >= MIN_NARROWING_TERMS)
        }
        // The input gradient of a strided convolution, by phases: 1.1 to 1.4 times as fast as the library.
        (Grouping::Dense, ConvPass::Input) => false,
        // A matrix product: in training up to 1.3 times as fast as the library, or 0.8 to 1 times where many channels
        // become few. In inference, where the kernel is packed once, 0.5 to 1.1 times.
        (Grouping::Dense, ConvPass::Forward) if facts.window_elements() == 1 => {
            !facts.training || facts.channels >= MIN_NARROWED_CHANNELS.max(4 * facts.filters)
        }
        // 1.2 to 1.5 times as fast, on three channels up to 12. For larger kernels the library pays where the compiler
        // would transpose the kernel (1.05 to 1.6 times), and where packing is done once for all launches or amortised
        // over many windows.
        (Grouping::Dense, ConvPass::Forward) => {
            let kernel = facts.channels * facts.filters;
            let many = kernel <= MAX_REPACKED_KERNEL || kernel <= 2 * facts.batch * facts.positions_count();
            !facts.training || facts.transposed || many
        }
    };
    if direct { ConvLowering::DIRECT } else { compiled }
}
