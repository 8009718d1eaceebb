//! Sizes of tiles, blocks and groups, by shape and cache.

use crate::layout::{Layout, Order};
use crate::simd::{Isa, LANES};
use crate::structure::Blocking;
use crate::window::Kernel;

/// What is chosen for an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuned {
    pub tile: usize,
    pub blocking: Blocking,
}

/// Chooses sizes for an operator with `inputs` channels, whose output rows have `vectors` vectors.
pub(crate) fn choose(
    isa: Isa,
    kernel: &Kernel,
    inputs: usize,
    y: &Layout,
    vectors: usize,
    density: Option<f64>,
) -> Tuned {
    let _ = (density, LANES);
    let most = isa.max_tile().min(8);
    let tile = vectors.max(1).div_ceil(vectors.div_ceil(most).max(1));
    if kernel.depthwise {
        return Tuned {
            tile,
            blocking: Blocking { inputs, outputs: 32 },
        };
    }
    // Vectors of one input channel that a tile touches.
    let touched = match y.order {
        Order::Lanes => kernel.rows * (tile + kernel.columns - 1),
        Order::Pixels if kernel.rows * kernel.columns == 1 => tile,
        Order::Pixels => kernel.rows * (tile + 1),
    };
    let lines = 32 * 1024 / 64;
    let block = (lines * 6 / 8 / touched).max(8);
    Tuned {
        tile,
        blocking: Blocking {
            inputs: if inputs <= block * 3 / 2 { inputs } else { block },
            outputs: 32,
        },
    }
}
