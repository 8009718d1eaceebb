//! One layer's mask update, as the graph does it and as the reference does.

use crate::{Backend, Program, bools, f32s, random};
use hlo::random::Key;
use hlo::{DType, Graph, Literal, Shape};
use sparse::reference::{LayerState, UpdateInputs, UpdateReport, mask_update};
use sparse::select::Select;
use sparse::update::{Inputs, Layer, Rule, update};
use sparse::{GrowInit, KeepCount, Method, random_mask};

/// Standard deviation of the noise on drop scores in training.
pub const NOISE: f64 = 1e-5;

pub fn rule(method: &str) -> Rule {
    Rule {
        method: Method::find(method).unwrap(),
        grow_init: GrowInit::Zeros,
        initial_acc_scale: 0.0,
        drop_noise_std: NOISE,
        threshold_decay: 0.0,
        select: Select::Bits,
    }
}

/// A layer that owns its arrays.
#[derive(Clone, Debug)]
pub struct Owned {
    pub weights: Vec<f32>,
    pub mask: Vec<bool>,
    pub slots: Vec<Vec<f32>>,
}

impl Owned {
    /// A random mask with `ones` ones, and distinct slots.
    pub fn new(weights: Vec<f32>, ones: usize) -> Self {
        let n = weights.len();
        let slots = [1.0, -1.0].map(|sign| (1..=n).map(|i| sign * i as f32).collect());
        Owned {
            mask: random_mask(n, n - ones, &mut random("mask", n + ones)),
            slots: slots.to_vec(),
            weights,
        }
    }
}

/// Inputs of an update besides the layer.
pub struct Given {
    pub gradient: Vec<f32>,
    pub drop_fraction: f32,
    pub seed: [u32; 2],
    /// A sample of the initialiser.
    pub initial_draw: Vec<f32>,
    /// Basis of the scores of SNFS, SNIP and GraSP.
    pub score: Vec<f32>,
    /// How many entries a method that prunes keeps.
    pub keep: usize,
    /// Threshold of gradual pruning before the update.
    pub threshold: f32,
}

/// The update of a rule for layers of `dims`, ready to run; with the random numbers that it draws, from a graph apart.
pub struct Updater {
    pub rule: Rule,
    dims: Vec<usize>,
    update: Program,
    draws: Program,
}

impl Updater {
    pub fn new(backend: Backend, rule: Rule, dims: &[usize]) -> Self {
        Updater {
            rule,
            dims: dims.to_vec(),
            update: backend.program(update_graph(&rule, dims)),
            draws: backend.program(draws_graph(dims)),
        }
    }

    /// The layer after the update by the graph, and the threshold of gradual pruning.
    pub fn by_graph(&self, layer: &Owned, given: &Given) -> (Owned, Option<f32>) {
        let array = |values: &[f32]| Literal::new(&self.dims, values);
        let outputs = self.update.run(&[
            array(&layer.weights),
            Literal::from_bools(&self.dims, &layer.mask),
            array(&layer.slots[0]),
            array(&layer.slots[1]),
            array(&given.gradient),
            Literal::scalar(given.drop_fraction),
            Literal::new(&[2], &given.seed),
            array(&given.initial_draw),
            array(&given.score),
            Literal::scalar(given.keep as i32),
            Literal::scalar(given.threshold),
        ]);
        let after = Owned {
            weights: f32s(&outputs[0]),
            mask: bools(&outputs[1]),
            slots: outputs[2..4].iter().map(f32s).collect(),
        };
        (after, outputs.get(4).and_then(Literal::item::<f32>))
    }

    /// The layer after the update by the reference, given the same random numbers.
    pub fn by_reference(&self, layer: &Owned, given: &Given) -> (Owned, UpdateReport) {
        let draws: Vec<Vec<f32>> = self
            .draws
            .run(&[Literal::new(&[2], &given.seed)])
            .iter()
            .map(f32s)
            .collect();
        let grow_draw = match self.rule.grow_init {
            GrowInit::InitialDist(_) => &given.initial_draw,
            GrowInit::RandomUniform(_) => &draws[3],
            _ => &draws[2],
        };
        let inputs = UpdateInputs {
            drop_fraction: given.drop_fraction,
            gradient: Some(&given.gradient),
            drop_noise: Some(&draws[0])
                .filter(|_| self.rule.drop_noise_std != 0.0)
                .map(|n| &n[..]),
            grow_uniform: Some(&draws[1]),
            grow_init: self.rule.grow_init,
            grow_draw: Some(grow_draw),
            initial_acc_scale: self.rule.initial_acc_scale as f32,
            average: Some(&given.score),
            loss_gradient: Some(&given.score),
            hessian_gradient: Some(&given.score),
            keep: Some(given.keep),
            threshold: given.threshold,
            threshold_decay: self.rule.threshold_decay,
        };
        let mut after = layer.clone();
        let Owned { weights, mask, slots } = &mut after;
        let report = mask_update(self.rule.method, LayerState { weights, mask, slots }, &inputs).unwrap();
        (after, report)
    }
}

fn update_graph(rule: &Rule, dims: &[usize]) -> hlo::Computation {
    let array = |name: &str, dtype| (name.to_string(), Shape::new(dtype, dims));
    let parameters = [
        array("weights", DType::F32),
        array("mask", DType::Pred),
        array("slot1", DType::F32),
        array("slot2", DType::F32),
        array("gradient", DType::F32),
        ("drop_fraction".to_string(), Shape::scalar(DType::F32)),
        ("seed".to_string(), Shape::new(DType::U32, [2])),
        array("initial_draw", DType::F32),
        array("score", DType::F32),
        ("keep".to_string(), Shape::scalar(DType::S32)),
        ("threshold".to_string(), Shape::scalar(DType::F32)),
    ];
    Graph::function("update", &parameters, |_, p| {
        let layer = Layer {
            weights: p[0],
            mask: p[1],
            slots: p[2..4].to_vec(),
            threshold: Some(p[10]).filter(|_| rule.method.keep == KeepCount::Gradual),
        };
        let inputs = Inputs {
            gradient: p[4],
            drop_fraction: p[5],
            key: Key::new(p[6]),
            initial_draw: Some(p[7]),
            valid: None,
            score: Some(p[8]),
            keep: Some(p[9]),
        };
        let after = update(rule, &layer, &inputs);
        let threshold = after.threshold.into_iter().collect();
        [vec![after.weights, after.mask], after.slots, threshold].concat()
    })
    .unwrap()
}

/// Drop noise, uniform grow scores, and the draws of a grow-init: purposes 1, 2 and 3 of the layer's key.
fn draws_graph(dims: &[usize]) -> hlo::Computation {
    let parameters = [("seed".to_string(), Shape::new(DType::U32, [2]))];
    Graph::function("draws", &parameters, |_, p| {
        let key = |purpose| Key::new(p[0]).fold(purpose);
        let noise = key(1).normal(dims) * NOISE;
        vec![noise, key(2).uniform(dims), key(3).normal(dims), key(3).uniform(dims)]
    })
    .unwrap()
}
