//! Images in parts, for TPUs.
//!
//! TPUs keep arrays in tiles of 128 lanes, along the batch or the channels. With 64 images of fewer than 128 channels half of every
//! tile is padding, which is read and written like the rest. This pass cuts such images `[batch, rows, …]` into parts of
//! consecutive rows and puts the parts side by side in the batch, all first parts before all second ones:
//! `[parts × batch, rows / parts, …]`. Operators on single elements and sums over batch and rows stay as they are. A convolution
//! adds what its window reads across the border of a part: a convolution of the few rows there ([`borders`]).
//!
//! Results differ by rounding.

mod borders;
mod plan;
mod rewrite;

pub(crate) use rewrite::in_parts;

/// Lanes of a tile.
const LANES: usize = 128;
