//! The sparsity that a run reaches by its end, and the parts of its schedules that lie beyond the end.

use super::learning_rate::{Rate, Sgdr};
use super::{Error, Plan, Run};
use sparse::{Budget, GradualPruning, Method, Schedule};

/// Connections above the target, as a share of the target, that still count as reaching it: an interval that does not
/// divide the pruning range leaves a few.
const TOLERANCE: f64 = 0.05;

/// Budgets after the last mask update of the run, at global step `last`: those planned, unless gradual pruning stops
/// before its end. Their sparsities are the shares reached.
pub(super) fn reached(budgets: &[Budget], gradual: Option<&GradualPruning>, last: Option<i64>) -> Vec<Budget> {
    let Some(gradual) = gradual else {
        return budgets.to_vec();
    };
    let at_the_end = |budget: &Budget| {
        let mut budget = budget.clone();
        let n = budget.zeros + budget.nonzeros;
        let Some(last) = last else {
            (budget.zeros, budget.nonzeros, budget.sparsity) = (0, n, 0.0);
            return budget;
        };
        let density = gradual.density_at(last, budget.sparsity);
        budget.nonzeros = GradualPruning::kept(n, density);
        budget.zeros = n - budget.nonzeros;
        if last < gradual.end_step {
            budget.sparsity = (1.0 - f64::from(density)).max(0.0);
        }
        budget
    };
    budgets.iter().map(at_the_end).collect()
}

impl Plan {
    /// Ones over all maskable layers once the method's schedule has run to its end.
    pub fn target_nonzeros(&self) -> usize {
        self.budgets.iter().map(|b| b.nonzeros).sum()
    }

    /// Share of zeros over all maskable layers once the method's schedule has run to its end.
    pub fn target_sparsity(&self) -> f64 {
        share_of_zeros(self.target_nonzeros(), self.maskable())
    }

    /// Why the run does not reach its sparsity: gradual pruning ends above its number of connections, or the method never
    /// updates its masks. `None` for a run that reaches it.
    pub fn incomplete(&self) -> Option<String> {
        let (reached, target) = (self.nonzeros(), self.target_nonzeros());
        let falls_short = reached as f64 > target as f64 * (1.0 + TOLERANCE);
        let never_updates = self.method.replaces_connections() && self.update_steps().next().is_none();
        let end = match (falls_short, never_updates) {
            (true, _) => format!(
                "at sparsity {:.4} ({reached} of {} connections), expected {:.4} ({target})",
                self.sparsity(),
                self.maskable(),
                self.target_sparsity()
            ),
            (_, true) => "without a mask update, expected at least one".to_owned(),
            (false, false) => return None,
        };
        Some(format!(
            "the run ends after {} gradient steps (train.iterations) {end}: {}",
            self.gradient_steps(),
            rhythm(&self.run, self.method, &self.schedule)
        ))
    }

    /// Refuses a run that does not reach its sparsity, unless that is allowed.
    ///
    /// # Errors
    /// [`Error::Incomplete`].
    pub fn check_complete(&self) -> Result<(), Error> {
        match self.incomplete() {
            Some(problem) if self.run.train.allow_incomplete_schedule != Some(true) => {
                Err(Error::Incomplete { problem })
            }
            _ => Ok(()),
        }
    }

    /// Notes to show before training: values fitted to the data, and parts of the schedules that lie beyond the end of the
    /// run.
    pub fn notes(&self) -> Vec<String> {
        let steps = self.gradient_steps();
        let notes = [
            self.updates_cut_short(),
            self.updates_without_effect(),
            self.masks_lag(),
            self.drops_cut_off(steps),
        ];
        let fit = self.fit.clone().into_iter();
        fit.chain(notes.into_iter().flatten())
            .chain(self.rate_at_the_end(steps))
            .collect()
    }

    fn updates_cut_short(&self) -> Option<String> {
        let last = self
            .update_steps()
            .last()
            .filter(|_| self.method.replaces_connections())?;
        let next = last.saturating_add(self.schedule.frequency_steps);
        (next <= self.schedule.end_step).then(|| {
            format!(
                "mask updates end with the run, at step {last} with drop fraction {:.4}; mask_update.end_step is {}",
                self.schedule.drop_fraction_at(last),
                self.schedule.end_step
            )
        })
    }

