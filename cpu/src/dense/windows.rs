//! Windows of a convolution of images by channels.

use super::{Vectors, check_layouts};
use crate::epilogue::Epilogue;
use crate::error::{Result, check_length};
use crate::grid::check_shapes;
use crate::layout::Layout;
use crate::simd::Isa;
use crate::window::{Kernel, Window};

/// A kernel, the images that it is applied to and yields, and where its windows are.
#[derive(Debug)]
pub(crate) struct Windows {
    pub kernel: Kernel,
    pub x: Layout,
    pub y: Layout,
    /// Where the window of output (0, 0) begins.
    pub begin: usize,
    /// Floats of the input between the windows of neighbouring outputs: rows, columns.
    pub step: [usize; 2],
    pub isa: Isa,
}

impl Windows {
    /// `values`: number of weights.
    ///
    /// # Errors
    /// If shapes do not fit, or the halo is narrower than the padding.
    pub fn new(kernel: Kernel, window: &Window, [x, y]: [Layout; 2], values: usize, isa: Isa) -> Result<Self> {
        check_shapes(&kernel, window, &x, &y)?;
        check_layouts(window, &x, &y)?;
        check_length("kernel", values, kernel.size())?;
        let [[top, _], [left, _]] = window.pads;
        Ok(Self {
            begin: x.start - top * x.row - left * x.column,
            step: [window.stride[0] * x.row, window.stride[1] * x.column],
            isa: isa.checked()?,
            kernel,
            x,
            y,
        })
    }

    /// The arrays of an epilogue as vectors, for a pass from `x` to `y`.
    ///
    /// # Errors
    /// If an array has another length.
    pub fn vectors(&self, x: &[f32], y: &[f32], epilogue: &Epilogue<'_>) -> Result<Vectors> {
        check_length("input", x.len(), self.x.len)?;
        check_length("output", y.len(), self.y.len)?;
        epilogue.check(self.y.channels, self.y.len)?;
        Ok(Vectors::new(epilogue, self.y.channels))
    }
}
