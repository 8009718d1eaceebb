//! When masks change, and by what fraction (reference 2.2-2.9).

use std::{fmt, str::FromStr};

use super::error::Error;
use super::{join_number, split_number};
use crate::names::{Unknown, nearest};

/// How the drop fraction changes over the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Anneal {
    /// Constant.
    #[default]
    Constant,
    /// Half a cosine from the initial value at step 0 to zero at `end_step - begin_step`.
    Cosine,
    /// `(1 - progress)^k`, with this `k`.
    Exponential(f64),
}

impl FromStr for Anneal {
    type Err = Error;

    /// `constant`, `cosine`, `exponential` (power 1) or `exponential_<k>`.
    fn from_str(name: &str) -> Result<Self, Error> {
        let (stem, number) = split_number(name)?;
        match (stem, number) {
            ("constant", None) => Ok(Self::Constant),
            ("cosine", None) => Ok(Self::Cosine),
            ("exponential", k) => Ok(Self::Exponential(k.unwrap_or(1.0))),
            _ => {
                let expected = ["constant", "cosine", "exponential", "exponential_<k>"];
                Err(Error::Unknown(Unknown {
                    what: "drop-fraction anneal",
                    found: name.to_owned(),
                    near: nearest(stem, expected[..3].iter().copied()),
                    known: expected.map(str::to_owned).to_vec(),
                }))
            }
        }
    }
}

impl fmt::Display for Anneal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Constant => f.pad("constant"),
            Self::Cosine => f.pad("cosine"),
            Self::Exponential(k) => f.pad(&join_number("exponential", *k)),
        }
    }
}

/// When masks are updated and what fraction of the connections each update replaces.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// First global step at which an update may happen.
    pub begin_step: i64,
    /// Last global step at which an update may happen, inclusive; negative: no last one.
    pub end_step: i64,
    /// Minimum distance between two updates, in global steps.
    pub frequency_steps: i64,
    /// Drop fraction before annealing, in `[0, 1]`.
    pub drop_fraction: f64,
    /// How the drop fraction changes.
    pub anneal: Anneal,
}

/// The error for a wrong field of a schedule.
fn wrong(name: &str, found: String, expected: &'static str) -> Result<(), Error> {
    Err(Error::Value {
        name: name.into(),
        found,
        expected,
    })
}

impl Schedule {
    /// Whether masks are updated at global step `gs`, `last` being the step of the previous update:
    /// `gs >= begin AND (gs <= end OR end < 0) AND last + frequency <= gs`.
    pub fn is_update(&self, gs: i64, last: i64) -> bool {
        let in_range = gs >= self.begin_step && (gs <= self.end_step || self.end_step < 0);
        in_range && last.saturating_add(self.frequency_steps) <= gs
    }

    /// Value of `last` before the first update: `-frequency_steps`, so that step 0 already qualifies.
    pub fn initial_last_update(&self) -> i64 {
        self.frequency_steps.saturating_neg()
    }

    /// Drop fraction of an update at global step `gs`, by the float32 operations of the original's session, each rounded.
    /// With `D = f32(end - begin)` and `r = 1 / D`:
    ///
    /// * constant: `f32(d0)`
    /// * cosine: `f32(d0) * (0.5 * (1 + cos(min(f32(gs), D) * (f32(pi) * r))))`. It uses `gs`, not `gs - begin`. A
    ///   schedule without an end has `D < 0`, and the fraction is 0 throughout.
    /// * exponential: `f32(d0) * pow(1 - f32(gs - begin) * r, k)`; for k = 3 `(d0 * (x * x)) * x`
    ///
    /// `cos`, `pow` and `sqrt` are the C library's float functions, as in TensorFlow.
    pub fn drop_fraction_at(&self, gs: i64) -> f32 {
        let initial = self.drop_fraction as f32;
        let span = self.end_step.saturating_sub(self.begin_step) as f32;
        match self.anneal {
            Anneal::Constant => initial,
            Anneal::Cosine => {
                let angle = (gs as f32).min(span) * (std::f32::consts::PI * span.recip());
                initial * (0.5 * (1.0 + angle.cos()))
            }
            Anneal::Exponential(k) => {
                let progress = gs.saturating_sub(self.begin_step) as f32 * span.recip();
                scaled_power(initial, 1.0 - progress, k as f32)
            }
        }
    }

