//! One iteration of training as a graph, and the mask update.
//!
//! The host says when (learning rate, drop fraction and whether to update masks, per iteration: exact float32 values that
//! are the same on every device and in `plan`, see [`Row`]); the device says which.

use super::state::{GLOBAL_STEP, LAST_UPDATE, State, momentum, specs};
use crate::config::Plan;
use crate::rng;
use crate::sparse::{self, GrowInit, GrowScore, Order, Tick};
use hlo::random::Key;
use hlo::{Computation, DType, Graph, Shape, Tensor, grad};
use models::{Draw, Mode, Model, Net, Param, layers};

/// Everything that the graphs of a run are made of.
pub struct Trainer<'a> {
    /// The checked run.
    pub plan: &'a Plan,
    /// The network.
    pub model: &'a dyn Model,
}

/// What the host decides for one iteration: a row of a launch's `schedule`.
///
/// Where a mask update replaces the gradient step, the step is still computed, but by coefficients that leave everything
/// as it is: `V <- 1 V + 0 g`, `W <- W - 0 (..)`. Choosing between old and new arrays instead would need both at once,
/// that is a copy of every array on every iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Learning rate; 0 where the step is replaced.
    pub rate: f32,
    /// Factor of the velocity; 1 where the step is replaced.
    pub decay: f32,
    /// What the step adds to `global_step`, and the gradient's factor in the velocity: 1, or 0 where it is replaced.
    pub advance: f32,
    /// 1 where masks are updated.
    pub update: f32,
    /// Drop fraction of the update.
    pub drop_fraction: f32,
}

impl Row {
    /// Columns of `schedule`.
    pub const COLUMNS: usize = 5;

    /// The row of an iteration.
    pub fn new(plan: &Plan, tick: &Tick) -> Self {
        let update = tick.update_at.is_some();
        let replaced = update && plan.method.order == Order::Replaces;
        let unless_replaced = |value: f64, otherwise: f32| if replaced { otherwise } else { value as f32 };
        Row {
            rate: unless_replaced(f64::from(plan.learning_rate.at(tick.gs_before)), 0.0),
            decay: unless_replaced(plan.run.optimizer.momentum, 1.0),
            advance: unless_replaced(1.0, 0.0),
            update: f32::from(update),
            drop_fraction: tick.drop_fraction,
        }
    }

    /// The values in the order of the columns.
    pub fn values(self) -> [f32; Row::COLUMNS] {
        [self.rate, self.decay, self.advance, self.update, self.drop_fraction]
    }
}

/// [`Row`] within a graph, all f32 scalars.
pub(super) struct Scheduled<'g> {
    rate: Tensor<'g>,
    decay: Tensor<'g>,
    advance: Tensor<'g>,
    pub update: Tensor<'g>,
    pub drop_fraction: Tensor<'g>,
}

impl<'g> Scheduled<'g> {
    /// From the values of a row, in the order of the columns.
    pub fn new(values: &[Tensor<'g>]) -> Self {
        Scheduled {
            rate: values[0],
            decay: values[1],
            advance: values[2],
            update: values[3],
            drop_fraction: values[4],
        }
    }
}

/// What one iteration measures and leaves for a mask update.
pub(super) struct Outcome<'g> {
    /// Mean over the batch, f32 scalar.
    pub cross_entropy: Tensor<'g>,
    /// Correct predictions, s32 scalar.
    pub correct: Tensor<'g>,
    /// With respect to the masked kernels of [`Trainer::sparse_params`]: dense, and free of weight decay.
    pub gradients: Vec<Tensor<'g>>,
}

