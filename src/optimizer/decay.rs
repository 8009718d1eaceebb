//! Steps of momentum's weights that get no gradient but that of the L2 term.

use hlo::{Graph, HostFunction, Literal, Tensor};

use super::{Optimizer, Settings, momentum};

/// Host function: weights and velocities after the steps of the rows `rows` (s32, first and end) of `schedule` `f32[_, columns]`,
/// whose first columns are learning rate, factor of the velocity and whether the step is taken; on `(weights, velocities,
/// schedule, rows, constants)`, with the L2 coefficient and the momentum as constants. The attribute `nesterov` is 0 or 1.
pub const DECAY_STEPS: &str = "rigl_xla.decay_steps";

impl Optimizer {
    /// Whether [`decay_steps`] takes this optimizer's steps.
    pub fn has_decay_steps(&self) -> bool {
        *self == momentum::MOMENTUM
    }
}

/// `arrays`, the weights of a parameter and their slots, after the steps of the rows `rows` of `schedule`, without a gradient but
/// that of the L2 term. As [`DECAY_STEPS`].
pub fn decay_steps<'g>(
    settings: &Settings,
    arrays: &[Tensor<'g>],
    schedule: Tensor<'g>,
    rows: Tensor<'g>,
) -> Vec<Tensor<'g>> {
    let graph = schedule.graph();
    let constants = [settings.l2() as f32, settings.momentum as f32];
    let operands = [
        arrays,
        &[schedule, rows, graph.constant(Literal::new(&[2], &constants))],
    ]
    .concat();
    let nesterov = settings.nesterov;
    let host = HostFunction::new(DECAY_STEPS, vec![("nesterov", vec![i64::from(nesterov)])]);
    graph.host_call(host, &operands, |g, o| body(g, o, nesterov))
}

fn body<'g>(graph: &'g Graph, operands: &[Tensor<'g>], nesterov: bool) -> Vec<Tensor<'g>> {
    let &[weights, velocity, schedule, rows, constants] = operands else {
        return vec![];
    };
    let element = |of: Tensor<'g>, i: usize| of.slice(&[i], &[i + 1]).reshape(&[]);
    let state = [
        element(rows, 0),
        element(rows, 1),
        element(constants, 0),
        element(constants, 1),
        weights,
        velocity,
        schedule,
    ];
    let end = graph.while_loop(
        &state,
        |_, s| s[0].lt(s[1]),
        |g, s| {
            let at = |column: i32| s[6].dynamic_slice(&[s[0], g.scalar(column)], &[1, 1]).reshape(&[]);
            let (rate, decay, taken) = (at(0), at(1), at(2).gt(0.0));
            let gradient = s[4] * s[2];
            let gradient = taken.select(gradient, gradient.zeros_like());
            let velocity = decay * s[5] + gradient;
            let direction = if nesterov { gradient + velocity * s[3] } else { velocity };
            let weights = s[4] - rate * direction;
            vec![s[0] + g.scalar(1i32), s[1], s[2], s[3], weights, velocity, s[6]]
        },
    );
    vec![end[4], end[5]]
}
