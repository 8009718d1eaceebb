//! The series of a report's charts.

use super::groups::Group;
use super::run::RunData;
use super::{Report, topology::Topology};
use crate::report::chart::{Chart, Labels, Mark, Series, series};
use crate::report::statistic::Statistic;

/// Most points of a curve; longer ones are thinned.
const POINTS: usize = 300;

fn labels(title: &str, x: &str, y: &str) -> Labels {
    Labels {
        title: title.into(),
        x: x.into(),
        y: y.into(),
    }
}

/// A metric over iterations: for each group the mean of its runs, and one standard deviation on both sides.
pub fn metric(report: &Report, title: &str, name: &str, y: &str) -> Option<Chart> {
    let curves = |group: &Group| group.runs.iter().map(|run| run.curve(name)).collect();
    over_groups(report, &labels(title, "iterations", y), Mark::Line, curves)
}

/// A figure of each mask update, over iterations.
pub fn of_updates(report: &Report, title: &str, y: &str, of: fn(&crate::topology::Update) -> f64) -> Option<Chart> {
    let curve = |run: &RunData| {
        let updates = run
            .topology
            .iter()
            .flat_map(|topology: &Topology| topology.updates.iter().skip(1));
        updates.map(|update| (update.iteration as f64, of(update))).collect()
    };
    let curves = |group: &Group| group.runs.iter().map(curve).collect();
    over_groups(report, &labels(title, "iterations", y), Mark::Line, curves)
}

/// The planned learning rate.
pub fn learning_rate(report: &Report) -> Option<Chart> {
    let curve = |group: &Group| {
        let plan = group.plan();
        let steps = plan.gradient_steps();
        let at = |i: usize| (i as u64 * steps.saturating_sub(1)) / POINTS as u64;
        let point = |step: u64| (step as f64, f64::from(plan.learning_rate.at(step as i64)));
        vec![(0..=POINTS).map(|i| point(at(i))).collect()]
    };
    over_groups(
        report,
        &labels("Learning rate", "gradient steps", "rate"),
        Mark::Step,
        curve,
    )
}

/// The planned drop fraction, or sparsity under gradual pruning.
pub fn drop_fraction(report: &Report) -> Option<Chart> {
    let curve = |group: &Group| {
        let plan = group.plan();
        let steps: Vec<i64> = plan.update_steps().collect();
        let value = |step: i64| match plan.pruned(step) {
            Some(pruned) => f64::from(pruned.sparsity),
            None => f64::from(plan.replacement(step).drop_fraction),
        };
        vec![
            thinned(&steps)
                .into_iter()
                .map(|step| (step as f64, value(step)))
                .collect(),
        ]
    };
    let moving = report.runs().any(|run| run.plan.method.replaces_connections());
    let title = if moving {
        "Drop fraction of mask updates"
    } else {
        "Sparsity by schedule"
    };
    let changing = report
        .runs()
        .any(|run| run.plan.method.replaces_connections() || run.plan.gradual.is_some());
    let chart = || over_groups(report, &labels(title, "gradient steps", "share"), Mark::Line, curve);
    changing.then(chart).flatten()
}

/// Accuracy of each group against a figure of it.
pub fn accuracy_against(report: &Report, title: &str, x: &str, of: fn(&Group) -> f64) -> Option<Chart> {
    let point = |(colour, group): (usize, &Group)| {
        let statistic = group.top1?;
        let (low, high) = statistic.band();
        Some(Series {
            name: group.label.clone(),
            colour,
            mark: Mark::Point,
            points: vec![(of(group), 100.0 * statistic.mean)],
            band: vec![(100.0 * low, 100.0 * high)],
        })
    };
    let all: Vec<Series> = report.groups.iter().enumerate().filter_map(point).collect();
    if all.len() < 2 {
        return None;
    }
    series(&labels(title, x, "test accuracy, %"), &all)
}

/// The fan-in of a layer's units, with the first and the last masks.
pub fn fan_in(layer: &super::topology::Layer) -> Option<Chart> {
    let list = |fan: &[u32]| fan.iter().map(|&n| f64::from(n)).collect();
    let lists = [
        ("first masks".to_owned(), list(&layer.first.fan_in)),
        ("last masks".to_owned(), list(&layer.last.fan_in)),
    ];
    crate::report::chart::histogram(&labels(&layer.name, "connections into a unit", "units"), &lists)
}

fn over_groups(
    report: &Report,
    labels: &Labels,
    mark: Mark,
    curves: impl Fn(&Group) -> Vec<Vec<(f64, f64)>>,
) -> Option<Chart> {
    let of = |(colour, group): (usize, &Group)| {
        let (points, band) = banded(&curves(group));
        Series {
            name: group.label.clone(),
            colour,
            mark,
            points,
            band,
        }
    };
    let all: Vec<Series> = report.groups.iter().enumerate().map(of).collect();
    let all: Vec<Series> = all.into_iter().filter(|s| !s.points.is_empty()).collect();
    series(labels, &all)
}

/// The mean of curves at their common places, with the band of one standard deviation; thinned.
#[allow(clippy::type_complexity)]
fn banded(curves: &[Vec<(f64, f64)>]) -> (Vec<(f64, f64)>, Vec<(f64, f64)>) {
    let mut places: std::collections::BTreeMap<u64, Vec<f64>> = std::collections::BTreeMap::new();
    for &(x, y) in curves.iter().flatten() {
        // Places are counts, which are not negative.
        places.entry(x as u64).or_default().push(y);
    }
    let longest = places.values().map(Vec::len).max().unwrap_or_default();
    // Where some runs have no value, as in launches of other lengths, the mean would jump.
    let common: Vec<(u64, Vec<f64>)> = places
        .into_iter()
        .filter(|(_, values)| values.len() == longest)
        .collect();
    let statistics = thinned(&common)
        .into_iter()
        .filter_map(|(x, values)| Some((x, Statistic::of(&values)?)));
    let (mut points, mut band) = (vec![], vec![]);
    for (x, statistic) in statistics {
        points.push((x as f64, statistic.mean));
        band.extend(statistic.std.map(|_| statistic.band()));
    }
    (points, band)
}

/// At most about [`POINTS`] of these, evenly spaced, the last included.
fn thinned<T: Clone>(all: &[T]) -> Vec<T> {
    let step = all.len().div_ceil(POINTS).max(1);
    let kept = all.iter().step_by(step).cloned();
    let last = (all.len() % step != 1 && step > 1)
        .then(|| all.last().cloned())
        .flatten();
    kept.chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_over_common_places() {
        let curves = [vec![(1.0, 1.0), (2.0, 2.0), (3.0, 9.0)], vec![(1.0, 3.0), (2.0, 2.0)]];
        let (points, band) = banded(&curves);
        assert_eq!(points, [(1.0, 2.0), (2.0, 2.0)]);
        assert_eq!(band.len(), 2);
        assert!((band[0].1 - (2.0 + 2f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn thinning_keeps_the_ends() {
        for n in [0, 1, 299, 300, 301, 601, 10_000, 10_001] {
            let all: Vec<usize> = (0..n).collect();
            let kept = thinned(&all);
            assert!(kept.len() <= POINTS + 1, "{n}");
            assert_eq!((kept.first(), kept.last()), (all.first(), all.last()), "{n}");
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{n}");
        }
    }
}
