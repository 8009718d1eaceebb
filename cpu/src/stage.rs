//! Copies of inputs whose own layout kernels cannot walk over.

mod lanes;
mod pixels;

pub(crate) use lanes::LaneStage;
pub(crate) use pixels::PixelStage;

use crate::buffer::Buffer;
use std::cell::RefCell;

/// Which copy of its input an operator reads.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// The input itself.
    None,
    /// A copy with a halo.
    Lanes(LaneStage),
    /// A copy with a halo, split by the phases of the stride.
    Pixels(PixelStage),
}

thread_local! {
    /// Memory of this thread's last copy.
    static SCRATCH: RefCell<Buffer> = RefCell::new(Buffer::zeros(0));
}

/// Calls `run` with `len` floats of any value, which the next call on this thread may have again.
pub(crate) fn scratch<T>(len: usize, run: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken out, so that a call within `run` has memory of its own.
    let mut buffer = SCRATCH.with(|scratch| scratch.replace(Buffer::zeros(0)));
    if buffer.len() < len {
        buffer = Buffer::zeros(len);
    }
    let result = run(&mut buffer[..len]);
    SCRATCH.with(|scratch| scratch.replace(buffer));
    result
}
