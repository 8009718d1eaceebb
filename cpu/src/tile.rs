//! The inner kernels: a tile of vectors of the output stays in registers while connections are added.

use crate::epilogue::{Activation, Raw};
use crate::simd::{Simd, Task};

/// Arguments shared by all tiles of a group of output channels. Pointers are valid while an operator runs.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub values: *const f32,
    pub offsets: *const i32,
    /// The group's segments, block by block.
    pub outputs: *const u32,
    pub counts: *const u32,
    pub blocks: usize,
    /// Output channels of the group.
    pub size: usize,
    pub epilogue: Raw,
    /// Floats from an output channel to the next.
    pub channel: usize,
    /// Floats between the vectors of a tile.
    pub x_step: usize,
    pub y_step: usize,
    /// Sums per output channel, or null.
    pub sums: *mut [f32; 2],
    pub pivots: *const f32,
    /// Input channels of the next tile to prefetch, floats between them, and prefetches per segment.
    pub ahead: usize,
    pub ahead_channel: usize,
    pub ahead_each: usize,
    /// Whether all segments of a block read the same.
    pub uniform: bool,
    /// Whether to use non-temporal stores. The output is then aligned to 64 bytes.
    pub stream: bool,
}

/// Computes `M` vectors of each output channel of a group.
pub(crate) struct Forward<const M: usize> {
    pub group: Group,
    pub x: *const f32,
    /// Where the tile of output channel 0 begins.
    pub y: *mut f32,
    /// Floats from the start of the output to `y`; the residual has the same offset.
    pub at: usize,
    /// `M` masks of lanes, or null.
    pub keep: *const u16,
    /// The next tile in the first channel to prefetch. Never read.
    pub ahead: *const f32,
}

impl<const M: usize> Task for Forward<M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the operator has checked all connections, and that what they reach lies within the arrays.
        unsafe {
            match self.group.x_step {
                _ if self.group.uniform && M <= SHARED => self.shared(s),
                16 => self.tile(s, 16),
                step => self.tile(s, step),
            }
        }
        if self.group.stream {
            s.fence();
        }
    }
}

/// Maximum tile width for which several output channels are computed together.
const SHARED: usize = 4;

impl<const M: usize> Forward<M> {
    /// As [`Forward::tile`], if all segments of a block read the same inputs: output channels share loads.
    ///
    /// # Safety
    /// As for [`Forward::tile`].
    #[inline(always)]
    unsafe fn shared<S: Simd>(&self, s: S) {
        let g = &self.group;
        let at_once = if S::PARTS == 1 { 4 } else { 2 };
        let (mut values, mut offsets) = (g.values, g.offsets);
        // SAFETY: segments of the group, each with as many connections as the others of its block.
        unsafe {
            for block in 0..g.blocks {
                let count = *g.counts.add(block * g.size) as usize;
                let mut i = 0;
                while i < g.size {
                    let outputs = g.outputs.add(block * g.size + i);
                    let rest = g.size - i;
                    let done = match at_once.min(rest) {
                        4 => self.several::<S, 4>(s, block, outputs, values, offsets, count),
                        2 | 3 => self.several::<S, 2>(s, block, outputs, values, offsets, count),
                        _ => self.several::<S, 1>(s, block, outputs, values, offsets, count),
                    };
                    values = values.add(done * count);
                    i += done;
                }
                offsets = offsets.add(g.size * count);
            }
        }
    }

