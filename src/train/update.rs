//! The mask update in the training program: its inputs, and its effect on the state (reference 2.3-2.9).

use super::state::{self, State};
use super::step::{Trainer, draw_key, effective};
use hlo::random::Key;
use hlo::{DType, Graph, Shape, Tensor, grad};
use models::layers::sparse::{condense, expand, is_condensed};
use models::{Draw, Param, layers};
use sparse::bucketed::{buckets, update_bucket};
use sparse::rng;
use sparse::update::{Inputs, Layer, Rule, drop_scores, prune_across_layers};
use sparse::{DropScore, GrowInit, GrowScore, KeepCount};

/// Inputs of a mask update besides the training state. Lists are empty if the method does not use them.
pub(super) struct UpdateInputs<'g> {
    /// Drop fraction, f32 scalar.
    pub drop_fraction: Tensor<'g>,
    /// The run's seed, `u32[2]`.
    pub seed: Tensor<'g>,
    /// Number of this replica, s32 scalar; `None` for a single replica, or if the batch is not used.
    pub replica: Option<Tensor<'g>>,
    /// Share of the weights that each layer keeps, f32 scalars.
    pub densities: Vec<Tensor<'g>>,
    /// Gradients of the update's batch with respect to the masked kernels of [`Trainer::updated_params`].
    pub gradients: Vec<Tensor<'g>>,
    /// Preprocessed images and labels of the update's batch.
    pub batch: Vec<Tensor<'g>>,
}

impl<'g> UpdateInputs<'g> {
    /// Names and shapes of [`UpdateInputs::pack`].
    pub fn specs(trainer: &Trainer<'_>) -> Vec<(String, Shape)> {
        let plan = trainer.plan;
        let scalar = |name: String| (name, Shape::scalar(DType::F32));
        let common = [
            scalar("drop_fraction".into()),
            ("seed".into(), Shape::new(DType::U32, [2])),
        ];
        let densities = plan.gradual.iter().flat_map(|_| &plan.budgets);
        let densities = densities.map(|b| scalar(format!("density/{}", b.name)));
        let needed = trainer.updated_params().filter(|_| trainer.updates_need_gradients());
        let gradients = needed.map(|(p, _)| (format!("gradient/{}", p.name), Shape::new(DType::F32, p.dims.clone())));
        let batch = plan.replica_batch();
        let images = Shape::new(DType::F32, [vec![batch], trainer.model.input_dims()].concat());
        let labels = Shape::new(DType::S32, [batch]);
        let batch = [("images".to_string(), images), ("labels".to_string(), labels)];
        let batch = batch.into_iter().filter(|_| trainer.updates_need_batch());
        let replica = ("replica".to_string(), Shape::scalar(DType::S32));
        common
            .into_iter()
            .chain(Some(replica).filter(|_| trainer.updates_need_replica()))
            .chain(densities)
            .chain(gradients)
            .chain(batch)
            .collect()
    }

    /// The inverse of [`UpdateInputs::pack`].
    pub fn new(trainer: &Trainer<'_>, tensors: &[Tensor<'g>]) -> Self {
        let densities = trainer.plan.gradual.map_or(0, |_| trainer.plan.budgets.len());
        let batch = if trainer.updates_need_batch() { 2 } else { 0 };
        let (replica, rest) = tensors[2..].split_at(usize::from(trainer.updates_need_replica()));
        let (densities, rest) = rest.split_at(densities);
        let (gradients, batch) = rest.split_at(rest.len() - batch);
        UpdateInputs {
            drop_fraction: tensors[0],
            seed: tensors[1],
            replica: replica.first().copied(),
            densities: densities.to_vec(),
            gradients: gradients.to_vec(),
            batch: batch.to_vec(),
        }
    }

    /// All tensors as one list.
    pub fn pack(&self) -> Vec<Tensor<'g>> {
        let lists = [&self.densities, &self.gradients, &self.batch];
        [self.drop_fraction, self.seed]
            .into_iter()
            .chain(self.replica)
            .chain(lists.into_iter().flatten().copied())
            .collect()
    }
}

