//! The training program as graphs: one iteration, and the device loop that runs many per launch.
//!
//! The host says when (learning rate, drop fraction and whether to update masks, per iteration: exact float32 values that
//! are the same on every device and in `plan`, see [`Row`]); the device says which.

use super::state::{GLOBAL_STEP, LAST_UPDATE, State, glorot_limit, momentum, specs};
use crate::config::Plan;
use crate::rng;
use crate::sparse::{self, GrowInit, Order, Tick, select::Select};
use hlo::random::Key;
use hlo::{Alias, Computation, DType, Graph, Shape, Tensor, grad};
use models::{Model, Param, Variables, layers};

/// Everything that the graphs of a run are made of.
pub struct Trainer<'a> {
    /// The checked run.
    pub plan: &'a Plan,
    /// The network.
    pub model: &'a dyn Model,
    /// How selection is done.
    pub select: Select,
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
    /// Factor of the gradient in the velocity; 0 where the step is replaced.
    pub gain: f32,
    /// What the step adds to `global_step`: 1, or 0 where it is replaced.
    pub advance: f32,
    /// 1 where masks are updated.
    pub update: f32,
    /// Drop fraction of the update.
    pub drop_fraction: f32,
}

impl Row {
    /// Columns of `schedule`.
    pub const COLUMNS: usize = 6;

    /// The row of an iteration.
    pub fn new(plan: &Plan, tick: &Tick) -> Self {
        let update = tick.update_at.is_some();
        let replaced = update && plan.method.order == Order::Replaces;
        let unless_replaced = |value: f64, otherwise: f32| if replaced { otherwise } else { value as f32 };
        Row {
            rate: unless_replaced(f64::from(plan.learning_rate.at(tick.gs_before)), 0.0),
            decay: unless_replaced(plan.run.optimizer.momentum, 1.0),
            gain: unless_replaced(1.0, 0.0),
            advance: unless_replaced(1.0, 0.0),
            update: f32::from(update),
            drop_fraction: tick.drop_fraction,
        }
    }

    /// The values in the order of the columns.
    pub fn values(self) -> [f32; Row::COLUMNS] {
        [
            self.rate,
            self.decay,
            self.gain,
            self.advance,
            self.update,
            self.drop_fraction,
        ]
    }
}

/// [`Row`] within a graph, all f32 scalars.
struct Scheduled<'g> {
    rate: Tensor<'g>,
    decay: Tensor<'g>,
    gain: Tensor<'g>,
    advance: Tensor<'g>,
    update: Tensor<'g>,
    drop_fraction: Tensor<'g>,
}

impl<'g> Scheduled<'g> {
    fn new(values: &[Tensor<'g>]) -> Self {
        Scheduled {
            rate: values[0],
            decay: values[1],
            gain: values[2],
            advance: values[3],
            update: values[4],
            drop_fraction: values[5],
        }
    }

    /// The values of row `i` of `schedule`, `f32[K, COLUMNS]`; of the last row past the end.
    fn read(schedule: Tensor<'g>, i: Tensor<'g>) -> Vec<Tensor<'g>> {
        let g = schedule.graph();
        let at = |column: i32| schedule.dynamic_slice(&[i, g.scalar(column)], &[1, 1]).reshape(&[]);
        (0..Row::COLUMNS as i32).map(at).collect()
    }
}

/// What one iteration is given besides the state.
struct Iteration<'g> {
    /// `f32[batch, input dims..]`.
    images: Tensor<'g>,
    /// `s32[batch]`.
    labels: Tensor<'g>,
    scheduled: Scheduled<'g>,
    /// `u32[2]`.
    seed: Tensor<'g>,
}

/// What a mask update is given besides state and gradients.
struct UpdateInputs<'g> {
    /// `s64[]`.
    step: Tensor<'g>,
    drop_fraction: Tensor<'g>,
    /// `u32[2]`.
    seed: Tensor<'g>,
}

