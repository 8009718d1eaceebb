//! Schedules of a run, stretched by its multiplier.

use super::check::{value, within, within_range};
use super::learning_rate::{Epochs, Piecewise, Rate, ScheduleKind, Sgdr};
use super::{Error, LearningRate, MaskUpdate, Run};
use crate::named::Named;
use sparse::{Budget, GradualPruning, Schedule};

/// `int(step * k)`, as the original scales its steps (reference 4.1).
fn scaled(step: i64, k: f64) -> i64 {
    (step as f64 * k) as i64
}

pub(super) fn schedule(said: &MaskUpdate, k: f64) -> Schedule {
    Schedule {
        begin_step: scaled(said.begin_step, k),
        // A negative end means none at every multiplier; int(-1 * 0.5) would be step 0.
        end_step: if said.end_step < 0 {
            said.end_step
        } else {
            scaled(said.end_step, k)
        },
        frequency_steps: said.frequency_steps,
        drop_fraction: said.drop_fraction,
        anneal: said.anneal,
    }
}

/// Sparsity over the steps of gradual pruning.
pub(super) fn gradual(run: &Run, k: f64) -> Result<GradualPruning, Error> {
    let said = &run.prune;
    let gradual = GradualPruning {
        begin_step: scaled(said.begin_step, k),
        end_step: scaled(said.end_step, k),
        initial_sparsity: said.initial_sparsity,
        target_sparsity: run.sparsity.target,
        exponent: said.exponent,
    };
    gradual.validate().map_err(within("prune"))?;
    let decay = said.threshold_decay;
    within_range(
        "prune.threshold_decay",
        decay,
        (0.0..1.0).contains(&decay),
        "a number in [0, 1)",
    )?;
    if run.sparsity.target == 0.0 {
        let expected = "a share of zeros above 0, as layers are pruned in proportion to it";
        return Err(value("sparsity.target", 0, expected));
    }
    Ok(gradual)
}

/// When gradual pruning updates masks.
pub(super) fn pruning_schedule(gradual: &GradualPruning, frequency_steps: i64) -> Result<Schedule, Error> {
    let schedule = Schedule {
        begin_step: gradual.begin_step,
        end_step: gradual.end_step,
        frequency_steps,
        drop_fraction: 0.0,
        anneal: sparse::Anneal::Constant,
    };
    schedule.validate().map_err(within("prune"))?;
    Ok(schedule)
}

/// Gives a layer what gradual pruning leaves of it.
pub(super) fn at_the_end(budget: &mut Budget, gradual: &GradualPruning) {
    let n = budget.zeros + budget.nonzeros;
    let density = gradual.density_at(gradual.end_step, budget.sparsity);
    budget.nonzeros = GradualPruning::kept(n, density);
    budget.zeros = n - budget.nonzeros;
}

/// Gradients can be averaged over as many batches as there are between two updates that look at them.
pub(super) fn check_averaging(run: &Run, method: &sparse::Method, schedule: &Schedule) -> Result<(), Error> {
    let n = run.method.gradient_batches;
    let most = match method.grows_by_gradient() {
        true => schedule.frequency_steps.unsigned_abs(),
        false => 1,
    };
    if (1..=most).contains(&n) {
        return Ok(());
    }
    let expected = match method.grows_by_gradient() {
        true => format!("1 to {most}, the steps between two updates"),
        false => format!("1, as method {} does not grow by the gradient", method.name),
    };
    Err(value("method.gradient_batches", n, expected))
}

/// The learning-rate schedule; `gradient_steps` are those of the whole run.
pub(super) fn learning_rate(run: &Run, gradient_steps: impl FnOnce() -> u64) -> Result<Rate, Error> {
    let (said, k) = (&run.learning_rate, run.train.multiplier);
    let per_batch = said
        .base_batch_size
        .map_or(1.0, |n| run.train.batch_size as f64 / n as f64);
    let base = said.base * per_batch;
    if !(base as f32).is_finite() {
        return Err(value(
            "learning_rate.base",
            said.base,
            "rates within the range of float32",
        ));
    }
    Ok(match said.schedule {
        ScheduleKind::Epochs => Rate::Epochs(Epochs {
            steps_per_epoch: steps_per_epoch(run)?,
            warmup: (said.warmup_epochs.unwrap_or(0.0) * k) as f32,
            base: base as f32,
            drops: {
                increasing(said, &said.boundaries)?;
                let epochs = said.boundaries.iter().map(|&epoch| (epoch as f64 * k) as f32);
                epochs.zip(drops(said, base)?).collect()
            },
        }),
        ScheduleKind::Cosine => Rate::Cosine {
            base: base as f32,
            steps: match said.decay_steps {
                Some(steps) => scaled(steps, k).max(1),
                None => gradient_steps().max(1) as i64,
            },
        },
        // The multiplier leaves the cycles as they are, as the original's does.
        ScheduleKind::Sgdr => Rate::Sgdr(Sgdr {
            steps_per_epoch: steps_per_epoch(run)?,
            base: base as f32,
            first_cycle: said.cycle_epochs.unwrap_or(5.0),
            t_mul: said.t_mul.unwrap_or(1.5),
            m_mul: said.m_mul.unwrap_or(0.5),
        }),
        ScheduleKind::Piecewise => Rate::Piecewise(piecewise(said, base, k)?),
    })
}

/// Gradient steps per epoch, as far as the schedule is concerned.
fn steps_per_epoch(run: &Run) -> Result<f32, Error> {
    match run.learning_rate.examples_per_epoch {
        Some(examples) => Ok((examples as f64 / run.train.batch_size as f64) as f32),
        None => {
            let expected = format!(
                "the examples of an epoch, which schedule {} counts in",
                run.learning_rate.schedule.name()
            );
            Err(value("learning_rate.examples_per_epoch", "missing", expected))
        }
    }
}

/// `int(step * k)` of each boundary.
fn piecewise(said: &LearningRate, base: f64, k: f64) -> Result<Piecewise, Error> {
    let boundaries: Vec<i64> = said.boundaries.iter().map(|&step| scaled(step, k)).collect();
    increasing(said, &boundaries)?;
    let values = [base as f32].into_iter().chain(drops(said, base)?).collect();
    Ok(Piecewise { boundaries, values })
}

/// Checks boundaries, which the multiplier may have stretched.
fn increasing(said: &LearningRate, boundaries: &[i64]) -> Result<(), Error> {
    if boundaries.iter().all(|&at| at >= 0) && boundaries.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let stretched = if boundaries == said.boundaries {
        ""
    } else {
        ", with the multiplier"
    };
    let found = format!("{boundaries:?}{stretched}");
    Err(value(
        "learning_rate.boundaries",
        found,
        "increasing steps of at least 0",
    ))
}

/// The value after each boundary.
fn drops(said: &LearningRate, base: f64) -> Result<Vec<f32>, Error> {
    let (factors, n) = (&said.factors, said.boundaries.len());
    if factors.len() != n || !factors.iter().all(|f| (0.0..f64::INFINITY).contains(f)) {
        let expected = format!("{n} numbers of at least 0, one per boundary");
        return Err(value("learning_rate.factors", format!("{factors:?}"), expected));
    }
    let values: Vec<f32> = factors.iter().map(|factor| (base * factor) as f32).collect();
    match values.iter().all(|rate| rate.is_finite()) {
        true => Ok(values),
        false => Err(value(
            "learning_rate.base",
            said.base,
            "rates within the range of float32",
        )),
    }
}
