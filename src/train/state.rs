//! Training state: arrays under the original's variable names.

use crate::checkpoint::WEIGHT_AVERAGE;
use crate::config::{Plan, layer_name};
use hlo::{DType, Literal, Shape, Tensor};
use models::{Declaration, Draw, Init, Param};
use sparse::rng;
use sparse::{Counters, GrowScore, InitialMask, KeepCount, UpdateTiming};
use std::collections::BTreeMap;

/// Number of gradient steps applied, `s64[]`.
pub const GLOBAL_STEP: &str = "global_step";
/// Global step of the last mask update, `s64[]`.
pub const LAST_UPDATE: &str = "last_mask_update_step";
/// The same under gradual pruning, `s32[]`.
pub const LAST_PRUNING: &str = "model_pruning/last_mask_update_step";
/// Whether one-shot pruning is done, `pred[]`.
pub const IS_PRUNED: &str = "is_snipped";

/// Name of a layer's average of dense gradients: SNFS's moving average, or the average over the batches before an update. The
/// original's name of the former contains internals of its graph (reference 3).
pub fn average(plan: &Plan, param: &Param) -> Option<String> {
    let masked = param.mask.is_some();
    let suffix = match plan.method.grow {
        GrowScore::Momentum => "ExponentialMovingAverage",
        _ if plan.run.method.gradient_batches > 1 => "GradientAverage",
        _ => return None,
    };
    masked.then(|| format!("{}/{suffix}", param.name))
}

/// Name of the average of a parameter's weights, if the run keeps one.
pub fn weight_average(plan: &Plan, name: &str) -> Option<String> {
    plan.run.optimizer.ema_decay?;
    let param = plan.params.iter().any(|param| param.name == name);
    (param && !plan.is_frozen(name)).then(|| format!("{name}/{WEIGHT_AVERAGE}"))
}

/// Names of the arrays that are reset where a connection of a parameter is grown: slots, and the average of weights.
pub fn slots_of(plan: &Plan, name: &str) -> Vec<String> {
    let mut slots = plan.run.optimizer.rule.slots_of(name);
    slots.extend(weight_average(plan, name));
    slots
}

/// Name of a layer's threshold under gradual pruning, `f32[]`.
pub fn threshold(plan: &Plan, param: &Param) -> Option<String> {
    let layer = layer_name(param)?;
    (plan.method.keep == KeepCount::Gradual).then(|| format!("{layer}/threshold"))
}

/// Name of the array that marks the weights of a layer that were ever active, if the method tracks them.
pub fn explored(plan: &Plan, param: &Param) -> Option<String> {
    let layer = layer_name(param)?;
    plan.method.tracks_exploration.then(|| format!("{layer}/explored"))
}

/// Name and type of the counter of the last mask update.
fn last_update(timing: UpdateTiming) -> Option<(&'static str, DType)> {
    match timing {
        UpdateTiming::None | UpdateTiming::Every => None,
        UpdateTiming::Replaces | UpdateTiming::After => Some((LAST_UPDATE, DType::S64)),
        UpdateTiming::AfterInterval => Some((LAST_PRUNING, DType::S32)),
        UpdateTiming::Once => Some((IS_PRUNED, DType::Pred)),
    }
}

/// Name and shape of every array of the state, in the order of the inputs of device programs.
pub fn specs(plan: &Plan) -> Vec<(String, Shape)> {
    let of = |name: String, dtype, p: &Param| (name, Shape::new(dtype, p.dims.clone()));
    let params = plan.params.iter().map(|p| of(p.name.clone(), DType::F32, p));
    let masks = plan
        .params
        .iter()
        .filter_map(|p| Some(of(p.mask.clone()?, DType::Pred, p)));
    let trained = plan.params.iter().filter(|p| !plan.is_frozen(&p.name));
    let slots = trained.flat_map(|p| {
        let slots = slots_of(plan, &p.name).into_iter();
        slots.map(|slot| of(slot, DType::F32, p))
    });
    let averages = plan
        .params
        .iter()
        .filter_map(|p| Some(of(average(plan, p)?, DType::F32, p)));
    let explored = plan
        .params
        .iter()
        .filter_map(|p| Some(of(explored(plan, p)?, DType::Pred, p)));
    let statistics = plan.statistics.iter().map(|s| {
        let shape = Shape::new(s.dtype, s.dims.clone());
        (s.name.clone(), shape)
    });
    let scalar = |name: String, dtype| (name, Shape::scalar(dtype));
    let thresholds = plan
        .params
        .iter()
        .filter_map(|p| Some(scalar(threshold(plan, p)?, DType::F32)));
    let shared = plan.run.optimizer.rule.scalar_names().into_iter();
    let shared = shared.map(|name| scalar(name.into(), DType::F32));
    let last = last_update(plan.method.timing).map(|(name, dtype)| scalar(name.into(), dtype));
    params
        .chain(masks)
        .chain(slots)
        .chain(statistics)
        .chain(averages)
        .chain(explored)
        .chain(thresholds)
        .chain(shared)
        .chain([scalar(GLOBAL_STEP.into(), DType::S64)])
        .chain(last)
        .collect()
}

