//! Chooses the best checkpoint and says when a run stops early, from the records of its metrics.

use serde::Serialize;
use serde_json::Value;

use crate::config::{Metric, Plan};
use crate::cost;

/// Why a run stopped before its last iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// No better value of the metric for `stop.patience` evaluations.
    Patience,
    /// The budget of training FLOPs is used up.
    Flops,
    /// The time is used up.
    Time,
}

impl StopReason {
    /// The key that asked for it.
    pub fn key(self) -> &'static str {
        match self {
            StopReason::Patience => "stop.patience",
            StopReason::Flops => "stop.flops",
            StopReason::Time => "stop.time",
        }
    }
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Best {
    /// Name of the metric.
    pub metric: &'static str,
    /// Its value.
    pub value: f64,
    /// Iteration of the evaluation.
    pub iteration: u64,
}

/// Follows the records of a run, those of earlier sessions included, so that a resumed run decides as an uninterrupted one.
#[derive(Debug)]
pub struct Keeping {
    metric: Option<&'static Metric>,
    /// Which evaluations count: `validation` or `eval`.
    evaluation: &'static str,
    patience: Option<u64>,
    min_delta: f64,
    limit_s: f64,
    /// Last iteration within the budget of FLOPs, if that is before the end of the run.
    budget: Option<u64>,
    best: Option<Best>,
    /// Value that patience compares with, and the evaluations since.
    reference: Option<f64>,
    waited: u64,
    /// The metric's value in the last training launch.
    of_training: Option<f64>,
    iteration: u64,
    spent_s: f64,
}

impl Keeping {
    /// Follows no records yet.
    pub fn new(plan: &Plan) -> Self {
        let stop = &plan.run.stop;
        Keeping {
            metric: plan.run.choosing_metric(),
            evaluation: match plan.run.data.validation {
                Some(_) => "validation",
                None => "eval",
            },
            patience: stop.patience,
            min_delta: stop.min_delta.unwrap_or(0.0),
            limit_s: stop.time.map_or(f64::INFINITY, |time| time.0.as_secs_f64()),
            budget: cost::budget_iterations(plan),
            best: None,
            reference: None,
            waited: 0,
            of_training: None,
            iteration: 0,
            spent_s: 0.0,
        }
    }

    /// Ends the run after `iteration` iterations at the latest.
    pub fn until(&mut self, iteration: u64) {
        self.budget = Some(self.budget.unwrap_or(iteration).min(iteration));
    }

    /// Last iteration of a run that does not stop for other reasons.
    pub fn last_iteration(&self, plan: &Plan) -> u64 {
        self.budget.unwrap_or(plan.iterations).min(plan.iterations)
    }

    /// The best evaluation so far.
    pub fn best(&self) -> Option<Best> {
        self.best
    }

    /// Whether the evaluation after `iteration` iterations is the best so far.
    pub fn is_best(&self, iteration: u64) -> bool {
        self.best.is_some_and(|best| best.iteration == iteration)
    }

    /// Follows one record of `metrics.jsonl`.
    pub fn see(&mut self, record: &Value) {
        let Some(iteration) = record["iteration"].as_u64() else {
            return;
        };
        if let Some(rate) = record["steps_per_s"].as_f64().filter(|&rate| rate > 0.0) {
            self.spent_s += iteration.saturating_sub(self.iteration) as f64 / rate;
            self.iteration = iteration;
        }
        let Some(metric) = self.metric else { return };
        let evaluation = &record[self.evaluation];
        if record["steps_per_s"].is_number() && metric.of_training {
            self.of_training = record[metric.key].as_f64();
        }
        if evaluation.is_object() {
            let value = match metric.of_training {
                true => self.of_training,
                false => evaluation[metric.key].as_f64(),
            };
            self.judge(metric, iteration, value);
        }
    }

    /// A value of the metric; `None` if it is infinite or not a number.
    fn judge(&mut self, metric: &'static Metric, iteration: u64, value: Option<f64>) {
        let better_by = |than: f64, delta: f64| {
            value.is_some_and(|value| match metric.rises {
                true => value > than + delta,
                false => value < than - delta,
            })
        };
        if let Some(value) = value
            && self.best.is_none_or(|best| better_by(best.value, 0.0))
        {
            self.best = Some(Best {
                metric: metric.name,
                value,
                iteration,
            });
        }
        match self.reference {
            Some(reference) if !better_by(reference, self.min_delta) => self.waited += 1,
            _ => (self.reference, self.waited) = (value.or(self.reference), 0),
        }
    }

    /// Why the run stops after `iteration` iterations, if it does.
    pub fn reason(&self, iteration: u64) -> Option<StopReason> {
        if self.patience.is_some_and(|patience| self.waited >= patience) {
            Some(StopReason::Patience)
        } else if self.budget.is_some_and(|budget| iteration >= budget) {
            Some(StopReason::Flops)
        } else {
            (self.spent_s >= self.limit_s).then_some(StopReason::Time)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use serde_json::json;

    fn keeping(settings: &[(&str, &str, toml::Value)]) -> Keeping {
        let layers = Layers::preset("mnist-rigl").unwrap();
        let set = |layers: Layers, (section, key, value): &(&str, &str, toml::Value)| {
            layers.set("--set", &[section, key], value.clone()).unwrap()
        };
        Keeping::new(&settings.iter().fold(layers, set).plan().unwrap())
    }

    #[test]
    fn patience_counts_evaluations_that_are_not_better_by_the_delta() {
        let mut run = keeping(&[
            ("stop", "patience", 2.into()),
            ("stop", "min_delta", 0.01.into()),
            ("keep", "best", "loss".into()),
        ]);
        for (i, (loss, best, stops)) in [
            (1.0, 1, false),
            (0.995, 2, false),
            (0.98, 3, false),
            (0.985, 3, false),
            (0.975, 5, true),
        ]
        .into_iter()
        .enumerate()
        {
            let iteration = i as u64 + 1;
            run.see(&json!({"iteration": iteration, "eval": {"loss": loss}}));
            assert_eq!(run.best().unwrap().iteration, best, "{iteration}");
            assert_eq!(run.reason(iteration).is_some(), stops, "{iteration}");
        }
        assert_eq!(run.reason(5), Some(StopReason::Patience));
    }

    #[test]
    fn the_test_set_does_not_choose_beside_a_validation_split() {
        let mut run = keeping(&[("data", "validation", 0.1.into()), ("keep", "best", "top1".into())]);
        run.see(&json!({"iteration": 1, "validation": {"top1": 0.5}}));
        run.see(&json!({"iteration": 2, "eval": {"top1": 0.9}}));
        run.see(&json!({"iteration": 2, "validation": {"top1": 0.4}}));
        assert_eq!(run.best().unwrap().iteration, 1);
    }

    #[test]
    fn time_is_that_of_all_launches() {
        let mut run = keeping(&[("stop", "time", "3s".into()), ("keep", "best", "training_loss".into())]);
        run.see(&json!({"iteration": 10, "loss": 0.5, "steps_per_s": 5.0}));
        assert_eq!(run.reason(10), None);
        run.see(&json!({"iteration": 10, "eval": {"loss": 9.0}}));
        assert_eq!(run.best().unwrap().value, 0.5);
        run.see(&json!({"iteration": 20, "loss": 0.4, "steps_per_s": 10.0}));
        assert_eq!(run.reason(20), Some(StopReason::Time));
    }
}
