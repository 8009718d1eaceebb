//! The gradient step as a graph (reference 2.10).

use super::step::Scheduled;
use crate::config::{self, OptimizerRule};
use hlo::Tensor;

/// One iteration's step, the same for every parameter.
///
/// Where a mask update takes its place, the step is still computed, by coefficients that leave everything as it is; see
/// [`super::step::Row`].
pub(super) struct Step<'g, 'a> {
    rule: OptimizerRule,
    settings: &'a config::Optimizer,
    scheduled: &'a Scheduled<'g>,
    /// Whether the step is taken, a pred scalar.
    taken: Tensor<'g>,
    /// Learning rate, corrected for the bias of Adam's averages.
    rate: Tensor<'g>,
}

impl<'g, 'a> Step<'g, 'a> {
    /// `scalars` are those of [`OptimizerRule::scalars`], before the step.
    pub fn new(
        rule: OptimizerRule,
        settings: &'a config::Optimizer,
        scheduled: &'a Scheduled<'g>,
        taken: Tensor<'g>,
        scalars: &[Tensor<'g>],
    ) -> Self {
        let rate = match (rule, scalars) {
            (OptimizerRule::Adam, &[power1, power2]) => scheduled.rate * (-power2 + 1.0).sqrt() / (-power1 + 1.0),
            _ => scheduled.rate,
        };
        Step {
            rule,
            settings,
            scheduled,
            taken,
            rate,
        }
    }

    /// Weights and slots of a parameter after the step, given its gradient with weight decay, which is 0 where the step is
    /// not taken.
    ///
    /// Scalars stand before what they multiply: XLA's CPU compiler makes code for each order in which it meets operands, and
    /// a scalar met after an array in the first layer of a shape is met before it in the others, which share it.
    pub fn apply(
        &self,
        weights: Tensor<'g>,
        slots: &[Tensor<'g>],
        gradient: Tensor<'g>,
    ) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        match (self.rule, slots) {
            (OptimizerRule::Momentum, &[velocity]) => {
                let velocity = self.scheduled.decay * velocity + gradient;
                let direction = match self.settings.nesterov {
                    true => gradient + velocity * self.settings.momentum,
                    false => velocity,
                };
                (weights - self.rate * direction, vec![velocity])
            }
            (OptimizerRule::Adam, &[mean, square]) => {
                // TensorFlow takes the difference to 1 in float32.
                let rest = |decay: f64| f64::from(1.0 - decay as f32);
                let average =
                    |slot: Tensor<'g>, value, decay| slot + self.scheduled.advance * (value - slot) * rest(decay);
                let mean = average(mean, gradient, self.settings.beta1);
                let square = average(square, gradient * gradient, self.settings.beta2);
                let direction = mean / (square.sqrt() + self.settings.epsilon);
                (weights - self.rate * direction, vec![mean, square])
            }
            _ => (weights - self.rate * gradient, vec![]),
        }
    }

    /// The scalars after the step.
    pub fn advance(&self, scalars: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let decays = [self.settings.beta1, self.settings.beta2];
        let next = |(&power, decay): (&Tensor<'g>, f64)| self.taken.select(power * decay, power);
        scalars.iter().zip(decays).map(next).collect()
    }
}
