//! Reference implementation: selection and mask updates on plain arrays, by the original's float32 operations (reference
//! 2.3-2.9).
//!
//! Tests compare the graphs with it: masks and slots bit for bit, random new weights up to rounding. Arrays are row-major
//! and flat.
//!
//! UpdateTiming of scores, by [`sort_key`]: greater first; among equal scores the lower index first; `-0` equals `+0`; a NaN of
//! either sign ranks below every number, so it is kept or grown only when numbers run out.

use super::error::Error;
use super::method::{DropScore, GrowInit, GrowScore, KeepCount, Method, SlotReset};

/// Standard deviation of the normal noise added to every drop score.
pub const DROP_NOISE_STD: f32 = 1e-5;

/// Maps a score to an integer of the same order: `sort_key(a) > sort_key(b)` exactly when `a` ranks before `b`.
///
/// NaN maps to 0, both zeros to one key, and every number to at least `sort_key(-inf)`, which is 0x007f_ffff. Integer
/// operations alone, so that no flushing of denormals and no fast-math changes it.
pub fn sort_key(score: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    let bits = score.to_bits();
    match bits & !SIGN {
        0 => SIGN,
        magnitude if magnitude > f32::INFINITY.to_bits() => 0,
        _ if bits & SIGN != 0 => !bits,
        _ => bits | SIGN,
    }
}

/// Key of a growth candidate: 0 for a kept entry, at least 1 otherwise, so that a kept entry never grows.
///
/// The original lifts kept entries to `min(grow) - 1` instead and asserts that none is chosen. The selection is the same
/// wherever that assertion holds; it fails on scores so large (2^24) that subtracting 1 changes nothing, and on NaN.
pub fn grow_key(score: f32, kept: bool) -> u32 {
    if kept { 0 } else { sort_key(score).max(1) }
}

/// Marks the `k` largest scores, ties to the lower index; all of them when `k` exceeds their number.
pub fn top_k(scores: &[f32], k: usize) -> Vec<bool> {
    top_k_keys(scores.iter().map(|&s| sort_key(s)), k)
}

/// Marks the `k` largest keys, ties to the lower index; all of them when `k` exceeds their number.
pub fn top_k_keys(keys: impl IntoIterator<Item = u32>, k: usize) -> Vec<bool> {
    // Inverted keys make "first" mean "smallest pair", so the index breaks ties by itself.
    let mut ranked: Vec<(u32, usize)> = keys.into_iter().map(|key| !key).zip(0..).collect();
    let mut chosen = vec![false; ranked.len()];
    if k < ranked.len() {
        ranked.select_nth_unstable(k);
        ranked.truncate(k);
    }
    ranked.iter().for_each(|&(_, index)| chosen[index] = true);
    chosen
}

/// Marks the `k` largest scores of all layers together, ties to the earlier layer, then to the lower index.
pub fn top_k_across_layers(layers: &[&[f32]], k: usize) -> Vec<Vec<bool>> {
    let keys = layers.iter().flat_map(|scores| scores.iter().map(|&s| sort_key(s)));
    let chosen = top_k_keys(keys, k);
    let mut rest = &chosen[..];
    let mut take = |n| {
        let (layer, others) = rest.split_at(n);
        rest = others;
        layer.to_vec()
    };
    layers.iter().map(|scores| take(scores.len())).collect()
}

/// The `k`-th largest score (`k` from 1 to their number), and all entries that reach it: `k` of them, and its ties.
pub fn reach_top_k(scores: &[f32], k: usize) -> Option<(f32, Vec<bool>)> {
    let mut keys: Vec<(u32, f32)> = scores.iter().map(|&s| (sort_key(s), s)).collect();
    let at = k.checked_sub(1).filter(|&at| at < keys.len())?;
    let (threshold, score) = *keys.select_nth_unstable_by(at, |a, b| b.0.cmp(&a.0)).1;
    Some((score, scores.iter().map(|&s| sort_key(s) >= threshold).collect()))
}

/// The threshold that gradual pruning applies: `threshold * (1 - decay) + previous * decay` in float32, each operation rounded
/// (reference 2.9).
pub fn smoothed_threshold(threshold: f32, previous: f32, decay: f64) -> f32 {
    threshold * (1.0 - decay) as f32 + previous * decay as f32
}

