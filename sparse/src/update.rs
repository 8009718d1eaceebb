//! The mask update of a layer as a graph, for the compiled training step. [`super::mask_update`] is the same on arrays.

use super::method::{DropScore, GrowInit, GrowScore, KeepCount, Method, SlotReset};
use super::select::{Select, grow_keys, sort_keys, top_k_mask};
use hlo::random::Key;
use hlo::{DType, Tensor};

/// State of a layer, as tensors of one shape.
#[derive(Clone)]
pub struct Layer<'g> {
    /// Raw weights, f32.
    pub weights: Tensor<'g>,
    /// Active connections, `pred`.
    pub mask: Tensor<'g>,
    /// Optimizer slots of the weights, f32.
    pub slots: Vec<Tensor<'g>>,
    /// Gradual pruning only: the magnitude that weights must reach, an f32 scalar. Read only if thresholds are smoothed.
    pub threshold: Option<Tensor<'g>>,
}

/// Inputs of an update besides the state of the layer.
pub struct Inputs<'g> {
    /// Gradient of the loss with respect to the masked kernel.
    pub gradient: Tensor<'g>,
    /// Basis of the drop or grow score where that is not the gradient: the average of gradients, the gradient of the whole
    /// loss, or the product of Hessian and gradient, depending on the method (see [`super::UpdateInputs`]).
    pub score: Option<Tensor<'g>>,
    /// Drop fraction of this update, f32 scalar.
    pub drop_fraction: Tensor<'g>,
    /// Number of entries that a pruning method keeps, s32 scalar.
    pub keep: Option<Tensor<'g>>,
    /// Source of randomness of this layer and step.
    pub key: Key<'g>,
    /// A fresh sample of the layer's initialiser, for [`GrowInit::InitialDist`].
    pub initial_draw: Option<Tensor<'g>>,
    /// Marks the entries that are not padding, `pred`; `None` if none is. Padding stays masked.
    pub valid: Option<Tensor<'g>>,
}

impl<'g> Inputs<'g> {
    /// The `keep` (s32 scalar) entries of the layer with the largest `keys`.
    #[track_caller]
    fn largest(&self, keys: Tensor<'g>, keep: Tensor<'g>, select: Select) -> Tensor<'g> {
        // Padding is last and gets the smallest key, so it is never chosen before an entry of the layer.
        let masked = |valid: Tensor<'g>| valid.select(keys, keys.zeros_like());
        top_k_mask(self.valid.map_or(keys, masked), keep, select)
    }
}

/// Settings that all mask updates of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Row of the method table.
    pub method: &'static Method,
    /// Value of new connections.
    pub grow_init: GrowInit,
    /// Slots of new connections, as a multiple of the gradient.
    pub initial_acc_scale: f64,
    /// Standard deviation of the noise on drop scores; 0 for none.
    pub drop_noise_std: f64,
    /// Gradual pruning only: share of the previous threshold in the next.
    pub threshold_decay: f64,
    /// Algorithm that finds the largest scores.
    pub select: Select,
}

/// Purposes of randomness within an update, folded into the layer's key.
#[derive(Clone, Copy)]
enum Purpose {
    DropNoise = 1,
    GrowScore = 2,
    GrowInit = 3,
}

/// Connections that an update chooses, in the shape of the layer.
#[derive(Clone, Copy)]
pub struct Choice<'g> {
    /// The mask after the update, `pred`.
    pub mask: Tensor<'g>,
    /// Connections whose weights and slots are initialised, `pred`; `None` for pruning methods.
    pub new: Option<Tensor<'g>>,
    /// Gradual pruning only: the new threshold, f32 scalar.
    pub threshold: Option<Tensor<'g>>,
}

/// Returns the layer after the update (reference 2.3-2.9). It is unchanged if the method has no updates, or prunes and
/// [`Inputs::keep`] is absent.
#[track_caller]
pub fn update<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Layer<'g> {
    choose(rule, layer, inputs).map_or_else(|| layer.clone(), |choice| apply(rule, layer, inputs, &choice))
}

/// Chooses the connections of a layer. Returns `None` if the update leaves it unchanged.
#[track_caller]
pub fn choose<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Option<Choice<'g>> {
    let drop = drop_scores(rule, layer, inputs)?;
    let kept = |keep| inputs.largest(sort_keys(drop), keep, rule.select);
    Some(match rule.method.keep {
        KeepCount::Connections => drop_and_grow(rule, layer, inputs, drop)?,
        KeepCount::Budget | KeepCount::TotalBudget => Choice {
            mask: kept(inputs.keep?),
            new: None,
            threshold: None,
        },
        KeepCount::Gradual => {
            let axes: Vec<usize> = (0..drop.shape().rank()).collect();
            let infinite = drop.graph().full(&drop.shape(), f64::INFINITY);
            let largest = kept(inputs.keep?).select(drop, infinite).reduce_min(&axes);
            let threshold = match layer.threshold.filter(|_| rule.threshold_decay != 0.0) {
                None => largest,
                Some(previous) => smoothed(largest, previous, rule.threshold_decay),
            };
            Choice {
                mask: drop.ge(threshold.broadcast_to(&drop.dims())),
                new: None,
                threshold: Some(threshold),
            }
        }
    })
}