impl Trainer<'_> {
    fn rule(&self) -> Rule {
        let method = &self.plan.run.method;
        Rule {
            method: self.plan.method,
            grow_init: method.grow_init,
            initial_acc_scale: method.initial_accumulator_scale,
            drop_noise_std: method.drop_noise_std,
            threshold_decay: self.plan.run.prune.threshold_decay,
            select: self.plan.run.mask_update.select,
        }
    }

    /// Whether mask updates use the gradients of their batch.
    pub(super) fn updates_need_gradients(&self) -> bool {
        let (plan, method) = (self.plan, self.plan.method);
        let averaged = plan.run.method.gradient_batches > 1;
        let grows = method.grows_by_gradient() || plan.run.method.grow_init.needs_gradient();
        (grows && !averaged) || method.drop == DropScore::Saliency
    }

    /// Whether mask updates use the examples of their batch.
    pub(super) fn updates_need_batch(&self) -> bool {
        self.plan.method.drop == DropScore::GradientFlow
    }

    /// Whether mask updates use the number of the replica.
    pub(super) fn updates_need_replica(&self) -> bool {
        self.updates_need_batch() && self.plan.replicas() > 1
    }

    /// Updates the masks of all layers, in buckets of similar size.
    pub(super) fn update_layers<'g>(&self, g: &'g Graph, state: &mut State<'g>, update_inputs: &UpdateInputs<'g>) {
        let rule = self.rule();
        let updated: Vec<_> = self.updated_params().enumerate().collect();
        if updated.is_empty() {
            return;
        }
        let sizes: Vec<usize> = updated.iter().map(|(_, (param, _))| param.elements()).collect();
        let members = |bucket: Vec<usize>| bucket.into_iter().map(|i| updated[i]).collect();
        let buckets: Vec<Vec<_>> = buckets(&sizes).into_iter().map(members).collect();
        let purposes = buckets.iter().flatten();
        let purposes = purposes.map(|(_, (param, _))| rng::hash64("mask_update", &param.name));
        let keys = Key::new(update_inputs.seed).fold_each(&purposes.collect::<Vec<_>>());
        let seeds = keys.fold_step(state.get(state::GLOBAL_STEP)).seeds();
        let mut from = 0;
        for bucket in buckets {
            let _scope = g.scope(bucket[0].1.0.name.as_str());
            let seeds = seeds.slice(&[from, 0], &[from + bucket.len(), 2]);
            from += bucket.len();
            let layers = bucket.iter().enumerate().map(|(row, &(i, (param, mask)))| {
                let layer = self.layer(state, param, mask);
                let key = Key::new(seeds.slice(&[row, 0], &[row + 1, 2]).reshape(&[2]));
                let inputs = self.inputs(g, state, update_inputs, i, (param, &layer), key);
                (layer, inputs)
            });
            let layers: Vec<_> = layers.collect();
            for ((_, (param, mask)), after) in bucket.into_iter().zip(update_bucket(&rule, &layers, seeds)) {
                self.store(state, (param, mask), after);
            }
        }
    }

    /// Stores the updated layer in the state.
    fn store<'g>(&self, state: &mut State<'g>, (param, mask): (&Param, &str), after: Layer<'g>) {
        let kept = |array: Tensor<'g>| match self.plan.condensed.get(&param.name) {
            Some(&connections) => condense(array, after.mask, connections),
            None => array,
        };
        let slots = after.slots.into_iter().map(kept).collect();
        state.set(&param.name, kept(after.weights));
        state.set(mask, after.mask);
        state.set_all(&state::slots_of(self.plan, &param.name), slots);
        if let (Some(name), Some(threshold)) = (state::threshold(self.plan, param), after.threshold) {
            state.set(&name, threshold);
        }
        if let Some(explored) = state::explored(self.plan, param) {
            state.set(&explored, state.get(&explored) | after.mask);
        }
    }

    fn layer<'g>(&self, state: &State<'g>, param: &Param, mask: &str) -> Layer<'g> {
        let mask = state.get(mask);
        let whole = |array: Tensor<'g>| match is_condensed(array, mask) {
            true => expand(array, mask),
            false => array,
        };
        let slots = state.get_all(&state::slots_of(self.plan, &param.name));
        Layer {
            weights: whole(state.get(&param.name)),
            mask,
            slots: slots.into_iter().map(whole).collect(),
            threshold: state::threshold(self.plan, param)
                .filter(|_| self.plan.run.prune.threshold_decay != 0.0)
                .map(|name| state.get(&name)),
        }
    }

    /// Inputs of the update of the `i`th updated layer.
    fn inputs<'g>(
        &self,
        g: &'g Graph,
        state: &State<'g>,
        update_inputs: &UpdateInputs<'g>,
        i: usize,
        (param, layer): (&Param, &Layer<'g>),
        key: Key<'g>,
    ) -> Inputs<'g> {
        let (plan, method) = (self.plan, self.plan.method);
        let average = state::average(plan, param).map(|name| state.get(&name));
        let gradient = match method.grow {
            GrowScore::Momentum => None,
            _ => average.or(update_inputs.gradients.get(i).copied()),
        };
        let gradient = gradient.unwrap_or_else(|| layer.weights.zeros_like());
        let decay = if param.decayed { plan.run.optimizer.l2() } else { 0.0 };
        let elements = g.scalar(param.elements() as f32);
        let keep = || match method.keep {
            KeepCount::Connections | KeepCount::TotalBudget => None,
            KeepCount::Budget => plan.budget(param).map(|b| g.scalar(b.nonzeros as i32)),
            KeepCount::Gradual => update_inputs.densities.get(i).map(|&density| {
                // As in `GradualPruning::kept`.
                let kept = (elements * density).round_nearest_even().convert(DType::S32);
                kept.max(1.0).min(param.elements() as f64)
            }),
        };
        Inputs {
            gradient,
            score: match method.drop {
                DropScore::Saliency => Some(gradient + layer.weights * decay),
                _ => average,
            },
            drop_fraction: update_inputs.drop_fraction,
            keep: keep(),
            key,
            initial_draw: initial_draw(param, plan.run.method.grow_init, key),
            valid: None,
        }
    }

    /// Prunes by a ranking across layers (GraSP).
    pub(super) fn prune_across_layers<'g>(&self, state: &mut State<'g>, update_inputs: &UpdateInputs<'g>) {
        let g = update_inputs.seed.graph();
        let rule = self.rule();
        let products = self.hessian_gradients(g, state, update_inputs);
        let scores = self
            .updated_params()
            .zip(products)
            .filter_map(|((param, mask), product)| {
                let layer = self.layer(state, param, mask);
                let inputs = Inputs {
                    gradient: product,
                    score: Some(product),
                    drop_fraction: update_inputs.drop_fraction,
                    keep: None,
                    key: Key::new(update_inputs.seed),
                    initial_draw: None,
                    valid: None,
                };
                drop_scores(&rule, &layer, &inputs)
            });
        let scores: Vec<_> = scores.collect();
        let budgets = self.updated_params().filter_map(|(param, _)| self.plan.budget(param));
        let keep: usize = budgets.map(|b| b.nonzeros).sum();
        let masks = prune_across_layers(&scores, g.scalar(keep as i32), rule.select);
        for ((_, name), mask) in self.updated_params().zip(masks) {
            state.set(name, mask);
        }
    }

    /// Products of the Hessian of the batch's cross entropy, at the run's temperature, with its gradient, for the masked
    /// kernels of updated layers (GraSP, algorithm 2). Both are taken over all masked kernels.
    fn hessian_gradients<'g>(
        &self,
        g: &'g Graph,
        state: &State<'g>,
        update_inputs: &UpdateInputs<'g>,
    ) -> Vec<Tensor<'g>> {
        let params = &self.plan.params;
        let &[images, labels] = &update_inputs.batch[..] else {
            return vec![];
        };
        let kernels: Vec<Tensor<'g>> = params.iter().map(|p| effective(p, state)).collect();
        // The update is at step 0, so the step is the iteration.
        let step = state.get(state::GLOBAL_STEP);
        let key = draw_key(update_inputs.seed, "dropout", step, update_inputs.replica);
        let net = self.net(g, state, &kernels, key);
        let logits = self.model.apply(&net, images) / self.plan.run.method.temperature;
        let loss = layers::cross_entropy(logits, labels, self.plan.run.train.label_smoothing).reduce_mean(&[0]);
        let masked = params.iter().zip(&kernels).filter(|(p, _)| p.mask.is_some());
        let masked: Vec<Tensor<'g>> = masked.map(|(_, &kernel)| kernel).collect();
        // The product for the mean over replicas is the mean of each replica's Hessian times the gradient of the mean.
        let own = grad(self.part_of_mean(loss), &masked);
        let mean = self.sums(g, own.clone());
        let product = |(mean, own): (Tensor<'g>, Tensor<'g>)| (mean.stop_gradient() * own).reduce_sum_all();
        let inner = mean.into_iter().zip(own).map(product);
        let norm = inner.fold(g.scalar(0f32), |a, b| a + b);
        let updated = self.updated_params().map(|(p, _)| &p.name);
        let position = |name: &String| params.iter().position(|p| p.name == *name);
        let wanted: Vec<Tensor<'g>> = updated.filter_map(position).map(|i| kernels[i]).collect();
        self.sums(g, grad(norm, &wanted))
    }
}

/// A fresh sample of the layer's initialiser, if new connections start from one.
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