/// One iteration of a moving average of the dense gradient, in place: `E <- E - (E - G) (1 - m)`, which is
/// `E m + (1 - m) G` as TensorFlow rounds it (reference 2.5). E starts at 0, and no bias is corrected.
///
/// # Errors
/// [`Error::Length`] when the arrays differ in length.
pub fn update_average(average: &mut [f32], gradient: &[f32], momentum: f64) -> Result<(), Error> {
    check_length("dense gradient", gradient, average.len())?;
    let rest = (1.0 - momentum) as f32;
    average
        .iter_mut()
        .zip(gradient)
        .for_each(|(e, &g)| *e -= (*e - g) * rest);
    Ok(())
}

/// Number of connections that an update replaces: `f32(n_ones) * drop_fraction` in float32, truncated, in `[0, n_ones]`.
pub fn n_prune(n_ones: usize, drop_fraction: f32) -> usize {
    ((n_ones as f32 * drop_fraction) as usize).min(n_ones)
}

/// Entries that an update chose. The sets are disjoint, and together as large as the number of ones in the mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The `n_ones - n_prune` largest drop scores of all entries (`mask1`).
    pub kept: Vec<bool>,
    /// The `n_prune` largest grow scores of the entries not kept (`mask2`). Connections dropped by this update are candidates.
    pub grown: Vec<bool>,
}

/// Chooses the entries that an update keeps and grows, for a mask with `n_ones` ones.
///
/// # Errors
/// [`Error::Length`] when the scores differ in number, [`Error::Value`] for more ones than scores or a drop fraction
/// outside `[0, 1]`.
pub fn select(n_ones: usize, drop_scores: &[f32], grow_scores: &[f32], drop_fraction: f32) -> Result<Selection, Error> {
    check_length("grow score", grow_scores, drop_scores.len())?;
    if n_ones > drop_scores.len() {
        let (name, found) = ("number of ones".into(), n_ones.to_string());
        return Err(Error::Value {
            name,
            found,
            expected: "at most the number of scores",
        });
    }
    if !(0.0..=1.0).contains(&drop_fraction) {
        let (name, found) = ("drop_fraction".into(), drop_fraction.to_string());
        return Err(Error::Value {
            name,
            found,
            expected: "a share of connections in [0, 1]",
        });
    }
    let n_prune = n_prune(n_ones, drop_fraction);
    let kept = top_k(drop_scores, n_ones - n_prune);
    let grown = top_k_keys(
        grow_scores
            .iter()
            .zip(&kept)
            .map(|(&score, &kept)| grow_key(score, kept)),
        n_prune,
    );
    Ok(Selection { kept, grown })
}

/// State of a layer; all arrays have the same length.
#[derive(Debug)]
pub struct LayerState<'a> {
    /// Raw weights, inactive ones included: masking never overwrites them.
    pub weights: &'a mut [f32],
    /// Active connections.
    pub mask: &'a mut [bool],
    /// Optimizer slots of the weights, e.g. one momentum array.
    pub slots: &'a mut [Vec<f32>],
}

