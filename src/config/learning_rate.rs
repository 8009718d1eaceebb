//! Learning rate as a function of the gradient step, in the float32 operations of the original's session.
//!
//! `cos`, `log` and `pow` are the C library's float functions, as in TensorFlow.

use crate::named::Named;

/// The shape of a learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// Piecewise constant over gradient steps; constant without boundaries.
    Piecewise,
    /// Piecewise constant over epochs, after a linear warm-up.
    Epochs,
    /// Half a cosine, after a linear warm-up.
    Cosine,
    /// A line to 0, after a linear warm-up.
    Linear,
    /// Cosines with restarts.
    Sgdr,
}

impl ScheduleKind {
    /// Whether it counts in epochs, not in gradient steps.
    pub fn counts_epochs(self) -> bool {
        match self {
            ScheduleKind::Epochs | ScheduleKind::Sgdr => true,
            ScheduleKind::Piecewise | ScheduleKind::Cosine | ScheduleKind::Linear => false,
        }
    }
}

impl Named for ScheduleKind {
    const KIND: &'static str = "learning-rate schedule";
    const ALL: &'static [Self] = &[
        ScheduleKind::Piecewise,
        ScheduleKind::Epochs,
        ScheduleKind::Cosine,
        ScheduleKind::Linear,
        ScheduleKind::Sgdr,
    ];

    fn name(self) -> &'static str {
        match self {
            ScheduleKind::Piecewise => "piecewise",
            ScheduleKind::Epochs => "epochs",
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Linear => "linear",
            ScheduleKind::Sgdr => "sgdr",
        }
    }
}

/// A learning-rate schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// Piecewise constant over gradient steps.
    Piecewise(Piecewise),
    /// Piecewise constant over epochs, after a linear warm-up.
    Epochs(Epochs),
    /// Half a cosine.
    Cosine {
        /// Value of the first gradient step.
        base: f32,
        /// Gradient steps from `base` to 0, which it stays at.
        steps: i64,
    },
    /// A line.
    Linear {
        /// Value of the first gradient step.
        base: f32,
        /// Gradient steps from `base` to 0, which it stays at.
        steps: i64,
    },
    /// A linear rise from 0, then another schedule, as in Optax's `warmup_cosine_decay_schedule`.
    Warmup {
        /// Value after the rise.
        base: f32,
        /// Gradient steps of the rise, at least 1.
        steps: i64,
        /// The schedule after it.
        then: Box<Rate>,
    },
    /// Cosines, one after the other.
    Sgdr(Sgdr),
}

/// `values[i]` holds from the step after `boundaries[i - 1]` to `boundaries[i]` (reference 4.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Piecewise {
    /// Gradient steps, strictly increasing.
    pub boundaries: Vec<i64>,
    /// One value more than there are boundaries.
    pub values: Vec<f32>,
}

/// A linear rise from 0, then a value from each boundary on (reference 4.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Epochs {
    /// Gradient steps per epoch.
    pub steps_per_epoch: f32,
    /// Epochs of the rise; may be 0.
    pub warmup: f32,
    /// Value after the rise.
    pub base: f32,
    /// Epochs, strictly increasing, with the value from each on.
    pub drops: Vec<(f32, f32)>,
}

/// Cosines to 0 with restarts, each longer and lower than the one before (Loshchilov and Hutter, arXiv 1608.03983).
#[derive(Clone, Debug, PartialEq)]
pub struct Sgdr {
    /// Gradient steps per epoch.
    pub steps_per_epoch: f32,
    /// Value of the first gradient step.
    pub base: f32,
    /// Epochs of the first cycle.
    pub first_cycle: f64,
    /// Length of a cycle over that of the one before, at least 1.
    pub t_mul: f64,
    /// Height of a cycle over that of the one before.
    pub m_mul: f64,
}

impl Rate {
    /// The learning rate of the gradient step taken at counter `step` (0 for the first).
    pub fn at(&self, step: i64) -> f32 {
        match self {
            Rate::Piecewise(rate) => rate.values[rate.boundaries.partition_point(|&boundary| boundary < step)],
            Rate::Epochs(rate) => rate.at(step),
            Rate::Cosine { base, steps } => cosine_decay(*base, step, *steps),
            Rate::Linear { base, steps } => base * (1.0 - step.min(*steps) as f32 / *steps as f32),
            Rate::Warmup { base, steps, .. } if step < *steps => base * (step as f32 / *steps as f32),
            Rate::Warmup { steps, then, .. } => then.at(step - steps),
            Rate::Sgdr(rate) => rate.at(step),
        }
    }