    /// Adds a block's connections to `R` output channels, and returns `R`.
    ///
    /// # Safety
    /// As for [`Forward::tile`]; `values` are those of `R` segments with `count` connections each.
    #[inline(always)]
    unsafe fn several<S: Simd, const R: usize>(
        &self,
        s: S,
        block: usize,
        outputs: *const u32,
        values: *const f32,
        offsets: *const i32,
        count: usize,
    ) -> usize {
        let g = &self.group;
        // SAFETY: the caller vouches.
        unsafe {
            // Unrolled: accumulators indexed by a variable would not stay in registers.
            let mut acc = [[s.splat(0.0); M]; R];
            acc[0] = self.begin(s, block, *outputs as usize);
            if R > 1 {
                acc[1] = self.begin(s, block, *outputs.add(1) as usize);
            }
            if R > 2 {
                acc[2] = self.begin(s, block, *outputs.add(2) as usize);
                acc[3] = self.begin(s, block, *outputs.add(3) as usize);
            }
            for k in 0..count {
                let x = self.x.wrapping_byte_offset(*offsets.add(k) as isize);
                let x = load::<S, M>(s, x, g.x_step);
                for r in 0..R {
                    let w = s.splat(*values.add(r * count + k));
                    for j in 0..M {
                        acc[r][j] = s.fma(w, x[j], acc[r][j]);
                    }
                }
            }
            self.end(s, block, acc[0], *outputs as usize);
            if R > 1 {
                self.end(s, block, acc[1], *outputs.add(1) as usize);
            }
            if R > 2 {
                self.end(s, block, acc[2], *outputs.add(2) as usize);
                self.end(s, block, acc[3], *outputs.add(3) as usize);
            }
        }
        R
    }

