//! Adam (arXiv 1412.6980) as TensorFlow computes it, with the bias correction in the learning rate.

use hlo::Tensor;

use super::{Optimizer, Parameter, Scalar, Step};

/// Averages of the gradient and of its square.
pub(super) const SLOTS: &[&str] = &["Adam", "Adam_1"];
/// Powers of their decays.
pub(super) const SCALARS: &[Scalar] = &[
    Scalar {
        name: "beta1_power",
        factor: |settings| settings.beta1,
    },
    Scalar {
        name: "beta2_power",
        factor: |settings| settings.beta2,
    },
];

/// Averages of the gradient and of its square, and the powers of their decays.
pub static ADAM: Optimizer = Optimizer {
    name: "adam",
    slots: SLOTS,
    scalars: SCALARS,
    decoupled_decay: false,
    rate: |rate, scalars| match *scalars {
        [power1, power2] => rate * (-power2 + 1.0).sqrt() / (-power1 + 1.0),
        _ => panic!("{} scalars, expected 2", scalars.len()),
    },
    apply,
};

fn apply<'g>(step: &Step<'g, '_>, parameter: Parameter<'g, '_>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let [mean, square] = parameter.slots();
    let (gradient, settings) = (parameter.gradient, step.settings);
    // TensorFlow subtracts the decay from 1 in float32.
    let rest = |decay: f64| f64::from(1.0 - decay as f32);
    let average = |slot: Tensor<'g>, value, decay| slot + step.coefficients.advance * (value - slot) * rest(decay);
    let mean = average(mean, gradient, settings.beta1);
    let square = average(square, gradient * gradient, settings.beta2);
    let direction = mean / (square.sqrt() + settings.epsilon);
    (parameter.weights - step.rate * direction, vec![mean, square])
}