    fn updates_without_effect(&self) -> Option<String> {
        let first = self
            .update_steps()
            .next()
            .filter(|_| self.method.replaces_connections())?;
        let idle = self.replacement(first).replaced == 0;
        idle.then(|| "mask updates move no connection (mask_update.drop_fraction, mask_update.anneal)".to_owned())
    }

    fn masks_lag(&self) -> Option<String> {
        let decay = self.run.prune.threshold_decay;
        (self.gradual.is_some() && decay != 0.0).then(|| {
            format!(
                "masks lag behind the pruning schedule and keep more connections (prune.threshold_decay is {decay})"
            )
        })
    }

    fn drops_cut_off(&self, steps: u64) -> Option<String> {
        let (boundaries, _) = self.learning_rate.drops();
        // The rate changes at the step after a boundary.
        let beyond = boundaries.iter().filter(|&&at| at + 2 > steps as i64).count();
        (beyond > 0).then(|| {
            format!(
                "{beyond} of {} learning-rate drops lie beyond the {steps} gradient steps of the run \
                 (learning_rate.boundaries)",
                boundaries.len()
            )
        })
    }

    /// A warm-up or cosine that the run cuts short.
    fn rate_at_the_end(&self, steps: u64) -> Option<String> {
        let last = steps.saturating_sub(1) as i64;
        let at = self.learning_rate.at(last);
        match &self.learning_rate {
            Rate::Epochs(rate) if last as f32 / rate.steps_per_epoch < rate.warmup => Some(format!(
                "the learning rate is still rising at the end of the run: {at} of {} (learning_rate.warmup_epochs)",
                rate.base
            )),
            Rate::Cosine { steps: decay, .. } | Rate::Linear { steps: decay, .. } if *decay > steps as i64 => Some(
                format!("the learning rate ends at {at} instead of 0: learning_rate.decay_steps is {decay}"),
            ),
            Rate::Warmup { steps: rise, .. } if *rise >= steps as i64 => Some(format!(
                "the learning rate is still rising at the end of the run: {at} after {steps} of {rise} steps of warm-up"
            )),
            Rate::Warmup { steps: rise, then, .. } => match **then {
                Rate::Cosine { steps: decay, .. } | Rate::Linear { steps: decay, .. }
                    if rise + decay > steps as i64 =>
                {
                    let decay = rise + decay;
                    Some(format!(
                        "the learning rate ends at {at} instead of 0: learning_rate.decay_steps is {decay}"
                    ))
                }
                Rate::Cosine { .. }
                | Rate::Linear { .. }
                | Rate::Piecewise(_)
                | Rate::Epochs(_)
                | Rate::Warmup { .. }
                | Rate::Sgdr(_) => None,
            },
            Rate::Sgdr(Sgdr {
                steps_per_epoch,
                first_cycle,
                ..
            }) if (steps as f64) < first_cycle * f64::from(*steps_per_epoch) => Some(format!(
                "the learning rate ends at {at}, within the first cycle (learning_rate.cycle_epochs)"
            )),
            Rate::Piecewise(_) | Rate::Epochs(_) | Rate::Cosine { .. } | Rate::Linear { .. } | Rate::Sgdr(_) => None,
        }
    }
}

/// Share of zeros; 0 without weights.
pub fn share_of_zeros(nonzeros: usize, weights: usize) -> f64 {
    match weights {
        0 => 0.0,
        n => 1.0 - nonzeros as f64 / n as f64,
    }
}

/// When a method updates its masks, with the keys that say so.
fn rhythm(run: &Run, method: &Method, schedule: &Schedule) -> String {
    let section = if method.replaces_connections() {
        "mask_update"
    } else {
        "prune"
    };
    let end = match schedule.end_step {
        end if end < 0 => "without end".to_owned(),
        end => format!("to {end}"),
    };
    let scaled = match run.train.multiplier {
        1.0 => String::new(),
        k => format!(", after train.multiplier {k}"),
    };
    format!(
        "method {} updates masks from step {} {end} every {} ({section}.begin_step, {section}.end_step, \
         {section}.frequency_steps{scaled})",
        method.name, schedule.begin_step, schedule.frequency_steps
    )
}
