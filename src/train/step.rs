//! The training program as graphs: one iteration, and the device loop that runs many per launch.
//!
//! The host says when (learning rate, drop fraction and whether to update masks, per iteration: exact float32 values that
//! are the same on every device and in `plan`); the device says which.

use super::state::{GLOBAL_STEP, LAST_UPDATE, State, glorot_limit, momentum, specs};
use crate::config::Plan;
use crate::rng;
use crate::sparse::{self, GrowInit, Order, select::Select};
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

/// What one iteration is given besides the state.
struct Iteration<'g> {
    /// `f32[batch, input dims..]`.
    images: Tensor<'g>,
    /// `s32[batch]`.
    labels: Tensor<'g>,
    learning_rate: Tensor<'g>,
    drop_fraction: Tensor<'g>,
    /// Whether masks are updated, `pred[]`.
    update: Tensor<'g>,
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

/// What one iteration measures, all scalars.
struct Measured<'g> {
    /// Mean cross entropy of the batch, f32.
    cross_entropy: Tensor<'g>,
    /// Correct predictions, s32.
    correct: Tensor<'g>,
}

/// Positions of a launch's inputs after the state.
pub const LAUNCH_INPUTS: [&str; 8] = [
    "images",
    "labels",
    "indices",
    "learning_rate",
    "drop_fraction",
    "update",
    "count",
    "seed",
];
/// Names of a launch's outputs after the state: mean cross entropy of the last iteration and its sum over all, correct
/// predictions, the L2 term at the end, iterations done (fewer than asked for when the loss stopped being a number).
pub const LAUNCH_OUTPUTS: [&str; 5] = ["last_cross_entropy", "cross_entropy_sum", "correct", "l2", "done"];

