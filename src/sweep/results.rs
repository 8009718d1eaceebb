//! The table of a sweep: mean, standard deviation and standard error over seeds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Job;
use super::outcome::Outcome;
use crate::cost::PlanCost;
use crate::report::statistic::Statistic;
use crate::report::table::{Style, Table};
use crate::report::units;

/// A figure of finished jobs.
#[derive(Debug)]
pub struct Figure {
    /// Name in JSON and CSV.
    pub name: &'static str,
    /// Header in text and Markdown.
    header: &'static str,
    /// Its form in text and Markdown.
    shown: Shown,
    /// Its value, from the job and its summary.
    value: fn(&Job, &Value) -> Option<f64>,
}

/// Every figure; tables show those that a job has. The first has its standard error in every table.
#[rustfmt::skip] // one line per figure
static FIGURES: [Figure; 8] = [
    Figure { name: "test_top1", header: "test top-1 %", shown: Fixed(100.0, 2), value: |_, of| of.pointer("/eval/top1")?.as_f64() },
    Figure { name: "test_loss", header: "test loss", shown: Fixed(1.0, 4), value: |_, of| of.pointer("/eval/loss")?.as_f64() },
    Figure { name: "validation_top1", header: "validation top-1 %", shown: Fixed(100.0, 2), value: |_, of| of.pointer("/validation/top1")?.as_f64() },
    Figure { name: "best_test_top1", header: "best: test top-1 %", shown: Fixed(100.0, 2), value: |_, of| of.pointer("/best/eval/top1")?.as_f64() },
    Figure { name: "sparsity", header: "sparsity", shown: Fixed(1.0, 4), value: |_, of| of.pointer("/sparsity")?.as_f64() },
    Figure { name: "iterations", header: "iterations", shown: Fixed(1.0, 0), value: |_, of| of.pointer("/steps")?.as_f64() },
    Figure { name: "training_flops", header: "training FLOPs", shown: Count, value: flops },
    Figure { name: "training_flops_of_dense", header: "x dense", shown: Fixed(1.0, 4), value: flops_of_dense },
];

/// How a figure is shown.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// With a factor and a number of decimals.
    Fixed(f64, usize),
    /// With four digits and a unit prefix.
    Count,
}

use Shown::{Count, Fixed};

impl Shown {
    fn write(self, value: f64) -> String {
        match self {
            Fixed(factor, decimals) => format!("{:.decimals$}", factor * value),
            Count => units::count(value),
        }
    }
}

/// Training FLOPs by the published convention.
fn flops(job: &Job, summary: &Value) -> Option<f64> {
    let done = summary["steps"].as_f64()? / job.plan.iterations as f64;
    Some(PlanCost::of(&job.plan).training_total(&job.plan)[0] * done)
}

/// Training FLOPs by the published convention, as a multiple of the dense network's at multiplier 1.
fn flops_of_dense(job: &Job, summary: &Value) -> Option<f64> {
    let done = summary["steps"].as_f64()? / job.plan.iterations as f64;
    Some(PlanCost::of(&job.plan).training_ratio(&job.plan)[0] * done)
}

/// One combination of settings.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its settings, by dotted key.
    pub settings: BTreeMap<String, String>,
    /// Finished jobs.
    pub finished: usize,
    /// Failed jobs.
    pub failed: usize,
    /// Jobs that have not ended.
    pub unfinished: usize,
    /// Its figures, by name.
    pub figures: BTreeMap<&'static str, Statistic>,
}

/// The rows of a sweep, in the order of its jobs.
pub fn rows(jobs: &[Job], outcomes: &[Outcome]) -> Vec<Row> {
    let mut groups: Vec<(BTreeMap<String, String>, Vec<usize>)> = vec![];
    for (index, job) in jobs.iter().enumerate() {
        let settings: BTreeMap<_, _> = job.settings.iter().cloned().collect();
        match groups.iter_mut().find(|(known, _)| *known == settings) {
            Some((_, members)) => members.push(index),
            None => groups.push((settings, vec![index])),
        }
    }
    let row = |(settings, members): (BTreeMap<String, String>, Vec<usize>)| {
        let count = |wanted: fn(&Outcome) -> bool| members.iter().filter(|&&i| wanted(&outcomes[i])).count();
        let statistic = |figure: &Figure| {
            let value = |&i: &usize| (figure.value)(&jobs[i], outcomes[i].summary()?);
            let values: Vec<f64> = members.iter().filter_map(value).collect();
            Some((figure.name, Statistic::of(&values)?))
        };
        Row {
            finished: count(|outcome| matches!(outcome, Outcome::Finished { .. })),
            failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            unfinished: count(|outcome| matches!(outcome, Outcome::Unfinished)),
            figures: FIGURES.iter().filter_map(statistic).collect(),
            settings,
        }
    };
    groups.into_iter().map(row).collect()
}

