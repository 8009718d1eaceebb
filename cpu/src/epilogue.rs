//! Operations on an output while it is in registers.

use crate::error::{Result, check_length};
use crate::simd::Simd;

/// A function of each output element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `max(x, 0)`; NaN stays NaN, as in XLA.
    Relu,
    /// `min(max(x, 0), 6)`; NaN stays NaN.
    Relu6,
}

impl Activation {
    /// The function of every element of some vectors.
    #[inline(always)]
    pub(crate) fn apply<S: Simd, const N: usize>(self, s: S, x: &mut [S::V; N]) {
        if self == Self::None {
            return;
        }
        let (zero, six) = (s.splat(0.0), s.splat(6.0));
        for x in x {
            *x = s.at_least(zero, *x);
            if self == Self::Relu6 {
                *x = s.at_most(six, *x);
            }
        }
    }
}

/// `activation(scale × x + shift + residual)`, per output channel and element. Parts that are absent cost nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// A factor per output channel.
    pub scale: Option<&'a [f32]>,
    /// A summand per output channel: a bias, or the shift of a normalisation.
    pub shift: Option<&'a [f32]>,
    /// A summand per element, in the output's layout.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, channels: usize, len: usize) -> Result<()> {
        check_length("scale", self.scale.map_or(channels, <[f32]>::len), channels)?;
        check_length("shift", self.shift.map_or(channels, <[f32]>::len), channels)?;
        check_length("residual", self.residual.map_or(len, <[f32]>::len), len)
    }

    pub(crate) fn raw(&self) -> Raw {
        let pointer = |array: Option<&[f32]>| array.map_or(std::ptr::null(), <[f32]>::as_ptr);
        Raw {
            scale: pointer(self.scale),
            shift: pointer(self.shift),
            residual: pointer(self.residual),
            activation: self.activation,
        }
    }
}

/// An epilogue's arrays as pointers; null where absent.
#[derive(Clone, Copy)]
pub(crate) struct Raw {
    pub scale: *const f32,
    pub shift: *const f32,
    pub residual: *const f32,
    pub activation: Activation,
}

/// Sums over all images, rows and columns of a convolution's output before its epilogue, per output channel: what batch
/// normalisation needs, computed while the output is in registers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// `Σ (x - pivot)`.
    pub first: Vec<f64>,
    /// `Σ (x - pivot)²`.
    pub second: Vec<f64>,
    /// Elements per channel.
    pub count: usize,
}

impl Sums {
    /// Mean and (biased) variance per channel, for the pivots that the sums were made with. Pivots close to the means, such as
    /// those of the step before, avoid cancellation.
    pub fn moments(&self, pivots: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let n = self.count as f64;
        let pivot = |channel: usize| pivots.and_then(|p| p.get(channel)).map_or(0.0, |&p| f64::from(p));
        let mean = self.first.iter().enumerate().map(|(c, s)| (s / n + pivot(c)) as f32);
        // Not f64::max, which loses NaN.
        let clamp = |v: f64| if v < 0.0 { 0.0 } else { v };
        let variance = self
            .first
            .iter()
            .zip(&self.second)
            .map(|(a, b)| clamp(b / n - (a / n) * (a / n)) as f32);
        (mean.collect(), variance.collect())
    }
}
