//! The device loop: many iterations per launch, so that the device does not wait for the host.

use super::condensed::specs;
use super::exported::input_name;
use super::norms::no_norms;
use super::rows::Scheduled;
use super::state::State;
use super::step::{Draw, Row, Trainer, draw_key};
use super::update::UpdateInputs;
use crate::config::Plan;
use hlo::random::Key;
use hlo::{Alias, Computation, DType, Graph, Shape, Tensor};
use models::layers;
use models::layers::examples::take_examples;

/// Names of a launch's inputs after the state and the examples. `iteration` is present only if iterations draw random numbers,
/// `replica` only with several replicas.
const INPUTS: [&str; 5] = ["schedule", "count", "iteration", "seed", "replica"];
/// Names of a launch's outputs after the state: mean cross entropy of the last iteration and its sum over all iterations,
/// correct predictions, the L2 term at the end, the number of iterations (less than requested if the loss became NaN or
/// infinite), and for each of [`super::norms::layers`] the norms of the gradient of the last iteration and of the weights at the end.
pub const LAUNCH_OUTPUTS: [&str; 7] = [
    "last_cross_entropy",
    "cross_entropy_sum",
    "correct",
    "l2",
    "done",
    "gradient_norms",
    "weight_norms",
];

/// Names of the arrays of examples.
fn batch_names(plan: &Plan) -> Vec<String> {
    match &plan.exported {
        None => ["images", "labels"].map(str::to_owned).into(),
        Some(exported) => exported
            .manifest
            .inputs
            .iter()
            .map(|input| input_name(&input.name))
            .collect(),
    }
}

/// Names and shapes of the arrays of `rows` examples, with images of type `pixels`.
pub(super) fn batch_specs(trainer: &Trainer, rows: usize, pixels: DType) -> Vec<(String, Shape)> {
    let names = batch_names(trainer.plan).into_iter();
    let of = |shape: Shape| Shape::new(shape.dtype, [&[rows], &shape.dims[..]].concat());
    match &trainer.plan.exported {
        None => {
            let image = Shape::new(pixels, trainer.model.input_dims());
            names.zip([image, Shape::scalar(DType::S32)].map(of)).collect()
        }
        Some(exported) => {
            let inputs = exported.manifest.inputs.iter();
            names.zip(inputs.map(|input| of(input.example()))).collect()
        }
    }
}

/// Names of the inputs of a plan's launches, after the state. An exported model reads its examples in turn, without `indices`.
fn input_names(plan: &Plan) -> Vec<String> {
    let (draws, several) = (plan.draws(), plan.replicas() > 1);
    let taken = |name: &&str| match *name {
        "iteration" => draws,
        "replica" => several,
        _ => true,
    };
    let indices = plan.exported.is_none().then(|| "indices".to_owned());
    let others = INPUTS.into_iter().filter(taken).map(str::to_owned);
    batch_names(plan).into_iter().chain(indices).chain(others).collect()
}

/// The loop's state.
pub(super) struct Carry<'g> {
    /// Figures of the iterations so far.
    measured: Measured<'g>,
    metrics: MetricSums<'g>,
    /// The part of the last iteration's schedule that a mask update uses: whether there is one (0 or 1), its drop fraction, and
    /// the densities of gradual pruning.
    pending: Vec<Tensor<'g>>,
    /// The next iteration's row of the schedule. It is read one iteration ahead: otherwise XLA fuses the look-ups into the
    /// elementwise loops over the weights and repeats them for every element.
    row: Vec<Tensor<'g>>,
    /// Gradients of the last iteration, if mask updates use them.
    gradients: Vec<Tensor<'g>>,
    /// Whether the masks of all replicas are equal (pred); empty for a single replica.
    agree: Vec<Tensor<'g>>,
    /// Keys of the masks of sparse layers ([`Trainer::mask_keys`]).
    mask_keys: Vec<Tensor<'g>>,
    /// The training state.
    pub(super) state: Vec<Tensor<'g>>,
    /// The launch's other inputs, which do not change.
    pub(super) inputs: Vec<Tensor<'g>>,
}

