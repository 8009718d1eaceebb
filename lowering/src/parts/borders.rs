//! Rows of neighbouring parts that a convolution over parts of an image reads.

use hlo::WindowDim;

/// A convolution along rows: output `o` reads, under tap `k`, input row `i` if `o stride + k tap = i dilation + before`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    /// Distance of neighbouring outputs.
    pub stride: i64,
    /// Distance of neighbouring taps.
    pub tap: i64,
    /// Number of taps.
    pub taps: i64,
    /// Distance of neighbouring input rows.
    pub dilation: i64,
    /// Padding before the first input row.
    pub before: i64,
}

/// Rows of a neighbouring part that a part's outputs read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Border {
    /// Number of input rows, at the end of the part before, or at the start of the part after.
    pub inputs: usize,
    /// Number of outputs that read them, at the start or at the end of the part.
    pub outputs: usize,
    /// Padding before the first of the input rows, counted from the first of the outputs.
    pub before: i64,
}

impl Rows {
    /// Extent of the taps.
    fn span(&self) -> i64 {
        (self.taps - 1) * self.tap + 1
    }

    /// Whether parts of `inputs` rows have outputs of their own, `outputs` each, and read only from their neighbours.
    pub fn fits(&self, inputs: usize, outputs: usize) -> bool {
        let aligned = outputs as i64 * self.stride == inputs as i64 * self.dilation;
        let near = |border: Option<Border>| border.is_none_or(|b| b.inputs <= inputs && b.outputs <= outputs);
        aligned && near(self.previous()) && near(self.next(inputs, outputs))
    }

    /// Rows of the part before.
    pub fn previous(&self) -> Option<Border> {
        let inputs = self.before.div_euclid(self.dilation);
        (inputs > 0).then(|| Border {
            inputs: inputs as usize,
            outputs: ((self.before - self.dilation) / self.stride + 1) as usize,
            before: self.before - inputs * self.dilation,
        })
    }

    /// Rows of the part after a part of `inputs` rows and `outputs` outputs.
    pub fn next(&self, inputs: usize, outputs: usize) -> Option<Border> {
        let end = inputs as i64 * self.dilation;
        let reach = (outputs as i64 - 1) * self.stride + self.span() - 1 - self.before;
        if reach < end {
            return None;
        }
        let first = (end - self.span() + 1 + self.before).max(0);
        let first = (first + self.stride - 1).div_euclid(self.stride);
        Some(Border {
            inputs: ((reach - end) / self.dilation + 1) as usize,
            outputs: outputs - first as usize,
            before: self.before + end - first * self.stride,
        })
    }

    /// Padding after `inputs` rows, such that there are exactly `outputs` outputs.
    pub fn after(&self, before: i64, inputs: usize, outputs: usize) -> i64 {
        let held = (inputs as i64 - 1) * self.dilation + 1;
        (outputs as i64 - 1) * self.stride + self.span() - before - held
    }

    /// The rows of a convolution whose window slides over images.
    pub fn sliding(w: &WindowDim) -> Self {
        Rows {
            stride: w.stride as i64,
            tap: w.window_dilation as i64,
            taps: w.size as i64,
            dilation: w.base_dilation as i64,
            before: w.pad_low,
        }
    }

    /// The rows of a kernel gradient, whose window is the cotangent and whose `taps` positions are those of the kernel.
    pub fn of_kernel_gradient(w: &WindowDim, taps: usize) -> Self {
        Rows {
            stride: w.window_dilation as i64,
            tap: w.stride as i64,
            taps: taps as i64,
            dilation: w.base_dilation as i64,
            before: w.pad_low,
        }
    }
}
