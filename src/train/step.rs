//! One training iteration and the mask update as graphs.
//!
//! The host computes the schedule ([`Row`]); the device chooses the connections.

use super::condensed::specs;
use super::exported::Loss;
use super::launch::{batch_specs, in_place};
use super::rows::Scheduled;
pub use super::rows::{Row, schedule};
use super::state::{self, GLOBAL_STEP, IS_PRUNED, LAST_PRUNING, LAST_UPDATE, State};
use super::update::UpdateInputs;
use crate::config::Plan;
use crate::optimizer::{Coefficients, Parameter, Step};
use hlo::random::Key;
use hlo::{Alias, Computation, DType, Graph, Shape, Tensor, grad};
use models::layers::sparse::is_condensed;
use models::{Mode, Model, Net, Param, layers};
use sparse::KeepCount;
use sparse::rng;

/// Builds the graphs of a run: training step, mask update, launch.
pub struct Trainer<'a> {
    /// The checked run.
    pub plan: &'a Plan,
    /// The network.
    pub model: &'a dyn Model,
}

/// Inputs of an iteration's random numbers.
pub(super) struct Draw<'g> {
    /// The run's seed, `u32[2]`.
    pub seed: Tensor<'g>,
    /// Number of the iteration, s64 scalar.
    pub iteration: Tensor<'g>,
    /// Number of this replica, s32 scalar, if there are several.
    pub replica: Option<Tensor<'g>>,
    /// Key for dropout.
    pub dropout: Key<'g>,
}

impl<'g> Draw<'g> {
    /// From seed, iteration and replica.
    pub fn new(seed: Tensor<'g>, iteration: Tensor<'g>, replica: Option<Tensor<'g>>) -> Self {
        Draw {
            seed,
            iteration,
            replica,
            dropout: draw_key(seed, "dropout", iteration, replica),
        }
    }
}

/// Inputs of a loss.
#[derive(Clone, Copy)]
pub(super) struct Batch<'g, 'a> {
    /// Effective weights of all parameters.
    pub effective: &'a [Tensor<'g>],
    /// Images and labels, or the inputs of an exported model.
    pub examples: &'a [Tensor<'g>],
    /// For each parameter an array that gets the gradient of all weights ([`Trainer::apart`]).
    pub apart: &'a [Option<Tensor<'g>>],
    /// Keys of the masks of sparse layers ([`Trainer::mask_keys`]).
    pub mask_keys: &'a [Tensor<'g>],
}

/// Results of one iteration.
pub(super) struct Outcome<'g> {
    /// Loss: mean over the batch of all replicas, f32 scalar.
    pub cross_entropy: Tensor<'g>,
    /// Means of an exported model's metrics, f32 scalars.
    pub metrics: Vec<Tensor<'g>>,
    /// Correct predictions of this replica, s32 scalar.
    pub correct: Tensor<'g>,
    /// Gradients of all parameters, of the connections of sparse layers.
    pub own: Vec<Tensor<'g>>,
    /// Dense gradients of the masked kernels of [`Trainer::updated_params`], without weight decay. Those of sparse layers are
    /// dense only in iterations whose update uses them.
    pub gradients: Vec<Tensor<'g>>,
}