    /// The shape of the schedule.
    pub fn kind(&self) -> ScheduleKind {
        match self {
            Rate::Piecewise(_) => ScheduleKind::Piecewise,
            Rate::Epochs(_) => ScheduleKind::Epochs,
            Rate::Cosine { .. } => ScheduleKind::Cosine,
            Rate::Linear { .. } => ScheduleKind::Linear,
            Rate::Warmup { then, .. } => then.kind(),
            Rate::Sgdr(_) => ScheduleKind::Sgdr,
        }
    }

    /// Gradient steps after which the value drops to another constant, with the values before, between and after.
    pub fn drops(&self) -> (Vec<i64>, Vec<f32>) {
        match self {
            Rate::Piecewise(rate) => (rate.boundaries.clone(), rate.values.clone()),
            Rate::Epochs(rate) => {
                let steps = rate.drops.iter().map(|&(epoch, _)| rate.last_before(epoch));
                let values = rate.drops.iter().map(|&(_, value)| value);
                (steps.collect(), [rate.base].into_iter().chain(values).collect())
            }
            Rate::Cosine { base, .. }
            | Rate::Linear { base, .. }
            | Rate::Warmup { base, .. }
            | Rate::Sgdr(Sgdr { base, .. }) => (vec![], vec![*base]),
        }
    }
}

impl Epochs {
    /// The warm-up is `epoch * (base * (1 / warmup))`.
    fn at(&self, step: i64) -> f32 {
        let epoch = self.epoch(step);
        if epoch < self.warmup {
            return epoch * (self.base * self.warmup.recip());
        }
        let passed = self.drops.iter().take_while(|(from, _)| epoch >= *from);
        passed.last().map_or(self.base, |&(_, value)| value)
    }

    fn epoch(&self, step: i64) -> f32 {
        epoch(step, self.steps_per_epoch)
    }

    /// The last gradient step before `epoch`: rounding decides between the two nearest.
    fn last_before(&self, epoch: f32) -> i64 {
        let near = (f64::from(epoch) * f64::from(self.steps_per_epoch)) as i64;
        // Steps beyond 2^24 are rounded to float32 themselves.
        let slack = 2 + near / (1 << 23);
        let mut steps = (near - slack..near + slack).rev();
        steps.find(|&step| self.epoch(step) < epoch).unwrap_or(near - slack)
    }
}

impl Sgdr {
    /// `tf.train.cosine_decay_restarts` over the epoch: with `c` the epoch in lengths of the first cycle, cycle
    /// `i = floor(log(1 - c * (1 - t_mul)) * (1 / log(t_mul)))` starts at `(1 - t_mul^i) * (1 / (1 - t_mul))` and is `t_mul^i` long.
    fn at(&self, step: i64) -> f32 {
        let first = epoch(step, self.steps_per_epoch) * (self.first_cycle as f32).recip();
        let (t, m) = (self.t_mul as f32, self.m_mul as f32);
        let (cycle, place) = if t == 1.0 {
            (first.floor(), first - first.floor())
        } else {
            let cycle = ((1.0 - first * (1.0 - t)).ln() * t.ln().recip()).floor();
            let length = t.powf(cycle);
            let start = (1.0 - length) * (1.0 - t).recip();
            (cycle, (first - start) / length)
        };
        let height = self.base * (0.5 * m.powf(cycle));
        height * (1.0 + (std::f32::consts::PI * place).cos())
    }
}

/// `f32(step) * (1 / steps_per_epoch)`: TensorFlow's graph optimizer turns the division by a constant into a product.
fn epoch(step: i64, steps_per_epoch: f32) -> f32 {
    step as f32 * steps_per_epoch.recip()
}

