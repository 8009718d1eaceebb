//! Exact selection of the k largest scores as a graph, without sorting.
//!
//! Scores become order-preserving integers ([`super::sort_key`]). The k-th largest key is found from its highest bits down,
//! two bits per pass over the keys: of four candidates, the largest that at least k keys reach. This needs no memory besides
//! the keys, and k may be a run-time value. The last of the ties at the k-th key is found in the same way. The `sort` and
//! `topk` algorithms do what the original did. All three give the same bits.

use hlo::{DType, GatherDims, Graph, Shape, Tensor, Update};
use serde::{Deserialize, Serialize};

/// Algorithm that finds the k largest. All give the same masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// Bisection over the bits of the k-th key.
    #[default]
    Bits,
    /// Two full stable sorts.
    Sort,
    /// A full ranking and a scatter, as in the original. The ranking is emitted as a stable sort, because the top-k of some
    /// plugins does not keep the order of ties.
    Topk,
}

impl Select {
    /// Every algorithm.
    pub const ALL: [Select; 3] = [Select::Bits, Select::Sort, Select::Topk];
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

/// [`super::reference::grow_key`] of every score: kept entries rank below all others.
#[track_caller]
pub fn grow_keys<'g>(scores: Tensor<'g>, kept: Tensor<'g>) -> Tensor<'g> {
    let keys = sort_keys(scores);
    kept.select(keys.zeros_like(), keys.max(1.0))
}

/// Marks the `k` (s32 scalar) largest of `keys` (u32, any shape); ties go to the lower flat index. Marks all if `k` exceeds
/// their number. The result is `pred` in the shape of `keys`.
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

/// Number of keys whose counts fit into one field of ten bits, as two axes. XLA's CPU compiler sums an axis of more than 32
/// elements in several passes.
const PART: [usize; 2] = [16, 32];
/// Bits found per pass over the keys, by comparing with three candidates.
const BITS_PER_PASS: u32 = 2;

fn by_bits<'g>(keys: Tensor<'g>, k: Tensor<'g>) -> Tensor<'g> {
    let g = keys.graph();
    let n = keys.shape().elements();
    // Devices can count the parts in parallel. The padding of the last part is zeros, which reach no candidate and come last
    // among equals.
    let part: usize = PART.iter().product();
    let parts = n.div_ceil(part).max(1);
    let filled = keys.pad(0.0, &[0], &[(parts * part - n) as i64], &[0]);
    let filled = filled.reshape(&[&[parts], &PART[..]].concat());
    // The largest threshold that at least k keys reach.
    let rounds = u32::BITS / BITS_PER_PASS;
    let found = g.repeat(g.scalar(rounds as i32), &[g.scalar(0u32), filled, k], |_, i, s| {
        let reached = |candidate| s[1].ge(candidate);
        vec![extend(s[0], rounds, i, reached, |count| count.ge(s[2])), s[1], s[2]]
    });
    // Use the keys returned by the loop: those before it would be computed again for each use.
    let (threshold, keys, k) = (found[0], found[1], found[2]);
    let (above, tied) = (keys.gt(threshold), keys.eq(threshold));
    let counted = counts(&[above, tied]);
    let [above_count, tied_count] = [0, 1].map(|i| counted.slice(&[i], &[i + 1]).reshape(&[]));
    let wanted = k - above_count;
    // The last chosen tie is at the largest index with fewer than `wanted` ties before it. If all ties are chosen, as nearly
    // always, the loop does not run.
    let partial = wanted.lt(tied_count);
    let rounds = (usize::BITS - (parts * part).leading_zeros()).div_ceil(BITS_PER_PASS);
    let start = partial.select(g.scalar(0u32), g.scalar(u32::MAX));
    let times = partial.select(g.scalar(rounds as i32), g.scalar(0i32));
    let last = g.repeat(times, &[start, tied, wanted], |g, i, s| {
        let index = index(g, parts);
        let before = |candidate| s[1] & index.lt(candidate);
        vec![extend(s[0], rounds, i, before, |count| count.lt(s[2])), s[1], s[2]]
    });
    let (last, tied, wanted) = (last[0], last[1], last[2]);
    let mask = above | (tied & index(g, parts).le(last) & wanted.gt(0.0));
    mask.reshape(&[parts * part]).slice(&[0], &[n])
}

/// The flat index of every key in this many parts, u32.
fn index(g: &Graph, parts: usize) -> Tensor<'_> {
    let dims = [&[parts], &PART[..]].concat();
    g.iota(Shape::new(DType::U32, [dims.iter().product()]), 0)
        .reshape(&dims)
}

/// Appends the next two bits to a u32 scalar, in round `i` of `rounds`. Their value is the number of candidates 1, 2, 3 for
/// which `holds`, given the counts (`s32[3]`) of the keys that each `marks`. Counting for all three takes one pass over the
/// keys instead of two.
fn extend<'g>(
    number: Tensor<'g>,
    rounds: u32,
    i: Tensor<'g>,
    marks: impl Fn(Tensor<'g>) -> Tensor<'g>,
    holds: impl FnOnce(Tensor<'g>) -> Tensor<'g>,
) -> Tensor<'g> {
    let g = number.graph();
    let round = (g.scalar(rounds as i32 - 1) - i).convert(DType::U32);
    let shift = round * f64::from(BITS_PER_PASS);
    let marked = [1u32, 2, 3].map(|digit| marks(number | g.scalar(digit).shift_left(shift)));
    let digit = holds(counts(&marked)).convert(DType::U32).reduce_sum(&[0]);
    number | digit.shift_left(shift)
}

/// Number of keys that each of up to three arrays `pred[parts, ..]` marks: `s32[arrays]`.
fn counts<'g, const N: usize>(marked: &[Tensor<'g>; N]) -> Tensor<'g> {
    const FIELD: f64 = 10.0;
    let g = marked[0].graph();
    let parts = marked[0].dims()[0];
    let field = |i: usize| marked[i].convert(DType::U32).shift_left(FIELD * i as f64);
    let packed = (1..N).fold(field(0), |sum, i| sum + field(i)).reduce_sum(&[1, 2]);
    let dims = [N, parts];
    let shift = g.iota(Shape::new(DType::U32, dims), 0) * FIELD;
    let fields = packed.broadcast(&dims, &[1]).shift_right_logical(shift);
    let fields = fields & g.number(DType::U32, FIELD.exp2() - 1.0).broadcast_to(&dims);
    fields.reduce_sum(&[1]).convert(DType::S32)
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
