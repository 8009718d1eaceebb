//! Shapes of kernels and the windows that they slide over.

use crate::error::{Error, Result, check_length};
use crate::layout::Halo;

/// The shape of a kernel, and which channels it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Whether output channel `o` sees only input channel `o / (outputs / inputs)`.
    pub depthwise: bool,
}

/// An element of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tap {
    pub row: i32,
    pub column: i32,
    pub input: u32,
    pub output: u32,
}

impl Kernel {
    /// A kernel `[rows, columns, inputs, outputs]` that may connect every input with every output.
    pub fn new(rows: usize, columns: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            columns,
            inputs,
            outputs,
            depthwise: false,
        }
    }

    /// A depthwise kernel `[rows, columns, inputs, multiplier]`.
    pub fn depthwise(rows: usize, columns: usize, inputs: usize, multiplier: usize) -> Self {
        Self {
            rows,
            columns,
            inputs,
            outputs: inputs * multiplier,
            depthwise: true,
        }
    }

    /// Elements, of connections that are there or not.
    pub fn size(&self) -> usize {
        let channels = if self.depthwise { 1 } else { self.inputs };
        self.rows * self.columns * channels * self.outputs
    }

    /// The element at `index` of the flat kernel.
    pub(crate) fn tap(&self, index: u32) -> Tap {
        let outputs = self.outputs as u32;
        let (input, output, tap) = if self.depthwise {
            let output = index % outputs;
            (output / (outputs / self.inputs as u32), output, index / outputs)
        } else {
            let inputs = self.inputs as u32;
            (index / outputs % inputs, index % outputs, index / outputs / inputs)
        };
        Tap {
            row: (tap / self.columns as u32) as i32,
            column: (tap % self.columns as u32) as i32,
            input,
            output,
        }
    }

    /// Positions in the flat kernel where `mask` is set, in order.
    ///
    /// # Errors
    /// If the mask has another length than the kernel.
    pub fn positions(&self, mask: &[bool]) -> Result<Vec<u32>> {
        check_length("mask", mask.len(), self.size())?;
        self.check()?;
        let count = mask.iter().filter(|&&set| set).count();
        let mut positions = Vec::with_capacity(count);
        positions.extend((0..).zip(mask).filter(|&(_, &set)| set).map(|(i, _)| i));
        Ok(positions)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let channels = if self.depthwise { 1 } else { self.inputs as i128 };
        let found = self.rows as i128 * self.columns as i128 * channels * self.outputs as i128;
        let divides = !self.depthwise || (self.inputs > 0 && self.outputs.is_multiple_of(self.inputs));
        if divides && (1..1 << 31).contains(&found) {
            Ok(())
        } else {
            Err(Error::Range {
                what: "elements of a kernel",
                found,
                expected: "1 to 2147483647, outputs a multiple of inputs if depthwise",
            })
        }
    }
}

/// How a kernel slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps between outputs: rows, columns.
    pub stride: [usize; 2],
    /// Zeros before and after the rows, and before and after the columns.
    pub pads: [[usize; 2]; 2],
}

impl Window {
    /// A window that moves by one, without padding.
    pub fn unit() -> Self {
        Self::valid([1, 1])
    }

    /// No padding.
    pub fn valid(stride: [usize; 2]) -> Self {
        Self {
            stride,
            pads: [[0; 2]; 2],
        }
    }

    /// TensorFlow's and XLA's `SAME` for images of `height` × `width`: `ceil(size / stride)` outputs.
    pub fn same(kernel: [usize; 2], stride: [usize; 2], height: usize, width: usize) -> Self {
        let pads = [0, 1].map(|axis| {
            let size = [height, width][axis];
            let reach = (size.div_ceil(stride[axis]).max(1) - 1) * stride[axis] + kernel[axis];
            let pad = reach.saturating_sub(size);
            [pad / 2, pad - pad / 2]
        });
        Self { stride, pads }
    }

    /// Rows and columns of the output.
    ///
    /// # Errors
    /// If a stride is 0 or the kernel is larger than the padded image.
    pub fn output(&self, kernel: [usize; 2], height: usize, width: usize) -> Result<[usize; 2]> {
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = [height, width][axis] + self.pads[axis][0] + self.pads[axis][1];
            if self.stride[axis] == 0 || padded < kernel[axis] || kernel[axis] == 0 {
                return Err(Error::Mismatch {
                    what: "window",
                    found: format!("{self:?} of a {kernel:?} kernel on {height} x {width}"),
                    expected: "strides of at least 1 and a kernel no larger than the padded picture".into(),
                });
            }
            output[axis] = (padded - kernel[axis]) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// The halo that an input needs.
    pub fn halo(&self) -> Halo {
        Halo {
            top: self.pads[0][0],
            bottom: self.pads[0][1],
            left: self.pads[1][0],
            right: self.pads[1][1],
        }
    }

    /// The halo that the output's gradient needs for the input's gradient.
    pub fn gradient_halo(&self, kernel: [usize; 2]) -> Halo {
        let side = |axis: usize| {
            let [low, high] = self.pads[axis];
            let reach = kernel[axis] - 1;
            [
                reach.saturating_sub(low) / self.stride[axis],
                reach.saturating_sub(high).div_ceil(self.stride[axis]),
            ]
        };
        let ([top, bottom], [left, right]) = (side(0), side(1));
        Halo {
            top,
            bottom,
            left,
            right,
        }
    }
}
