//! Optimizers (reference 2.10), one file each: what they keep for each parameter, and the gradient step as a graph.

mod adam;
mod adamw;
mod decay;
mod momentum;
mod sgd;

pub use decay::{DECAY_STEPS, decay_steps};
use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::named::{self, Named};

/// Every optimizer.
pub static OPTIMIZERS: [&Optimizer; 4] = [&momentum::MOMENTUM, &sgd::SGD, &adam::ADAM, &adamw::ADAMW];

/// An optimizer. Slots and scalars have the names that TensorFlow gives them.
#[derive(Debug)]
pub struct Optimizer {
    /// Name in flags and configurations.
    pub name: &'static str,
    /// Arrays kept for each parameter: the suffixes of their names. They start at 0.
    pub slots: &'static [&'static str],
    /// Scalars that all parameters share.
    pub scalars: &'static [Scalar],
    /// Whether weight decay multiplies the weights, instead of adding an L2 term to the loss.
    pub decoupled_decay: bool,
    /// Learning rate of a step, from the schedule's rate and the scalars before the step.
    rate: for<'g> fn(rate: Tensor<'g>, scalars: &[Tensor<'g>]) -> Tensor<'g>,
    /// Weights and slots after the step.
    ///
    /// Scalars come before the arrays that they multiply: XLA's CPU compiler emits code for each order of operands, and a scalar
    /// that follows an array in the first layer of a shape precedes it in the others, which share that code.
    apply: for<'g> fn(step: &Step<'g, '_>, parameter: Parameter<'g, '_>) -> (Tensor<'g>, Vec<Tensor<'g>>),
}

/// A scalar of the state that starts at its factor, and is multiplied by it in every step.
#[derive(Debug)]
pub struct Scalar {
    /// Name in the state.
    pub name: &'static str,
    /// Its factor.
    pub factor: fn(&Settings) -> f64,
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The optimizer.
    #[serde(rename = "name", with = "named")]
    pub rule: &'static Optimizer,
    /// Momentum coefficient, in `[0, 1)`.
    pub momentum: f64,
    /// Whether to use Nesterov's form (reference 2.10).
    pub nesterov: bool,
    /// Decay of Adam's average of gradients, in `[0, 1)`.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of Adam's average of squared gradients, in `[0, 1)`.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Number that Adam adds to the root of the average square, above 0.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// L2 coefficient: adds `weight_decay / 2 * sum(w^2)` over the raw decayed parameters to the loss. With `adamw`, the share
    /// of the weights that a step of rate 1 takes away.
    pub weight_decay: f64,
    /// Largest norm of the gradient of all parameters together, without the L2 term; a larger one is scaled down to it.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay per gradient step of an average of the weights, in `[0, 1)`, which evaluations and predictions use. Default:
    /// no average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
}

impl Settings {
    /// The L2 coefficient of the loss: 0 where weight decay is decoupled.
    pub fn l2(&self) -> f64 {
        if self.rule.decoupled_decay {
            0.0
        } else {
            self.weight_decay
        }
    }
}

// Defaults for older configurations, which lack these keys.
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.999
}
fn epsilon() -> f64 {
    1e-8
}

/// A parameter before the step.
pub struct Parameter<'g, 'a> {
    /// Its weights.
    pub weights: Tensor<'g>,
    /// Its slots, in the order of [`Optimizer::slots`].
    pub slots: &'a [Tensor<'g>],
    /// Gradient with the L2 term; 0 if no step is taken.
    pub gradient: Tensor<'g>,
    /// Whether weight decay applies.
    pub decayed: bool,
}

/// Coefficients of an iteration, f32 scalars. If a mask update replaces the gradient step, the step is still computed, with
/// coefficients that change nothing.
#[derive(Clone, Copy)]
pub struct Coefficients<'g> {
    /// Learning rate; 0 if no step is taken.
    pub rate: Tensor<'g>,
    /// Factor of the velocity; 1 if no step is taken.
    pub decay: Tensor<'g>,
    /// Factor of the change of averages: 1, or 0 if no step is taken.
    pub advance: Tensor<'g>,
    /// Whether the step is taken, a pred scalar.
    pub taken: Tensor<'g>,
}

/// One iteration's step, the same for every parameter.
pub struct Step<'g, 'a> {
    settings: &'a Settings,
    coefficients: Coefficients<'g>,
    /// Learning rate of the optimizer.
    rate: Tensor<'g>,
    /// Scalars before the step.
    scalars: Vec<Tensor<'g>>,
}

impl<'g, 'a> Step<'g, 'a> {
    /// `scalars` are those of [`Optimizer::scalars`], before the step.
    pub fn new(settings: &'a Settings, coefficients: Coefficients<'g>, scalars: &[Tensor<'g>]) -> Self {
        Step {
            settings,
            coefficients,
            rate: (settings.rule.rate)(coefficients.rate, scalars),
            scalars: scalars.to_vec(),
        }
    }

    /// Weights and slots of a parameter after the step.
    pub fn apply(&self, parameter: Parameter<'g, '_>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        (self.settings.rule.apply)(self, parameter)
    }

    /// The scalars after the step.
    ///
    /// # Panics
    /// If their number is not that of [`Optimizer::scalars`].
    pub fn advance(&self, scalars: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let rows = self.settings.rule.scalars;
        assert_eq!(scalars.len(), rows.len(), "scalars of the optimizer");
        let next = |(&value, row): (&Tensor<'g>, &Scalar)| {
            let factor = (row.factor)(self.settings);
            self.coefficients.taken.select(value * factor, value)
        };
        scalars.iter().zip(rows).map(next).collect()
    }
}

impl<'g> Parameter<'g, '_> {
    /// The slots as an array.
    fn slots<const N: usize>(&self) -> [Tensor<'g>; N] {
        let found = self.slots.len();
        match self.slots.try_into() {
            Ok(slots) => slots,
            Err(_) => panic!("{found} slots, expected {N}"),
        }
    }
}

impl Optimizer {
    /// Names of the scalars.
    pub fn scalar_names(&self) -> Vec<&'static str> {
        self.scalars.iter().map(|scalar| scalar.name).collect()
    }

    /// Names of the slots of a parameter.
    pub fn slots_of(&self, parameter: &str) -> Vec<String> {
        self.slots.iter().map(|slot| format!("{parameter}/{slot}")).collect()
    }
}

impl PartialEq for Optimizer {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Named for &'static Optimizer {
    const KIND: &'static str = "optimizer";
    const ALL: &'static [Self] = &OPTIMIZERS;

    fn name(self) -> &'static str {
        self.name
    }
}

/// The schedule's learning rate as it is.
fn scheduled<'g>(rate: Tensor<'g>, _scalars: &[Tensor<'g>]) -> Tensor<'g> {
    rate
}
