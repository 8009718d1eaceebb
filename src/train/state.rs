//! Training state: named arrays and nothing else, under the original's variable names.

use crate::config::Plan;
use crate::rng;
use crate::sparse::{self, Counters};
use hlo::{DType, Literal, Shape, Tensor};
use models::{Draw, Init, Param, Statistic};
use std::collections::BTreeMap;

/// Number of gradient steps applied, `s64[]`.
pub const GLOBAL_STEP: &str = "global_step";
/// Global step of the last mask update, `s64[]`.
pub const LAST_UPDATE: &str = "last_mask_update_step";

/// Name of a parameter's momentum slot.
pub fn momentum(param: &str) -> String {
    format!("{param}/Momentum")
}

/// Name and shape of every array of the state, in the order in which device programs take them.
pub fn specs(plan: &Plan) -> Vec<(String, Shape)> {
    let network = inference_specs(&plan.params, &plan.statistics, &[]);
    let slot = |p: &Param| (momentum(&p.name), Shape::new(DType::F32, p.dims.clone()));
    let counter = |name: &str| (name.to_string(), Shape::scalar(DType::S64));
    let last = plan.method.updates().then(|| counter(LAST_UPDATE));
    network
        .into_iter()
        .chain(plan.params.iter().map(slot))
        .chain([counter(GLOBAL_STEP)])
        .chain(last)
        .collect()
}

/// The arrays that evaluation needs: parameters, masks, moving statistics and what is fixed.
pub fn inference_specs(params: &[Param], statistics: &[Statistic], fixed: &[(String, Shape)]) -> Vec<(String, Shape)> {
    let f32s = |name: &String, dims: &[usize]| (name.clone(), Shape::new(DType::F32, dims));
    let weights = params.iter().map(|p| f32s(&p.name, &p.dims));
    let masks = params
        .iter()
        .filter_map(|p| Some((p.mask.clone()?, Shape::new(DType::Pred, p.dims.clone()))));
    let statistics = statistics.iter().map(|s| f32s(&s.name, &s.dims));
    weights
        .chain(masks)
        .chain(statistics)
        .chain(fixed.iter().cloned())
        .collect()
}

/// The state before the first iteration, a pure function of plan and seed.
///
/// # Errors
/// A seed that the chosen mask generator does not take.
pub fn initial(plan: &Plan) -> Result<BTreeMap<String, Literal>, sparse::Error> {
    let seed = plan.run.train.seed;
    let masks = sparse::initial_masks(&plan.budgets, seed, plan.run.sparsity.mask_seed_compat)?;
    let mut masks = masks.into_iter();
    let mut state = BTreeMap::new();
    for param in &plan.params {
        state.insert(
            param.name.clone(),
            Literal::new(&param.dims, &initial_values(&param.name, &param.dims, param.init, seed)),
        );
        state.insert(
            momentum(&param.name),
            Literal::zeros(Shape::new(DType::F32, param.dims.clone())),
        );
        if let (Some(name), Some(mask)) = (&param.mask, param.mask.as_ref().and_then(|_| masks.next())) {
            state.insert(name.clone(), Literal::from_bools(&param.dims, &mask));
        }
    }
    for Statistic { name, dims, init } in &plan.statistics {
        let values = initial_values(name, dims, *init, seed);
        state.insert(name.clone(), Literal::new(dims, &values));
    }
    let counters = Counters::start(&plan.schedule);
    state.insert(GLOBAL_STEP.into(), Literal::scalar(counters.gs));
    if plan.method.updates() {
        state.insert(LAST_UPDATE.into(), Literal::scalar(counters.last));
    }
    Ok(state)
}

/// Draws an array from its initialiser: a function of seed and name alone.
fn initial_values(name: &str, dims: &[usize], init: Init, seed: u64) -> Vec<f32> {
    let n = dims.iter().product();
    let mut stream = rng::stream(seed, "init", name, 0);
    let mut fill = |draw: &mut dyn FnMut(&mut rng::Stream) -> f64| (0..n).map(|_| draw(&mut stream) as f32).collect();
    match init.draw(dims) {
        Draw::Constant(value) => vec![value as f32; n],
        Draw::Uniform(limit) => fill(&mut |s| (s.uniform_f64() * 2.0 - 1.0) * limit),
        Draw::Normal(std) => fill(&mut |s| s.normal() * std),
        Draw::TruncatedNormal(std) => fill(&mut |s| s.truncated_normal() * std),
    }
}

/// The state within a graph.
#[derive(Clone)]
pub struct State<'g>(BTreeMap<String, Tensor<'g>>);

impl<'g> State<'g> {
    /// From `tensors` in the order of `specs`.
    pub fn new(specs: &[(String, Shape)], tensors: &[Tensor<'g>]) -> Self {
        State(
            specs
                .iter()
                .map(|(name, _)| name.clone())
                .zip(tensors.iter().copied())
                .collect(),
        )
    }

    /// The array of a name that [`specs`] lists.
    ///
    /// # Panics
    /// On any other name.
    pub fn get(&self, name: &str) -> Tensor<'g> {
        self.0[name]
    }

    /// Replaces an array.
    pub fn set(&mut self, name: &str, value: Tensor<'g>) {
        self.0.insert(name.to_string(), value);
    }

    /// The arrays in the order of `specs`.
    pub fn tensors(&self, specs: &[(String, Shape)]) -> Vec<Tensor<'g>> {
        specs.iter().map(|(name, _)| self.0[name]).collect()
    }
}
