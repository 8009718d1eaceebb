//! The one place that decides how a convolution is computed on a CPU.

use super::{Form, Lowering};
use crate::op::WindowDim;
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

    /// Multiplications and additions, those with the zeros of holes and padding left out of no axis but the holes'.
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

/// The form that measured best (scripts/bench/results/conv_lowering.md).
pub(super) fn choose(_facts: &ConvFacts) -> Lowering {
    Lowering::KEEP
}
