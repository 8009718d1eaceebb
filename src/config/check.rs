//! Ranges of single values; errors that carry the key of the value at fault.

use super::{Error, LayerSparsity, LearningRate, Run, Train, keeping};
use crate::named::Named;

/// Bound on the examples of one launch, whose indices the host holds: 256 MB.
const MAX_LAUNCH_EXAMPLES: u64 = 1 << 26;

/// Maximum length of a run: a thousand times the published ones, and short enough for `plan` to walk through.
const MAX_ITERATIONS: u64 = 100_000_000;

/// Maximum number of threads that read data.
const MAX_THREADS: usize = 1024;

pub(super) fn numbers(run: &Run) -> Result<(), Error> {
    sparsity(run)?;
    rule(run)?;
    rate(&run.learning_rate)?;
    length(&run.train)?;
    keeping::numbers(run)?;
    let optional = |key: &str, v: Option<usize>| v.map_or(Ok(()), |v| whole(key, v as u64));
    optional("data.prefetch", run.data.prefetch)?;
    if let Some(threads) = run.data.threads
        && !(1..=MAX_THREADS).contains(&threads)
    {
        let expected = format!("a whole number from 1 to {MAX_THREADS}");
        return Err(value("data.threads", threads, expected));
    }
    replicas(run)?;
    match run.data.examples {
        Some(examples) if !run.data.set.is_generated() => {
            let expected = format!("nothing: data set {} has its own number", run.data.set.name());
            Err(value("data.examples", examples, expected))
        }
        Some(examples) => whole("data.examples", examples as u64),
        None => Ok(()),
    }
}

fn sparsity(run: &Run) -> Result<(), Error> {
    let config = &run.sparsity;
    share("sparsity.target", config.target)?;
    for (key, sparsity) in [
        ("sparsity.first_layer", config.first_layer),
        ("sparsity.last_layer", config.last_layer),
    ] {
        let Some(sparsity) = sparsity else { continue };
        let ok = sparsity == -1.0 || (0.0..1.0).contains(&sparsity);
        let expected = "-1 (as distributed), 0 (no mask) or a share of zeros below 1";
        within_range(key, sparsity, ok, expected)?;
    }
    let own =
        |(layer, own): (&String, &LayerSparsity)| share(&format!("sparsity.layers.{layer}"), own.at(config.target));
    config.layers.iter().try_for_each(own)
}

/// Optimizer and method.
fn rule(run: &Run) -> Result<(), Error> {
    let (optimizer, method) = (&run.optimizer, &run.method);
    share("optimizer.momentum", optimizer.momentum)?;
    share("optimizer.beta1", optimizer.beta1)?;
    share("optimizer.beta2", optimizer.beta2)?;
    above_zero("optimizer.epsilon", optimizer.epsilon)?;
    from_zero("optimizer.weight_decay", optimizer.weight_decay)?;
    share("optimizer.ema_decay", optimizer.ema_decay.unwrap_or(0.0))?;
    above_zero("optimizer.clip_norm", optimizer.clip_norm.unwrap_or(1.0))?;
    above_zero("method.temperature", method.temperature)?;
    from_zero("method.drop_noise_std", method.drop_noise_std)?;
    let momentum = method.ema_momentum;
    let ok = (0.0..=1.0).contains(&momentum);
    within_range("method.ema_momentum", momentum, ok, "a number in [0, 1]")?;
    let scale = method.initial_accumulator_scale;
    let key = "method.initial_accumulator_scale";
    within_range(key, scale, scale.is_finite(), "a finite number")
}

fn rate(config: &LearningRate) -> Result<(), Error> {
    from_zero("learning_rate.base", config.base)?;
    let optional = |key: &str, v: Option<u64>| v.map_or(Ok(()), |v| whole(key, v));
    optional(
        "learning_rate.base_batch_size",
        config.base_batch_size.map(|n| n as u64),
    )?;
    optional("learning_rate.examples_per_epoch", config.examples_per_epoch)?;
    let steps = config.decay_steps.map(|steps| u64::try_from(steps).unwrap_or(0));
    optional("learning_rate.decay_steps", steps)?;
    from_zero("learning_rate.warmup_epochs", config.warmup_epochs.unwrap_or(0.0))?;
    optional("learning_rate.warmup_steps", config.warmup_steps)?;
    above_zero("learning_rate.cycle_epochs", config.cycle_epochs.unwrap_or(5.0))?;
    from_zero("learning_rate.m_mul", config.m_mul.unwrap_or(0.5))?;
    let t_mul = config.t_mul.unwrap_or(1.5);
    let ok = (1.0..f64::INFINITY).contains(&t_mul);
    within_range("learning_rate.t_mul", t_mul, ok, "a number of at least 1")
}