/// `threshold * (1 - decay) + previous * decay`, rounded like [`super::reference::smoothed_threshold`].
fn smoothed<'g>(threshold: Tensor<'g>, previous: Tensor<'g>, decay: f64) -> Tensor<'g> {
    // `max` changes nothing, but prevents a fused multiply-add, which would round once less.
    (threshold * (1.0 - decay)).max(0.0) + (previous * decay).max(0.0)
}

/// Applies the choice of an update to the layer.
#[track_caller]
pub fn apply<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>, choice: &Choice<'g>) -> Layer<'g> {
    let slot = match rule.method.slots {
        SlotReset::ScaledGradient if rule.initial_acc_scale != 0.0 => inputs.gradient * rule.initial_acc_scale,
        SlotReset::ScaledGradient | SlotReset::Zero => inputs.gradient.zeros_like(),
    };
    let mut after = Layer {
        mask: choice.mask,
        threshold: choice.threshold.or(layer.threshold),
        ..layer.clone()
    };
    if let Some(new) = choice.new {
        after.weights = new.select(grow_tensor(rule, layer, inputs), layer.weights);
        after.slots = layer.slots.iter().map(|&s| new.select(slot, s)).collect();
    }
    after
}

/// Masks of the `keep` (s32 scalar) largest `scores` of all layers together. Ties go to the earlier layer, then to the lower
/// index. [`super::top_k_across_layers`] is the same on arrays.
#[track_caller]
pub fn prune_across_layers<'g>(scores: &[Tensor<'g>], keep: Tensor<'g>, select: Select) -> Vec<Tensor<'g>> {
    let flat = |t: &Tensor<'g>| sort_keys(*t).reshape(&[t.shape().elements()]);
    let keys: Vec<_> = scores.iter().map(flat).collect();
    let Some(first) = keys.first() else {
        return vec![];
    };
    let kept = top_k_mask(first.graph().concatenate(&keys, 0), keep, select);
    let mut from = 0;
    let mut take = |t: &Tensor<'g>| {
        let start = from;
        from += t.shape().elements();
        kept.slice(&[start], &[from]).reshape(&t.dims())
    };
    scores.iter().map(&mut take).collect()
}

/// Drops connections and grows as many.
fn drop_and_grow<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>, drop: Tensor<'g>) -> Option<Choice<'g>> {
    let grow = grow_scores(rule, layer, inputs)?;
    let all: Vec<usize> = (0..layer.mask.shape().rank()).collect();
    let ones = layer.mask.convert(DType::S32).reduce_sum(&all);
    // With more than 2^24 ones rounding could exceed their number.
    let pruned = (ones.convert(DType::F32) * inputs.drop_fraction)
        .convert(DType::S32)
        .min(ones);
    let kept = inputs.largest(sort_keys(drop), ones - pruned, rule.select);
    let grown = inputs.largest(grow_keys(grow, kept), pruned, rule.select);
    let new = match rule.method.grow {
        GrowScore::Mask => grown,
        _ => grown & !layer.mask,
    };
    Some(Choice {
        mask: kept | grown,
        new: Some(new),
        threshold: None,
    })
}

fn key<'g>(inputs: &Inputs<'g>, purpose: Purpose) -> Key<'g> {
    inputs.key.fold(purpose as u64)
}

/// Drop scores of a layer. `None` if the method has none or an input is absent.
#[track_caller]
pub fn drop_scores<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Option<Tensor<'g>> {
    match rule.method.drop {
        DropScore::None => None,
        DropScore::NoisyMagnitude => {
            let magnitude = layer.mask.select(layer.weights, layer.weights.zeros_like()).abs();
            Some(match rule.drop_noise_std {
                0.0 => magnitude,
                std => magnitude + key(inputs, Purpose::DropNoise).normal(&layer.weights.dims()) * std,
            })
        }
        DropScore::Magnitude => Some(layer.weights.abs()),
        DropScore::Saliency => inputs.score.map(|gradient| (gradient * layer.weights).abs()),
        DropScore::GradientFlow => inputs.score.map(|product| product * layer.weights),
    }
}

fn grow_scores<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Option<Tensor<'g>> {
    match rule.method.grow {
        GrowScore::None => None,
        GrowScore::Uniform => Some(key(inputs, Purpose::GrowScore).uniform(&layer.weights.dims())),
        GrowScore::Gradient => Some(inputs.gradient.abs()),
        GrowScore::InvertedGradient => Some(-inputs.gradient.abs()),
        GrowScore::Momentum => inputs.score.map(Tensor::abs),
        GrowScore::Mask => Some(layer.mask.convert(DType::F32)),
    }
}

/// Initial weights of new connections, for every entry.
fn grow_tensor<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Tensor<'g> {
    let weights = layer.weights;
    let dims = weights.dims();
    let axes: Vec<usize> = (0..dims.len()).collect();
    let key = || key(inputs, Purpose::GrowInit);
    match rule.grow_init {
        GrowInit::Zeros => weights.zeros_like(),
        GrowInit::InitialDist(d) => inputs.initial_draw.unwrap_or_else(|| weights.zeros_like()) / d,
        GrowInit::RandomNormal(d) => {
            let centred = weights - weights.reduce_mean(&axes);
            key().normal(&dims) * (centred * centred).reduce_mean(&axes).sqrt() / d
        }
        GrowInit::RandomUniform(d) => {
            let bound = weights.abs().reduce_mean(&axes);
            (key().uniform(&dims) * 2.0 - 1.0) * bound / d
        }
        GrowInit::GradScale(d) => inputs.gradient / d,
        GrowInit::GradSign(d) => inputs.gradient.sign() / d,
    }
}
