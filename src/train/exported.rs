//! Training iterations and evaluations of exported models: calls of their programs on effective weights.

use super::state::{State, inference_specs};
use super::step::{Draw, Trainer, effective};
use crate::config::Plan;
use crate::exported::{Exported, state_name};
use hlo::{Computation, DType, Graph, Reducer, Shape, Tensor};
use models::Declaration;

/// Results of a loss; of one replica its share in them.
pub(super) struct Loss<'g> {
    /// Mean over the batch, f32 scalar.
    pub loss: Tensor<'g>,
    /// Means of the metrics over the batch, f32 scalars.
    pub metrics: Vec<Tensor<'g>>,
    /// Dense gradients of all parameters, f32.
    pub gradients: Vec<Tensor<'g>>,
}

/// Name of a program's input for an array of a batch.
pub(super) fn input_name(input: &str) -> String {
    format!("batch/{input}")
}

/// Parameters and state as the programs take them. Trained weights are f32, whatever the type of the leaf.
fn arguments<'g>(exported: &Exported, effective: &[Tensor<'g>], state: &State<'g>) -> Vec<Tensor<'g>> {
    let leaves = exported.manifest.params.iter().zip(effective);
    let weights = leaves.map(|(leaf, weights)| weights.convert(leaf.typed().dtype));
    let states = exported
        .manifest
        .state
        .iter()
        .map(|leaf| state.get(&state_name(&leaf.name)));
    weights.chain(states).collect()
}

/// The key of the file, and the numbers that the program folds into it.
fn key<'g>(g: &'g Graph, exported: &Exported, numbers: [Tensor<'g>; 3]) -> Vec<Tensor<'g>> {
    match exported.arrays.get("key") {
        Some(key) => [vec![g.constant(key.clone())], numbers.to_vec()].concat(),
        None => vec![],
    }
}

impl Trainer<'_> {
    /// This replica's share in loss, metrics and gradients of a batch on the effective weights; sets the new state.
    pub(super) fn exported_loss<'g>(
        &self,
        g: &'g Graph,
        exported: &Exported,
        state: &mut State<'g>,
        [effective, batch]: [&[Tensor<'g>]; 2],
        draw: &Draw<'g>,
    ) -> Loss<'g> {
        let manifest = &exported.manifest;
        let results = {
            let _scope = g.scope("exported");
            let word = |i: usize| draw.seed.slice(&[i], &[i + 1]).reshape(&[]);
            let replica = draw
                .replica
                .map_or(g.scalar(0u32), |replica| replica.convert(DType::U32));
            let numbers = [word(0) ^ word(1), draw.iteration.convert(DType::U32), replica];
            let key = key(g, exported, numbers);
            g.call_module(
                &exported.train,
                &[&arguments(exported, effective, state), &key, batch].concat(),
            )
        };
        let (scalars, rest) = results.split_at(1 + manifest.metrics.len());
        let (after, gradients) = rest.split_at(manifest.state.len());
        for (leaf, &value) in manifest.state.iter().zip(after) {
            state.set(&state_name(&leaf.name), value);
        }
        let own = |value: &Tensor<'g>| self.part_of_mean(value.convert(DType::F32));
        let mut means: Vec<_> = scalars.iter().map(own).collect();
        Loss {
            loss: means.remove(0),
            metrics: means,
            gradients: gradients.iter().map(own).collect(),
        }
    }
}

/// The evaluation of one batch, if the run trains an exported model.
///
/// # Errors
/// None for checked models.
pub fn evaluation_of(plan: &Plan) -> hlo::Result<Option<Computation>> {
    let Some(exported) = &plan.exported else {
        return Ok(None);
    };
    let needs = &plan.declaration();
    Network { exported, needs }.evaluation(plan.replicas()).map(Some)
}

/// The forward pass of one batch, with the number of its arrays that training changes, if the run trains an exported model.
///
/// # Errors
/// None for checked models.
pub fn forward_of(plan: &Plan) -> hlo::Result<Option<(Computation, usize)>> {
    let Some(exported) = &plan.exported else {
        return Ok(None);
    };
    let needs = &plan.declaration();
    let network = Network { exported, needs };
    let forward = match exported.predict {
        Some(_) => network.prediction()?,
        None => network.evaluation(1)?,
    };
    Ok(Some((forward, inference_specs(needs).len())))
}

/// An exported model as an evaluation uses it.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    /// The model.
    pub exported: &'a Exported,
    /// Its arrays.
    pub needs: &'a Declaration,
}

impl Network<'_> {
    fn inputs(&self) -> impl Iterator<Item = (String, Shape)> {
        let inputs = self.exported.manifest.inputs.iter();
        inputs.map(|input| (input_name(&input.name), input.typed()))
    }

    /// The first arguments of the programs: effective weights and state.
    fn arguments<'g>(&self, state: &State<'g>) -> Vec<Tensor<'g>> {
        let effective: Vec<_> = self.needs.params.iter().map(|param| effective(param, state)).collect();
        arguments(self.exported, &effective, state)
    }

    /// Sums of the measures over one batch of each replica.
    ///
    /// Inputs: those of [`inference_specs`], the arrays of a batch, and `present` `pred[batch]`, which is false for padding.
    /// Outputs: a sum (f32) for each measure; of a measure of the batch its value times the examples.
    ///
    /// # Errors
    /// None for checked models.
    pub fn evaluation(&self, replicas: usize) -> hlo::Result<Computation> {
        let specs = inference_specs(self.needs);
        let batch = self.exported.manifest.batch;
        let present = ("present".to_owned(), Shape::new(DType::Pred, [batch]));
        let parameters: Vec<_> = specs.iter().cloned().chain(self.inputs()).chain([present]).collect();
        Graph::function("eval_batch", &parameters, |g, inputs| {
            let (state, data) = inputs.split_at(specs.len());
            let Some((present, data)) = data.split_last() else {
                return vec![];
            };
            let state = State::new(&specs, state);
            let key = match self.exported.manifest.evaluation.key {
                true => key(g, self.exported, [g.scalar(0u32); 3]),
                false => vec![],
            };
            let arguments = [&self.arguments(&state)[..], &key, data].concat();
            let results = g.call_module(&self.exported.evaluate, &arguments);
            let measures = self.exported.manifest.evaluation.results.iter().zip(results);
            let sums = measures.map(|(measure, value)| match measure.per_example {
                true => present.select(value, value.zeros_like()).reduce_sum(&[0]),
                false => value * present.convert(DType::F32).reduce_sum(&[0]),
            });
            sums.map(|sum| match replicas {
                1 => sum,
                _ => sum.all_reduce(Reducer::Add),
            })
            .collect()
        })
    }

    /// Predictions of one batch. Inputs: those of [`inference_specs`], and the arrays of a batch.
    ///
    /// # Errors
    /// None for checked models.
    pub fn prediction(&self) -> hlo::Result<Computation> {
        let specs = inference_specs(self.needs);
        let parameters: Vec<_> = specs.iter().cloned().chain(self.inputs()).collect();
        Graph::function("predict", &parameters, |g, inputs| {
            let (state, data) = inputs.split_at(specs.len());
            let state = State::new(&specs, state);
            let predict = self.exported.predict.as_ref();
            predict.map_or(vec![], |module| {
                g.call_module(module, &[&self.arguments(&state)[..], data].concat())
            })
        })
    }
}
