//! Exact selection of the k largest as a graph, without sorting.
//!
//! Scores become order-preserving integers ([`super::sort_key`]). The k-th largest key is built from the top, two bits per
//! pass over the keys: the largest candidate stays that at least k keys reach. No memory beside the keys, and k may be a
//! run-time value. Ties at the k-th key are cut at an index found the same way. The full `sort` and `topk` forms do
//! what the original did; all three give the same bits.

use hlo::{DType, GatherDims, Graph, Shape, Tensor, Update};
use serde::{Deserialize, Serialize};

/// How the k largest are found. Every way gives the same masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// Bisection over the bits of the k-th key.
    #[default]
    Bits,
    /// Two full stable sorts.
    Sort,
    /// A full ranking and a scatter, as the original. (The ranking is emitted as a stable sort: not every plugin's top-k
    /// keeps the order of ties when it ranks everything.)
    Topk,
}

/// [`super::sort_key`] of every score: `f32[..] -> u32[..]`.
#[track_caller]
pub fn sort_keys(scores: Tensor<'_>) -> Tensor<'_> {
    let g = scores.graph();
    let sign = g.scalar(1u32 << 31);
    let bits = scores.bitcast_convert(DType::U32);
    let magnitude = bits & !sign.broadcast_to(&bits.dims());
    let number = bits.ge(sign).select(!bits, bits | sign);
    let key = magnitude.eq(0.0).select(sign, number);
    magnitude
        .gt(f64::from(f32::INFINITY.to_bits()))
        .select(key.zeros_like(), key)
}

/// [`super::host::grow_key`] of every score: kept entries rank below all others.
#[track_caller]
pub fn grow_keys<'g>(scores: Tensor<'g>, kept: Tensor<'g>) -> Tensor<'g> {
    let keys = sort_keys(scores);
    kept.select(keys.zeros_like(), keys.max(1.0))
}

/// Marks the `k` (s32 scalar) largest of `keys` (u32, any shape), the lower flat index first among equals; all of them
/// when `k` exceeds their number. Yields `pred` of the shape of `keys`.
#[track_caller]
pub fn top_k_mask<'g>(keys: Tensor<'g>, k: Tensor<'g>, select: Select) -> Tensor<'g> {
    let _scope = keys.graph().scope("select");
    let flat = keys.reshape(&[keys.shape().elements()]);
    let mask = match select {
        Select::Bits => by_bits(flat, k),
        Select::Sort => by_sort(flat, k),
        Select::Topk => by_top_k(flat, k),
    };
    mask.reshape(&keys.dims())
}

/// Number of elements that hold, s32.
fn count(pred: Tensor<'_>) -> Tensor<'_> {
    let axes: Vec<usize> = (0..pred.shape().rank()).collect();
    pred.convert(DType::S32).reduce_sum(&axes)
}

/// Keys whose counts are packed into one integer, three counts of ten bits: fewer than 2^10.
const ROW: usize = 512;
/// Bits found per pass over the keys.
const BITS_PER_PASS: u32 = 2;

fn by_bits<'g>(keys: Tensor<'g>, k: Tensor<'g>) -> Tensor<'g> {
    let g = keys.graph();
    let n = keys.shape().elements();
    // Rows are counted apart, so that a device may count them at once. The zeros that fill the last one reach no candidate.
    let row = n.clamp(1, ROW);
    let rows = n.div_ceil(row);
    let filled = keys
        .pad(0.0, &[0], &[(rows * row - n) as i64], &[0])
        .reshape(&[rows, row]);
    let passes = g.scalar((u32::BITS / BITS_PER_PASS) as i32);
    // The largest threshold that at least k keys reach.
    let found = g.repeat(passes, &[g.scalar(0u32), filled, k], |g, i, s| {
        let shift = (g.scalar((u32::BITS - BITS_PER_PASS) as i32) - i * BITS_PER_PASS as f64).convert(DType::U32);
        let digit = digit(s[1], s[0], shift, s[2]);
        vec![s[0] | digit.shift_left(shift), s[1], s[2]]
    });
    // The keys as they come out of the loop: taken from before it, they would be computed again for each of their uses.
    let (threshold, k) = (found[0], found[2]);
    let keys = found[1].reshape(&[rows * row]).slice(&[0], &[n]);
    let above = keys.gt(threshold);
    let tied = keys.eq(threshold);
    let wanted = k - count(above);
    // The largest index with fewer than `wanted` ties before it is the last tie that is in. When all ties are, as nearly
    // always, the loop does not run.
    let index_bits = (usize::BITS - n.leading_zeros()) as i32;
    let partial = wanted.lt(count(tied));
    let rounds = partial.select(g.scalar(index_bits), g.scalar(0i32));
    let start = partial.select(g.scalar(0u32), g.scalar(u32::MAX));
    let last = g.repeat(rounds, &[start, tied, wanted], |g, i, s| {
        let candidate = s[0] | bit(g, g.scalar(index_bits - 1) - i);
        let index = g.iota(Shape::new(DType::U32, [n]), 0);
        let few = count(s[1] & index.lt(candidate)).lt(s[2]);
        vec![few.select(candidate, s[0]), s[1], s[2]]
    });
    let (last, tied, wanted) = (last[0], last[1], last[2]);
    let index = g.iota(Shape::new(DType::U32, [n]), 0);
    above | (tied & index.le(last) & wanted.gt(0.0))
}

/// The next two bits of the threshold below `prefix`, at `shift`: how many of the candidates 1, 2, 3 at least `k` of the
/// `keys` (`[rows, row]`) reach. Counting all three at once, packed, takes one pass over the keys instead of two.
fn digit<'g>(keys: Tensor<'g>, prefix: Tensor<'g>, shift: Tensor<'g>, k: Tensor<'g>) -> Tensor<'g> {
    let g = keys.graph();
    let field = |i: u32| f64::from(10 * i);
    let reached = |i: u32| {
        let candidate = prefix | g.scalar(i + 1).shift_left(shift);
        keys.ge(candidate).convert(DType::U32).shift_left(field(i))
    };
    let packed = (reached(0) + reached(1) + reached(2)).reduce_sum(&[1]);
    let enough = |i: u32| {
        let counts = packed.shift_right_logical(field(i)) & g.scalar(1023u32).broadcast_to(&packed.dims());
        counts.reduce_sum(&[0]).convert(DType::S32).ge(k).convert(DType::U32)
    };
    enough(0) + enough(1) + enough(2)
}

/// The u32 with the one bit set that the s32 scalar `position` names.
fn bit<'g>(g: &'g Graph, position: Tensor<'g>) -> Tensor<'g> {
    g.scalar(1u32).shift_left(position.convert(DType::U32))
}

fn by_sort<'g>(keys: Tensor<'g>, k: Tensor<'g>) -> Tensor<'g> {
    let g = keys.graph();
    let positions = g.iota(Shape::new(DType::S32, keys.dims()), 0);
    let ranked = keys.sort_with(&[positions], 0, true);
    let chosen = positions.lt(k).convert(DType::S32);
    ranked[1].sort_with(&[chosen], 0, false)[1].gt(0.0)
}

fn by_top_k<'g>(keys: Tensor<'g>, k: Tensor<'g>) -> Tensor<'g> {
    let g = keys.graph();
    let n = keys.shape().elements();
    let (_, ranked) = keys.top_k(n);
    let chosen = g.iota(Shape::new(DType::S32, [n]), 0).lt(k);
    let dims = GatherDims {
        offset: vec![],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    };
    chosen.zeros_like().scatter(ranked, chosen, dims, Update::Set, true)
}
