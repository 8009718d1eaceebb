//! Masks of the largest weights: one-shot pruning of a checkpoint that a run begins with.

use std::collections::BTreeMap;

use hlo::Literal;
use sparse::Budget;
use sparse::reference::{top_k, top_k_across_layers};

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
            each.map(|(magnitudes, (.., budget))| top_k(magnitudes, budget.nonzeros))
                .collect()
        }
        OneShot::Global => {
            let total = layers.iter().map(|(.., budget)| budget.nonzeros).sum();
            let all: Vec<&[f32]> = magnitudes.iter().map(Vec::as_slice).collect();
            top_k_across_layers(&all, total)
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
