//! Removes dead units (reference 3.6) from arrays under their variable names.

use super::error::Result;
use super::inference::Predictor;
use crate::config::Plan;
use crate::engine::Buffer;
use hlo::Literal;
use models::INPUT_INDICES;
use serde::Serialize;
use sparse::dead_units::{Connections, LiveSize, MaskedLayer, Passes, remove_dead_units};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The only network that [`sparse::dead_units`] supports: a stack of fully connected layers.
pub const MODEL: &str = "mnist-fc";

/// Arrays by variable name.
pub type Arrays = BTreeMap<String, Literal>;

/// The original's report of the size without dead units, after one pass. Returns `None` without masks and for networks
/// other than [`MODEL`]. `mask` returns a mask by its name.
///
/// # Errors
/// Those of `mask`.
pub fn live_size(plan: &Plan, mask: impl Fn(&str) -> Result<Vec<bool>>) -> Result<Option<LiveSize>> {
    let model = models::find(&plan.run.model.name, plan.method.masked);
    if !plan.method.masked || model.is_none_or(|model| model.name() != MODEL) {
        return Ok(None);
    }
    let masked = plan
        .params
        .iter()
        .filter_map(|p| Some((p.mask.as_deref()?, &p.dims[..])));
    let matrices = masked.filter_map(|(name, dims)| Some((name, <&[usize; 2]>::try_from(dims).ok()?)));
    let connections = matrices.map(|(name, &[inputs, outputs])| Ok(Connections::new(inputs, outputs, mask(name)?)?));
    Ok(Some(sparse::dead_units::live_size(
        &connections.collect::<Result<Vec<_>>>()?,
        Passes::One,
    )?))
}

/// Variables of layer `i`, counted from 1: weights, mask, biases.
fn names(i: usize) -> [String; 3] {
    ["weights", "mask", "biases"].map(|array| format!("layer{i}/{array}"))
}

/// The layers of a masked [`MODEL`].
///
/// # Errors
/// [`Error::Sparse`](super::Error::Sparse) for layers that do not fit each other.
pub fn layers(arrays: &Arrays) -> Result<Vec<MaskedLayer>> {
    let arrays_of = |i: usize| {
        let [weights, mask, biases] = names(i).map(|name| arrays.get(&name));
        let (weights, mask, biases) = (weights?, mask?, biases?);
        let &[inputs, outputs] = weights.dims() else {
            return None;
        };
        Some((inputs, outputs, weights.to_vec()?, mask.to_bools()?, biases.to_vec()?))
    };
    let layer = |(inputs, outputs, weights, mask, biases)| {
        let connections = Connections::new(inputs, outputs, mask)?;
        Ok(MaskedLayer {
            connections,
            weights,
            biases,
        })
    };
    (1..).map_while(arrays_of).map(layer).collect()
}

/// Arrays of the network without dead inputs and hidden units, again a [`MODEL`] for the same images. They contain no
/// optimizer slots and no counters.
///
/// # Errors
/// As [`layers`].
pub fn remove(arrays: &Arrays, passes: Passes) -> Result<Arrays> {
    let small = remove_dead_units(&layers(arrays)?, passes)?;
    let mut kept: Vec<i32> = small.inputs.iter().map(|&input| input as i32).collect();
    if let Some(taken) = arrays.get(INPUT_INDICES).and_then(Literal::to_vec::<i32>) {
        // Its inputs are indices already, because dead units were removed before.
        kept = small
            .inputs
            .iter()
            .filter_map(|&input| taken.get(input).copied())
            .collect();
    }
    let mut smaller = Arrays::from([(INPUT_INDICES.to_string(), Literal::new(&[kept.len()], &kept))]);
    for (i, layer) in (1..).zip(&small.layers) {
        let dims = layer.connections.dims();
        let values = [
            Literal::new(&dims, &layer.weights),
            Literal::from_bools(&dims, layer.connections.mask()),
            Literal::new(&dims[1..], &layer.biases),
        ];
        smaller.extend(names(i).into_iter().zip(values));
    }
    Ok(smaller)
}

/// Difference of the logits of two networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Largest absolute difference; NaN if a logit is NaN.
    pub largest_difference: f64,
    /// Largest absolute logit of the first network.
    pub largest_logit: f64,
}

impl Difference {
    /// Compares logits of the same images.
    pub fn between(before: &[f64], after: &[f64]) -> Self {
        // `max` would ignore NaN.
        let largest = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(0.0, |a: f64, b| if a.is_nan() || a > b { a } else { b })
        };
        Difference {
            largest_difference: largest(&mut before.iter().zip(after).map(|(a, b)| (a - b).abs())),
            largest_logit: largest(&mut before.iter().map(|a| a.abs())),
        }
    }

    /// Whether the logits differ by at most `tolerance` of the largest, as rounding would explain.
    pub fn is_rounding(&self, tolerance: f64) -> bool {
        self.largest_difference <= tolerance * self.largest_logit.max(1.0)
    }
}

/// Median time of a batch from launch to logits, for each network. Runs them in turns, `runs` times after a warm-up.
///
/// # Errors
/// The device's.
pub fn batch_times<const N: usize>(networks: [&Predictor; N], images: &Buffer, runs: usize) -> Result<[Duration; N]> {
    const WARM_UP: usize = 3;
    let mut times = [const { Vec::new() }; N];
    for run in 0..WARM_UP + runs {
        for (network, times) in networks.iter().zip(&mut times) {
            let started = Instant::now();
            network.run(images)?;
            if run >= WARM_UP {
                times.push(started.elapsed());
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort();
        times.get(runs / 2).copied().unwrap_or_default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_logits() {
        let between = Difference::between(&[1.0, -20.0, 3.0], &[1.5, -20.0, 2.75]);
        assert_eq!((between.largest_difference, between.largest_logit), (0.5, 20.0));
        assert!(between.is_rounding(0.025) && !between.is_rounding(0.024));
        // Small logits are compared with 1.
        assert!(Difference::between(&[1e-3], &[2e-3]).is_rounding(1e-3));
    }

    #[test]
    fn nan_is_not_rounding() {
        for (before, after) in [(f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, f64::INFINITY)] {
            for order in [[0, 1], [1, 0]] {
                let [before, after] = [[before, 0.0], [after, 0.0]].map(|both| order.map(|i| both[i]));
                assert!(
                    !Difference::between(&before, &after).is_rounding(1.0),
                    "{before:?} {after:?}"
                );
            }
        }
    }
}