impl Trainer<'_> {
    /// One iteration without its mask update: forward and backward pass, gradient step (reference 2.3, 2.4).
    ///
    /// `batch` is images `f32[batch, input dims..]` and labels `s32[batch]`; `seed` is `u32[2]`.
    pub(super) fn iteration<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        batch: [Tensor<'g>; 2],
        seed: Tensor<'g>,
        scheduled: &Scheduled<'g>,
    ) -> Outcome<'g> {
        let params = &self.plan.params;
        let key = Key::new(seed)
            .fold(rng::hash64("dropout", ""))
            .fold_step(state.get(GLOBAL_STEP));
        let [images, labels] = batch;
        let effective: Vec<Tensor<'g>> = params.iter().map(|p| effective(p, state)).collect();
        let logits = {
            let _scope = g.scope("forward");
            let weights = params.iter().map(|p| p.name.clone()).zip(effective.iter().copied());
            let statistics = self.plan.statistics.iter();
            let statistics = statistics.map(|s| (s.name.clone(), state.get(&s.name)));
            let net = Net::new(g, Mode::Train(key), weights.chain(statistics));
            let logits = self.model.apply(&net, images);
            // Even where a mask update replaces the gradient step (reference 8.1).
            for (name, moved) in net.moved_statistics() {
                state.set(&name, moved);
            }
            logits
        };
        let cross_entropy = {
            let _scope = g.scope("loss");
            layers::cross_entropy(logits, labels, 0.0).reduce_mean(&[0])
        };
        let correct = {
            let _scope = g.scope("accuracy");
            let hits = layers::in_top_k(logits, labels, 1);
            hits.convert(DType::S32).reduce_sum(&[0])
        };
        let gradients = grad(cross_entropy, &effective);
        self.gradient_step(g, state, &gradients, scheduled);
        let sparse = params.iter().zip(gradients).filter(|(p, _)| self.is_sparse(p));
        Outcome {
            cross_entropy,
            correct,
            gradients: sparse.map(|(_, gradient)| gradient).collect(),
        }
    }

    /// Momentum step with weight decay (reference 2.10): `V <- m V + g`, `W <- W - lr (g + m V)` with Nesterov's form.
    fn gradient_step<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        gradients: &[Tensor<'g>],
        scheduled: &Scheduled<'g>,
    ) {
        let _scope = g.scope("optimizer");
        let optimizer = &self.plan.run.optimizer;
        let can_be_replaced = self.plan.method.order == Order::Replaces;
        // Of a step that is replaced not even an infinite gradient may leave a trace, and 0 times that is no number.
        let taken = can_be_replaced.then(|| scheduled.advance.gt(0.0));
        for (param, &gradient) in self.plan.params.iter().zip(gradients) {
            let weights = state.get(&param.name);
            let active = param.mask.as_deref().map(|mask| state.get(mask));
            let active = match (active, taken) {
                (Some(mask), Some(taken)) => Some(mask & taken),
                (mask, taken) => mask.or(taken),
            };
            let mut gradient = active.map_or(gradient, |active| active.select(gradient, gradient.zeros_like()));
            if param.decayed && optimizer.weight_decay != 0.0 {
                gradient = gradient + weights * optimizer.weight_decay;
            }
            let slot = momentum(&param.name);
            let push = if can_be_replaced {
                gradient * scheduled.advance
            } else {
                gradient
            };
            let velocity = state.get(&slot) * scheduled.decay + push;
            let direction = match optimizer.nesterov {
                true => gradient + velocity * optimizer.momentum,
                false => velocity,
            };
            state.set(&param.name, weights - direction * scheduled.rate);
            state.set(&slot, velocity);
        }
        state.set(
            GLOBAL_STEP,
            state.get(GLOBAL_STEP) + scheduled.advance.convert(DType::S64),
        );
    }

    /// Updates the mask of every sparse layer, given the gradients of [`Outcome`], the drop fraction (f32 scalar) and the
    /// seed (`u32[2]`). In a dense layer whatever is dropped grows back.
    pub(super) fn mask_update<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        gradients: &[Tensor<'g>],
        drop_fraction: Tensor<'g>,
        seed: Tensor<'g>,
    ) {
        let _scope = g.scope("mask_update");
        let step = state.get(GLOBAL_STEP);
        let method = &self.plan.run.method;
        let rule = sparse::update::Rule {
            method: self.plan.method,
            grow_init: method.grow_init,
            initial_acc_scale: method.initial_accumulator_scale,
            drop_noise_std: method.drop_noise_std,
            select: self.plan.run.mask_update.select,
        };
        for ((param, mask), &gradient) in self.sparse_params().zip(gradients) {
            let _scope = g.scope(param.name.as_str());
            let slot = momentum(&param.name);
            let layer = sparse::update::Layer {
                weights: state.get(&param.name),
                mask: state.get(mask),
                slots: vec![state.get(&slot)],
            };
            let purpose = rng::hash64("mask_update", &param.name);
            let key = Key::new(seed).fold(purpose).fold_step(step);
            let inputs = sparse::update::Inputs {
                gradient,
                drop_fraction,
                key,
                initial_draw: initial_draw(param, method.grow_init, key),
            };
            let after = sparse::update::update(&rule, &layer, &inputs);
            state.set(&param.name, after.weights);
            state.set(mask, after.mask);
            state.set(&slot, after.slots[0]);
        }
        state.set(LAST_UPDATE, step);
    }

    /// Whether mask updates look at gradients.
    pub(super) fn updates_need_gradients(&self) -> bool {
        let needed = self.plan.run.method.grow_init.needs_gradient();
        self.plan.method.updates() && (needed || self.plan.method.grow == GrowScore::Gradient)
    }

    /// Parameters whose masks have zeros, with the names of the masks.
    pub(super) fn sparse_params(&self) -> impl Iterator<Item = (&Param, &str)> {
        let sparse = self.plan.params.iter().filter(|p| self.is_sparse(p));
        sparse.filter_map(|p| Some((p, p.mask.as_deref()?)))
    }

    fn is_sparse(&self, param: &Param) -> bool {
        let layer = crate::config::layer_name(param);
        let has_zeros = |b: &sparse::Budget| Some(b.name.as_str()) == layer && b.zeros > 0;
        param.mask.is_some() && self.plan.budgets.iter().any(has_zeros)
    }

    /// The mask update alone, as `dump-hlo` shows it: state, drop fraction, seed and gradients in, state out.
    ///
    /// # Errors
    /// As [`Trainer::launch`].
    pub fn update(&self) -> hlo::Result<Computation> {
        let specs = specs(self.plan);
        let gradient = |(p, _): (&Param, &str)| {
            let shape = Shape::new(DType::F32, p.dims.clone());
            (format!("gradient/{}", p.name), shape)
        };
        let inputs = [
            ("drop_fraction".to_string(), Shape::scalar(DType::F32)),
            ("seed".to_string(), Shape::new(DType::U32, [2])),
        ];
        let gradients = self.sparse_params().map(gradient);
        let parameters: Vec<_> = specs.iter().cloned().chain(inputs).chain(gradients).collect();
        let n = specs.len();
        Graph::function("mask_update", &parameters, |g, s| {
            let mut state = State::new(&specs, s);
            if self.plan.method.updates() {
                self.mask_update(g, &mut state, &s[n + 2..], s[n], s[n + 1]);
            }
            state.tensors(&specs)
        })
    }
}

