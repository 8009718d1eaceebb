//! Masks of the largest weights: one-shot pruning of a checkpoint that a run begins with.

use std::collections::BTreeMap;

use hlo::Literal;
use sparse::Budget;

use crate::config::{OneShot, Plan};

/// Replaces the masks of layers with zeros by those of their largest weights, ties by lower index. Layers without zeros
/// keep all weights. Returns the connections of each layer.
pub(super) fn prune(plan: &Plan, arrays: &mut BTreeMap<String, Literal>, how: OneShot) -> Vec<(String, usize)> {
    let layers: Vec<(&str, &str, &Budget)> = plan
        .params
        .iter()
        .filter_map(|param| Some((param.name.as_str(), param.mask.as_deref()?, plan.budget(param)?)))
        .filter(|(.., budget)| budget.zeros > 0)
        .collect();
    let magnitudes: Vec<Vec<f32>> = layers
        .iter()
        .map(|(weights, ..)| {
            let weights = arrays.get(*weights).and_then(Literal::to_vec::<f32>);
            weights.unwrap_or_default().into_iter().map(f32::abs).collect()
        })
        .collect();
    let kept: Vec<Vec<bool>> = match how {
        OneShot::Layer => {
            let each = magnitudes.iter().zip(&layers);
            each.map(|(magnitudes, (.., budget))| largest(magnitudes, budget.nonzeros))
                .collect()
        }
        OneShot::Global => {
            let total = layers.iter().map(|(.., budget)| budget.nonzeros).sum();
            let all = largest(&magnitudes.concat(), total);
            let mut rest = &all[..];
            let mut take = |n: usize| {
                let (part, after) = rest.split_at(n);
                rest = after;
                part.to_vec()
            };
            magnitudes.iter().map(|layer| take(layer.len())).collect()
        }
    };
    let mut counts = vec![];
    for ((_, name, budget), kept) in layers.into_iter().zip(kept) {
        counts.push((budget.name.clone(), kept.iter().filter(|&&one| one).count()));
        if let Some(mask) = arrays.get_mut(name) {
            *mask = Literal::from_bools(mask.dims(), &kept);
        }
    }
    counts
}

/// Marks the `n` largest values, ties by lower index. NaN is the smallest.
fn largest(values: &[f32], n: usize) -> Vec<bool> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let value = |i: u32| {
        if values[i as usize].is_nan() {
            -1.0
        } else {
            values[i as usize]
        }
    };
    let larger_first = |&a: &u32, &b: &u32| value(b).total_cmp(&value(a)).then(a.cmp(&b));
    let n = n.min(values.len());
    if n < values.len() {
        order.select_nth_unstable_by(n, larger_first);
    }
    let mut kept = vec![false; values.len()];
    order[..n].iter().for_each(|&i| kept[i as usize] = true);
    kept
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_are_kept_and_ties_go_to_the_lower_index() {
        let values = [1.0, 3.0, 1.0, f32::NAN, 0.0, 1.0];
        assert_eq!(largest(&values, 3), [true, true, true, false, false, false]);
        assert_eq!(largest(&values, 5), [true, true, true, false, true, true]);
        assert_eq!(largest(&values, 6), [true; 6]);
        assert_eq!(largest(&values, 0), [false; 6]);
    }
}