fn length(train: &Train) -> Result<(), Error> {
    whole("train.iterations", train.iterations)?;
    whole("train.batch_size", train.batch_size as u64)?;
    whole("train.eval_batch_size", train.eval_batch_size as u64)?;
    whole("train.steps_per_launch", train.steps_per_launch)?;
    whole("train.eval_interval", train.eval_interval)?;
    whole("train.checkpoint_interval", train.checkpoint_interval)?;
    whole("train.keep_checkpoints", train.keep_checkpoints as u64)?;
    share("train.label_smoothing", train.label_smoothing)?;
    let launched = train.steps_per_launch.saturating_mul(train.batch_size as u64);
    if launched > MAX_LAUNCH_EXAMPLES {
        let expected = "at most 2^26 examples in a launch";
        return Err(value("train.steps_per_launch", train.steps_per_launch, expected));
    }
    let iterations = train.multiplier * train.iterations as f64;
    let ok = (1.0..=MAX_ITERATIONS as f64).contains(&iterations);
    let expected = format!("a number above 0 that leaves 1 to {MAX_ITERATIONS} iterations");
    within_range("train.multiplier", train.multiplier, ok, &expected)
}

/// The original splits a batch evenly over its shards (reference 2.10).
fn replicas(run: &Run) -> Result<(), Error> {
    let (batch, device) = (run.train.batch_size, &run.device);
    let optional = |key: &str, v: Option<usize>| v.map_or(Ok(()), |v| whole(key, v as u64));
    optional("device.processes", device.processes)?;
    optional("device.replicas", device.replicas)?;
    let (processes, key) = (device.processes.unwrap_or(1), "device.processes");
    if let Some(replicas) = device.replicas
        && replicas % processes != 0
    {
        let expected = format!("a number that divides device.replicas, which is {replicas}");
        return Err(value(key, processes, expected));
    }
    let (key, replicas) = device.replicas.map_or((key, processes), |n| ("device.replicas", n));
    if batch % replicas != 0 {
        let expected = format!("a number that divides train.batch_size, which is {batch}");
        return Err(value(key, replicas, expected));
    }
    let (own, parts) = (batch / replicas, run.train.accumulate.unwrap_or(1));
    if parts == 0 || own % parts != 0 {
        let expected = match replicas {
            1 => format!("a number that divides train.batch_size, which is {batch}"),
            _ => format!("a number that divides the batch of a replica, which is {own}"),
        };
        return Err(value("train.accumulate", parts, expected));
    }
    Ok(())
}

pub(super) fn within_range(key: &str, found: f64, ok: bool, expected: &str) -> Result<(), Error> {
    match ok {
        true => Ok(()),
        false => Err(value(key, found, expected)),
    }
}

fn share(key: &str, v: f64) -> Result<(), Error> {
    within_range(key, v, (0.0..1.0).contains(&v), "a number in [0, 1)")
}

pub(super) fn from_zero(key: &str, v: f64) -> Result<(), Error> {
    within_range(key, v, (0.0..f64::INFINITY).contains(&v), "a number of at least 0")
}

pub(super) fn above_zero(key: &str, v: f64) -> Result<(), Error> {
    within_range(key, v, v > 0.0 && v.is_finite(), "a number above 0")
}

fn whole(key: &str, v: u64) -> Result<(), Error> {
    match (1..=MAX_ITERATIONS).contains(&v) {
        true => Ok(()),
        false => Err(value(key, v, format!("a whole number from 1 to {MAX_ITERATIONS}"))),
    }
}

/// An error at `key`, which `Layers` replaces in the origin by the flag or file that set it.
pub(super) fn value(key: &str, found: impl ToString, expected: impl Into<String>) -> Error {
    Error::Value {
        origin: key.into(),
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

pub(super) fn at(key: &str) -> impl FnOnce(sparse::Error) -> Error {
    let origin = key.to_owned();
    |source| Error::Sparse { origin, source }
}

/// An error at the key of `section` that it is about.
pub(super) fn within(section: &str) -> impl FnOnce(sparse::Error) -> Error {
    move |source| {
        let key = match &source {
            // Such as `power of anneal`.
            sparse::Error::Value { name, .. } => name.rsplit(' ').next().unwrap_or_default().to_owned(),
            sparse::Error::NotALevel { .. } => "target".to_owned(),
            sparse::Error::MissingLayers { names, .. } => format!("layers.{}", names.join(", ")),
            _ => "distribution".to_owned(),
        };
        at(&format!("{section}.{key}"))(source)
    }
}