    /// Checks that every update of this schedule is well defined. As in the original, an end before the beginning is allowed
    /// and means no updates.
    ///
    /// # Errors
    /// [`Error::Value`]: a frequency below 1 (updates that replace gradient steps would never let one through), a drop
    /// fraction outside `[0, 1]`, a cosine over no steps, an exponential without an end or over no steps, or a negative power
    /// (fractions that are not numbers or exceed 1).
    pub fn validate(&self) -> Result<(), Error> {
        if self.frequency_steps < 1 {
            return wrong("frequency_steps", self.frequency_steps.to_string(), "at least 1");
        }
        if !(0.0..=1.0).contains(&self.drop_fraction) {
            return wrong(
                "drop_fraction",
                self.drop_fraction.to_string(),
                "a share of connections in [0, 1]",
            );
        }
        let (begin, end) = (self.begin_step, self.end_step);
        let found = format!("{end} with begin_step {begin} and anneal {}", self.anneal);
        match self.anneal {
            Anneal::Cosine if begin == end => wrong("end_step", found, "a step other than begin_step"),
            Anneal::Exponential(k) if !(k.is_finite() && k >= 0.0) => {
                wrong("power of anneal", k.to_string(), "at least 0")
            }
            Anneal::Exponential(_) if end < 0 || begin == end => wrong("end_step", found, "a step after begin_step"),
            _ => Ok(()),
        }
    }
}

/// `scale * pow(x, exponent)` as TensorFlow's graph optimizer computes it: squares and cubes by products, the power 1/2 as a
/// square root.
fn scaled_power(scale: f32, x: f32, exponent: f32) -> f32 {
    match exponent {
        2.0 => scale * (x * x),
        3.0 => scale * (x * x) * x,
        0.5 => scale * x.sqrt(),
        _ => scale * x.powf(exponent),
    }
}

/// How sparsity grows under gradual magnitude pruning (reference 2.9; arXiv 1710.01878, equation 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradualPruning {
    /// Global step up to which the sparsity is `initial_sparsity`.
    pub begin_step: i64,
    /// Global step from which it is `target_sparsity`.
    pub end_step: i64,
    /// Share of zeros at the beginning.
    pub initial_sparsity: f64,
    /// Share of zeros at the end.
    pub target_sparsity: f64,
    /// 3 makes the published cubic.
    pub exponent: f64,
}

impl GradualPruning {
    /// Share of zeros at global step `gs`, by the float32 operations of the original's session:
    /// `(initial - target) * pow(1 - p, exponent) + target`, cubed as `(scale * (x * x)) * x`, with `p = f32(gs - begin) * (1 / f32(end - begin))`
    /// clamped to `[0, 1]`.
    pub fn sparsity_at(&self, gs: i64) -> f32 {
        let span = self.end_step.saturating_sub(self.begin_step) as f32;
        let progress = (gs.saturating_sub(self.begin_step) as f32 * span.recip()).clamp(0.0, 1.0);
        let (initial, target) = (self.initial_sparsity, self.target_sparsity);
        scaled_power((initial - target) as f32, 1.0 - progress, self.exponent as f32) + target as f32
    }

    /// Share of a layer's weights kept at global step `gs`, float32, when its own target is `layer_target`: its sparsity
    /// grows in proportion.
    pub fn density_at(&self, gs: i64, layer_target: f64) -> f32 {
        let sparsity = self.sparsity_at(gs);
        if layer_target == self.target_sparsity {
            return 1.0 - sparsity;
        }
        1.0 - sparsity * (layer_target as f32 / self.target_sparsity as f32)
    }

    /// Number of `n` weights to keep: `n * density` in float32, rounded half to even, at least 1 (the original fails on 0).
    /// Further ties at the threshold are kept too.
    pub fn kept(n: usize, density: f32) -> usize {
        let kept = (n as f32 * density).round_ties_even() as usize;
        kept.clamp(n.min(1), n)
    }