impl Trainer<'_> {
    /// The program of one launch: up to `steps_per_launch` iterations on data that stays on the device.
    ///
    /// Inputs: the state, `images` `u8[examples, ..]`, `labels` `s32[examples]`, per iteration of the launch `indices`
    /// `s32[K, batch]`, `learning_rate` `f32[K]`, `drop_fraction` `f32[K]`, `update` `pred[K]`; how many of the K to run
    /// (`count`, s32) and the `seed` `u32[2]`. Outputs: the state, in place, and [`LAUNCH_OUTPUTS`].
    ///
    /// # Errors
    /// None for the models and methods of this crate.
    pub fn launch(&self, examples: usize) -> hlo::Result<(Computation, Vec<Alias>)> {
        let (k, batch) = (
            self.plan.run.train.steps_per_launch as usize,
            self.plan.run.train.batch_size,
        );
        let specs = specs(self.plan);
        let image_dims = [vec![examples], self.model.input_dims()].concat();
        let inputs = [
            Shape::new(DType::U8, image_dims),
            Shape::new(DType::S32, [examples]),
            Shape::new(DType::S32, [k, batch]),
            Shape::new(DType::F32, [k]),
            Shape::new(DType::F32, [k]),
            Shape::new(DType::Pred, [k]),
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

    fn launch_graph<'g>(&self, g: &'g Graph, specs: &[(String, Shape)], inputs: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let n = specs.len();
        let measured = [g.scalar(0i32), g.scalar(0f32), g.scalar(0f32), g.scalar(0i32)];
        let init = [&measured, inputs].concat();
        let m = measured.len();
        let result = g.while_loop(
            &init,
            |_, s| {
                let count = s[m + n + 6];
                // A loss that is no longer a number ends the launch: the host reports the iteration.
                s[0].lt(count) & s[1].is_finite()
            },
            |g, s| {
                let mut state = State::new(specs, &s[m..]);
                let this = self.iteration_inputs(g, s[0], &s[m + n..]);
                let measured = self.iteration(g, &mut state, &this);
                let counters = [
                    s[0] + g.scalar(1i32),
                    measured.cross_entropy,
                    s[2] + measured.cross_entropy,
                    s[3] + measured.correct,
                ];
                [&counters, &state.tensors(specs)[..], &s[m + n..]].concat()
            },
        );
        let state = State::new(specs, &result[m..]);
        let decayed = self.plan.params.iter().filter(|p| p.decayed);
        let l2 = decayed
            .map(|p| layers::l2(state.get(&p.name)))
            .fold(g.scalar(0f32), |a, b| a + b);
        let outputs = [
            result[1],
            result[2],
            result[3],
            l2 * self.plan.run.optimizer.weight_decay,
            result[0],
        ];
        [&result[m..m + n], &outputs].concat()
    }

    /// Picks iteration `i` out of a launch's inputs.
    fn iteration_inputs<'g>(&self, g: &'g Graph, i: Tensor<'g>, inputs: &[Tensor<'g>]) -> Iteration<'g> {
        let _scope = g.scope("batch");
        let batch = self.plan.run.train.batch_size;
        let indices = inputs[2]
            .dynamic_slice(&[i, g.scalar(0i32)], &[1, batch])
            .reshape(&[batch]);
        let at = |t: Tensor<'g>| t.dynamic_slice(&[i], &[1]).reshape(&[]);
        Iteration {
            images: to_model_input(inputs[0].take_rows(indices)),
            labels: inputs[1].take_rows(indices),
            learning_rate: at(inputs[3]),
            drop_fraction: at(inputs[4]),
            update: at(inputs[5]),
            seed: inputs[7],
        }
    }

    /// One iteration (reference 2.3, 2.4): forward and backward pass, then gradient step and mask update in the method's
    /// order. A mask update that replaces the step leaves `global_step` as it is.
    fn iteration<'g>(&self, g: &'g Graph, state: &mut State<'g>, this: &Iteration<'g>) -> Measured<'g> {
        let (gradients, measured) = self.gradients(g, state, this);
        let before = state.clone();
        self.gradient_step(g, state, &gradients, this.learning_rate);
        if self.plan.method.order == Order::Replaces {
            *state = before.where_holds(this.update, state);
        }
        if self.plan.method.updates() {
            self.conditional_update(g, state, &gradients, this);
        }
        measured
    }

    /// Gradient of the batch's mean cross entropy with respect to every effective parameter (masked kernels: dense, with
    /// respect to the product; no weight decay), in the order of the parameters.
    fn gradients<'g>(&self, g: &'g Graph, state: &State<'g>, this: &Iteration<'g>) -> (Vec<Tensor<'g>>, Measured<'g>) {
        let params = &self.plan.params;
        let effective: Vec<Tensor<'g>> = params.iter().map(|p| effective(p, state)).collect();
        let names = params.iter().map(|p| p.name.clone());
        let logits = {
            let _scope = g.scope("forward");
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
        (grad(cross_entropy, &effective), Measured { cross_entropy, correct })
    }

    /// Momentum step with weight decay (reference 2.10): `V <- m V + g`, `W <- W - lr (g + m V)` with Nesterov's form.
    fn gradient_step<'g>(&self, g: &'g Graph, state: &mut State<'g>, gradients: &[Tensor<'g>], rate: Tensor<'g>) {
        let _scope = g.scope("optimizer");
        let optimizer = &self.plan.run.optimizer;
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
            let velocity = state.get(&slot) * optimizer.momentum + gradient;
            let direction = match optimizer.nesterov {
                true => gradient + velocity * optimizer.momentum,
                false => velocity,
            };
            state.set(&param.name, weights - rate * direction);
            state.set(&slot, velocity);
        }
        state.set(GLOBAL_STEP, state.get(GLOBAL_STEP) + g.scalar(1i64));
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
        let read_only = [&[state.get(GLOBAL_STEP), this.drop_fraction, this.seed], gradients].concat();
        let operands = [&state.tensors(&specs)[..], &read_only].concat();
        let results = g.repeat(this.update.convert(DType::S32), &operands, |g, _, s| {
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
