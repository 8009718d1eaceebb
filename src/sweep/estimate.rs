//! Estimates the jobs, operations and time of a sweep.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::Outcome;
use super::{Job, Result};
use crate::cost::PlanCost;
use crate::report::table::{Style, Table};
use crate::report::units;
use crate::train::program_digest;

/// What one combination of settings will take.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its settings, by dotted key.
    pub settings: BTreeMap<String, String>,
    /// Number of jobs, and of those that have ended.
    pub jobs: usize,
    /// Jobs that have ended.
    pub ended: usize,
    /// Iterations of each.
    pub iterations: u64,
    /// Digest of the compiled training program, which jobs with the same one share.
    pub program: String,
    /// Training FLOPs of each by the published convention.
    pub flops: f64,
    /// The same as a multiple of the dense network's training.
    pub flops_of_dense: f64,
    /// Iterations per second, if it is known.
    pub steps_per_s: Option<f64>,
    /// Seconds of training of the jobs that have not ended.
    pub seconds: Option<f64>,
}

/// What a sweep will take.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Number of jobs.
    pub jobs: usize,
    /// Jobs that have ended.
    pub ended: usize,
    /// Distinct training programs.
    pub programs: usize,
    /// Training FLOPs of all jobs by the published convention.
    pub flops: f64,
    /// Seconds of training of the jobs that have not ended, one after the other; absent if a rate is unknown.
    pub seconds: Option<f64>,
    /// Each combination of settings.
    pub rows: Vec<Row>,
}

/// Estimates a sweep. Rates are those of finished jobs with the same program, or else what `measure` finds for a job.
///
/// # Errors
/// Graphs that cannot be built, and errors of `measure`.
pub fn of<E: From<super::Error>>(
    jobs: &[Job],
    outcomes: &[Outcome],
    mut measure: impl FnMut(&Job) -> Result<Option<f64>, E>,
) -> Result<Estimate, E> {
    let mut rows: Vec<Row> = vec![];
    let mut rates: BTreeMap<String, Option<f64>> = BTreeMap::new();
    let mut examples = vec![];
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let settings: BTreeMap<_, _> = job.settings.iter().cloned().collect();
        let ended = usize::from(!matches!(outcome, Outcome::Unfinished));
        let at = match rows.iter().position(|row| row.settings == settings) {
            Some(at) => at,
            None => {
                rows.push(row(job, settings)?);
                examples.push(job);
                rows.len() - 1
            }
        };
        rows[at].jobs += 1;
        rows[at].ended += ended;
        let rate = outcome.summary().and_then(|summary| summary["steps_per_s"].as_f64());
        if let Some(rate) = rate.filter(|&rate| rate > 0.0) {
            rates.insert(rows[at].program.clone(), Some(rate));
        }
    }
    for (row, job) in rows.iter_mut().zip(examples) {
        let rate = match rates.get(&row.program) {
            Some(rate) => *rate,
            None => *rates.entry(row.program.clone()).or_insert(measure(job)?),
        };
        row.steps_per_s = rate;
        row.seconds = rate.map(|rate| (row.jobs - row.ended) as f64 * row.iterations as f64 / rate);
    }
    Ok(Estimate {
        jobs: jobs.len(),
        ended: rows.iter().map(|row| row.ended).sum(),
        programs: rates.len(),
        flops: rows.iter().map(|row| row.jobs as f64 * row.flops).sum(),
        seconds: rows.iter().map(|row| row.seconds).sum(),
        rows,
    })
}

fn row(job: &Job, settings: BTreeMap<String, String>) -> Result<Row> {
    let cost = PlanCost::of(&job.plan);
    Ok(Row {
        settings,
        jobs: 0,
        ended: 0,
        iterations: job.plan.iterations,
        program: program_digest(&job.plan)?,
        flops: cost.training_total(&job.plan)[0],
        flops_of_dense: cost.training_ratio(&job.plan)[0],
        steps_per_s: None,
        seconds: None,
    })
}

impl Estimate {
    /// The rows as a table, with their sum in text and Markdown.
    pub fn table(&self, style: Style) -> Table {
        let mut keys: Vec<&String> = self.rows.iter().flat_map(|row| row.settings.keys()).collect();
        keys.sort();
        keys.dedup();
        let figures = ["jobs", "ended", "iterations", "FLOPs", "x dense", "it/s", "time to go"];
        let header: Vec<&str> = keys.iter().map(|key| key.as_str()).chain(figures).collect();
        let mut table = Table::new(&header);
        let [count, _] = units::forms(style);
        let time = |seconds: Option<f64>| match (seconds, style) {
            (None, _) => String::new(),
            (Some(seconds), Style::Csv) => format!("{seconds:.1}"),
            (Some(seconds), _) => units::time(seconds),
        };
        for row in &self.rows {
            let settings = keys
                .iter()
                .map(|key| row.settings.get(*key).cloned().unwrap_or_default());
            table.row(settings.chain([
                row.jobs.to_string(),
                row.ended.to_string(),
                row.iterations.to_string(),
                count(row.flops),
                format!("{:.4}", row.flops_of_dense),
                row.steps_per_s.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
                time(row.seconds),
            ]));
        }
        if style != Style::Csv {
            let settings = keys.iter().map(|_| String::new());
            let mut cells: Vec<String> = settings.collect();
            if let Some(first) = cells.first_mut() {
                *first = "all".into();
            }
            let figures = [
                self.jobs.to_string(),
                self.ended.to_string(),
                String::new(),
                count(self.flops),
            ];
            table.row(
                cells
                    .into_iter()
                    .chain(figures)
                    .chain([String::new(), String::new(), time(self.seconds)]),
            );
        }
        table
    }
}
