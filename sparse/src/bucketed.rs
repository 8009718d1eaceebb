//! Batches mask updates: layers of similar size share one loop body, which keeps compile time down.
//!
//! XLA's CPU compiler generates code for each instruction and shape, and networks repeat their layers: the 54 kernels of
//! ResNet-50 have 15 sizes, which fall into five buckets. The layers of a bucket are the rows of an array, padded to the
//! longest, and a loop updates one row per iteration.

use super::update::{Choice, Inputs, Layer, Rule, apply, choose, update};
use super::{GrowScore, KeepCount};
use hlo::random::Key;
use hlo::{DType, Literal, Shape, Tensor};
use std::ops::Range;

/// Maximum ratio of the largest to the smallest layer in a bucket. Padding costs time in each update; a bucket costs about
/// half a second of compile time.
const MAX_SIZE_RATIO: f64 = 2.5;

/// Groups layers by size. Returns the indices of the layers of each bucket, large layers first.
pub fn buckets(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let fits = |&largest: &usize, i: usize| sizes[largest] as f64 <= sizes[i] as f64 * MAX_SIZE_RATIO;
    let mut buckets: Vec<Vec<usize>> = vec![];
    for i in order {
        match buckets.last_mut() {
            Some(bucket) if bucket.first().is_some_and(|largest| fits(largest, i)) => bucket.push(i),
            _ => buckets.push(vec![i]),
        }
    }
    buckets
}

/// Updates the layers of a bucket, each with the same result as [`update`]. `seeds` (u32`[layers, 2]`) are the keys of the
/// inputs. All layers use the drop fraction of the first.
#[track_caller]
pub fn update_bucket<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Layer<'g>> {
    if let [(layer, inputs)] = layers {
        return vec![update(rule, layer, inputs)];
    }
    let choices = choose_in_bucket(rule, layers, seeds);
    let applied = |((layer, inputs), choice): (&(Layer<'g>, Inputs<'g>), _)| apply(rule, layer, inputs, &choice);
    layers.iter().zip(choices).map(applied).collect()
}

/// Positions of the results in the loop's state: masks, new connections, thresholds. The drop fraction and the keys are
/// before them. After them are weights, masks and sizes, the optional inputs, and the index of each row.
const RESULTS: Range<usize> = 2..5;

