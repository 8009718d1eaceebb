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

pub(super) fn schedule(config: &MaskUpdate, k: f64) -> Schedule {
    Schedule {
        begin_step: scaled(config.begin_step, k),
        // A negative end means none at every multiplier; int(-1 * 0.5) would be step 0.
        end_step: if config.end_step < 0 {
            config.end_step
        } else {
            scaled(config.end_step, k)
        },
        frequency_steps: config.frequency_steps,
        drop_fraction: config.drop_fraction,
        anneal: config.anneal,
    }
}

/// Sparsity over the steps of gradual pruning.
pub(super) fn gradual(run: &Run, k: f64) -> Result<GradualPruning, Error> {
    let config = &run.prune;
    let gradual = GradualPruning {
        begin_step: scaled(config.begin_step, k),
        end_step: scaled(config.end_step, k),
        initial_sparsity: config.initial_sparsity,
        target_sparsity: run.sparsity.target,
        exponent: config.exponent,
    };
    gradual.validate().map_err(within("prune"))?;
    let decay = config.threshold_decay;
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

/// Schedule of the mask updates of gradual pruning.
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

/// Sets the budget of a layer to that at the end of gradual pruning.
pub(super) fn at_the_end(budget: &mut Budget, gradual: &GradualPruning) {
    let n = budget.zeros + budget.nonzeros;
    let density = gradual.density_at(gradual.end_step, budget.sparsity);
    budget.nonzeros = GradualPruning::kept(n, density);
    budget.zeros = n - budget.nonzeros;
}

/// Checks that gradients are averaged over at most the batches between two updates.
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
    let (config, k) = (&run.learning_rate, run.train.multiplier);
    let per_batch = config
        .base_batch_size
        .map_or(1.0, |n| run.train.batch_size as f64 / n as f64);
    let base = config.base * per_batch;
    if !(base as f32).is_finite() {
        return Err(value(
            "learning_rate.base",
            config.base,
            "rates within the range of float32",
        ));
    }
    if let Some(steps) = config.warmup_steps
        && !matches!(config.schedule, ScheduleKind::Cosine | ScheduleKind::Linear)
    {
        let expected = format!(
            "nothing, as schedule {} has no warm-up in steps",
            config.schedule.name()
        );
        return Err(value("learning_rate.warmup_steps", steps, expected));
    }
    Ok(match config.schedule {
        ScheduleKind::Epochs => Rate::Epochs(Epochs {
            steps_per_epoch: steps_per_epoch(run)?,
            warmup: (config.warmup_epochs.unwrap_or(0.0) * k) as f32,
            base: base as f32,
            drops: {
                increasing(config, &config.boundaries)?;
                let epochs = config.boundaries.iter().map(|&epoch| (epoch as f64 * k) as f32);
                epochs.zip(drops(config, base)?).collect()
            },
        }),
        ScheduleKind::Cosine | ScheduleKind::Linear => {
            let total = match config.decay_steps {
                Some(steps) => scaled(steps, k).max(1),
                None => gradient_steps().max(1) as i64,
            };
            warmed(run, base as f32, total)?
        }
        // The multiplier does not stretch the cycles, as in the original.
        ScheduleKind::Sgdr => Rate::Sgdr(Sgdr {
            steps_per_epoch: steps_per_epoch(run)?,
            base: base as f32,
            first_cycle: config.cycle_epochs.unwrap_or(5.0),
            t_mul: config.t_mul.unwrap_or(1.5),
            m_mul: config.m_mul.unwrap_or(0.5),
        }),
        ScheduleKind::Piecewise => Rate::Piecewise(piecewise(config, base, k)?),
    })
}

/// A cosine or a line that ends after `total` gradient steps, after the warm-up.
fn warmed(run: &Run, base: f32, total: i64) -> Result<Rate, Error> {
    let (config, k) = (&run.learning_rate, run.train.multiplier);
    let warmup = match (config.warmup_steps, config.warmup_epochs.filter(|&epochs| epochs > 0.0)) {
        (Some(steps), None) => scaled(steps as i64, k),
        (None, Some(epochs)) => (epochs * k * f64::from(steps_per_epoch(run)?)).round() as i64,
        (None, None) => 0,
        (Some(steps), Some(_)) => {
            let expected = "nothing, as learning_rate.warmup_epochs gives the length too";
            return Err(value("learning_rate.warmup_steps", steps, expected));
        }
    };
    if warmup >= total && warmup > 0 {
        let key = match config.warmup_steps {
            Some(_) => "learning_rate.warmup_steps",
            None => "learning_rate.warmup_epochs",
        };
        let expected = format!("fewer than the {total} gradient steps of the schedule");
        return Err(value(key, format!("{warmup} gradient steps"), expected));
    }
    let steps = total - warmup;
    let then = match config.schedule {
        ScheduleKind::Linear => Rate::Linear { base, steps },
        ScheduleKind::Cosine | ScheduleKind::Piecewise | ScheduleKind::Epochs | ScheduleKind::Sgdr => {
            Rate::Cosine { base, steps }
        }
    };
    Ok(match warmup {
        0 => then,
        steps => Rate::Warmup {
            base,
            steps,
            then: Box::new(then),
        },
    })
}

/// Gradient steps per epoch of the schedule.
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
fn piecewise(config: &LearningRate, base: f64, k: f64) -> Result<Piecewise, Error> {
    let boundaries: Vec<i64> = config.boundaries.iter().map(|&step| scaled(step, k)).collect();
    increasing(config, &boundaries)?;
    let values = [base as f32].into_iter().chain(drops(config, base)?).collect();
    Ok(Piecewise { boundaries, values })
}

/// Checks boundaries, which the multiplier may have stretched.
fn increasing(config: &LearningRate, boundaries: &[i64]) -> Result<(), Error> {
    if boundaries.iter().all(|&at| at >= 0) && boundaries.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let stretched = if boundaries == config.boundaries {
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
fn drops(config: &LearningRate, base: f64) -> Result<Vec<f32>, Error> {
    let (factors, n) = (&config.factors, config.boundaries.len());
    if factors.len() != n || !factors.iter().all(|f| (0.0..f64::INFINITY).contains(f)) {
        let expected = format!("{n} numbers of at least 0, one per boundary");
        return Err(value("learning_rate.factors", format!("{factors:?}"), expected));
    }
    let values: Vec<f32> = factors.iter().map(|factor| (base * factor) as f32).collect();
    match values.iter().all(|rate| rate.is_finite()) {
        true => Ok(values),
        false => Err(value(
            "learning_rate.base",
            config.base,
            "rates within the range of float32",
        )),
    }
}
