//! The mask update of several layers of one size, by the same instructions.
//!
//! What a program costs to compile grows with its instructions, and networks repeat their layers: the 54 kernels of
//! ResNet-50 have 14 sizes. A loop takes one layer after another from arrays that hold them as rows.

use super::update::{Choice, Inputs, Layer, Rule, apply, choose, update};
use super::{GrowScore, Keep};
use hlo::random::Key;
use hlo::{DType, Shape, Tensor};
use std::ops::Range;

/// [`update`] of layers with as many weights as each other, each as it would be alone. `seeds` (u32`[layers, 2]`) hold the
/// keys of the inputs; the drop fraction of the first is that of all.
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
/// weights and masks, and what else there is to choose by.
const CHOSEN: Range<usize> = 2..5;

/// The choice of every layer.
#[track_caller]
fn choose_alike<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Choice<'g>> {
    let Some((first, inputs)) = layers.first() else {
        return vec![];
    };
    let g = seeds.graph();
    let (count, elements) = (layers.len(), first.weights.shape().elements());
    let none = |dtype, n| g.full(&Shape::new(dtype, [count, n]), 0.0);
    let chosen = [
        none(DType::Pred, elements),
        none(DType::Pred, elements),
        none(DType::F32, 1),
    ];
    let stack = |rows: Vec<Tensor<'g>>| g.concatenate(&rows, 0);
    let optional = |array: &dyn Fn(&Inputs<'g>) -> Option<Tensor<'g>>| {
        let rows: Option<Vec<_>> = layers.iter().map(|(_, inputs)| array(inputs).map(as_row)).collect();
        rows.map(stack)
    };
    let weights = stack(layers.iter().map(|(layer, _)| as_row(layer.weights)).collect());
    let masks = stack(layers.iter().map(|(layer, _)| as_row(layer.mask)).collect());
    let by_gradient = matches!(rule.method.grow, GrowScore::Gradient | GrowScore::InvertedGradient);
    let more = [
        optional(&|inputs| Some(inputs.gradient).filter(|_| by_gradient)),
        optional(&|inputs| inputs.score),
        optional(&|inputs| inputs.keep),
    ];
    let given = more.map(|stack| stack.is_some());
    let carried = [inputs.drop_fraction, seeds].into_iter().chain(chosen);
    let state: Vec<_> = carried
        .chain([weights, masks])
        .chain(more.into_iter().flatten())
        .collect();
    let after = g.repeat(g.scalar(count as i32), &state, |_, i, s| {
        let (of_all, more) = s[CHOSEN.end..].split_at(2);
        let weights = take_row(of_all[0], i);
        let mask = take_row(of_all[1], i);
        let mut rows = more.iter().map(|&rows| take_row(rows, i));
        let mut next = |given: bool| if given { rows.next() } else { None };
        let [gradient, score, keep] = given.map(&mut next);
        let layer = Layer {
            weights,
            mask,
            slots: vec![],
            threshold: None,
        };
        let inputs = Inputs {
            // Of other methods not looked at.
            gradient: gradient.unwrap_or(weights),
            score,
            drop_fraction: s[0],
            keep: keep.map(|keep| keep.reshape(&[])),
            key: Key::new(take_row(s[1], i)),
            initial_draw: None,
        };
        let choice = choose(rule, &layer, &inputs);
        let chosen = choice.map_or([Some(layer.mask), None, None], |c| [Some(c.mask), c.new, c.threshold]);
        let mut after = s.to_vec();
        for (rows, row) in after[CHOSEN].iter_mut().zip(chosen) {
            *rows = row.map_or(*rows, |row| put_row(*rows, i, row));
        }
        after
    });
    let [masks, new, thresholds] = [0, 1, 2].map(|i| after[CHOSEN.start + i]);
    let column =
        |rows: Tensor<'g>, i: usize, dims: &[usize]| rows.slice(&[i, 0], &[i + 1, rows.dims()[1]]).reshape(dims);
    let choice = |(i, (layer, _)): (usize, &(Layer<'g>, Inputs<'g>))| {
        let dims = layer.weights.dims();
        Choice {
            mask: column(masks, i, &dims),
            new: (rule.method.keep == Keep::Connections).then(|| column(new, i, &dims)),
            threshold: (rule.method.keep == Keep::Gradual).then(|| column(thresholds, i, &[])),
        }
    };
    layers.iter().enumerate().map(choice).collect()
}

fn as_row(array: Tensor<'_>) -> Tensor<'_> {
    array.reshape(&[1, array.shape().elements()])
}

fn take_row<'g>(rows: Tensor<'g>, i: Tensor<'g>) -> Tensor<'g> {
    let n = rows.dims()[1];
    rows.dynamic_slice(&[i, i.zeros_like()], &[1, n]).reshape(&[n])
}

fn put_row<'g>(rows: Tensor<'g>, i: Tensor<'g>, row: Tensor<'g>) -> Tensor<'g> {
    rows.dynamic_update_slice(as_row(row), &[i, i.zeros_like()])
}