/// [`choose`] for every layer.
#[track_caller]
fn choose_in_bucket<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Choice<'g>> {
    let Some((_, inputs)) = layers.first() else {
        return vec![];
    };
    let g = seeds.graph();
    let sizes: Vec<usize> = layers
        .iter()
        .map(|(layer, _)| layer.weights.shape().elements())
        .collect();
    let (count, longest) = (layers.len(), sizes.iter().copied().max().unwrap_or(0));
    let lengths: Vec<i32> = sizes.iter().map(|&size| size as i32).collect();
    let stack = |array: &dyn Fn(&(Layer<'g>, Inputs<'g>)) -> Option<Tensor<'g>>, width: usize| {
        let rows: Option<Vec<_>> = layers
            .iter()
            .map(|layer| Some(padded_row(array(layer)?, width)))
            .collect();
        rows.map(|rows| g.concatenate(&rows, 0))
    };
    let by_gradient = matches!(rule.method.grow, GrowScore::Gradient | GrowScore::InvertedGradient);
    let masks = stack(&|(layer, _)| Some(layer.mask), longest);
    // Thresholds start with those of the previous update; the loop overwrites every row.
    let previous = stack(&|(layer, _)| layer.threshold, 1);
    let thresholds = previous.or_else(|| Some(g.full(&Shape::new(DType::F32, [count, 1]), 0.0)));
    let results = [masks, masks, thresholds];
    let required = [
        stack(&|(layer, _)| Some(layer.weights), longest),
        masks,
        Some(g.constant(Literal::new(&[count, 1], &lengths))),
    ];
    let optional = [
        stack(&|(_, inputs)| Some(inputs.gradient).filter(|_| by_gradient), longest),
        stack(&|(_, inputs)| inputs.score, longest),
        stack(&|(_, inputs)| inputs.keep, 1),
    ];
    let given = optional.map(|stack| stack.is_some());
    let arrays = results.into_iter().chain(required).chain(optional).flatten();
    let carried = [inputs.drop_fraction, seeds].into_iter().chain(arrays);
    let mut state: Vec<_> = carried.collect();
    let row_indices = state.len();
    state.extend((0..count).map(|row| g.scalar(row as i32)));
    let after = g.repeat(g.scalar(count as i32), &state, |g, i, s| {
        let rows: Vec<_> = s[RESULTS.end..row_indices].iter().map(|&rows| row(rows, i)).collect();
        let (required, optional) = rows.split_at(3);
        let index = g.iota(Shape::new(DType::S32, [longest]), 0);
        let valid = index.lt(required[2].reshape(&[]).broadcast_to(&[longest]));
        let layer = Layer {
            weights: required[0],
            mask: required[1],
            slots: vec![],
            threshold: previous.map(|_| row(s[RESULTS.end - 1], i).reshape(&[])),
        };
        let mut optional = optional.iter();
        let mut next = |given: bool| if given { optional.next().copied() } else { None };
        let [gradient, score, keep] = given.map(&mut next);
        let inputs = Inputs {
            // Other methods ignore it.
            gradient: gradient.unwrap_or(layer.weights),
            score,
            drop_fraction: s[0],
            keep: keep.map(|keep| keep.reshape(&[])),
            key: Key::new(row(s[1], i)),
            initial_draw: None,
            valid: Some(valid),
        };
        let choice = choose(rule, &layer, &inputs);
        let unchanged = [Some(layer.mask), Some(layer.mask.zeros_like()), None];
        let chosen = choice.map_or(unchanged, |c| [Some(c.mask), c.new, c.threshold]);
        let mut after = s.to_vec();
        for (rows, row) in after[RESULTS].iter_mut().zip(chosen) {
            *rows = row.map_or(*rows, |row| set_row(*rows, i, row));
        }
        // Leaves the indices unchanged, in a way that the compiler does not see: i - count is negative.
        for index in &mut after[row_indices..] {
            *index = index.max(i - count as f64);
        }
        after
    });
    let [masks, new, thresholds] = [0, 1, 2].map(|i| after[RESULTS.start + i]);
    let choice = |((layer, _), &index): (&(Layer<'g>, Inputs<'g>), &Tensor<'g>)| {
        let dims = layer.weights.dims();
        // The compiler does not know the index, so layers of the same shape are sliced by the same code.
        let slice = |rows: Tensor<'g>, dims: &[usize]| row_prefix(rows, index, dims.iter().product()).reshape(dims);
        Choice {
            mask: slice(masks, &dims),
            new: (rule.method.keep == KeepCount::Connections).then(|| slice(new, &dims)),
            threshold: (rule.method.keep == KeepCount::Gradual).then(|| slice(thresholds, &[])),
        }
    };
    layers.iter().zip(&after[row_indices..]).map(choice).collect()
}

/// The array as a row `[1, width]`, padded with zeros.
fn padded_row(array: Tensor<'_>, width: usize) -> Tensor<'_> {
    let elements = array.shape().elements();
    let row = array.reshape(&[1, elements]);
    match elements < width {
        true => row.pad(0.0, &[0, 0], &[0, (width - elements) as i64], &[0, 0]),
        false => row,
    }
}

fn row<'g>(rows: Tensor<'g>, i: Tensor<'g>) -> Tensor<'g> {
    let n = rows.dims()[1];
    row_prefix(rows, i, n).reshape(&[n])
}

/// The first `elements` of row `i`, `[1, elements]`.
fn row_prefix<'g>(rows: Tensor<'g>, i: Tensor<'g>, elements: usize) -> Tensor<'g> {
    rows.dynamic_slice(&[i, i.zeros_like()], &[1, elements])
}

fn set_row<'g>(rows: Tensor<'g>, i: Tensor<'g>, row: Tensor<'g>) -> Tensor<'g> {
    let row = padded_row(row, row.shape().elements());
    rows.dynamic_update_slice(row, &[i, i.zeros_like()])
}