/// Inputs of a mask update besides the state of the layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateInputs<'a> {
    /// Share of the connections to replace, in `[0, 1]`.
    pub drop_fraction: f32,
    /// Gradient `G` of the loss with respect to the masked kernel. Needed by RigL.
    pub gradient: Option<&'a [f32]>,
    /// Moving average `E` of `G`, this iteration's included ([`update_average`]). Needed by SNFS.
    pub average: Option<&'a [f32]>,
    /// Gradient of the whole loss, L2 term included, with respect to the raw weights. Needed by SNIP.
    pub loss_gradient: Option<&'a [f32]>,
    /// Product of the loss's Hessian with its gradient. Needed by GraSP.
    pub hessian_gradient: Option<&'a [f32]>,
    /// Number of entries that a pruning method keeps: the layer's budget for SNIP, GraSP and DNW,
    /// [`super::GradualPruning::kept`] for gradual pruning. (In training GraSP ranks all layers together:
    /// [`top_k_across_layers`].)
    pub keep: Option<usize>,
    /// Grow scores in `[0, 1)`. Needed by SET.
    pub grow_uniform: Option<&'a [f32]>,
    /// Noise added to the drop scores, of standard deviation [`DROP_NOISE_STD`] in training; none when absent.
    pub drop_noise: Option<&'a [f32]>,
    /// Initial values of new weights.
    pub grow_init: GrowInit,
    /// Random numbers that `grow_init` needs, one per weight: standard normal for `RandomNormal`, uniform in `[0, 1)` for
    /// `RandomUniform`, a shuffled fresh sample of the layer's initialiser for `InitialDist`.
    pub grow_draw: Option<&'a [f32]>,
    /// Factor from the gradient to the slots of new connections. RigL only.
    pub initial_acc_scale: f32,
    /// Threshold of the previous update, 0 before the first. Only for gradual pruning with a `threshold_decay`.
    pub threshold: f32,
    /// Share of `threshold` in the next one, in `[0, 1)`. Only for gradual pruning; masks follow the smoothed threshold.
    pub threshold_decay: f64,
}

/// Result of a mask update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Ones of the mask before the update; as many after it, unless the method prunes.
    pub n_ones: usize,
    /// Connections to replace.
    pub n_prune: usize,
    /// Connections grown where the mask was 0. They got a new weight and new slots.
    pub n_grown: usize,
    /// Connections dropped and grown again. They kept weight and slots, unless the method re-initialises them.
    pub n_regrown: usize,
    /// Connections kept although the mask was 0: because of drop noise, because active scores are 0, or because a pruning
    /// method restores them. They kept weight and slots.
    pub n_revived: usize,
    /// Gradual pruning only: the magnitude that weights must reach.
    pub threshold: Option<f32>,
}

/// One mask update of one layer, in place (reference 2.3-2.9).
///
/// A method that replaces connections drops those with the smallest `|mask * weight| + noise` and grows the entries with the
/// largest grow scores. New connections are those grown where the mask was 0; for `static`, all grown ones. Their weights
/// are initialised and their slots reset. A pruning method keeps the `inputs.keep` entries with the largest drop scores.
/// Weights and slots of dropped connections do not change.
///
/// # Errors
/// The method has no updates, arrays differ in length, an array or count is absent, the method does not support the grow
/// initialiser, or the drop fraction is outside `[0, 1]`. The layer is unchanged then.
pub fn mask_update(method: &Method, layer: LayerState, inputs: &UpdateInputs) -> Result<UpdateReport, Error> {
    check(method, &layer, inputs)?;
    let n_ones = layer.mask.iter().filter(|&&m| m).count();
    let drop_scores = drop_scores(method, layer.weights, layer.mask, inputs)?;
    if method.keep == KeepCount::Connections {
        return drop_and_grow(method, layer, inputs, n_ones, &drop_scores);
    }
    let keep = inputs
        .keep
        .ok_or_else(|| missing(method, inputs, "number of weights to keep"))?;
    let (threshold, kept) = match method.keep {
        KeepCount::Gradual => match reach_top_k(&drop_scores, keep) {
            None => (None, top_k(&drop_scores, keep)),
            Some((threshold, _)) if inputs.threshold_decay != 0.0 => {
                let threshold = smoothed_threshold(threshold, inputs.threshold, inputs.threshold_decay);
                (Some(threshold), drop_scores.iter().map(|&s| s >= threshold).collect())
            }
            Some((threshold, kept)) => (Some(threshold), kept),
        },
        _ => (None, top_k(&drop_scores, keep)),
    };
    let revived = kept
        .iter()
        .zip(&*layer.mask)
        .filter(|&(&kept, &was)| kept && !was)
        .count();
    layer.mask.copy_from_slice(&kept);
    Ok(UpdateReport {
        n_ones,
        n_revived: revived,
        threshold,
        ..Default::default()
    })
}