impl Trainer<'_> {
    /// One iteration without its mask update: forward and backward pass, gradient step (reference 2.3, 2.4).
    ///
    /// `batch` is images `f32[batch, input dims..]` and labels `s32[batch]`, or the inputs of an exported model; `draw` is for
    /// dropout. `mask_keys` are those of sparse layers ([`Trainer::mask_keys`]).
    pub(super) fn iteration<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        batch: &[Tensor<'g>],
        draw: &Draw<'g>,
        scheduled: &Scheduled<'g>,
        mask_keys: &[Tensor<'g>],
    ) -> Outcome<'g> {
        let params = &self.plan.params;
        let apart = self.apart(g);
        let effective: Vec<Tensor<'g>> = {
            let _scope = g.scope("forward");
            let masked = |p: &Param| {
                let _scope = g.scope(layer(self.plan, &p.name));
                effective(p, state)
            };
            params.iter().map(masked).collect()
        };
        let batch = Batch {
            effective: &effective,
            examples: batch,
            apart: &apart,
            mask_keys,
        };
        let (own, correct) = self.accumulated(g, state, batch, draw, scheduled);
        // All-reduce the dense gradients: the step and growth use the same sums, so masks stay equal on all replicas.
        let loss = Loss {
            gradients: self.sums(g, own.gradients),
            loss: self.sum(own.loss),
            metrics: own.metrics.into_iter().map(|own| self.sum(own)).collect(),
        };
        let mut gradients = loss.gradients;
        let mut of_all = gradients.split_off(params.len()).into_iter();
        self.average_gradients(g, state, &gradients, scheduled);
        self.gradient_step(g, state, &gradients, scheduled);
        let dense = gradients.iter().zip(&apart).map(|(&own, apart)| match apart {
            Some(_) => of_all.next().unwrap_or(own),
            None => own,
        });
        let updated = params.iter().zip(dense).filter(|(p, _)| self.is_updated(p));
        let updated = updated.map(|(_, gradient)| gradient).collect();
        Outcome {
            cross_entropy: loss.loss,
            metrics: loss.metrics,
            correct,
            own: gradients,
            gradients: updated,
        }
    }

    /// The share of these examples of this replica in loss, metrics and gradients, those of `apart` after the others, and the
    /// correct predictions.
    pub(super) fn loss<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        batch: Batch<'g, '_>,
        draw: &Draw<'g>,
        scheduled: &Scheduled<'g>,
    ) -> (Loss<'g>, Tensor<'g>) {
        match &self.plan.exported {
            Some(exported) => {
                let loss = self.exported_loss(g, exported, state, [batch.effective, batch.examples], draw);
                (loss, g.scalar(0i32))
            }
            None => self.classified(g, state, batch, draw, scheduled),
        }
    }

    /// [`Trainer::loss`] of a network of this program: cross entropy.
    fn classified<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        batch: Batch<'g, '_>,
        draw: &Draw<'g>,
        scheduled: &Scheduled<'g>,
    ) -> (Loss<'g>, Tensor<'g>) {
        let Batch {
            effective,
            examples,
            apart,
            mask_keys,
        } = batch;
        let (images, labels) = (examples[0], examples[1]);
        let logits = {
            let _scope = g.scope("forward");
            let sparse = self.sparse_kernels(state, mask_keys, scheduled, apart);
            let net = self.net(g, state, effective, draw.dropout).with_sparse(sparse);
            let logits = self.model.apply(&net, images);
            // Statistics also change in iterations whose gradient step is replaced.
            let statistics = net.updated_statistics();
            let trained = statistics.into_iter().filter(|(name, _)| !self.plan.is_frozen(name));
            trained.for_each(|(name, value)| state.set(&name, value));
            // Examples taken by lanes are filled up to whole vectors.
            match (&logits.dims()[..], &labels.dims()[..]) {
                (&[rows, classes], &[examples]) if rows > examples => logits.slice(&[0, 0], &[examples, classes]),
                _ => logits,
            }
        };
        let cross_entropy = {
            let _scope = g.scope("loss");
            layers::cross_entropy(logits, labels, self.plan.run.train.label_smoothing).reduce_mean(&[0])
        };
        let correct = {
            let _scope = g.scope("accuracy");
            let hits = layers::in_top_k(logits, labels, 1);
            hits.convert(DType::S32).reduce_sum(&[0])
        };
        let part = self.part_of_mean(cross_entropy);
        let of: Vec<_> = effective.iter().chain(apart.iter().flatten()).copied().collect();
        let loss = Loss {
            loss: part,
            metrics: vec![],
            gradients: grad(part, &of),
        };
        (loss, correct)
    }

    /// For each parameter an array that gets the gradient of all weights, where updates use it and weights are condensed.
    fn apart<'g>(&self, g: &'g Graph) -> Vec<Option<Tensor<'g>>> {
        let used = |param: &Param| self.updates_need_gradients() && self.is_updated(param);
        let apart = |param: &Param| {
            let condensed = used(param) && self.plan.condensed.contains_key(&param.name);
            condensed.then(|| g.full(&Shape::new(DType::F32, param.dims.clone()), 0.0))
        };
        self.plan.params.iter().map(apart).collect()
    }

    /// Zeros in place of the gradients for mask updates, if they use any.
    pub(super) fn no_gradients<'g>(&self, g: &'g Graph) -> Vec<Tensor<'g>> {
        let needed = self.updated_params().filter(|_| self.updates_need_gradients());
        needed
            .map(|(p, _)| g.full(&Shape::new(DType::F32, p.dims.clone()), 0.0))
            .collect()
    }

    /// Preprocesses the pixels of a training batch, with augmentation by `key` if the run uses it.
    pub(super) fn prepared<'g>(&self, pixels: Tensor<'g>, key: impl FnOnce() -> Key<'g>) -> Tensor<'g> {
        match self.plan.augments() {
            true => self.plan.preprocessing.augment(pixels, key()),
            false => self.plan.preprocessing.apply(pixels),
        }
    }

    /// The network in training mode, with the masked kernels `effective` and dropout by `key`.
    pub(super) fn net<'g>(&self, g: &'g Graph, state: &State<'g>, effective: &[Tensor<'g>], key: Key<'g>) -> Net<'g> {
        let plan = self.plan;
        let kernels = plan
            .params
            .iter()
            .map(|p| p.name.clone())
            .zip(effective.iter().copied());
        let statistics = plan.statistics.iter().map(|s| (s.name.clone(), state.get(&s.name)));
        let net = Net::new(g, Mode::Train(key), kernels.chain(statistics)).with_precision(plan.run.train.precision);
        net.with_batch_norm_over(self.normalised_over())
            .with_joint_gradients(plan.joins_gradients())
    }

    /// Updates the averages of dense gradients, if the method has any (reference 2.5).
    fn average_gradients<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        gradients: &[Tensor<'g>],
        scheduled: &Scheduled<'g>,
    ) {
        let _scope = g.scope("average");
        for (param, &gradient) in self.plan.params.iter().zip(gradients) {
            let Some(name) = state::average(self.plan, param) else {
                continue;
            };
            let before = state.get(&name);
            let after = match scheduled.average {
                // Rounded like TensorFlow's moving average; see `sparse::update_average`.
                None => before - (before - gradient) * (1.0 - self.plan.run.method.ema_momentum),
                // The first iteration of a window ignores the previous average.
                Some([kept, added]) => kept.gt(0.0).select(before, before.zeros_like()) + gradient * added,
            };
            state.set(&name, after);
        }
    }

    /// Gradient step with weight decay.
    fn gradient_step<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        gradients: &[Tensor<'g>],
        scheduled: &Scheduled<'g>,
    ) {
        let _scope = g.scope("optimizer");
        let (plan, settings) = (self.plan, &self.plan.run.optimizer);
        // Select instead of multiplying by zero: 0 × inf is NaN. This also lets XLA's CPU compiler fuse the gradient into the
        // step, without an array for it.
        let taken = scheduled.advance.gt(0.0);
        let (optimizer, shared) = (settings.rule, settings.rule.scalar_names());
        let scalars = state.get_all(&shared);
        let coefficients = Coefficients {
            rate: scheduled.rate,
            decay: scheduled.decay,
            advance: scheduled.advance,
            taken,
        };
        let step = Step::new(settings, coefficients, &scalars);
        let clipped = settings
            .clip_norm
            .map(|limit| self.clipping(g, state, gradients, limit));
        for (param, gradient) in self.trained(gradients) {
            let _scope = g.scope(layer(plan, &param.name));
            let weights = state.get(&param.name);
            let mask = param.mask.as_deref();
            let through = mask.is_some() && plan.method.straight_through;
            let whole = !plan.condensed.contains_key(&param.name);
            let active = mask.filter(|_| whole && !through).map(|mask| state.get(mask));
            let mut gradient = active.map_or(gradient, |active| select_or_zero(active, gradient));
            if let Some(factor) = clipped {
                gradient = factor * gradient;
            }
            if param.decayed && settings.l2() != 0.0 && !through {
                gradient = gradient + weights * settings.l2();
            }
            let gradient = select_or_zero(taken, gradient);
            let slots = optimizer.slots_of(&param.name);
            let (weights, after) = step.apply(Parameter {
                weights,
                slots: &state.get_all(&slots),
                gradient,
                decayed: param.decayed && !through,
            });
            state.set(&param.name, weights);
            state.set_all(&slots, after);
            if let (Some(average), Some(decay)) = (state::weight_average(plan, &param.name), settings.ema_decay) {
                let before = state.get(&average);
                state.set(
                    &average,
                    before + scheduled.advance * (weights - before) * (1.0 - decay),
                );
            }
        }
        state.set_all(&shared, step.advance(&scalars));
        state.set(
            GLOBAL_STEP,
            state.get(GLOBAL_STEP) + scheduled.advance.convert(DType::S64),
        );
    }

    /// The parameters that are not frozen, each with its gradient.
    fn trained<'g>(&self, gradients: &[Tensor<'g>]) -> impl Iterator<Item = (&Param, Tensor<'g>)> {
        let all = self.plan.params.iter().zip(gradients.iter().copied());
        all.filter(|(param, _)| !self.plan.is_frozen(&param.name))
    }

    /// The factor that scales the gradient of all trained parameters, of their connections alone, to a norm of at most
    /// `limit`.
    fn clipping<'g>(&self, g: &'g Graph, state: &State<'g>, gradients: &[Tensor<'g>], limit: f64) -> Tensor<'g> {
        let plan = self.plan;
        let squares = self.trained(gradients).map(|(param, gradient)| {
            let mask = param.mask.as_deref().filter(|_| !plan.method.straight_through);
            let active = mask.map_or(gradient, |mask| select_or_zero(state.get(mask), gradient));
            (active * active).reduce_sum_all()
        });
        let norm = squares.fold(g.scalar(0f32), |sum, square| sum + square).sqrt();
        g.scalar(limit as f32) / norm.max(limit)
    }

    /// Updates the masks and stores the step of the update.
    pub(super) fn mask_update<'g>(&self, g: &'g Graph, state: &mut State<'g>, update_inputs: &UpdateInputs<'g>) {
        let _scope = g.scope("mask_update");
        let step = state.get(GLOBAL_STEP);
        match self.plan.method.keep {
            KeepCount::TotalBudget => self.prune_across_layers(state, update_inputs),
            _ => self.update_layers(g, state, update_inputs),
        }
        match self.plan.method.timing {
            sparse::UpdateTiming::None | sparse::UpdateTiming::Every => {}
            sparse::UpdateTiming::Replaces | sparse::UpdateTiming::After => state.set(LAST_UPDATE, step),
            sparse::UpdateTiming::AfterInterval => state.set(LAST_PRUNING, step.convert(DType::S32)),
            sparse::UpdateTiming::Once => state.set(IS_PRUNED, g.number(DType::Pred, 1.0)),
        }
    }

    /// Parameters whose masks or weights an update may change, with the names of the masks.
    pub(super) fn updated_params(&self) -> impl Iterator<Item = (&Param, &str)> {
        let updated = self.plan.params.iter().filter(|p| self.is_updated(p));
        updated.filter_map(|p| Some((p, p.mask.as_deref()?)))
    }

    /// Most methods do not change layers without zeros.
    fn is_updated(&self, param: &Param) -> bool {
        let all = self.plan.method.updates_dense_layers();
        self.plan.budget(param).is_some_and(|b| all || b.zeros > 0) && !self.plan.is_frozen(&param.name)
    }

    /// One iteration on a given batch, without the device loop and the mask update.
    ///
    /// Inputs: the state, `images` `u8[batch, ..]` and `labels` `s32[batch]` or the inputs of an exported model, a row of the
    /// schedule, `schedule` `f32[columns]`, the `iteration` (s64), the `seed` `u32[2]` and, with several replicas, the number
    /// of this one (`replica`, s32).
    /// Outputs: the state, in place, mean cross entropy (f32), correct predictions (s32) and the metrics of an exported model.
    ///
    /// # Errors
    /// As [`Trainer::launch`].
    pub fn step(&self) -> hlo::Result<(Computation, Vec<Alias>)> {
        let (plan, batch) = (self.plan, self.plan.replica_batch());
        let specs = specs(plan);
        let columns = Row::columns(plan);
        let data = batch_specs(self, batch, DType::U8);
        let inputs = [
            ("schedule", DType::F32, vec![columns]),
            ("iteration", DType::S64, vec![]),
            ("seed", DType::U32, vec![2]),
        ];
        let several = (plan.replicas() > 1).then_some(("replica", DType::S32, vec![]));
        let inputs = inputs.into_iter().chain(several);
        let inputs = inputs.map(|(name, dtype, dims)| (name.to_string(), Shape::new(dtype, dims)));
        let arrays = data.len();
        let parameters: Vec<_> = specs.iter().cloned().chain(data).chain(inputs).collect();
        let computation = Graph::function("step", &parameters, |g, s| {
            let mut state = State::new(&specs, s);
            let (data, rest) = s[specs.len()..].split_at(arrays);
            let [schedule, iteration, seed] = [0, 1, 2].map(|i| rest[i]);
            let row: Vec<_> = (0..columns)
                .map(|i| schedule.slice(&[i], &[i + 1]).reshape(&[]))
                .collect();
            let replica = rest.get(3).copied();
            let mut batch = data.to_vec();
            if plan.exported.is_none() {
                let _scope = g.scope("batch");
                batch[0] = self.prepared(batch[0], || draw_key(seed, "augment", iteration, replica));
            }
            let scheduled = Scheduled::new(plan, &row);
            let mask_keys = self.mask_keys(&state);
            let draw = Draw::new(seed, iteration, replica);
            let outcome = self.iteration(g, &mut state, &batch, &draw, &scheduled, &mask_keys);
            let measured = [outcome.cross_entropy, outcome.correct];
            [&state.tensors(&specs)[..], &measured, &outcome.metrics].concat()
        })?;
        Ok((self.precise(computation), in_place(specs.len())))
    }

    /// A graph in the run's precision of matrix products.
    pub(super) fn precise(&self, graph: Computation) -> Computation {
        graph.with_matmul_precision(self.plan.run.train.matmul_precision)
    }

    /// The mask update alone, for `dump-hlo`. Inputs: the state and `UpdateInputs`; output: the state.
    ///
    /// # Errors
    /// As [`Trainer::launch`].
    pub fn update(&self) -> hlo::Result<Computation> {
        let specs = specs(self.plan);
        let extra = UpdateInputs::specs(self);
        let parameters: Vec<_> = specs.iter().cloned().chain(extra).collect();
        let n = specs.len();
        let graph = Graph::function("mask_update", &parameters, |g, s| {
            let mut state = State::new(&specs, s);
            if self.plan.method.updates_masks() {
                self.mask_update(g, &mut state, &UpdateInputs::new(self, &s[n..]));
            }
            state.tensors(&specs)
        });
        Ok(self.precise(graph?))
    }
}

