//! The inner kernel of dense convolutions.

use crate::epilogue::Raw;
use crate::simd::{Isa, LANES, Simd, Task};
use std::ops::Range;

/// Arguments shared by all tiles. Pointers are valid while a convolution runs.
pub(super) struct Shared {
    pub x: *const f32,
    pub y: *mut f32,
    pub packed: *const f32,
    /// Floats of the weights of 16 output channels.
    pub panel: usize,
    /// Vectors of output channels.
    pub outputs: usize,
    /// Blocks of input channels, channels of each, and of the last.
    pub blocks: usize,
    pub lanes: usize,
    pub last: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Floats of the input between blocks of channels, rows and columns.
    pub plane: usize,
    pub row: usize,
    pub column: usize,
    /// Floats of the input between the windows of neighbouring outputs.
    pub step: usize,
    /// Floats of the output between blocks of channels.
    pub y_plane: usize,
    /// With whole vectors of scales and shifts.
    pub epilogue: Raw,
}

// SAFETY: arrays but the output are only read, and tiles write disjoint parts of that.
unsafe impl Sync for Shared {}

/// Neighbouring outputs of a row.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Where the first one's window begins, and where it lies, in floats.
    pub x: usize,
    pub y: usize,
    pub width: usize,
}

/// Maximum width of a segment.
pub(super) fn most(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 7,
        Isa::Avx2 | Isa::Portable => 6,
    }
}

impl Shared {
    /// Vectors of output channels that a tile computes.
    pub fn panel_blocks(&self, isa: Isa) -> usize {
        match isa {
            Isa::Avx512 => 2,
            Isa::Avx2 | Isa::Portable => 1,
        }
    }

    /// Whether a segment and one of the same width fit into registers together.
    pub fn pairs(isa: Isa, width: usize) -> bool {
        isa == Isa::Avx512 && width >= 4
    }

    /// Computes output channels of a segment, or of two; asks for the first inputs of `next` and the weights from `ahead` on.
    ///
    /// # Safety
    /// All that the segments' windows reach, and the segments, must lie within the arrays; nobody else may use these outputs;
    /// the processor must have `isa`.
    pub unsafe fn run(&self, isa: Isa, blocks: Range<usize>, segments: &[Segment], next: &[Segment], ahead: Ahead) {
        let last = segments.len() - 1;
        let tile = Tile {
            shared: self,
            block: blocks.start,
            segments: [segments[0], segments[last]],
            next: [next[0].x, next[next.len() - 1].x],
            ahead,
        };
        // SAFETY: the caller vouches.
        unsafe {
            match (blocks.len(), last) {
                (1, 0) => by_step::<1, 1>(isa, tile),
                (1, _) => by_step::<1, 2>(isa, tile),
                (_, 0) => by_step::<2, 1>(isa, tile),
                (_, _) => by_step::<2, 2>(isa, tile),
            }
        }
    }
}

/// # Safety
/// As for [`Shared::run`].
unsafe fn by_step<const R: usize, const G: usize>(isa: Isa, tile: Tile<'_>) {
    // SAFETY: the caller vouches.
    unsafe {
        match tile.shared.step {
            16 => by_width::<R, G, 16>(isa, tile),
            32 => by_width::<R, G, 32>(isa, tile),
            _ => by_width::<R, G, 0>(isa, tile),
        }
    }
}

/// # Safety
/// As for [`Shared::run`].
unsafe fn by_width<const R: usize, const G: usize, const STEP: usize>(isa: Isa, tile: Tile<'_>) {
    macro_rules! widths {
        ($($h:literal)*) => {
            match tile.segments[0].width {
                // SAFETY: the caller vouches.
                $($h => unsafe { isa.run(Dense::<R, G, $h, STEP>(tile)) },)*
                _ => unreachable!("segments have 1 to 7 outputs"),
            }
        };
    }
    widths!(1 2 3 4 5 6 7)
}

/// The segments of a tile, and its first vector of output channels.
#[derive(Clone, Copy)]
struct Tile<'a> {
    shared: &'a Shared,
    block: usize,
    segments: [Segment; 2],
    /// Where the windows of the next tile begin. Their inputs are asked for, and not read.
    next: [usize; 2],
    ahead: Ahead,
}

/// Weights that are asked for while a tile is computed: from where on, and floats per input. Never read.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub from: *const f32,
    pub each: usize,
}

/// Computes `R` vectors of output channels of `G` segments of `H` outputs, whose windows are `STEP` floats apart (0: any number).
struct Dense<'a, const R: usize, const G: usize, const H: usize, const STEP: usize>(Tile<'a>);