/// Drops connections and grows as many.
fn drop_and_grow(
    method: &Method,
    layer: LayerState,
    inputs: &UpdateInputs,
    n_ones: usize,
    drop_scores: &[f32],
) -> Result<UpdateReport, Error> {
    let LayerState { weights, mask, slots } = layer;
    let grow_scores = grow_scores(method, mask, inputs)?;
    let grow_tensor = grow_tensor(method, weights, inputs)?;
    let slot_value = slot_values(method, inputs)?;
    let Selection { kept, grown } = select(n_ones, drop_scores, &grow_scores, inputs.drop_fraction)?;

    let mut report = UpdateReport {
        n_ones,
        n_prune: n_prune(n_ones, inputs.drop_fraction),
        ..Default::default()
    };
    for i in 0..weights.len() {
        let was_active = mask[i];
        mask[i] = kept[i] || grown[i];
        match (kept[i], grown[i], was_active) {
            (_, true, false) => report.n_grown += 1,
            (_, true, true) => report.n_regrown += 1,
            (true, _, false) => report.n_revived += 1,
            _ => {}
        }
        if grown[i] && (!was_active || method.grow == GrowScore::Mask) {
            weights[i] = grow_tensor[i];
            slots.iter_mut().for_each(|slot| slot[i] = slot_value(i));
        }
    }
    Ok(report)
}

fn check(method: &Method, layer: &LayerState, inputs: &UpdateInputs) -> Result<(), Error> {
    let n = layer.weights.len();
    check_length("mask", layer.mask, n)?;
    layer
        .slots
        .iter()
        .try_for_each(|slot| check_length("optimizer slot", slot, n))?;
    for (what, array) in [
        ("dense gradient", inputs.gradient),
        ("average of the dense gradient", inputs.average),
        ("gradient of the whole loss", inputs.loss_gradient),
        ("product of Hessian and gradient", inputs.hessian_gradient),
        ("uniform grow score", inputs.grow_uniform),
        ("drop noise", inputs.drop_noise),
        ("random draw of the grow-init", inputs.grow_draw),
    ] {
        array.map_or(Ok(()), |a| check_length(what, a, n))?;
    }
    method.check_grow_init(inputs.grow_init)
}

fn check_length<T>(what: &'static str, array: &[T], expected: usize) -> Result<(), Error> {
    if array.len() == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            found: array.len(),
            expected,
        })
    }
}

fn drop_scores(method: &Method, weights: &[f32], mask: &[bool], inputs: &UpdateInputs) -> Result<Vec<f32>, Error> {
    let times = |factors: &[f32]| weights.iter().zip(factors).map(|(w, f)| w * f).collect::<Vec<f32>>();
    Ok(match method.drop {
        DropScore::None => return Err(Error::NoUpdate { method: method.name }),
        DropScore::NoisyMagnitude => {
            let magnitude = |i: usize| if mask[i] { weights[i].abs() } else { 0.0 };
            let noise = |i: usize| inputs.drop_noise.map_or(0.0, |noise| noise[i]);
            (0..weights.len()).map(|i| magnitude(i) + noise(i)).collect()
        }
        DropScore::Magnitude => weights.iter().map(|w| w.abs()).collect(),
        DropScore::Saliency => {
            let gradient = required(method, inputs, inputs.loss_gradient, "gradient of the whole loss")?;
            times(gradient).into_iter().map(f32::abs).collect()
        }
        DropScore::GradientFlow => times(required(
            method,
            inputs,
            inputs.hessian_gradient,
            "product of Hessian and gradient",
        )?),
    })
}

fn grow_scores(method: &Method, mask: &[bool], inputs: &UpdateInputs) -> Result<Vec<f32>, Error> {
    let absolute = |values: &[f32]| values.iter().map(|g| g.abs()).collect();
    Ok(match method.grow {
        GrowScore::None => return Err(Error::NoUpdate { method: method.name }),
        GrowScore::Uniform => required(method, inputs, inputs.grow_uniform, "uniform grow score")?.to_vec(),
        GrowScore::Gradient => absolute(gradient(method, inputs)?),
        GrowScore::InvertedGradient => gradient(method, inputs)?.iter().map(|g| -g.abs()).collect(),
        GrowScore::Momentum => absolute(required(
            method,
            inputs,
            inputs.average,
            "average of the dense gradient",
        )?),
        GrowScore::Mask => mask.iter().map(|&m| f32::from(m)).collect(),
    })
}

