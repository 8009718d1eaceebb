//! Plain gradient descent.

use super::{Optimizer, scheduled};

/// `W <- W - lr g`
pub static SGD: Optimizer = Optimizer {
    name: "sgd",
    slots: &[],
    scalars: &[],
    decoupled_decay: false,
    rate: scheduled,
    apply: |step, parameter| {
        let [] = parameter.slots();
        (parameter.weights - step.rate * parameter.gradient, vec![])
    },
};
