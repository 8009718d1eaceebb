//! Gradient descent with momentum.

use hlo::Tensor;

use super::{Optimizer, Parameter, Step, scheduled};

/// `V <- m V + g`, then `W <- W - lr V`, or `W <- W - lr (g + m V)` in Nesterov's form.
pub static MOMENTUM: Optimizer = Optimizer {
    name: "momentum",
    slots: &["Momentum"],
    scalars: &[],
    decoupled_decay: false,
    rate: scheduled,
    apply,
};

fn apply<'g>(step: &Step<'g, '_>, parameter: Parameter<'g, '_>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let [velocity] = parameter.slots();
    let gradient = parameter.gradient;
    let velocity = step.coefficients.decay * velocity + gradient;
    let direction = match step.settings.nesterov {
        true => gradient + velocity * step.settings.momentum,
        false => velocity,
    };
    (parameter.weights - step.rate * direction, vec![velocity])
}