/// `tf.keras.experimental.CosineDecay` outside of a graph, as the TF2 variant calls it: `base` at step 0, 0 from `steps` on.
fn cosine_decay(base: f32, step: i64, steps: i64) -> f32 {
    let steps = steps as f32;
    let completed = (step as f32).min(steps) / steps;
    base * (0.5 * (1.0 + (std::f32::consts::PI * completed).cos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_itself_keeps_the_old_value() {
        // CIFAR's (reference 4.3).
        let rate = Rate::Piecewise(Piecewise {
            boundaries: vec![30000, 60000],
            values: vec![0.1, 0.02, 0.004],
        });
        assert_eq!(
            [0, 30000, 30001, 60000, 60001].map(|step| rate.at(step)),
            [0.1, 0.1, 0.02, 0.02, 0.004]
        );
    }

    /// ResNet's at batch 4096 (reference 4.1): 312.785 steps per epoch.
    fn resnet(warmup: f32) -> Epochs {
        Epochs {
            steps_per_epoch: (1_281_167.0 / 4096.0) as f32,
            warmup,
            base: 1.6,
            drops: [(30.0, 0.16), (70.0, 0.016), (90.0, 0.0016), (120.0, 0.00016)].to_vec(),
        }
    }

    #[test]
    fn epochs_rise_then_drop() {
        let rate = Rate::Epochs(resnet(5.0));
        for step in [1, 100, 1563] {
            let want = 1.6 * (step as f32 / (1_281_167.0 / 4096.0)) / 5.0;
            assert!((rate.at(step) / want - 1.0).abs() < 1e-6, "{step}: {}", rate.at(step));
        }
        assert_eq!(rate.at(0), 0.0);
        // 5, 30, 70, 90 and 120 epochs are 1563.9, 9383.5, 21894.9, 28150.6 and 37534.2 steps.
        let around = [1563, 1564, 9383, 9384, 21894, 21895, 28150, 28151, 37534, 37535];
        let values = around.map(|step| rate.at(step));
        assert!(1.598 < values[0] && values[0] < 1.6);
        assert_eq!(
            values[1..],
            [1.6, 1.6, 0.16, 0.16, 0.016, 0.016, 0.0016, 0.0016, 0.00016]
        );
        assert_eq!(
            rate.drops(),
            (vec![9383, 21894, 28150, 37534], vec![1.6, 0.16, 0.016, 0.0016, 0.00016])
        );
        // The revision without warm-up (reference 8.2).
        assert_eq!(Rate::Epochs(resnet(0.0)).at(0), 1.6);
    }

    #[test]
    fn an_epoch_that_is_a_whole_number_of_steps_starts_at_that_step() {
        let rate = Epochs {
            steps_per_epoch: 100.0,
            drops: vec![(3.0, 0.5)],
            ..resnet(1.0)
        };
        assert_eq!([99, 100, 299, 300].map(|s| rate.at(s)), [1.6 * 0.99, 1.6, 1.6, 0.5]);
        assert_eq!(Rate::Epochs(rate).drops().0, [299]);
    }

    #[test]
    fn half_a_cosine_ends_at_zero() {
        let rate = Rate::Cosine { base: 0.2, steps: 1000 };
        assert_eq!([0, 1000, 2000].map(|s| rate.at(s)), [0.2, 0.0, 0.0]);
        for (step, share) in [(250, 0.853_553_4), (500, 0.5)] {
            assert!((rate.at(step) - 0.2 * share).abs() < 2e-8, "{step}: {}", rate.at(step));
        }
    }

    /// Restarts of the original's defaults: cycles of 5, 7.5, 11.25, … epochs, each half as high.
    #[test]
    fn cosines_restart_longer_and_lower() {
        let rate = |t_mul: f64| {
            Rate::Sgdr(Sgdr {
                steps_per_epoch: 4.0,
                base: 1.6,
                first_cycle: 5.0,
                t_mul,
                m_mul: 0.5,
            })
        };
        let longer = rate(1.5);
        // Starts at 0, 5, 12.5 and 23.75 epochs; each middle has half its height.
        for (step, want) in [(0, 1.6), (10, 0.8), (20, 0.8), (35, 0.4), (50, 0.4), (95, 0.2)] {
            assert!((longer.at(step) - want).abs() < 1e-6, "{step}: {}", longer.at(step));
        }
        assert!(longer.at(19) < 0.01 && longer.at(49) < 0.003);
        let equal = rate(1.0);
        assert_eq!([0, 20, 40, 60].map(|s| equal.at(s)), [1.6, 0.8, 0.4, 0.2]);
        assert!((equal.at(30) - 0.4).abs() < 1e-7);
    }
}