    /// The accumulators of an output channel before a block.
    ///
    /// # Safety
    /// As for [`Forward::tile`].
    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, s: S, block: usize, output: usize) -> [S::V; M] {
        let g = &self.group;
        // SAFETY: an output channel of the group.
        unsafe {
            if block > 0 {
                return load::<S, M>(s, self.y.add(output * g.channel), g.y_step);
            }
            let shifted = !g.epilogue.shift.is_null() && g.epilogue.scale.is_null() && g.sums.is_null();
            [s.splat(if shifted { *g.epilogue.shift.add(output) } else { 0.0 }); M]
        }
    }

    /// Stores the accumulators of an output channel after a block.
    ///
    /// # Safety
    /// As for [`Forward::tile`].
    #[inline(always)]
    unsafe fn end<S: Simd>(&self, s: S, block: usize, acc: [S::V; M], output: usize) {
        let g = &self.group;
        // SAFETY: an output channel of the group.
        unsafe {
            let y = self.y.add(output * g.channel);
            if block + 1 == g.blocks {
                return self.finish(s, acc, output, y);
            }
            for j in 0..M {
                s.store(y.add(j * g.y_step), acc[j]);
            }
        }
    }

    /// # Safety
    /// The connections, and all that they reach from `x` and `y`, must be within their arrays.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, step: usize) {
        let g = &self.group;
        let (mut values, mut offsets) = (g.values, g.offsets);
        let (mut outputs, mut counts) = (g.outputs, g.counts);
        let (mut ahead, mut left) = (self.ahead, g.ahead);
        for block in 0..g.blocks {
            for _ in 0..g.size {
                for _ in 0..g.ahead_each.min(left) {
                    for j in 0..M {
                        s.prefetch(ahead.wrapping_add(j * step));
                    }
                    ahead = ahead.wrapping_add(g.ahead_channel);
                }
                left = left.saturating_sub(g.ahead_each);
                // SAFETY: a segment of the group, whose connections follow those of the segment before.
                unsafe {
                    let output = *outputs as usize;
                    let count = *counts as usize;
                    let mut acc = self.begin(s, block, output);
                    accumulate::<S, M>(s, &mut acc, self.x, step, values, offsets, count);
                    self.end(s, block, acc, output);
                    values = values.add(count);
                    offsets = offsets.add(count);
                    outputs = outputs.add(1);
                    counts = counts.add(1);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Forward::tile`].
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, mut acc: [S::V; M], output: usize, y: *mut f32) {
        let g = &self.group;
        let e = &g.epilogue;
        // SAFETY: arrays of the epilogue have an element per output channel, the residual one per element.
        unsafe {
            if !g.sums.is_null() {
                self.sum(s, &acc, output);
            }
            if !e.scale.is_null() {
                let scale = s.splat(*e.scale.add(output));
                for j in 0..M {
                    acc[j] = s.mul(acc[j], scale);
                }
            }
            if !e.shift.is_null() && (!e.scale.is_null() || !g.sums.is_null()) {
                let shift = s.splat(*e.shift.add(output));
                for j in 0..M {
                    acc[j] = s.add(acc[j], shift);
                }
            }
            if !e.residual.is_null() {
                let residual = e.residual.add(self.at + output * g.channel);
                for j in 0..M {
                    acc[j] = s.add(acc[j], s.load(residual.add(j * g.y_step)));
                }
            }
            e.activation.apply(s, &mut acc);
            for j in 0..M {
                if !self.keep.is_null() {
                    acc[j] = s.keep(acc[j], *self.keep.add(j));
                }
                match g.stream {
                    true => s.stream(y.add(j * g.y_step), acc[j]),
                    false => s.store(y.add(j * g.y_step), acc[j]),
                }
            }
        }
    }

    /// Adds the tile to the sums of its output channel.
    ///
    /// # Safety
    /// As for [`Forward::tile`].
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, s: S, acc: &[S::V; M], output: usize) {
        let zero = s.splat(0.0);
        let (mut first, mut second) = (zero, zero);
        // SAFETY: sums and pivots have an element per output channel.
        unsafe {
            let pivots = self.group.pivots;
            let pivot = s.splat(if pivots.is_null() { 0.0 } else { *pivots.add(output) });
            for j in 0..M {
                let mut x = s.sub(acc[j], pivot);
                if !self.keep.is_null() {
                    x = s.keep(x, *self.keep.add(j));
                }
                first = s.add(first, x);
                second = s.fma(x, x, second);
            }
            let sums = s.sums([first, second, zero, zero, zero, zero, zero, zero]);
            let total = &mut *self.group.sums.add(output);
            total[0] += sums[0];
            total[1] += sums[1];
        }
    }
}

/// # Safety
/// `M` vectors must be readable.
#[inline(always)]
unsafe fn load<S: Simd, const M: usize>(s: S, y: *const f32, step: usize) -> [S::V; M] {
    let mut acc = [s.splat(0.0); M];
    for j in 0..M {
        // SAFETY: the caller vouches.
        acc[j] = unsafe { s.load(y.add(j * step)) };
    }
    acc
}

/// Adds `count` connections to a tile. Narrow tiles add several connections at once, to hide the latency of multiply-adds.
///
/// # Safety
/// `count` values and offsets must be readable, and `M` vectors at each offset from `x`.
#[inline(always)]
unsafe fn accumulate<S: Simd, const M: usize>(
    s: S,
    acc: &mut [S::V; M],
    x: *const f32,
    step: usize,
    values: *const f32,
    offsets: *const i32,
    count: usize,
) {
    let mut k = 0;
    // SAFETY: the caller vouches.
    unsafe {
        if M * S::PARTS <= 2 {
            let mut more = [[s.splat(0.0); M]; 3];
            while k + 4 <= count {
                add(s, acc, x, step, *values.add(k), *offsets.add(k));
                add(s, &mut more[0], x, step, *values.add(k + 1), *offsets.add(k + 1));
                add(s, &mut more[1], x, step, *values.add(k + 2), *offsets.add(k + 2));
                add(s, &mut more[2], x, step, *values.add(k + 3), *offsets.add(k + 3));
                k += 4;
            }
            for j in 0..M {
                acc[j] = s.add(s.add(acc[j], more[0][j]), s.add(more[1][j], more[2][j]));
            }
        } else if M * S::PARTS <= 7 {
            let mut more = [s.splat(0.0); M];
            while k + 2 <= count {
                add(s, acc, x, step, *values.add(k), *offsets.add(k));
                add(s, &mut more, x, step, *values.add(k + 1), *offsets.add(k + 1));
                k += 2;
            }
            for j in 0..M {
                acc[j] = s.add(acc[j], more[j]);
            }
        }
        while k < count {
            add(s, acc, x, step, *values.add(k), *offsets.add(k));
            k += 1;
        }
    }
}

/// Adds one connection to a tile.
///
/// # Safety
/// `M` vectors must be readable at `offset` bytes from `x`.
#[inline(always)]
unsafe fn add<S: Simd, const M: usize>(s: S, acc: &mut [S::V; M], x: *const f32, step: usize, value: f32, offset: i32) {
    let w = s.splat(value);
    // SAFETY: the caller vouches.
    unsafe {
        let x = x.wrapping_byte_offset(offset as isize);
        for j in 0..M {
            acc[j] = s.fma(w, s.load(x.add(j * step)), acc[j]);
        }
    }
}

/// Computes one value of each output channel of a group: an image of one pixel, without vectors.
pub(crate) struct Scalar {
    pub group: Group,
    pub x: *const f32,
    pub y: *mut f32,
    pub at: usize,
}

impl Task for Scalar {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let g = &self.group;
        let mut k = 0;
        for block in 0..g.blocks {
            for i in 0..g.size {
                // SAFETY: the operator has checked all connections, and that what they reach lies within the arrays.
                unsafe {
                    let output = *g.outputs.add(block * g.size + i) as usize;
                    let count = *g.counts.add(block * g.size + i) as usize;
                    let y = self.y.add(output * g.channel);
                    let mut sum = if block == 0 { 0.0 } else { *y };
                    sum += dot(self.x, g.values.add(k), g.offsets.add(k), count);
                    *y = if block + 1 == g.blocks {
                        self.finish(sum, output)
                    } else {
                        sum
                    };
                    k += count;
                }
            }
        }
    }
}

impl Scalar {
    /// # Safety
    /// Arrays of the epilogue must have an element per output channel.
    #[inline(always)]
    unsafe fn finish(&self, mut x: f32, output: usize) -> f32 {
        let (g, e) = (&self.group, &self.group.epilogue);
        // SAFETY: the caller vouches; so for sums and pivots.
        unsafe {
            if !g.sums.is_null() {
                let centred = x - if g.pivots.is_null() { 0.0 } else { *g.pivots.add(output) };
                let total = &mut *g.sums.add(output);
                total[0] += centred;
                total[1] += centred * centred;
            }
            if !e.scale.is_null() {
                x *= *e.scale.add(output);
            }
            if !e.shift.is_null() {
                x += *e.shift.add(output);
            }
            if !e.residual.is_null() {
                x += *e.residual.add(self.at + output * g.channel);
            }
        }
        // Not f32::max, which loses NaN.
        match e.activation {
            Activation::None => x,
            Activation::Relu | Activation::Relu6 if x < 0.0 => 0.0,
            Activation::Relu6 if x > 6.0 => 6.0,
            Activation::Relu | Activation::Relu6 => x,
        }
    }
}

/// # Safety
/// `count` values and offsets must be readable, and a float at each offset from `x`.
#[inline(always)]
unsafe fn dot(x: *const f32, values: *const f32, offsets: *const i32, count: usize) -> f32 {
    const CHAINS: usize = 8;
    let mut sums = [0.0f32; CHAINS];
    let mut k = 0;
    // SAFETY: the caller vouches.
    unsafe {
        while k + CHAINS <= count {
            for i in 0..CHAINS {
                let product = *values.add(k + i) * *x.wrapping_byte_offset(*offsets.add(k + i) as isize);
                sums[i] += product;
            }
            k += CHAINS;
        }
        while k < count {
            sums[0] += *values.add(k) * *x.wrapping_byte_offset(*offsets.add(k) as isize);
            k += 1;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
