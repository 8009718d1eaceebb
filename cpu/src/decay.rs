//! Steps of gradient descent with momentum of weights that get no gradient but that of an L2 term.

use crate::parallel::ParallelFor;
use crate::shared::SharedMut;
use crate::simd::{Isa, LANES, Simd, Task, load, store};

/// Vectors that take all steps while they are in registers.
const AT_ONCE: usize = 8;

/// Elements of a piece of work.
const PIECE: usize = 64 * AT_ONCE * LANES;

/// One step, with `l2` 0 and `decay` 1 where none is taken: `V <- decay V + l2 W`, then `W <- W - rate V`, or
/// `W <- W - rate (l2 W + momentum V)` in Nesterov's form.
#[derive(Clone, Copy, Debug)]
pub struct DecayStep {
    /// Learning rate.
    pub rate: f32,
    /// Factor of the velocity.
    pub decay: f32,
    /// L2 coefficient.
    pub l2: f32,
    /// Momentum of Nesterov's form.
    pub momentum: f32,
    /// Whether the step has Nesterov's form.
    pub nesterov: bool,
}

/// Takes steps one after the other. Each element's result is the same to the bit whether steps are taken in one call or in
/// several.
///
/// # Panics
/// If there are not as many velocities as weights.
pub fn decay_steps(steps: &[DecayStep], weights: &mut [f32], velocities: &mut [f32], parallel_for: &ParallelFor<'_>) {
    let count = weights.len();
    assert_eq!(velocities.len(), count, "velocities");
    let (weights, velocities) = (SharedMut::new(weights), SharedMut::new(velocities));
    parallel_for(count.div_ceil(PIECE), &|piece| {
        let range = piece * PIECE..((piece + 1) * PIECE).min(count);
        // SAFETY: no other piece has these elements.
        let (weights, velocities) = unsafe { (weights.part(range.clone()), velocities.part(range)) };
        let task = Steps {
            steps,
            weights,
            velocities,
        };
        // SAFETY: the processor has what was detected.
        unsafe { Isa::detect().run(task) };
    });
}

struct Steps<'a> {
    steps: &'a [DecayStep],
    weights: &'a mut [f32],
    velocities: &'a mut [f32],
}

impl Task for Steps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let chunk = AT_ONCE * LANES;
        let chunks = self.weights.chunks_mut(chunk).zip(self.velocities.chunks_mut(chunk));
        for (weights, velocities) in chunks {
            let mut w = [s.splat(0.0); AT_ONCE];
            let mut v = w;
            for j in 0..AT_ONCE {
                let at = (j * LANES).min(weights.len());
                (w[j], v[j]) = (load(s, weights, at), load(s, velocities, at));
            }
            for step in self.steps {
                let [rate, decay, l2, momentum] = [step.rate, step.decay, step.l2, step.momentum].map(|x| s.splat(x));
                for j in 0..AT_ONCE {
                    // Not a product with 0 where no step is taken: an infinite weight would become NaN.
                    let gradient = if step.l2 == 0.0 { s.splat(0.0) } else { s.mul(w[j], l2) };
                    v[j] = s.fma(decay, v[j], gradient);
                    let direction = if step.nesterov {
                        s.fma(v[j], momentum, gradient)
                    } else {
                        v[j]
                    };
                    w[j] = s.sub(w[j], s.mul(rate, direction));
                }
            }
            for j in 0..AT_ONCE {
                let at = (j * LANES).min(weights.len());
                store(s, weights, at, w[j]);
                store(s, velocities, at, v[j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::on_this_thread;

    fn take(steps: &[DecayStep], weights: &mut [f32], velocities: &mut [f32]) {
        decay_steps(steps, weights, velocities, on_this_thread());
    }

    #[test]
    fn steps_may_be_taken_in_parts_and_follow_the_formula() {
        for nesterov in [false, true] {
            let step = |i: usize| DecayStep {
                rate: if i == 3 { 0.0 } else { 0.2 },
                decay: if i == 3 { 1.0 } else { 0.9 },
                l2: if i == 3 { 0.0 } else { 1e-2 },
                momentum: 0.9,
                nesterov,
            };
            let steps: Vec<DecayStep> = (0..9).map(step).collect();
            let start = |i: usize| (i as f32 * 0.37).sin();
            let mut weights: Vec<f32> = (0..300).map(start).collect();
            let mut velocities: Vec<f32> = (0..300).map(|i| start(i + 7)).collect();
            let (mut parts, mut speeds) = (weights.clone(), velocities.clone());
            take(&steps, &mut weights, &mut velocities);
            take(&steps[..4], &mut parts, &mut speeds);
            take(&steps[4..], &mut parts, &mut speeds);
            assert_eq!((&weights, &velocities), (&parts, &speeds));
            for i in 0..300 {
                let (mut w, mut v) = (f64::from(start(i)), f64::from(start(i + 7)));
                for step in steps.iter().enumerate().filter(|&(i, _)| i != 3).map(|(_, step)| step) {
                    let g = w * f64::from(step.l2);
                    v = 0.9 * v + g;
                    w -= 0.2 * if nesterov { g + 0.9 * v } else { v };
                }
                assert!((f64::from(weights[i]) - w).abs() < 1e-5, "element {i}");
                assert!((f64::from(velocities[i]) - v).abs() < 1e-5, "element {i}");
            }
        }
    }
}
