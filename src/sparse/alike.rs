//! The mask update of several layers of about one size, by the same instructions.
//!
//! What a program costs to compile grows with its instructions, of which XLA's CPU compiler makes code once for each shape,
//! and networks repeat their layers: the 54 kernels of ResNet-50 have 15 sizes, which lie in five classes. A loop takes one
//! layer after another from arrays that hold them as rows, as long as the longest.

use super::update::{Choice, Inputs, Layer, Rule, apply, choose, update};
use super::{GrowScore, Keep};
use hlo::random::Key;
use hlo::{DType, Literal, Shape, Tensor};
use std::ops::Range;

/// Most that the largest layer of a class is of the smallest. What fills the rows of the smaller ones up costs time in
/// each update, and every class about half a second to compile.
const WITHIN_CLASS: f64 = 2.5;

/// Layers of these sizes by class: their positions, large layers first.
pub fn classes(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let together = |&largest: &usize, i: usize| sizes[largest] as f64 <= sizes[i] as f64 * WITHIN_CLASS;
    let mut classes: Vec<Vec<usize>> = vec![];
    for i in order {
        match classes.last_mut() {
            Some(class) if class.first().is_some_and(|largest| together(largest, i)) => class.push(i),
            _ => classes.push(vec![i]),
        }
    }
    classes
}

/// [`update`] of several layers, each as it would be alone. `seeds` (u32`[layers, 2]`) hold the keys of the inputs; the drop
/// fraction of the first is that of all.
#[track_caller]
pub fn update_alike<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Layer<'g>> {
    if let [(layer, inputs)] = layers {
        return vec![update(rule, layer, inputs)];
    }
    let choices = choose_alike(rule, layers, seeds);
    let applied = |((layer, inputs), choice): (&(Layer<'g>, Inputs<'g>), _)| apply(rule, layer, inputs, &choice);
    layers.iter().zip(choices).map(applied).collect()
}

/// Where the loop carries what is chosen: masks, new connections, thresholds. Before them drop fraction and keys, after them
/// weights, masks and sizes, what else there is to choose by, and the number of each row.
const CHOSEN: Range<usize> = 2..5;

/// The choice of every layer.
#[track_caller]
fn choose_alike<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Choice<'g>> {
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
        let rows: Option<Vec<_>> = layers.iter().map(|layer| Some(as_row(array(layer)?, width))).collect();
        rows.map(|rows| g.concatenate(&rows, 0))
    };
    let by_gradient = matches!(rule.method.grow, GrowScore::Gradient | GrowScore::InvertedGradient);
    let masks = stack(&|(layer, _)| Some(layer.mask), longest);
    // Every row of the result is written; before that, thresholds hold those of the previous update.
    let previous = stack(&|(layer, _)| layer.threshold, 1);
    let thresholds = previous.or_else(|| Some(g.full(&Shape::new(DType::F32, [count, 1]), 0.0)));
    let chosen = [masks, masks, thresholds];
    let always = [
        stack(&|(layer, _)| Some(layer.weights), longest),
        masks,
        Some(g.constant(Literal::new(&[count, 1], &lengths))),
    ];
    let more = [
        stack(&|(_, inputs)| Some(inputs.gradient).filter(|_| by_gradient), longest),
        stack(&|(_, inputs)| inputs.score, longest),
        stack(&|(_, inputs)| inputs.keep, 1),
    ];
    let given = more.map(|stack| stack.is_some());
    let arrays = chosen.into_iter().chain(always).chain(more).flatten();
    let carried = [inputs.drop_fraction, seeds].into_iter().chain(arrays);
    let mut state: Vec<_> = carried.collect();
    let numbers = state.len();
    state.extend((0..count).map(|row| g.scalar(row as i32)));
    let after = g.repeat(g.scalar(count as i32), &state, |g, i, s| {
        let rows: Vec<_> = s[CHOSEN.end..numbers].iter().map(|&rows| take_row(rows, i)).collect();
        let (of_all, more) = rows.split_at(3);
        let index = g.iota(Shape::new(DType::S32, [longest]), 0);
        let within = index.lt(of_all[2].reshape(&[]).broadcast_to(&[longest]));
        let layer = Layer {
            weights: of_all[0],
            mask: of_all[1],
            slots: vec![],
            threshold: previous.map(|_| take_row(s[CHOSEN.end - 1], i).reshape(&[])),
        };
        let mut more = more.iter();
        let mut next = |given: bool| if given { more.next().copied() } else { None };
        let [gradient, score, keep] = given.map(&mut next);
        let inputs = Inputs {
            // Of other methods not looked at.
            gradient: gradient.unwrap_or(layer.weights),
            score,
            drop_fraction: s[0],
            keep: keep.map(|keep| keep.reshape(&[])),
            key: Key::new(take_row(s[1], i)),
            initial_draw: None,
            within: Some(within),
        };
        let choice = choose(rule, &layer, &inputs);
        let unchanged = [Some(layer.mask), Some(layer.mask.zeros_like()), None];
        let chosen = choice.map_or(unchanged, |c| [Some(c.mask), c.new, c.threshold]);
        let mut after = s.to_vec();
        for (rows, row) in after[CHOSEN].iter_mut().zip(chosen) {
            *rows = row.map_or(*rows, |row| put_row(*rows, i, row));
        }
        // No number changes, which the compiler does not see.
        for number in &mut after[numbers..] {
            *number = number.max(i - count as f64);
        }
        after
    });
    let [masks, new, thresholds] = [0, 1, 2].map(|i| after[CHOSEN.start + i]);
    let choice = |((layer, _), &number): (&(Layer<'g>, Inputs<'g>), &Tensor<'g>)| {
        let dims = layer.weights.dims();
        // By a number that the compiler does not know, layers of one shape are cut out by the same code.
        let cut = |rows: Tensor<'g>, dims: &[usize]| start_of_row(rows, number, dims.iter().product()).reshape(dims);
        Choice {
            mask: cut(masks, &dims),
            new: (rule.method.keep == Keep::Connections).then(|| cut(new, &dims)),
            threshold: (rule.method.keep == Keep::Gradual).then(|| cut(thresholds, &[])),
        }
    };
    layers.iter().zip(&after[numbers..]).map(choice).collect()
}

/// The array as a row, filled up with zeros to this width.
fn as_row(array: Tensor<'_>, width: usize) -> Tensor<'_> {
    let elements = array.shape().elements();
    let row = array.reshape(&[1, elements]);
    match elements < width {
        true => row.pad(0.0, &[0, 0], &[0, (width - elements) as i64], &[0, 0]),
        false => row,
    }
}

fn take_row<'g>(rows: Tensor<'g>, i: Tensor<'g>) -> Tensor<'g> {
    let n = rows.dims()[1];
    start_of_row(rows, i, n).reshape(&[n])
}

/// So many elements of the row with this number, `[1, elements]`.
fn start_of_row<'g>(rows: Tensor<'g>, i: Tensor<'g>, elements: usize) -> Tensor<'g> {
    rows.dynamic_slice(&[i, i.zeros_like()], &[1, elements])
}

fn put_row<'g>(rows: Tensor<'g>, i: Tensor<'g>, row: Tensor<'g>) -> Tensor<'g> {
    let row = as_row(row, row.shape().elements());
    rows.dynamic_update_slice(row, &[i, i.zeros_like()])
}