/// The dotted keys of all rows, sorted.
pub fn keys(rows: &[Row]) -> Vec<&String> {
    let mut keys: Vec<&String> = rows.iter().flat_map(|row| row.settings.keys()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// A header, and the number under it.
type Counter = (&'static str, fn(&Row) -> usize);

/// The rows as a table: `mean ± standard deviation` in text and Markdown, a column for each number in CSV.
pub fn table(rows: &[Row], style: Style) -> Table {
    let keys = keys(rows);
    let has = |figure: &&Figure| rows.iter().any(|row| row.figures.contains_key(figure.name));
    let figures: Vec<&Figure> = FIGURES.iter().filter(has).collect();
    let counts: [Counter; 2] = [("failed", |row| row.failed), ("unfinished", |row| row.unfinished)];
    let counted = |(_, count): &&Counter| style == Style::Csv || rows.iter().any(|row| count(row) > 0);
    let counts: Vec<_> = counts.iter().filter(counted).collect();
    let own = |figure: &&&Figure| headers(figure, style);
    let header: Vec<String> = keys
        .iter()
        .map(|key| short(key, style))
        .chain(["n".to_owned()])
        .collect();
    let header = header.into_iter().chain(figures.iter().flat_map(|figure| own(&figure)));
    let header: Vec<String> = header
        .chain(counts.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        let settings = keys
            .iter()
            .map(|key| row.settings.get(*key).cloned().unwrap_or_default());
        let cells = figures
            .iter()
            .flat_map(|figure| cells(figure, row.figures.get(figure.name), style));
        let counts = counts.iter().map(|(_, count)| count(row).to_string());
        table.row(settings.chain([row.finished.to_string()]).chain(cells).chain(counts));
    }
    table
}

/// A key in the header: its last part, or the one before where that says no more.
fn short(key: &str, style: Style) -> String {
    let (section, last) = key.rsplit_once('.').unwrap_or(("", key));
    match (style, last) {
        (Style::Csv, _) => key.to_owned(),
        (_, "name") => section.to_owned(),
        (_, "target") => "target sparsity".to_owned(),
        (_, last) => last.replace('_', " "),
    }
}

fn headers(figure: &Figure, style: Style) -> Vec<String> {
    match style {
        Style::Csv => ["", "_std", "_sem"].map(|end| format!("{}{end}", figure.name)).into(),
        Style::Text | Style::Markdown if figure.name == FIGURES[0].name => {
            vec![figure.header.to_owned(), "std. error".to_owned()]
        }
        Style::Text | Style::Markdown => vec![figure.header.to_owned()],
    }
}

fn cells(figure: &Figure, statistic: Option<&Statistic>, style: Style) -> Vec<String> {
    let empty = || vec![String::new(); headers(figure, style).len()];
    let Some(Statistic { mean, std, sem, .. }) = statistic else {
        return empty();
    };
    let exact = |value: &f64| value.to_string();
    if style == Style::Csv {
        let others = [std, sem].map(|value| value.as_ref().map(exact).unwrap_or_default());
        return [&[exact(mean)], &others[..]].concat();
    }
    let rounded = |value: f64| figure.shown.write(value);
    let spread = std.filter(|&std| std > 0.0).map(|std| format!(" ± {}", rounded(std)));
    let mut cells = empty();
    cells[0] = rounded(*mean) + &spread.unwrap_or_default();
    if let Some(cell) = cells.get_mut(1) {
        *cell = sem.map(rounded).unwrap_or_default();
    }
    cells
}
