//! Which checkpoints a run keeps, and when it stops before its last iteration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{above_zero, from_zero, value, within_range};
use super::{Error, Run};
use crate::named::{self, Named};

/// `[keep]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Metric whose best checkpoint is kept, as `best.safetensors`. Default: none.
    #[serde(default, with = "named::optional", skip_serializing_if = "Option::is_none")]
    pub best: Option<&'static Metric>,
    /// Checkpoints at multiples of this number of iterations are kept. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
}

/// `[stop]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Evaluations without a better value of the metric after which the run stops. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Change of the metric that counts as better. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_delta: Option<f64>,
    /// Training FLOPs after which the run stops: a number, or a multiple of the dense training such as `1.0x dense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<Flops>,
    /// Time in training launches, over all sessions of the run, after which it stops: `90s`, `2h 30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

impl Keep {
    /// Whether it holds nothing but defaults.
    pub(super) fn is_default(&self) -> bool {
        *self == Keep::default()
    }
}

impl Stop {
    /// Whether it holds nothing but defaults.
    pub(super) fn is_default(&self) -> bool {
        *self == Stop::default()
    }
}

/// A metric that can choose a checkpoint and stop a run.
#[derive(Debug)]
pub struct Metric {
    /// Name in flags and configurations.
    pub name: &'static str,
    /// Whether larger values are better.
    pub rises: bool,
    /// Whether it is of the training batches of the last launch instead of an evaluation.
    pub of_training: bool,
    /// Its key in the records of `metrics.jsonl`.
    pub key: &'static str,
}

/// Every metric that can choose. The first is the default.
#[rustfmt::skip] // one line per metric
pub static CHOOSING: [&Metric; 6] = [
    &Metric { name: "top1", rises: true, of_training: false, key: "top1" },
    &Metric { name: "top5", rises: true, of_training: false, key: "top5" },
    &Metric { name: "loss", rises: false, of_training: false, key: "loss" },
    &Metric { name: "smoothed_loss", rises: false, of_training: false, key: "smoothed_loss" },
    &Metric { name: "training_loss", rises: false, of_training: true, key: "loss" },
    &Metric { name: "training_accuracy", rises: true, of_training: true, key: "accuracy" },
];

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Named for &'static Metric {
    const KIND: &'static str = "metric";
    const ALL: &'static [Self] = &CHOOSING;

    fn name(self) -> &'static str {
        self.name
    }
}

/// A budget of training FLOPs, by the published convention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "String")]
pub enum Flops {
    /// A number of operations.
    Total(f64),
    /// A multiple of the dense network's training at multiplier 1.
    OfDense(f64),
}

impl FromStr for Flops {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number = |text: &str| {
            let number: Option<f64> = text.trim().parse().ok();
            number.filter(|n| *n > 0.0 && n.is_finite())
        };
        let times = text.strip_suffix("dense").map(str::trim_end);
        let found = match times.map(|times| times.strip_suffix(['x', '×'])) {
            None => number(text).map(Flops::Total),
            Some(times) => times.and_then(number).map(Flops::OfDense),
        };
        found.ok_or_else(|| format!("'{text}', expected a number of FLOPs such as 2e12, or '1.0x dense'"))
    }
}

impl TryFrom<toml::Value> for Flops {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }
}

impl From<Flops> for String {
    fn from(flops: Flops) -> Self {
        flops.to_string()
    }
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flops::Total(flops) => write!(f, "{flops:e}"),
            Flops::OfDense(times) => write!(f, "{times}x dense"),
        }
    }
}

/// A length of time, as text such as `90s` or `2h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |_| format!("'{text}', expected a time such as 90s or 2h 30m");
        humantime::parse_duration(&text).map(Time).map_err(wrong)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Checks the values of both sections, and those of the validation split and of evaluations.
pub(super) fn numbers(run: &Run) -> Result<(), Error> {
    let whole = |key: &str, found: Option<u64>| match found {
        Some(0) => Err(value(key, 0, "a whole number of at least 1")),
        _ => Ok(()),
    };
    whole("stop.patience", run.stop.patience)?;
    whole("keep.every", run.keep.every)?;
    let delta = run.stop.min_delta.unwrap_or(0.0);
    from_zero("stop.min_delta", delta)?;
    if run.stop.min_delta.is_some() && run.stop.patience.is_none() {
        return Err(value("stop.min_delta", delta, "nothing without stop.patience"));
    }
    let interval = run.train.checkpoint_interval;
    if let Some(every) = run.keep.every.filter(|every| every % interval != 0) {
        let expected = format!("a multiple of train.checkpoint_interval, which is {interval}");
        return Err(value("keep.every", every, expected));
    }
    if let Some(epochs) = run.train.eval_epochs {
        above_zero("train.eval_epochs", epochs)?;
    }
    let held = run.data.validation.unwrap_or(1.0);
    let ok = held > 0.0 && (held < 1.0 || held.fract() == 0.0) && held < f64::from(i32::MAX);
    let expected = "a share of the training examples, in (0, 1), or a whole number of them";
    within_range("data.validation", held, ok, expected)?;
    let smooth = run.train.label_smoothing > 0.0;
    match run.keep.best {
        Some(metric) if metric.key == "smoothed_loss" && !smooth => {
            let expected = "another metric: the run has no label smoothing (train.label_smoothing)";
            Err(value("keep.best", metric.name, expected))
        }
        _ => Ok(()),
    }
}

impl Run {
    /// The metric that chooses the best checkpoint and stops the run, if either is asked for.
    pub fn choosing_metric(&self) -> Option<&'static Metric> {
        let patient = self.stop.patience.map(|_| CHOOSING[0]);
        self.keep.best.or(patient)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn budgets_and_times_survive_toml() {
        let stop: Stop = toml::from_str("flops = '0.5x dense'\ntime = '2h 30m'").unwrap();
        assert_eq!(stop.flops, Some(Flops::OfDense(0.5)));
        assert_eq!(stop.time, Some(Time(Duration::from_secs(9000))));
        let text = toml::to_string(&stop).unwrap();
        assert_eq!(toml::from_str::<Stop>(&text).unwrap(), stop);
        for (text, flops) in [("2e12", 2e12), ("'3e3'", 3e3), ("500", 500.0)] {
            let stop: Stop = toml::from_str(&format!("flops = {text}")).unwrap();
            assert_eq!(stop.flops, Some(Flops::Total(flops)));
        }
        for wrong in ["'1x'", "'-1x dense'", "'dense'", "0", "'nan'"] {
            assert!(toml::from_str::<Stop>(&format!("flops = {wrong}")).is_err(), "{wrong}");
        }
        assert!(toml::from_str::<Stop>("time = 'soon'").is_err());
    }
}