/// The arrays that inference needs: parameters, masks, statistics and fixed arrays.
pub fn inference_specs(needs: &Declaration) -> Vec<(String, Shape)> {
    let f32s = |name: &String, dims: &[usize]| (name.clone(), Shape::new(DType::F32, dims));
    let weights = needs.params.iter().map(|p| f32s(&p.name, &p.dims));
    let masks = needs
        .params
        .iter()
        .filter_map(|p| Some((p.mask.clone()?, Shape::new(DType::Pred, p.dims.clone()))));
    let statistics = needs
        .statistics
        .iter()
        .map(|s| (s.name.clone(), Shape::new(s.dtype, s.dims.clone())));
    let fixed = needs.fixed.iter().cloned();
    weights.chain(masks).chain(statistics).chain(fixed).collect()
}

/// The initial state, a pure function of plan and seed.
///
/// # Errors
/// A seed that the mask generator does not support.
pub fn initial(plan: &Plan) -> Result<BTreeMap<String, Literal>, sparse::Error> {
    let seed = plan.run.train.seed;
    let zeros = |(name, shape): (String, Shape)| (name, Literal::zeros(shape));
    let mut state: BTreeMap<_, _> = specs(plan).into_iter().map(zeros).collect();
    let mut masks = initial_masks(plan)?.into_iter();
    for param in &plan.params {
        let exported = plan
            .exported
            .as_ref()
            .and_then(|exported| exported.initial(&param.name));
        let drawn = || Literal::new(&param.dims, &draw(param.init, &param.name, &param.dims, seed));
        state.insert(param.name.clone(), exported.unwrap_or_else(drawn));
        if let (Some(name), Some(mask)) = (&param.mask, param.mask.as_ref().and_then(|_| masks.next())) {
            let mask = Literal::from_bools(&param.dims, &mask);
            if let Some(explored) = explored(plan, param) {
                state.insert(explored, mask.clone());
            }
            state.insert(name.clone(), mask);
        }
    }
    for statistic in &plan.statistics {
        if let Some(value) = plan
            .exported
            .as_ref()
            .and_then(|exported| exported.arrays.get(&statistic.name))
        {
            state.insert(statistic.name.clone(), value.clone());
            continue;
        }
        let values = draw(statistic.init, &statistic.name, &statistic.dims, seed);
        state.insert(statistic.name.clone(), Literal::new(&statistic.dims, &values));
    }
    let optimizer = &plan.run.optimizer;
    for scalar in optimizer.rule.scalars {
        let value = (scalar.factor)(optimizer) as f32;
        state.insert(scalar.name.to_string(), Literal::scalar(value));
    }
    let last = Counters::start(plan.method.timing, &plan.schedule).last_update;
    if let Some((name @ LAST_UPDATE, _)) = last_update(plan.method.timing) {
        state.insert(name.into(), Literal::scalar(last));
    }
    Ok(state)
}

/// Initial masks of the maskable layers, in order.
fn initial_masks(plan: &Plan) -> Result<Vec<Vec<bool>>, sparse::Error> {
    let settings = &plan.run.sparsity;
    match plan.method.initial_mask {
        InitialMask::Random => sparse::initial_masks(&plan.budgets, plan.run.train.seed, settings.mask_seed_compat),
        InitialMask::Ones => Ok(plan.budgets.iter().map(|b| vec![true; b.zeros + b.nonzeros]).collect()),
    }
}

/// The counters of a run whose state is `arrays`, after `iteration` iterations.
pub fn counters(plan: &Plan, arrays: &BTreeMap<String, Literal>, iteration: u64) -> Counters {
    let start = Counters::start(plan.method.timing, &plan.schedule);
    let number = |name: &str| Some(arrays.get(name)?.to_f64_vec().first().copied()? as i64);
    let last = last_update(plan.method.timing).and_then(|(name, _)| number(name));
    let last = match plan.method.timing {
        // One-shot pruning happens at step 0; the state stores only whether it happened.
        UpdateTiming::Once if last == Some(1) => Some(0),
        UpdateTiming::Once => None,
        _ => last,
    };
    Counters {
        iteration,
        global_step: number(GLOBAL_STEP).unwrap_or(start.global_step),
        last_update: last.unwrap_or(start.last_update),
    }
}

/// Draws an array from its initialiser; depends only on seed and name.
fn draw(init: Init, name: &str, dims: &[usize], seed: u64) -> Vec<f32> {
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

/// The state as tensors of a graph.
#[derive(Clone)]
pub struct State<'g>(BTreeMap<String, Tensor<'g>>);

impl<'g> FromIterator<(String, Tensor<'g>)> for State<'g> {
    fn from_iter<T: IntoIterator<Item = (String, Tensor<'g>)>>(arrays: T) -> Self {
        State(arrays.into_iter().collect())
    }
}

impl<'g> State<'g> {
    /// Takes `tensors` in the order of `specs`.
    pub fn new(specs: &[(String, Shape)], tensors: &[Tensor<'g>]) -> Self {
        State(
            specs
                .iter()
                .map(|(name, _)| name.clone())
                .zip(tensors.iter().copied())
                .collect(),
        )
    }

    /// The array with this name.
    ///
    /// # Panics
    /// If [`specs`] does not have the name.
    pub fn get(&self, name: &str) -> Tensor<'g> {
        self.0[name]
    }

    /// The arrays with these names.
    pub fn get_all(&self, names: &[impl AsRef<str>]) -> Vec<Tensor<'g>> {
        names.iter().map(|name| self.get(name.as_ref())).collect()
    }

    /// Replaces the arrays with these names.
    pub fn set_all(&mut self, names: &[impl AsRef<str>], values: Vec<Tensor<'g>>) {
        for (name, value) in names.iter().zip(values) {
            self.set(name.as_ref(), value);
        }
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