/// Names of a launch's inputs after the state.
pub const LAUNCH_INPUTS: [&str; 6] = ["images", "labels", "indices", "schedule", "count", "seed"];
/// Names of a launch's outputs after the state: mean cross entropy of the last iteration and its sum over all, correct
/// predictions, the L2 term at the end, iterations done (fewer than asked for when the loss stopped being a number).
pub const LAUNCH_OUTPUTS: [&str; 5] = ["last_cross_entropy", "cross_entropy_sum", "correct", "l2", "done"];

impl Trainer<'_> {
    /// The program of one launch: up to `steps_per_launch` iterations on data that stays on the device.
    ///
    /// Inputs: the state, `images` `u8[examples, ..]`, `labels` `s32[examples]`, per iteration of the launch `indices`
    /// `s32[K, batch]` and `schedule` `f32[K, 6]` ([`Row`]); how many of the K to run (`count`, s32) and the `seed`
    /// `u32[2]`. Outputs: the state, in place, and [`LAUNCH_OUTPUTS`].
    ///
    /// # Errors
    /// None for the models and methods of this crate.
    pub fn launch(&self, examples: usize) -> hlo::Result<(Computation, Vec<Alias>)> {
        let (k, batch) = (
            self.plan.run.train.steps_per_launch as usize,
            self.plan.run.train.batch_size,
        );
        let specs = specs(self.plan);
        let inputs = [
            Shape::new(DType::U8, [vec![examples], self.model.input_dims()].concat()),
            Shape::new(DType::S32, [examples]),
            Shape::new(DType::S32, [k, batch]),
            Shape::new(DType::F32, [k, Row::COLUMNS]),
            Shape::scalar(DType::S32),
            Shape::new(DType::U32, [2]),
        ];
        let named = LAUNCH_INPUTS.iter().map(|n| n.to_string()).zip(inputs);
        let parameters: Vec<_> = specs.iter().cloned().chain(named).collect();
        let computation = Graph::function("train", &parameters, |g, inputs| self.launch_graph(g, &specs, inputs))?;
        let aliases = (0..specs.len())
            .map(|i| Alias {
                output: i,
                parameter: i,
            })
            .collect();
        Ok((computation, aliases))
    }

    /// The loop. Its state: what is measured, the schedule's row of this iteration, the training state, the inputs.
    ///
    /// The row is read one iteration ahead: read where it is used, each look-up would be fused into the elementwise loops
    /// over the weights and done again for every element.
    fn launch_graph<'g>(&self, g: &'g Graph, specs: &[(String, Shape)], inputs: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        const MEASURED: usize = 4;
        let n = specs.len();
        let (row, state) = (MEASURED, MEASURED + Row::COLUMNS);
        let data = state + n;
        let measured = [g.scalar(0i32), g.scalar(0f32), g.scalar(0f32), g.scalar(0i32)];
        let first = Scheduled::read(inputs[n + 3], measured[0]);
        let result = g.while_loop(
            &[&measured[..], &first, inputs].concat(),
            // A loss that is no longer a number ends the launch: the host reports the iteration.
            |_, s| s[0].lt(s[data + 4]) & s[1].is_finite(),
            |g, s| {
                let mut after = State::new(specs, &s[state..]);
                let [images, labels, indices, schedule] = [0, 1, 2, 3].map(|i| s[data + i]);
                let [images, labels] = self.batch(g, s[0], images, labels, indices);
                let this = Iteration {
                    images,
                    labels,
                    scheduled: Scheduled::new(&s[row..]),
                    seed: s[data + 5],
                };
                let (cross_entropy, correct) = self.iteration(g, &mut after, &this);
                let next = s[0] + g.scalar(1i32);
                let measured = [next, cross_entropy, s[2] + cross_entropy, s[3] + correct];
                let ahead = Scheduled::read(schedule, next);
                [&measured[..], &ahead, &after.tensors(specs), &s[data..]].concat()
            },
        );
        let after = State::new(specs, &result[state..]);
        let decayed = self.plan.params.iter().filter(|p| p.decayed);
        let l2 = decayed
            .map(|p| layers::l2(after.get(&p.name)))
            .fold(g.scalar(0f32), |a, b| a + b);
        let l2 = l2 * self.plan.run.optimizer.weight_decay;
        [&result[state..data], &[result[1], result[2], result[3], l2, result[0]]].concat()
    }

    /// Images and labels of iteration `i` of the launch.
    fn batch<'g>(
        &self,
        g: &'g Graph,
        i: Tensor<'g>,
        images: Tensor<'g>,
        labels: Tensor<'g>,
        indices: Tensor<'g>,
    ) -> [Tensor<'g>; 2] {
        let _scope = g.scope("batch");
        let batch = self.plan.run.train.batch_size;
        let rows = indices
            .dynamic_slice(&[i, g.scalar(0i32)], &[1, batch])
            .reshape(&[batch]);
        [to_model_input(images.take_rows(rows)), labels.take_rows(rows)]
    }

    /// One iteration (reference 2.3, 2.4): forward and backward pass, gradient step, mask update. Yields the batch's mean
    /// cross entropy (f32) and correct predictions (s32).
    fn iteration<'g>(&self, g: &'g Graph, state: &mut State<'g>, this: &Iteration<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let params = &self.plan.params;
        let effective: Vec<Tensor<'g>> = params.iter().map(|p| effective(p, state)).collect();
        let logits = {
            let _scope = g.scope("forward");
            let names = params.iter().map(|p| p.name.clone());
            let variables = Variables::new(g, names.zip(effective.iter().copied()));
            self.model.apply(&variables, this.images)
        };
        let cross_entropy = {
            let _scope = g.scope("loss");
            layers::cross_entropy(logits, this.labels, 0.0).reduce_mean(&[0])
        };
        let correct = {
            let _scope = g.scope("accuracy");
            layers::in_top_k(logits, this.labels, 1)
                .convert(DType::S32)
                .reduce_sum(&[0])
        };
        // With respect to the masked kernels: dense, and free of weight decay.
        let gradients = grad(cross_entropy, &effective);
        self.gradient_step(g, state, &gradients, &this.scheduled);
        if self.plan.method.updates() {
            self.conditional_update(g, state, &gradients, this);
        }
        (cross_entropy, correct)
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
        for (param, &gradient) in self.plan.params.iter().zip(gradients) {
            let weights = state.get(&param.name);
            let mut gradient = match &param.mask {
                Some(mask) => state.get(mask).select(gradient, gradient.zeros_like()),
                None => gradient,
            };
            if param.decayed && optimizer.weight_decay != 0.0 {
                gradient = gradient + weights * optimizer.weight_decay;
            }
            let slot = momentum(&param.name);
            let push = if can_be_replaced {
                gradient * scheduled.gain
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

    /// The mask update, where `update` holds.
    ///
    /// A loop of at most one turn rather than a `conditional`: a loop works in place on its state, while the branches of a
    /// conditional made the compiler copy every array on every iteration. What the turn only reads comes out of it as
    /// zeros: were it unchanged, the compiler would take it for invariant and do the update's work before the loop, that
    /// is on every iteration.
    fn conditional_update<'g>(
        &self,
        g: &'g Graph,
        state: &mut State<'g>,
        gradients: &[Tensor<'g>],
        this: &Iteration<'g>,
    ) {
        let specs = specs(self.plan);
        let n = specs.len();
        let read_only = [
            &[state.get(GLOBAL_STEP), this.scheduled.drop_fraction, this.seed],
            gradients,
        ]
        .concat();
        let operands = [&state.tensors(&specs)[..], &read_only].concat();
        let results = g.repeat(this.scheduled.update.convert(DType::S32), &operands, |g, _, s| {
            let mut state = State::new(&specs, s);
            self.mask_update(
                g,
                &mut state,
                &s[n + 3..],
                &UpdateInputs {
                    step: s[n],
                    drop_fraction: s[n + 1],
                    seed: s[n + 2],
                },
            );
            let spent = s[n..].iter().map(|t| t.zeros_like());
            state.tensors(&specs).into_iter().chain(spent).collect()
        });
        *state = State::new(&specs, &results);
    }

    /// Updates the mask of every layer that is not dense: in a dense one whatever is dropped grows back.
    fn mask_update<'g>(&self, g: &'g Graph, state: &mut State<'g>, gradients: &[Tensor<'g>], this: &UpdateInputs<'g>) {
        let _scope = g.scope("mask_update");
        let method = &self.plan.run.method;
        let rule = sparse::update::Rule {
            method: self.plan.method,
            grow_init: method.grow_init,
            initial_acc_scale: method.initial_accumulator_scale,
            drop_noise_std: method.drop_noise_std,
            select: self.select,
        };
        for (param, &gradient) in self.plan.params.iter().zip(gradients) {
            let Some(mask) = param.mask.as_ref().filter(|_| self.is_sparse(param)) else {
                continue;
            };
            let _scope = g.scope(param.name.as_str());
            let slot = momentum(&param.name);
            let layer = sparse::update::Layer {
                weights: state.get(&param.name),
                mask: state.get(mask),
                slots: vec![state.get(&slot)],
            };
            let key = Key::new(this.seed)
                .fold(rng::hash64("mask_update", &param.name))
                .fold_step(this.step);
            let inputs = sparse::update::Inputs {
                gradient,
                drop_fraction: this.drop_fraction,
                key,
                initial_draw: initial_draw(param, method.grow_init, key),
            };
            let after = sparse::update::update(&rule, &layer, &inputs);
            state.set(&param.name, after.weights);
            state.set(mask, after.mask);
            state.set(&slot, after.slots[0]);
        }
        state.set(LAST_UPDATE, this.step);
    }

    fn is_sparse(&self, param: &Param) -> bool {
        let layer = crate::config::layer_name(param);
        self.plan
            .budgets
            .iter()
            .any(|b| Some(b.name.as_str()) == layer && b.zeros > 0)
    }

    /// The mask update alone, as `dump-hlo` shows it: state, gradients, drop fraction and seed in, state out.
    ///
    /// # Errors
    /// As [`Trainer::launch`].
    pub fn update(&self) -> hlo::Result<Computation> {
        let specs = specs(self.plan);
        let gradient = |p: &Param| (format!("gradient/{}", p.name), Shape::new(DType::F32, p.dims.clone()));
        let inputs = [
            ("drop_fraction".to_string(), Shape::scalar(DType::F32)),
            ("seed".to_string(), Shape::new(DType::U32, [2])),
        ];
        let gradients = self.plan.params.iter().map(gradient);
        let parameters: Vec<_> = specs.iter().cloned().chain(inputs).chain(gradients).collect();
        let n = specs.len();
        Graph::function("mask_update", &parameters, |g, s| {
            let mut state = State::new(&specs, s);
            if self.plan.method.updates() {
                let step = state.get(GLOBAL_STEP);
                self.mask_update(
                    g,
                    &mut state,
                    &s[n + 2..],
                    &UpdateInputs {
                        step,
                        drop_fraction: s[n],
                        seed: s[n + 1],
                    },
                );
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
    Some(match param.init {
        models::Init::GlorotUniform => (key.uniform(&param.dims) * 2.0 - 1.0) * glorot_limit(&param.dims),
        models::Init::Normal(std) => key.normal(&param.dims) * std,
        models::Init::Zeros => key.uniform(&param.dims).zeros_like(),
        models::Init::Ones => key.uniform(&param.dims).zeros_like() + 1.0,
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
