//! Adam with decoupled weight decay (arXiv 1711.05101), as Optax and PyTorch compute it.

use hlo::Tensor;

use super::{Optimizer, Parameter, Step, adam};

/// Adam whose weight decay multiplies the weights instead of adding to the gradient.
pub static ADAMW: Optimizer = Optimizer {
    name: "adamw",
    slots: adam::SLOTS,
    scalars: adam::SCALARS,
    decoupled_decay: true,
    rate: super::scheduled,
    apply,
};

fn apply<'g>(step: &Step<'g, '_>, parameter: Parameter<'g, '_>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let [mean, square] = parameter.slots();
    let (gradient, settings) = (parameter.gradient, step.settings);
    let [power1, power2] = step.scalars[..] else {
        panic!("{} scalars, expected 2", step.scalars.len())
    };
    let average = |slot: Tensor<'g>, value: Tensor<'g>, decay: f64| {
        slot + step.coefficients.advance * (value - slot) * (1.0 - decay)
    };
    let mean = average(mean, gradient, settings.beta1);
    let square = average(square, gradient * gradient, settings.beta2);
    // Without the bias of the averages' start at 0.
    let [mean_share, square_share] = [power1, power2].map(|power| -power + 1.0);
    let direction = (mean / mean_share) / ((square / square_share).sqrt() + settings.epsilon);
    let decayed = match parameter.decayed && settings.weight_decay != 0.0 {
        true => direction + parameter.weights * settings.weight_decay,
        false => direction,
    };
    (parameter.weights - step.rate * decayed, vec![mean, square])
}
