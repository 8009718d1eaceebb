//! Sizes of tiles, blocks and groups, by shape and cache.

use crate::layout::{Layout, Order};
use crate::simd::{Isa, LANES};
use crate::structure::Blocking;
use crate::window::Kernel;
use std::sync::OnceLock;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Maximum tile width of 1x1 kernels, in vectors: narrow tiles keep more channels in the first-level cache. Larger kernels
/// read each line of an input several times.
const POINTWISE: usize = 4;
const WINDOWS: usize = 8;

/// Minimum average number of connections per segment: each segment has a fixed cost.
const SEGMENT: f64 = 8.0;

/// Output channels per group: their partial sums of a tile stay in the second-level cache between two blocks.
const GROUP: usize = 256;

/// Tile and block sizes of an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuned {
    pub tile: usize,
    pub blocking: Blocking,
}

/// Chooses sizes for an operator with `inputs` channels, whose output `y` has rows of `vectors` vectors and whose density
/// (share of connections) is `density`.
pub(crate) fn choose(isa: Isa, kernel: &Kernel, inputs: usize, y: &Layout, vectors: usize, density: f64) -> Tuned {
    let taps = kernel.rows * kernel.columns;
    // Dense kernels share loads between several output channels instead.
    let narrow = taps == 1 || (density == 1.0 && !kernel.depthwise);
    let most = isa.max_tile().min(if narrow { POINTWISE } else { WINDOWS });
    let tile = vectors.max(1).div_ceil(vectors.div_ceil(most).max(1));
    let blocking = |inputs| Blocking { inputs, outputs: GROUP };
    if kernel.depthwise || vectors == 0 {
        return Tuned {
            tile,
            blocking: blocking(inputs),
        };
    }
    // Cache lines of one input channel that a tile touches.
    let touched = match y.order {
        Order::Lanes => kernel.rows * (tile + kernel.columns - 1),
        Order::Pixels if taps == 1 => tile,
        Order::Pixels | Order::Channels => (kernel.rows * (tile + 1)).min(tile + (kernel.rows - 1) * y.row / LANES + 1),
    };
    let fit = first_level_cache() / LINE / touched;
    let block = fit.max((SEGMENT / (taps as f64 * density)) as usize).max(1);
    // Avoids a small last block.
    let blocks = (inputs as f64 / block as f64).round().max(1.0) as usize;
    Tuned {
        tile,
        blocking: blocking(inputs.div_ceil(blocks)),
    }
}

/// Bytes of a core's first-level data cache.
fn first_level_cache() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        processor_cache()
            .filter(|size| (16 << 10..=256 << 10).contains(size))
            .unwrap_or(32 << 10)
    })
}

#[cfg(target_arch = "x86_64")]
fn processor_cache() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count, __get_cpuid_max};
    let vendor = __cpuid(0).ebx;
    let (base, leaf) = match vendor {
        // "Auth" of AuthenticAMD.
        0x6874_7541 => (0x8000_0000, 0x8000_001D),
        _ => (0, 4),
    };
    if __get_cpuid_max(base).0 < leaf {
        return None;
    }
    (0..8).map(|i| __cpuid_count(leaf, i)).find_map(|level| {
        let (kind, number) = (level.eax & 31, level.eax >> 5 & 7);
        let (line, parts, ways) = (
            (level.ebx & 0xFFF) + 1,
            (level.ebx >> 12 & 0x3FF) + 1,
            (level.ebx >> 22) + 1,
        );
        (kind == 1 && number == 1).then_some((line * parts * ways * (level.ecx + 1)) as usize)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_cache() -> Option<usize> {
    None
}