/// A fresh sample of the layer's initialiser, where new connections start from one.
fn initial_draw<'g>(param: &Param, grow_init: GrowInit, key: Key<'g>) -> Option<Tensor<'g>> {
    let GrowInit::InitialDist(_) = grow_init else {
        return None;
    };
    let key = key.fold(rng::hash64("initial_draw", ""));
    let dims = &param.dims;
    Some(match param.init.draw(dims) {
        Draw::Constant(value) => key.uniform(dims).zeros_like() + value,
        Draw::Uniform(limit) => (key.uniform(dims) * 2.0 - 1.0) * limit,
        Draw::Normal(std) => key.normal(dims) * std,
        Draw::TruncatedNormal(std) => key.truncated_normal(dims) * std,
    })
}

/// The weights that a layer computes with: masked where it has a mask.
pub(super) fn effective<'g>(param: &Param, state: &State<'g>) -> Tensor<'g> {
    let weights = state.get(&param.name);
    match &param.mask {
        Some(mask) => state.get(mask).select(weights, weights.zeros_like()),
        None => weights,
    }
}

/// Pixels `u8` as the model takes them: f32 times 1/255 (reference 4.4).
pub(super) fn to_model_input(images: Tensor<'_>) -> Tensor<'_> {
    images.convert(DType::F32) * f64::from(1.0f32 / 255.0)
}