/// Figures of the iterations of a launch, scalars but for the norms.
#[derive(Clone, Copy)]
struct Measured<'g> {
    /// Number of iterations, s32.
    done: Tensor<'g>,
    /// Cross entropy of the last iteration, f32.
    last: Tensor<'g>,
    /// Sum of the cross entropies of all iterations, f32.
    sum: Tensor<'g>,
    /// Correct predictions, s32.
    correct: Tensor<'g>,
    /// Norms of the gradients of the last iteration, `f32[layers]`.
    gradient_norms: Tensor<'g>,
}

/// Sums of the metrics of an exported model over the iterations of a launch, f32 scalars.
type MetricSums<'g> = Vec<Tensor<'g>>;

/// Lengths of the lists in a [`Carry`].
#[derive(Clone, Copy)]
struct Sizes {
    metrics: usize,
    pending: usize,
    columns: usize,
    gradients: usize,
    agree: usize,
    mask_keys: usize,
    inputs: usize,
}

impl<'g> Carry<'g> {
    /// Number of iterations so far, s32 scalar.
    pub(super) fn done(&self) -> Tensor<'g> {
        self.measured.done
    }

    fn pack(&self) -> Vec<Tensor<'g>> {
        let lists = [
            &self.row,
            &self.gradients,
            &self.agree,
            &self.mask_keys,
            &self.state,
            &self.inputs,
        ];
        let Measured {
            done,
            last,
            sum,
            correct,
            gradient_norms,
        } = &self.measured;
        let scalars = [done, last, sum, correct, gradient_norms]
            .into_iter()
            .chain(&self.metrics)
            .chain(&self.pending);
        scalars.chain(lists.into_iter().flatten()).copied().collect()
    }

    fn unpack(tensors: &[Tensor<'g>], sizes: Sizes) -> Self {
        let &[done, last, sum, correct, gradient_norms, ref lists @ ..] = tensors else {
            panic!("{} tensors, expected those of a loop", tensors.len())
        };
        let mut rest = lists.iter().copied();
        let mut take = |n: usize| -> Vec<Tensor<'g>> { rest.by_ref().take(n).collect() };
        let metrics = take(sizes.metrics);
        let pending = take(sizes.pending);
        let (row, gradients, agree) = (take(sizes.columns), take(sizes.gradients), take(sizes.agree));
        let mask_keys = take(sizes.mask_keys);
        let before = [&metrics, &pending, &row, &gradients, &agree, &mask_keys];
        let before = before.iter().map(|list| list.len()).sum::<usize>();
        let state = take(lists.len() - before - sizes.inputs);
        Carry {
            measured: Measured {
                done,
                last,
                sum,
                correct,
                gradient_norms,
            },
            metrics,
            pending,
            row,
            gradients,
            agree,
            mask_keys,
            state,
            inputs: rest.collect(),
        }
    }
}

/// Aliases the first `n` outputs to the first `n` parameters.
pub(super) fn in_place(n: usize) -> Vec<Alias> {
    let alias = |i| Alias {
        output: i,
        parameter: i,
    };
    (0..n).map(alias).collect()
}