impl<const R: usize, const G: usize, const H: usize, const STEP: usize> Task for Dense<'_, R, G, H, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Tiles of these sizes fill the registers of AVX-512, and are used there only.
        if S::PARTS == 1 || R == 1 && G == 1 && H < 7 {
            // SAFETY: the caller of `Shared::run` vouches.
            unsafe {
                let mut acc = [[[s.splat(0.0); H]; G]; R];
                self.products(s, &mut acc);
                // Unrolled: accumulators indexed by a variable would not stay in registers. R and G are at most 2.
                self.finish(s, &mut acc[0][0], 0, 0);
                if G > 1 {
                    self.finish(s, &mut acc[0][G - 1], 0, G - 1);
                }
                if R > 1 {
                    self.finish(s, &mut acc[R - 1][0], R - 1, 0);
                }
                if R > 1 && G > 1 {
                    self.finish(s, &mut acc[R - 1][G - 1], R - 1, G - 1);
                }
            }
        } else {
            unreachable!("a tile of more registers than there are");
        }
    }
}

impl<const R: usize, const G: usize, const H: usize, const STEP: usize> Dense<'_, R, G, H, STEP> {
    /// # Safety
    /// As for [`Shared::run`].
    #[inline(always)]
    unsafe fn products<S: Simd>(&self, s: S, acc: &mut [[[S::V; H]; G]; R]) {
        let of = self.0.shared;
        let step = if STEP == 0 { of.step } else { STEP };
        self.ask_for_outputs(s);
        let Ahead { mut from, each } = self.0.ahead;
        let mut weights = of.packed.wrapping_add(self.0.block * of.panel);
        for block in 0..of.blocks {
            let ends = block + 1 == of.blocks;
            let lanes = if ends { of.last } else { of.lanes };
            for row in 0..of.kernel[0] {
                for g in 0..G {
                    let then = match ends {
                        true => self.0.next[g] + row * of.row,
                        false => self.0.segments[g].x + (block + 1) * of.plane + row * of.row,
                    };
                    for j in 0..H {
                        s.prefetch_near(of.x.wrapping_add(then + j * step));
                    }
                }
                for column in 0..of.kernel[1] {
                    let shift = block * of.plane + row * of.row + column * of.column;
                    let mut x = [of.x; G];
                    for g in 0..G {
                        x[g] = of.x.wrapping_add(self.0.segments[g].x + shift);
                    }
                    for lane in 0..lanes {
                        // SAFETY: the caller vouches.
                        unsafe {
                            let mut w = [s.splat(0.0); R];
                            for r in 0..R {
                                w[r] = s.load(weights.add(r * of.panel));
                            }
                            for g in 0..G {
                                for j in 0..H {
                                    let x = s.splat(*x[g].add(j * step + lane));
                                    for r in 0..R {
                                        acc[r][g][j] = s.fma(x, w[r], acc[r][g][j]);
                                    }
                                }
                            }
                        }
                        weights = weights.wrapping_add(LANES);
                        if R * G * H >= 8 {
                            s.prefetch(from);
                            from = from.wrapping_add(each);
                        }
                    }
                }
            }
        }
    }

    /// Asks for the cache lines of the outputs and of their residual.
    #[inline(always)]
    fn ask_for_outputs<S: Simd>(&self, s: S) {
        let of = self.0.shared;
        for r in 0..R {
            for g in 0..G {
                let at = self.0.segments[g].y + (self.0.block + r) * of.y_plane;
                for j in 0..H {
                    s.prefetch(of.y.wrapping_add(at + j * LANES));
                    if !of.epilogue.residual.is_null() {
                        s.prefetch(of.epilogue.residual.wrapping_add(at + j * LANES));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`Shared::run`].
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, acc: &mut [S::V; H], r: usize, g: usize) {
        let of = self.0.shared;
        let block = self.0.block + r;
        let at = self.0.segments[g].y + block * of.y_plane;
        // SAFETY: the caller vouches; scales and shifts have whole vectors, the residual an element per output.
        unsafe { finish(s, acc, &of.epilogue, block, at, of.y) }
    }
}

/// Applies the epilogue to neighbouring outputs of a vector of channels, and stores them.
///
/// # Safety
/// Outputs at `at`, and all that belongs to them, must lie within the arrays.
#[inline(always)]
pub(crate) unsafe fn finish<S: Simd, const H: usize>(
    s: S,
    acc: &mut [S::V; H],
    e: &Raw,
    block: usize,
    at: usize,
    y: *mut f32,
) {
    // SAFETY: the caller vouches.
    unsafe {
        if !e.scale.is_null() {
            let scale = s.load(e.scale.add(block * LANES));
            for j in 0..H {
                acc[j] = s.mul(acc[j], scale);
            }
        }
        if !e.shift.is_null() {
            let shift = s.load(e.shift.add(block * LANES));
            for j in 0..H {
                acc[j] = s.add(acc[j], shift);
            }
        }
        if !e.residual.is_null() {
            for j in 0..H {
                acc[j] = s.add(acc[j], s.load(e.residual.add(at + j * LANES)));
            }
        }
        e.activation.apply(s, acc);
        for j in 0..H {
            s.store(y.add(at + j * LANES), acc[j]);
        }
    }
}