/// Initial weights of new connections, for every entry.
fn grow_tensor(method: &Method, weights: &[f32], inputs: &UpdateInputs) -> Result<Vec<f32>, Error> {
    let draw = || required(method, inputs, inputs.grow_draw, "random draw");
    let map = |values: &[f32], f: &dyn Fn(f32) -> f32| values.iter().map(|&v| f(v)).collect();
    Ok(match inputs.grow_init {
        GrowInit::Zeros => vec![0.0; weights.len()],
        GrowInit::InitialDist(d) => map(draw()?, &|sample| sample / d as f32),
        GrowInit::RandomNormal(d) => {
            let std = standard_deviation(weights);
            map(draw()?, &|z| z * std / d as f32)
        }
        GrowInit::RandomUniform(d) => {
            let bound = mean(weights, |w| w.abs());
            map(draw()?, &|u| (u * (bound + bound) - bound) / d as f32)
        }
        GrowInit::GradScale(d) => map(gradient(method, inputs)?, &|g| g / d as f32),
        GrowInit::GradSign(d) => map(gradient(method, inputs)?, &|g| sign(g) / d as f32),
    })
}

/// Initial slot value of a new connection, by index. With a scale of 0 it is 0 even where the gradient is not finite.
fn slot_values<'a>(method: &Method, inputs: &UpdateInputs<'a>) -> Result<impl Fn(usize) -> f32 + use<'a>, Error> {
    let scale = inputs.initial_acc_scale;
    let scaled = match method.slots {
        SlotReset::ScaledGradient if scale != 0.0 => Some(gradient(method, inputs)?),
        SlotReset::ScaledGradient | SlotReset::Zero => None,
    };
    Ok(move |i: usize| scaled.map_or(0.0, |g| g[i] * scale))
}

fn gradient<'a>(method: &Method, inputs: &UpdateInputs<'a>) -> Result<&'a [f32], Error> {
    required(method, inputs, inputs.gradient, "dense gradient")
}

fn required<'a>(
    method: &Method,
    inputs: &UpdateInputs,
    array: Option<&'a [f32]>,
    what: &'static str,
) -> Result<&'a [f32], Error> {
    array.ok_or_else(|| missing(method, inputs, what))
}

fn missing(method: &Method, inputs: &UpdateInputs, what: &'static str) -> Error {
    Error::MissingInput {
        method: method.name,
        grow_init: inputs.grow_init.to_string(),
        what,
    }
}

/// -1, 0 or 1; 0 for both zeros.
fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// Mean of `f` over the weights, summed in double precision.
fn mean(weights: &[f32], f: impl Fn(f64) -> f64) -> f32 {
    (weights.iter().map(|&w| f(f64::from(w))).sum::<f64>() / weights.len() as f64) as f32
}

/// Population standard deviation of the weights, summed in double precision.
fn standard_deviation(weights: &[f32]) -> f32 {
    let centre = f64::from(mean(weights, |w| w));
    mean(weights, |w| (w - centre).powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_like_scores() {
        let descending = [
            f32::INFINITY,
            1.5,
            1.0,
            1e-40,
            0.0,
            -1e-40,
            -1.0,
            -1.5,
            f32::NEG_INFINITY,
        ];
        assert!(descending.map(sort_key).is_sorted_by(|a, b| a > b));
        assert_eq!(sort_key(-0.0), sort_key(0.0));
        assert_eq!(sort_key(f32::NEG_INFINITY), 0x007f_ffff);
        assert_eq!(
            [
                sort_key(f32::NAN),
                sort_key(-f32::NAN),
                sort_key(f32::from_bits(0x7f80_0001))
            ],
            [0; 3]
        );
    }

    #[test]
    fn sign_of_zero_is_zero() {
        assert_eq!([2.0, -0.5, 0.0, -0.0].map(sign), [1.0, -1.0, 0.0, 0.0]);
    }

    #[test]
    fn moments_include_all_weights() {
        assert_eq!(standard_deviation(&[1.0, -1.0, 3.0, -3.0]), 5f32.sqrt());
        assert_eq!(mean(&[1.0, -1.0, 3.0, -3.0], f64::abs), 2.0);
    }
}