impl Trainer<'_> {
    /// The program of one launch: up to K = `steps_per_launch` iterations, on data that stays on the device or is sent with the
    /// launch. With several replicas ([`Plan::replicas`]) each runs it.
    ///
    /// Inputs after the state:
    ///
    /// * the inputs of an exported model, of the K * batch examples of the launch in the order of use; otherwise
    /// * `images` `[examples, ..]` of type [`Plan::pixels`] and `labels` `s32[examples]`; if the plan
    ///   [streams](Plan::streams), the K * batch examples of the launch
    /// * `indices` `s32[K, batch]`: the examples of each iteration, with several replicas those of this one
    /// * `schedule` `f32[K, columns]` ([`Row`])
    /// * `count` (s32): the number of iterations to run
    /// * `iteration` (s64): the number of the first iteration, if [`Plan::draws`]
    /// * `seed` `u32[2]`
    /// * `replica` (s32): the number of this replica, if there are several
    ///
    /// Outputs: the state, in place, [`LAUNCH_OUTPUTS`], and sums of the metrics of an exported model; with several replicas also [`AGREE`](super::replicas::AGREE).
    ///
    /// # Errors
    /// None for the models and methods of this crate.
    pub fn launch(&self, examples: usize) -> hlo::Result<(Computation, Vec<Alias>)> {
        let (k, batch) = (self.plan.launch_length() as usize, self.plan.replica_batch());
        let examples = if self.plan.streams() { k * batch } else { examples };
        let specs = specs(self.plan);
        let data = batch_specs(self, examples, self.plan.pixels());
        let shape = |name: &str| match name {
            "indices" => Shape::new(DType::S32, [k, batch]),
            "schedule" => Shape::new(DType::F32, [k, Row::columns(self.plan)]),
            "iteration" => Shape::scalar(DType::S64),
            "seed" => Shape::new(DType::U32, [2]),
            _ => Shape::scalar(DType::S32),
        };
        let others = input_names(self.plan).into_iter().skip(data.len());
        let others = others.map(|name| (name.clone(), shape(&name)));
        let parameters: Vec<_> = specs.iter().cloned().chain(data).chain(others).collect();
        let computation = Graph::function("train", &parameters, |g, inputs| self.launch_graph(g, &specs, inputs))?;
        Ok((self.precise(computation), in_place(specs.len())))
    }

    fn launch_graph<'g>(&self, g: &'g Graph, specs: &[(String, Shape)], inputs: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let (state, inputs) = inputs.split_at(specs.len());
        let before = State::new(specs, state);
        let row = self.read_row(inputs, g.scalar(0i32));
        let densities = Scheduled::new(self.plan, &row).densities.len();
        let start = Carry {
            measured: Measured {
                done: g.scalar(0i32),
                last: g.scalar(0f32),
                sum: g.scalar(0f32),
                correct: g.scalar(0i32),
                gradient_norms: no_norms(g, self.plan),
            },
            metrics: vec![g.scalar(0f32); self.metrics()],
            pending: vec![g.scalar(0f32); 2 + densities],
            row,
            // Placeholders: the first iteration overwrites them. XLA would copy weights used in their place into and out of the
            // loop.
            gradients: self.no_gradients(g),
            agree: vec![g.number(DType::Pred, 1.0); usize::from(self.plan.replicas() > 1)],
            mask_keys: self.mask_keys(&before),
            state: state.to_vec(),
            inputs: inputs.to_vec(),
        };
        let sizes = Sizes {
            metrics: start.metrics.len(),
            pending: start.pending.len(),
            columns: start.row.len(),
            gradients: start.gradients.len(),
            agree: start.agree.len(),
            mask_keys: start.mask_keys.len(),
            inputs: start.inputs.len(),
        };
        let end = match self.plan.method.updates_masks() {
            // Mask updates are outside the inner loop, so they cost ordinary iterations nothing.
            true => {
                let end = g.while_loop(
                    &start.pack(),
                    |_, s| self.continues(&Carry::unpack(s, sizes)),
                    |g, s| self.advance_to_update(g, specs, Carry::unpack(s, sizes), sizes).pack(),
                );
                Carry::unpack(&end, sizes)
            }
            false => self.iterations(g, specs, start, sizes, |trainer, carry| trainer.continues(carry)),
        };
        let mut after = State::new(specs, &end.state);
        if self.plan.replicas() > 1 && self.normalised_over() == 1 {
            self.share_statistics(g, &mut after, self.input(&end.inputs, "replica"));
        }
        let decayed = self.plan.params.iter().filter(|p| p.decayed);
        let l2 = decayed.map(|p| layers::l2(after.get(&p.name)));
        let l2 = l2.fold(g.scalar(0f32), |a, b| a + b) * self.plan.run.optimizer.l2();
        let Measured {
            done,
            last,
            sum,
            correct,
            gradient_norms,
        } = end.measured;
        let correct = self.sum(correct);
        let output = |name| match name {
            "last_cross_entropy" => last,
            "cross_entropy_sum" => sum,
            "correct" => correct,
            "l2" => l2,
            "done" => done,
            "gradient_norms" => gradient_norms,
            "weight_norms" => self.weight_norms(g, &after),
            other => panic!("no output '{other}'"),
        };
        let measured = LAUNCH_OUTPUTS.map(output);
        [&after.tensors(specs)[..], &measured, &end.metrics, &end.agree].concat()
    }

    /// Number of metrics of an exported model.
    pub(super) fn metrics(&self) -> usize {
        let exported = self.plan.exported.as_ref();
        exported.map_or(0, |exported| exported.manifest.metrics.len())
    }

    /// Whether the launch continues. It ends after `count` iterations, or if the loss is not finite or the masks of replicas
    /// differ; the host then reports the iteration. All replicas must get the same answer, or they would wait for each other
    /// forever.
    fn continues<'g>(&self, carry: &Carry<'g>) -> Tensor<'g> {
        let going = carry.measured.done.lt(self.input(&carry.inputs, "count")) & carry.measured.last.is_finite();
        carry.agree.iter().fold(going, |going, &agree| going & agree)
    }

    /// Runs iterations, without mask updates, while `continues` holds.
    fn iterations<'g>(
        &self,
        g: &'g Graph,
        specs: &[(String, Shape)],
        carry: Carry<'g>,
        sizes: Sizes,
        continues: impl for<'a> Fn(&Trainer<'_>, &Carry<'a>) -> Tensor<'a>,
    ) -> Carry<'g> {
        self.on_connections(g, specs, carry, |trainer, specs, carry| {
            let end = g.while_loop(
                &carry.pack(),
                |_, s| continues(trainer, &Carry::unpack(s, sizes)),
                |g, s| trainer.advance(g, specs, Carry::unpack(s, sizes)).pack(),
            );
            Carry::unpack(&end, sizes)
        })
    }

    /// Runs iterations up to and including the next one with a mask update, then the update.
    fn advance_to_update<'g>(
        &self,
        g: &'g Graph,
        specs: &[(String, Shape)],
        mut carry: Carry<'g>,
        sizes: Sizes,
    ) -> Carry<'g> {
        carry.pending[0] = g.scalar(0f32);
        let mut carry = self.iterations(g, specs, carry, sizes, |trainer, carry| {
            trainer.continues(carry) & carry.pending[0].eq(0.0)
        });
        let update_inputs = self.update_inputs(g, &carry).pack();
        let (update, states, agree) = (carry.pending[0], specs.len(), carry.agree.len());
        let mask_keys = carry.mask_keys.len();
        // A loop of zero or one round instead of a conditional: in the empty branch of a conditional XLA copies the state.
        let mut after = g.while_loop(
            &[
                &[update],
                &carry.state[..],
                &carry.agree,
                &carry.mask_keys,
                &update_inputs,
            ]
            .concat(),
            |_, s| s[0].gt(0.0),
            |g, s| {
                let (due, update_inputs) = (s[0].gt(0.0), &s[1 + states + agree + mask_keys..]);
                // XLA hoists loop invariants out of the loop, even if it has no round. Values that depend on the flag are not
                // invariant.
                let held: Vec<_> = update_inputs
                    .iter()
                    .map(|tensor| due.broadcast_to(&tensor.dims()).select(*tensor, tensor.zeros_like()))
                    .collect();
                let mut state = State::new(specs, &s[1..=states]);
                self.mask_update(g, &mut state, &UpdateInputs::new(self, &held));
                let agree = self.agreement(g, &state).into_iter().collect();
                let mask_keys = self.mask_keys(&state);
                [
                    vec![g.scalar(0f32)],
                    state.tensors(specs),
                    agree,
                    mask_keys,
                    update_inputs.to_vec(),
                ]
                .concat()
            },
        );
        after.truncate(1 + states + agree + mask_keys);
        carry.mask_keys = after.split_off(1 + states + agree);
        carry.agree = after.split_off(1 + states);
        carry.state = after.split_off(1);
        carry
    }

    /// Inputs of the mask update after the last iteration.
    fn update_inputs<'g>(&self, g: &'g Graph, carry: &Carry<'g>) -> UpdateInputs<'g> {
        let batch = match self.updates_need_batch() {
            true => self.batch(g, carry.measured.done - g.scalar(1i32), &carry.inputs, false),
            false => vec![],
        };
        UpdateInputs {
            drop_fraction: carry.pending[1],
            seed: self.input(&carry.inputs, "seed"),
            replica: self
                .updates_need_replica()
                .then(|| self.input(&carry.inputs, "replica")),
            densities: carry.pending[2..].to_vec(),
            gradients: carry.gradients.clone(),
            batch,
        }
    }

    /// One iteration without its mask update.
    fn advance<'g>(&self, g: &'g Graph, specs: &[(String, Shape)], mut carry: Carry<'g>) -> Carry<'g> {
        let mut state = State::new(specs, &carry.state);
        let before = carry.measured;
        let i = before.done;
        let scheduled = Scheduled::new(self.plan, &carry.row);
        let batch = self.batch(g, i, &carry.inputs, self.plan.takes_examples_by_lanes());
        let [number, seed] = self.drawn_from(i, &carry.inputs);
        let replica = (self.plan.replicas() > 1).then(|| self.input(&carry.inputs, "replica"));
        let draw = Draw::new(seed, number, replica);
        let outcome = self.iteration(g, &mut state, &batch, &draw, &scheduled, &carry.mask_keys);
        let sums = carry
            .metrics
            .iter()
            .zip(&outcome.metrics)
            .map(|(&sum, &mean)| sum + mean);
        carry.metrics = sums.collect();
        let next = i + g.scalar(1i32);
        // Only the last iteration of a launch is reported.
        let reported = next.eq(self.input(&carry.inputs, "count"));
        let gradient_norms = self.gradient_norms(g, reported, before.gradient_norms, &outcome.own, &state);
        carry.measured = Measured {
            done: next,
            last: outcome.cross_entropy,
            sum: before.sum + outcome.cross_entropy,
            correct: before.correct + outcome.correct,
            gradient_norms,
        };
        carry.pending = [&[scheduled.update, scheduled.drop_fraction], &scheduled.densities[..]].concat();
        carry.row = self.read_row(&carry.inputs, next);
        carry.gradients = outcome.gradients[..carry.gradients.len()].to_vec();
        carry.state = state.tensors(specs);
        carry
    }

    /// Preprocessed images and labels of iteration `i` of the launch, or the inputs of an exported model. Images `by_lanes` are
    /// laid out for a sparse layer, with more rows than there are labels.
    fn batch<'g>(&self, g: &'g Graph, i: Tensor<'g>, inputs: &[Tensor<'g>], by_lanes: bool) -> Vec<Tensor<'g>> {
        let _scope = g.scope("batch");
        let batch = self.plan.replica_batch();
        if let Some(exported) = &self.plan.exported {
            let first = i * g.scalar(batch as i32);
            let rows = |array: &Tensor<'g>| {
                let (mut starts, mut window) = (vec![g.scalar(0i32); array.dims().len()], array.dims());
                (starts[0], window[0]) = (first, batch);
                array.dynamic_slice(&starts, &window)
            };
            return inputs[..exported.manifest.inputs.len()].iter().map(rows).collect();
        }
        let rows = self
            .input(inputs, "indices")
            .dynamic_slice(&[i, g.scalar(0i32)], &[1, batch])
            .reshape(&[batch]);
        let images = self.input(inputs, "images");
        let pixels = match by_lanes {
            true => take_examples(images, rows),
            false => images.take_rows(rows),
        };
        let images = self.prepared(pixels, || self.key(i, inputs, "augment"));
        vec![images, self.input(inputs, "labels").take_rows(rows)]
    }

    /// Key of the random numbers of iteration `i` of the launch for `purpose`.
    fn key<'g>(&self, i: Tensor<'g>, inputs: &[Tensor<'g>], purpose: &str) -> Key<'g> {
        let [number, seed] = self.drawn_from(i, inputs);
        let replica = (self.plan.replicas() > 1).then(|| self.input(inputs, "replica"));
        draw_key(seed, purpose, number, replica)
    }

    /// Number of iteration `i` of the launch in the run, and the seed.
    fn drawn_from<'g>(&self, i: Tensor<'g>, inputs: &[Tensor<'g>]) -> [Tensor<'g>; 2] {
        let i = i.convert(DType::S64);
        let number = match self.plan.draws() {
            true => self.input(inputs, "iteration") + i,
            false => i,
        };
        [number, self.input(inputs, "seed")]
    }

    /// The values of row `i` of `schedule`, `f32[K, columns]`; past the end those of the last row.
    fn read_row<'g>(&self, inputs: &[Tensor<'g>], i: Tensor<'g>) -> Vec<Tensor<'g>> {
        let schedule = self.input(inputs, "schedule");
        let g = schedule.graph();
        let at = |column: i32| schedule.dynamic_slice(&[i, g.scalar(column)], &[1, 1]).reshape(&[]);
        (0..Row::columns(self.plan) as i32).map(at).collect()
    }

    /// The input with this name, one of [`input_names`].
    pub(super) fn input<'g>(&self, inputs: &[Tensor<'g>], name: &str) -> Tensor<'g> {
        let position = input_names(self.plan).iter().position(|n| n == name);
        inputs[position.unwrap_or(inputs.len())]
    }
}
