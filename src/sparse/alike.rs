//! The mask update of several layers of about one size, by the same instructions.
//!
//! What a program costs to compile grows with its instructions, of which XLA's CPU compiler makes code once for each shape,
//! and networks repeat their layers: the 54 kernels of ResNet-50 have 15 sizes, which lie in five classes. A loop takes one
//! layer after another from arrays that hold them all, each as if it were as long as the longest.

use super::update::{Choice, Inputs, Layer, Rule, apply, choose, update};
use super::{GrowScore, Keep};
use hlo::random::Key;
use hlo::{DType, Graph, Literal, Shape, Tensor};
use std::ops::Range;

/// Most that the largest layer of a class is of the smallest. What is taken beside the smaller ones costs time in each
/// update, and every class about half a second to compile.
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
/// weights and masks, sizes and starts, what else there is to choose by, and the starts again, one by one.
const CHOSEN: Range<usize> = 2..5;

/// The choice of every layer.
#[track_caller]
fn choose_alike<'g>(rule: &Rule, layers: &[(Layer<'g>, Inputs<'g>)], seeds: Tensor<'g>) -> Vec<Choice<'g>> {
    let Some((_, inputs)) = layers.first() else {
        return vec![];
    };
    let g = seeds.graph();
    let places = Places::of(layers);
    let (count, longest) = (layers.len(), places.longest);
    let none = |dtype, dims: &[usize]| g.full(&Shape::new(dtype, dims), 0.0);
    let chosen = [
        none(DType::Pred, &[places.extent]),
        none(DType::Pred, &[places.extent]),
        none(DType::F32, &[count]),
    ];
    let line = |array: &dyn Fn(&(Layer<'g>, Inputs<'g>)) -> Option<Tensor<'g>>| {
        let arrays: Option<Vec<_>> = layers.iter().map(array).collect();
        arrays.map(|arrays| places.line(&arrays))
    };
    let weights = places.line(&layers.iter().map(|(layer, _)| layer.weights).collect::<Vec<_>>());
    let masks = places.line(&layers.iter().map(|(layer, _)| layer.mask).collect::<Vec<_>>());
    let by_gradient = matches!(rule.method.grow, GrowScore::Gradient | GrowScore::InvertedGradient);
    let keep: Option<Vec<_>> = layers
        .iter()
        .map(|(_, inputs)| Some(inputs.keep?.reshape(&[1])))
        .collect();
    let more = [
        line(&|(_, inputs)| Some(inputs.gradient).filter(|_| by_gradient)),
        line(&|(_, inputs)| inputs.score),
        keep.map(|keep| g.concatenate(&keep, 0)),
    ];
    let given = more.map(|array| array.is_some());
    let always = [weights, masks].into_iter().chain(places.tensors(g));
    let carried = [inputs.drop_fraction, seeds].into_iter().chain(chosen);
    let carried = carried.chain(always).chain(more.into_iter().flatten());
    let mut state: Vec<_> = carried.collect();
    let starts = state.len();
    state.extend(places.starts.iter().map(|&start| g.scalar(start as i32)));
    let after = g.repeat(g.scalar(count as i32), &state, |g, i, s| {
        let (of_all, more) = s[CHOSEN.end..starts].split_at(4);
        let (size, start) = (element(of_all[2], i), element(of_all[3], i));
        let within = g
            .iota(Shape::new(DType::S32, [longest]), 0)
            .lt(size.broadcast_to(&[longest]));
        let layer = Layer {
            weights: part(of_all[0], start, longest),
            mask: part(of_all[1], start, longest) & within,
            slots: vec![],
            threshold: None,
        };
        let mut more = more.iter();
        let mut next = |given: bool| if given { more.next().copied() } else { None };
        let [gradient, score, keep] = given.map(&mut next);
        let key = s[1].dynamic_slice(&[i, i.zeros_like()], &[1, 2]).reshape(&[2]);
        let inputs = Inputs {
            // Of other methods not looked at.
            gradient: gradient.map_or(layer.weights, |line| part(line, start, longest)),
            score: score.map(|line| part(line, start, longest)),
            drop_fraction: s[0],
            keep: keep.map(|keep| element(keep, i)),
            key: Key::new(key),
            initial_draw: None,
            within: Some(within),
        };
        let choice = choose(rule, &layer, &inputs);
        let chosen = choice.map_or([Some(layer.mask), None, None], |c| [Some(c.mask), c.new, c.threshold]);
        let mut after = s.to_vec();
        for ((line, chosen), at) in after[CHOSEN].iter_mut().zip(chosen).zip([start, start, i]) {
            if let Some(chosen) = chosen {
                *line = line.dynamic_update_slice(chosen.reshape(&[chosen.shape().elements()]), &[at]);
            }
        }
        // No start changes, which the compiler does not see.
        for start in &mut after[starts..] {
            *start = start.max(i - count as f64);
        }
        after
    });
    let [masks, new, thresholds] = [0, 1, 2].map(|i| after[CHOSEN.start + i]);
    let choice = |(i, (layer, _)): (usize, &(Layer<'g>, Inputs<'g>))| {
        let dims = layer.weights.dims();
        // By a start that the compiler does not know, layers of one shape are cut out by the same code.
        let cut = |line| part(line, after[starts + i], places.sizes[i]).reshape(&dims);
        Choice {
            mask: cut(masks),
            new: (rule.method.keep == Keep::Connections).then(|| cut(new)),
            threshold: (rule.method.keep == Keep::Gradual).then(|| thresholds.slice(&[i], &[i + 1]).reshape(&[])),
        }
    };
    layers.iter().enumerate().map(choice).collect()
}

