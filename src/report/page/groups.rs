//! Groups runs that differ only in their seeds.

use serde::Serialize;

use super::Report;
use super::run::RunData;
use crate::config::{FREE_KEYS, Plan, Run};
use crate::cost::PlanCost;
use crate::report::statistic::Statistic;

/// Keys that do not tell groups apart, besides those that change no result.
const SEED: &str = "train.seed";

/// Runs of one configuration with several seeds.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The values that tell it from the other groups.
    pub label: String,
    /// Share of correct predictions in the last evaluation.
    pub top1: Option<Statistic>,
    /// Share of zeros among maskable weights at the end.
    pub sparsity: f64,
    /// Operations of the whole training, by the published convention.
    pub training_flops: f64,
    /// Operations of a prediction, by the published convention.
    pub inference_flops: f64,
    /// Runs.
    pub runs: Vec<RunData>,
    #[serde(skip)]
    pub(super) cost: Cost,
}

impl Group {
    /// The plan of its first run.
    pub fn plan(&self) -> &Plan {
        &self.runs[0].plan
    }

    /// The kind of device that it ran on.
    pub fn device(&self) -> &'static str {
        self.plan().run.device.kind.name()
    }
}

/// Theoretical cost of a group.
pub struct Cost(pub PlanCost);

impl std::fmt::Debug for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cost")
    }
}

/// Groups runs, in their order.
pub fn grouped(runs: Vec<RunData>) -> Report {
    let values: Vec<Vec<(String, String)>> = runs.iter().map(|run| telling(&run.plan.run)).collect();
    let mut kinds: Vec<Vec<(String, String)>> = vec![];
    let mut members: Vec<Vec<RunData>> = vec![];
    for (run, values) in runs.into_iter().zip(values) {
        match kinds.iter().position(|kind| *kind == values) {
            Some(at) => members[at].push(run),
            None => {
                kinds.push(values);
                members.push(vec![run]);
            }
        }
    }
    let varied = varied(&kinds);
    let groups = kinds.iter().zip(members).map(|(kind, runs)| group(kind, &varied, runs));
    Report {
        groups: groups.collect(),
        varied: varied.clone(),
    }
}

/// The values of a run that change its results, but not the seed.
fn telling(run: &Run) -> Vec<(String, String)> {
    let values = run.values().unwrap_or_default().into_iter();
    let tells =
        |key: &str| key != SEED && (!FREE_KEYS.contains(&key) || key == "train.iterations" || key == "train.unit");
    values.filter(|(key, _)| tells(key)).collect()
}

/// Keys whose values differ.
fn varied(kinds: &[Vec<(String, String)>]) -> Vec<String> {
    let mut keys: Vec<String> = kinds.iter().flatten().map(|(key, _)| key.clone()).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &String| kinds.iter().any(|kind| value(kind, key) != value(&kinds[0], key));
    keys.into_iter().filter(differs).collect()
}

pub(super) fn value<'a>(kind: &'a [(String, String)], key: &str) -> Option<&'a str> {
    kind.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

fn group(kind: &[(String, String)], varied: &[String], runs: Vec<RunData>) -> Group {
    let plan = &runs[0].plan;
    let cost = PlanCost::of(plan);
    let accuracies: Vec<f64> = runs.iter().filter_map(RunData::accuracy).collect();
    Group {
        label: label(kind, varied, &runs[0]),
        top1: Statistic::of(&accuracies),
        sparsity: plan.sparsity(),
        training_flops: cost.training_total(plan)[0],
        inference_flops: cost.sparse.total.published_flops,
        cost: Cost(cost),
        runs,
    }
}

/// Most values in a label.
const SHOWN: usize = 4;

/// Method and sparsity, then the other values that tell groups apart.
fn label(kind: &[(String, String)], varied: &[String], run: &RunData) -> String {
    const FIRST: [&str; 2] = ["method.name", "sparsity.target"];
    let plan = &run.plan;
    let mut label = plan.method.name.to_owned();
    if plan.method.masked {
        label += &format!(" {}", plan.run.sparsity.target);
    }
    let others = varied.iter().filter(|key| !FIRST.contains(&key.as_str()));
    // A method's own settings add nothing to its name.
    let others: Vec<&String> = others
        .filter(|key| !key.starts_with("method.") && !key.starts_with("sparsity.layers"))
        .collect();
    for key in others.iter().take(SHOWN) {
        let short = key.rsplit('.').next().unwrap_or(key);
        let value = value(kind, key).unwrap_or("default").trim_matches('"');
        let short = match key.as_str() {
            "model.name" | "data.name" => String::new(),
            "learning_rate.base" => "lr=".into(),
            _ => format!("{short}="),
        };
        label += &format!(" {short}{value}");
    }
    if others.len() > SHOWN {
        label += " …";
    }
    label
}
