//! The inner kernel of the kernel's gradient: one sum of products per connection.

use crate::simd::{Simd, Task};

/// Adds to the gradient of each connection of a group the products over `vectors` vectors of the output's gradient.
pub(crate) struct Products {
    pub offsets: *const i32,
    /// The group's segments, block by block.
    pub outputs: *const u32,
    pub counts: *const u32,
    pub blocks: usize,
    pub size: usize,
    pub gradient: *mut f32,
    pub x: *const f32,
    pub x_step: usize,
    pub y: *const f32,
    pub y_step: usize,
    pub channel: usize,
    pub vectors: usize,
    /// Lanes that hold images.
    pub keep: u16,
    /// The next vectors of the first channel that is asked for ahead of its use, floats between channels, and channels.
    pub ahead: *const f32,
    pub ahead_channel: usize,
    pub ahead_channels: usize,
}

impl Task for Products {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut offsets, mut gradient) = (self.offsets, self.gradient);
        let segments = self.blocks * self.size;
        let (mut ahead, mut unasked, each) = (self.ahead, self.ahead_channels, self.ahead_channels.div_ceil(segments));
        for segment in 0..segments {
            for _ in 0..each.min(unasked) {
                for j in 0..self.vectors {
                    s.prefetch(ahead.wrapping_add(j * self.x_step));
                }
                ahead = ahead.wrapping_add(self.ahead_channel);
            }
            unasked = unasked.saturating_sub(each);
            // SAFETY: the operator has checked all connections, and that what they reach lies within the arrays.
            unsafe {
                let y = self.y.add(*self.outputs.add(segment) as usize * self.channel);
                if segment < self.size {
                    for j in self.vectors..2 * self.vectors {
                        s.prefetch(y.wrapping_add(j * self.y_step));
                    }
                }
                let mut left = *self.counts.add(segment) as usize;
                while left >= 8 {
                    self.eight(s, y, offsets, gradient);
                    offsets = offsets.add(8);
                    gradient = gradient.add(8);
                    left -= 8;
                }
                match left {
                    0 => {}
                    1 => self.few::<S, 1>(s, y, offsets, gradient),
                    2 => self.few::<S, 2>(s, y, offsets, gradient),
                    3 => self.few::<S, 3>(s, y, offsets, gradient),
                    4 => self.few::<S, 4>(s, y, offsets, gradient),
                    5 => self.few::<S, 5>(s, y, offsets, gradient),
                    6 => self.few::<S, 6>(s, y, offsets, gradient),
                    _ => self.few::<S, 7>(s, y, offsets, gradient),
                }
                offsets = offsets.add(left);
                gradient = gradient.add(left);
            }
        }
    }
}

impl Products {
    /// # Safety
    /// 8 offsets and gradients, and all that they reach, must be within their arrays.
    #[inline(always)]
    unsafe fn eight<S: Simd>(&self, s: S, y: *const f32, offsets: *const i32, gradient: *mut f32) {
        // SAFETY: the caller vouches.
        unsafe {
            let sums = s.sums(self.products::<S, 8>(s, y, offsets));
            for i in 0..8 {
                *gradient.add(i) += sums[i];
            }
        }
    }

    /// # Safety
    /// As for [`Products::eight`], of `N` connections.
    #[inline(always)]
    unsafe fn few<S: Simd, const N: usize>(&self, s: S, y: *const f32, offsets: *const i32, gradient: *mut f32) {
        // SAFETY: the caller vouches.
        unsafe {
            let products = self.products::<S, N>(s, y, offsets);
            let mut all = [s.splat(0.0); 8];
            all[..N].copy_from_slice(&products);
            let sums = s.sums(all);
            for i in 0..N {
                *gradient.add(i) += sums[i];
            }
        }
    }

    /// # Safety
    /// As for [`Products::eight`], of `N` connections.
    #[inline(always)]
    unsafe fn products<S: Simd, const N: usize>(&self, s: S, mut y: *const f32, offsets: *const i32) -> [S::V; N] {
        let mut acc = [s.splat(0.0); N];
        let mut from = [self.x; N];
        // SAFETY: the caller vouches.
        unsafe {
            for i in 0..N {
                from[i] = self.x.wrapping_byte_offset(*offsets.add(i) as isize);
            }
            let mut at = 0;
            for _ in 0..self.vectors {
                let dy = s.load(y);
                for i in 0..N {
                    acc[i] = s.fma(dy, s.load(from[i].add(at)), acc[i]);
                }
                y = y.add(self.y_step);
                at += self.x_step;
            }
        }
        // Lanes beyond the batch may hold anything, NaN included.
        if self.keep != u16::MAX {
            for i in 0..N {
                acc[i] = s.keep(acc[i], self.keep);
            }
        }
        acc
    }
}

/// The same of images of one pixel each, without vectors.
pub(crate) fn scalar(
    segments: impl Iterator<Item = (u32, u32)>,
    offsets: &[i32],
    gradient: &mut [f32],
    x: &[f32],
    x_start: usize,
    y: impl Fn(usize) -> f32,
) {
    let mut k = 0;
    for (output, count) in segments {
        let dy = y(output as usize);
        for (gradient, &offset) in gradient[k..].iter_mut().zip(&offsets[k..k + count as usize]) {
            *gradient += dy * x[x_start.wrapping_add_signed(offset as isize / 4)];
        }
        k += count as usize;
    }
}

/// Cuts a row's vectors into runs of at most `most` vectors that keep the same lanes.
pub(crate) fn runs(keep: Option<&[u16]>, vectors: usize, most: usize) -> Vec<(std::ops::Range<usize>, u16)> {
    let lanes = |vector: usize| keep.map_or(u16::MAX, |keep| keep[vector]);
    let mut runs = Vec::new();
    let mut start = 0;
    while start < vectors {
        let same = (start..vectors).take_while(|&v| lanes(v) == lanes(start)).count();
        let parts = same.div_ceil(most);
        for part in 0..parts {
            runs.push((
                start + part * same / parts..start + (part + 1) * same / parts,
                lanes(start),
            ));
        }
        start += same;
    }
    runs
}