/// The layer of a parameter, as its scope in the graph is called: without the scope of the model.
fn layer<'a>(plan: &'a Plan, param: &'a str) -> &'a str {
    let within = |scope: &str| param.strip_prefix(scope).is_some_and(|rest| rest.starts_with('/'));
    let of_layer = |l: &&models::Layer| within(&l.name) || l.norm.as_deref().is_some_and(within);
    let name = match plan.layers.iter().find(of_layer) {
        Some(layer) => layer.name.as_str(),
        // A normalisation that belongs to no layer.
        None => param.rsplit_once('/').map_or(param, |(scope, _)| scope),
    };
    name.rsplit('/').next().unwrap_or(name)
}

/// The weights of a layer, masked if it has a mask; condensed ones as they are.
pub(super) fn effective<'g>(param: &Param, state: &State<'g>) -> Tensor<'g> {
    let weights = state.get(&param.name);
    match param.mask.as_ref().map(|mask| state.get(mask)) {
        Some(mask) if !is_condensed(weights, mask) => select_or_zero(mask, weights),
        _ => weights,
    }
}

/// Selects `value` where `pred` (of the same shape or a scalar) is true, else 0.
fn select_or_zero<'g>(pred: Tensor<'g>, value: Tensor<'g>) -> Tensor<'g> {
    pred.select(value, value.zeros_like())
}

/// Key of an iteration's random numbers for `purpose`, with several replicas also by replica. It depends on the iteration, not
/// on the global step: if a mask update replaces a gradient step, two iterations have the same global step.
pub(super) fn draw_key<'g>(
    seed: Tensor<'g>,
    purpose: &str,
    iteration: Tensor<'g>,
    replica: Option<Tensor<'g>>,
) -> Key<'g> {
    let key = Key::new(seed).fold(rng::hash64(purpose, "")).fold_step(iteration);
    replica.map_or(key, |replica| key.fold_step(replica))
}