    /// Checks that the sparsity is defined at every step.
    ///
    /// # Errors
    /// [`Error::Value`]: no steps between begin and end, a sparsity outside `[0, 1)`, a target of 0 (layers with targets
    /// of their own are pruned in proportion to it), or an exponent below 0.
    pub fn validate(&self) -> Result<(), Error> {
        if self.end_step <= self.begin_step {
            return wrong("end_step", self.end_step.to_string(), "a step after begin_step");
        }
        if !(0.0..1.0).contains(&self.initial_sparsity) {
            return wrong(
                "initial_sparsity",
                self.initial_sparsity.to_string(),
                "a share of zeros in [0, 1)",
            );
        }
        if !(self.exponent.is_finite() && self.exponent >= 0.0) {
            return wrong("exponent", self.exponent.to_string(), "a number of at least 0");
        }
        Ok(())
    }
}

/// When the mask update happens relative to the gradient step of its iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateTiming {
    /// Masks never change.
    None,
    /// Instead of the gradient step, so that the global step does not advance (RigL).
    Replaces,
    /// After the gradient step, at the incremented global step (SET).
    After,
    /// Like `After`, but the first interval is counted from step 0, so no update happens before its end (gradual pruning).
    AfterInterval,
    /// After every gradient step; ignores the schedule (DNW).
    Every,
    /// Once, instead of the gradient step at global step 0; ignores the schedule (SNIP).
    Once,
}

impl UpdateTiming {
    /// Whether an update replaces a gradient step.
    pub fn replaces_step(self) -> bool {
        matches!(self, UpdateTiming::Replaces | UpdateTiming::Once)
    }

    /// [`Counters::last_update`] of a new run.
    pub fn initial_last_update(self, schedule: &Schedule) -> i64 {
        match self {
            UpdateTiming::AfterInterval => 0,
            _ => schedule.initial_last_update(),
        }
    }
}

/// Effect of one iteration on the counters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// Iteration, from 0.
    pub iteration: u64,
    /// Global step before the iteration.
    pub step_before: i64,
    /// Global step after it: one more if a gradient step was applied.
    pub step_after: i64,
    /// Global step at which masks were updated, if they were.
    pub update_at: Option<i64>,
    /// Drop fraction of that update; 0 without one.
    pub drop_fraction: f32,
}

/// Counters that decide when masks change: the complete schedule state of a run, from which it resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Iterations done.
    pub iteration: u64,
    /// Gradient steps applied (`global_step`).
    pub global_step: i64,
    /// Global step of the last mask update (`last_mask_update_step`).
    pub last_update: i64,
}

impl Counters {
    /// Counters of a new run.
    pub fn start(timing: UpdateTiming, schedule: &Schedule) -> Self {
        Self {
            iteration: 0,
            global_step: 0,
            last_update: timing.initial_last_update(schedule),
        }
    }

    /// Runs one iteration.
    pub fn advance(&mut self, timing: UpdateTiming, schedule: &Schedule) -> Tick {
        let (iteration, step_before) = (self.iteration, self.global_step);
        let update = match timing {
            UpdateTiming::None => false,
            UpdateTiming::Replaces => schedule.is_update(step_before, self.last_update),
            UpdateTiming::After | UpdateTiming::AfterInterval => schedule.is_update(step_before + 1, self.last_update),
            UpdateTiming::Every => true,
            UpdateTiming::Once => step_before == 0 && self.last_update < 0,
        };
        if !(update && timing.replaces_step()) {
            self.global_step += 1;
        }
        if update {
            self.last_update = self.global_step;
        }
        self.iteration += 1;
        let drop_fraction = if update {
            schedule.drop_fraction_at(self.global_step)
        } else {
            0.0
        };
        Tick {
            iteration,
            step_before,
            step_after: self.global_step,
            update_at: update.then_some(self.global_step),
            drop_fraction,
        }
    }
}

/// The first `iterations` iterations of a new run.
pub fn simulate(timing: UpdateTiming, schedule: &Schedule, iterations: u64) -> impl Iterator<Item = Tick> {
    let mut counters = Counters::start(timing, schedule);
    (0..iterations).map(move |_| counters.advance(timing, schedule))
}