/// The `i`th element.
fn element<'g>(array: Tensor<'g>, i: Tensor<'g>) -> Tensor<'g> {
    part(array, i, 1).reshape(&[])
}

/// So many elements from `start` on.
fn part<'g>(array: Tensor<'g>, start: Tensor<'g>, elements: usize) -> Tensor<'g> {
    array.dynamic_slice(&[start], &[elements])
}

/// Where layers lie one behind the other. The loop takes as many entries as the longest has from the start of each, with what
/// lies behind it, and what it puts back there the next layer covers.
struct Places {
    sizes: Vec<usize>,
    starts: Vec<usize>,
    longest: usize,
    /// To where the last layer's entries are taken.
    extent: usize,
}

impl Places {
    fn of(layers: &[(Layer<'_>, Inputs<'_>)]) -> Self {
        let sizes: Vec<usize> = layers
            .iter()
            .map(|(layer, _)| layer.weights.shape().elements())
            .collect();
        let starts = sizes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end - size)
        });
        let starts: Vec<usize> = starts.collect();
        let longest = sizes.iter().copied().max().unwrap_or(0);
        let extent = starts.last().map_or(0, |start| start + longest);
        Places {
            sizes,
            starts,
            longest,
            extent,
        }
    }

    /// One array of each layer, one behind the other.
    #[track_caller]
    fn line<'g>(&self, arrays: &[Tensor<'g>]) -> Tensor<'g> {
        let flat = |array: &Tensor<'g>| array.reshape(&[array.shape().elements()]);
        let line = arrays[0]
            .graph()
            .concatenate(&arrays.iter().map(flat).collect::<Vec<_>>(), 0);
        let elements = line.shape().elements();
        line.pad(0.0, &[0], &[(self.extent - elements) as i64], &[0])
    }

    /// Sizes and starts, `s32[layers]` each.
    fn tensors<'g>(&self, g: &'g Graph) -> [Tensor<'g>; 2] {
        [&self.sizes, &self.starts].map(|numbers| {
            let numbers: Vec<i32> = numbers.iter().map(|&number| number as i32).collect();
            g.constant(Literal::new(&[numbers.len()], &numbers))
        })
    }
}
