//! One mask update of one layer as a graph: the twin of [`super::mask_update`] that is compiled into the training step.

use super::method::{DropScore, GrowInit, GrowScore, Keep, Method, SlotReset};
use super::select::{Select, grow_keys, sort_keys, top_k_mask};
use hlo::random::Key;
use hlo::{DType, Tensor};

/// What a layer owns, as tensors of one shape.
#[derive(Clone)]
pub struct Layer<'g> {
    /// Raw weights, f32.
    pub weights: Tensor<'g>,
    /// Active connections, `pred`.
    pub mask: Tensor<'g>,
    /// Optimizer slots of the weights, f32.
    pub slots: Vec<Tensor<'g>>,
    /// Of gradual pruning: the magnitude that weights must reach, an f32 scalar. As an input it is looked at where thresholds
    /// are smoothed.
    pub threshold: Option<Tensor<'g>>,
}

/// What an update needs beside the layer.
pub struct Inputs<'g> {
    /// Gradient of the loss with respect to the masked kernel.
    pub gradient: Tensor<'g>,
    /// What the drop or grow score is made of where that is not the gradient, by method: the average of gradients, the
    /// gradient of the whole loss, the product of Hessian and gradient (as in [`super::UpdateInputs`]).
    pub score: Option<Tensor<'g>>,
    /// Drop fraction of this update, f32 scalar.
    pub drop_fraction: Tensor<'g>,
    /// How many entries a method that prunes keeps, s32 scalar.
    pub keep: Option<Tensor<'g>>,
    /// Source of randomness of this layer and step.
    pub key: Key<'g>,
    /// A fresh sample of the layer's initialiser, for [`GrowInit::InitialDist`].
    pub initial_draw: Option<Tensor<'g>>,
    /// Which entries are the layer's own, `pred`, the first so many, if not all are. Of others the mask is not set.
    pub within: Option<Tensor<'g>>,
}

impl<'g> Inputs<'g> {
    /// The `keep` (s32 scalar) entries of the layer with the largest `keys`.
    #[track_caller]
    fn largest(&self, keys: Tensor<'g>, keep: Tensor<'g>, select: Select) -> Tensor<'g> {
        // No key is lower than 0, and among equals the first ones win.
        let own = |within: Tensor<'g>| within.select(keys, keys.zeros_like());
        top_k_mask(self.within.map_or(keys, own), keep, select)
    }
}

/// The choices of a run that every layer's update shares.
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
    /// Share of the previous threshold in the next, under gradual pruning.
    pub threshold_decay: f64,
    /// How the largest scores are found.
    pub select: Select,
}

/// Purposes of randomness within an update, folded into the layer's key.
#[derive(Clone, Copy)]
enum Purpose {
    DropNoise = 1,
    GrowScore = 2,
    GrowInit = 3,
}

/// What an update chooses: connections, of the shape of the layer.
#[derive(Clone, Copy)]
pub struct Choice<'g> {
    /// The mask after the update, `pred`.
    pub mask: Tensor<'g>,
    /// Those whose weights and slots start anew, `pred`; of a method that only prunes none.
    pub new: Option<Tensor<'g>>,
    /// Of gradual pruning, f32 scalar.
    pub threshold: Option<Tensor<'g>>,
}

/// The layer after the update (reference 2.3-2.9). A method without updates leaves it as it is, and so does one that prunes
/// without a count to keep.
#[track_caller]
pub fn update<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Layer<'g> {
    choose(rule, layer, inputs).map_or_else(|| layer.clone(), |choice| apply(rule, layer, inputs, &choice))
}

/// Which connections of a layer go and come, by its weights and its mask; `None` where the update leaves it as it is.
#[track_caller]
pub fn choose<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>) -> Option<Choice<'g>> {
    let drop = drop_scores(rule, layer, inputs)?;
    let kept = |keep| inputs.largest(sort_keys(drop), keep, rule.select);
    Some(match rule.method.keep {
        Keep::Connections => exchange(rule, layer, inputs, drop)?,
        Keep::Budget | Keep::TotalBudget => Choice {
            mask: kept(inputs.keep?),
            new: None,
            threshold: None,
        },
        Keep::Gradual => {
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

/// `threshold * (1 - decay) + previous * decay`, each operation rounded as in [`super::host::smoothed_threshold`].
fn smoothed<'g>(threshold: Tensor<'g>, previous: Tensor<'g>, decay: f64) -> Tensor<'g> {
    // Neither product is negative. `max` keeps the compiler from fusing one with the sum, which would round once less.
    (threshold * (1.0 - decay)).max(0.0) + (previous * decay).max(0.0)
}

/// The layer with what an update chose.
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

/// The masks of layers whose `scores` are ranked together: the `keep` (s32 scalar) largest, ties to the earlier layer, then
/// to the lower index. Twin of [`super::top_k_overall`].
#[track_caller]
pub fn prune_overall<'g>(scores: &[Tensor<'g>], keep: Tensor<'g>, select: Select) -> Vec<Tensor<'g>> {
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

/// Drops and grows: the number of ones stays.
fn exchange<'g>(rule: &Rule, layer: &Layer<'g>, inputs: &Inputs<'g>, drop: Tensor<'g>) -> Option<Choice<'g>> {
    let grow = grow_scores(rule, layer, inputs)?;
    let all: Vec<usize> = (0..layer.mask.shape().rank()).collect();
    let ones = layer.mask.convert(DType::S32).reduce_sum(&all);
    // Not above all of them, which rounding could exceed beyond 2^24 ones.
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

/// Drop scores of a layer; `None` where the method has none, or lacks what they are made of.
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

/// Weights of new connections, for every entry.
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
