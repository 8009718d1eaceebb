//! The sections of a report.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::groups::Group;
use super::html::{charts, details, paragraph, section, table};
use super::run::RunData;
use super::{Compiled, Report, charts as drawn};
use crate::named::Named;
use crate::report::chart::html as escaped;
use crate::report::statistic::Statistic;
use crate::report::units::{bytes, count};

/// All sections, in order.
pub fn all(report: &Report, compiled: &[Compiled]) -> String {
    [
        section("Runs", &runs(report)),
        section("Curves", &curves(report)),
        section("Accuracy, sparsity and cost", &trade(report)),
        section("Schedules", &schedules(report)),
        section("Topology", &topology(report)),
        section("Cost: theory, compiler, clock", &ledger(report, compiled)),
        section("Configuration", &configuration(report)),
        section("Environment and digests", &environment(report)),
    ]
    .concat()
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Mean and deviation in percent, with the number of runs.
fn accuracy(statistic: Option<Statistic>) -> String {
    let Some(Statistic { mean, std, n, .. }) = statistic else {
        return "-".into();
    };
    match std {
        Some(std) => format!("{:.2} ± {:.2} % (n = {n})", 100.0 * mean, 100.0 * std),
        None => percent(mean),
    }
}

fn runs(report: &Report) -> String {
    let row = |group: &Group| {
        let plan = group.plan();
        let (seeds, done): (Vec<String>, Vec<u64>) = group
            .runs
            .iter()
            .map(|run| (run.seed.to_string(), run.iteration))
            .unzip();
        let done = match done.iter().min() {
            Some(&least) if least < plan.iterations => format!("{least} of {}", plan.iterations),
            _ => plan.iterations.to_string(),
        };
        let [ratio, _] = group.cost.0.training_ratio(plan);
        let dense = group.cost.0.dense.total.published_flops;
        vec![
            group.label.clone(),
            plan.run.model.name.clone(),
            plan.run.data.set.name().to_owned(),
            seeds.join(", "),
            done,
            accuracy(group.top1),
            format!("{:.4}", group.sparsity),
            format!("{} ({:.3}x dense)", count(group.training_flops), ratio),
            format!(
                "{} ({:.3}x)",
                count(group.inference_flops),
                group.inference_flops / dense.max(1.0)
            ),
        ]
    };
    let rows: Vec<_> = report.groups.iter().map(row).collect();
    let header = [
        "run",
        "network",
        "data",
        "seeds",
        "iterations",
        "test accuracy",
        "sparsity",
        "training FLOPs",
        "prediction FLOPs",
    ];
    table(&header, &rows)
}

fn curves(report: &Report) -> String {
    let metrics = [
        ("Test accuracy", "eval.top1", "share correct"),
        ("Validation accuracy", "validation.top1", "share correct"),
        ("Test loss", "eval.loss", "cross entropy"),
        ("Validation loss", "validation.loss", "cross entropy"),
        ("Training loss", "loss", "with L2 term"),
        ("Training accuracy", "accuracy", "share correct"),
    ];
    let found: Vec<_> = metrics
        .iter()
        .filter_map(|(title, name, y)| drawn::metric(report, title, name, y))
        .collect();
    let several = report.groups.iter().any(|group| group.runs.len() > 1);
    let note = "Lines are means over seeds; bands are one standard deviation of a run on both sides.";
    let note = if several { paragraph(note) } else { String::new() };
    note + &charts(&found)
}

fn trade(report: &Report) -> String {
    let found = [
        drawn::accuracy_against(report, "Accuracy by sparsity", "sparsity", |group| group.sparsity),
        drawn::accuracy_against(report, "Accuracy by training FLOPs", "training FLOPs", |group| {
            group.training_flops
        }),
        drawn::accuracy_against(
            report,
            "Accuracy by prediction FLOPs",
            "FLOPs of a prediction",
            |group| group.inference_flops,
        ),
    ];
    charts(&found.into_iter().flatten().collect::<Vec<_>>())
}

fn schedules(report: &Report) -> String {
    let found = [drawn::learning_rate(report), drawn::drop_fraction(report)];
    charts(&found.into_iter().flatten().collect::<Vec<_>>())
}

fn topology(report: &Report) -> String {
    if report.runs().all(|run| run.topology.is_none()) {
        return String::new();
    }
    let found = [
        drawn::of_updates(
            report,
            "Connections moved by each update",
            "dropped and grown",
            |update| (update.dropped + update.grown) as f64,
        ),
        drawn::of_updates(report, "Weights that were ever active", "share", |update| {
            update.ever_active
        }),
        drawn::of_updates(report, "Mean age of connections", "iterations", |update| {
            update.mean_age
        }),
        changing(report)
            .then(|| drawn::of_updates(report, "Connections", "number", |update| update.connections as f64))
            .flatten(),
    ];
    let charts = charts(&found.into_iter().flatten().collect::<Vec<_>>());
    let open = report.groups.len() == 1;
    let groups: String = report.groups.iter().filter_map(|group| layers(group, open)).collect();
    charts + &groups
}

/// Whether the number of connections changes in any run.
fn changing(report: &Report) -> bool {
    let mut topologies = report.runs().filter_map(|run| run.topology.as_ref());
    topologies.any(|topology| {
        let mut updates = topology.updates.windows(2);
        updates.any(|pair| pair[0].connections != pair[1].connections)
    })
}

/// Layers of the first run of a group.
fn layers(group: &Group, open: bool) -> Option<String> {
    /// Most histograms: the first layers of large networks.
    const HISTOGRAMS: usize = 9;
    let run = group.runs.iter().find(|run| run.topology.is_some())?;
    let topology = run.topology.as_ref()?;
    let cost = &group.cost.0;
    let row = |layer: &super::topology::Layer| {
        let at = cost.layers.iter().position(|l| l.name == layer.name);
        let flops = at.map(|i| cost.sparse.layers[i].published_flops / cost.sparse.total.published_flops);
        let (history, overlap) = (&layer.history, &layer.overlap);
        let [shared, expected] = overlap.shares();
        let fan_in = &layer.last.fan_in;
        let ends = [fan_in.iter().min(), fan_in.iter().max()].map(|end| end.copied().unwrap_or_default());
        vec![
            layer.name.clone(),
            history.weights().to_string(),
            history.connections.to_string(),
            percent(1.0 - history.connections as f64 / history.weights().max(1) as f64),
            flops.map_or("-".into(), percent),
            (history.dropped + history.grown).to_string(),
            percent(history.ever_active as f64 / history.weights().max(1) as f64),
            format!("{:.0}", layer.mean_age),
            history.mean_lifetime().map_or("-".into(), |mean| format!("{mean:.0}")),
            format!("{} ({} by chance)", percent(shared), percent(expected)),
            format!("{}-{}", ends[0], ends[1]),
            crate::topology::without_connections(fan_in).to_string(),
            crate::topology::without_connections(&layer.last.fan_out).to_string(),
        ]
    };
    let header = [
        "layer",
        "weights",
        "connections",
        "sparsity",
        "share of FLOPs",
        "moved",
        "ever active",
        "mean age",
        "mean lifetime",
        "kept from the first masks",
        "fan-in",
        "units without inputs",
        "inputs unused",
    ];
    let rows: Vec<_> = topology.layers.iter().map(row).collect();
    let histograms: Vec<_> = topology
        .layers
        .iter()
        .take(HISTOGRAMS)
        .filter_map(drawn::fan_in)
        .collect();
    let picture = topology.inputs.as_ref().map_or(String::new(), |png| {
        format!(
            "<figure><img alt=\"Connections of each input pixel\" src=\"data:image/png;base64,{}\"><figcaption>Connections of \
             each input pixel to the first layer: first masks, last masks</figcaption></figure>\n",
            STANDARD.encode(png)
        )
    });
    let content = table(&header, &rows) + &picture + &charts(&histograms);
    let title = format!("{}: layers of seed {}", group.label, run.seed);
    Some(match open {
        true => format!("<h3>{}</h3>\n{content}", escaped(&title)),
        false => details(&title, &content),
    })
}

fn ledger(report: &Report, compiled: &[Compiled]) -> String {
    let theory = |group: &Group| {
        let (plan, cost) = (group.plan(), &group.cost.0);
        let total = cost.training_total(plan);
        let [sparse, dense] = cost.plain_bytes(plan);
        vec![
            group.label.clone(),
            count(cost.sparse.total.published_flops),
            count(cost.sparse.total.plain_flops),
            count(cost.dense.total.published_flops),
            count(total[0]),
            count(total[1]),
            bytes(sparse),
            bytes(dense),
        ]
    };
    let theory: Vec<_> = report.groups.iter().map(theory).collect();
    let header = [
        "theory",
        "prediction, published",
        "plain",
        "dense",
        "training, published",
        "plain",
        "arrays",
        "dense",
    ];
    let of_group = |group: &Group| {
        let per_example = group.cost.0.training[1];
        let clocks = group.runs.iter().filter_map(|run| clock(run, per_example));
        clocks.collect::<Vec<_>>()
    };
    let clock: Vec<_> = report.groups.iter().flat_map(of_group).collect();
    let clock_header = [
        "clock",
        "seed",
        "iterations/s",
        "examples/s",
        "seconds in training",
        "plain FLOPs/s, achieved",
    ];
    let compiled: String = compiled
        .iter()
        .map(|compiled| {
            let header: Vec<&str> = compiled.header.iter().map(String::as_str).collect();
            format!(
                "<h3>{}</h3>\n{}",
                escaped(&compiled.title),
                table(&header, &compiled.rows)
            )
        })
        .collect();
    let compiled = match compiled.is_empty() {
        true => paragraph("Figures of the compiler: rigl-xla report --compiled."),
        false => compiled,
    };
    table(&header, &theory) + &compiled + &table(&clock_header, &clock)
}

/// Measured times of a run, whose training takes `per_example` FLOPs for an example.
fn clock(run: &RunData, per_example: f64) -> Option<Vec<String>> {
    let (seconds, rate) = run.clock()?;
    let examples = rate * run.plan.run.train.batch_size as f64;
    Some(vec![
        run.name.clone(),
        run.seed.to_string(),
        format!("{rate:.1}"),
        format!("{examples:.0}"),
        format!("{seconds:.1}"),
        count(examples * per_example),
    ])
}

fn configuration(report: &Report) -> String {
    let values = report.groups.iter().map(|group| group.plan().run.values());
    let values: Vec<_> = values.map(Result::unwrap_or_default).collect();
    let value = |values: &Vec<(String, String)>, key: &str| {
        let found = super::groups::value(values, key);
        found.map_or("-".to_owned(), |value| value.trim_matches('"').to_owned())
    };
    let labels: Vec<&str> = report.groups.iter().map(|group| group.label.as_str()).collect();
    let header: Vec<&str> = ["key"].into_iter().chain(labels).collect();
    let row = |key: &String| {
        std::iter::once(key.clone())
            .chain(values.iter().map(|values| value(values, key)))
            .collect()
    };
    let rows: Vec<Vec<String>> = report.varied.iter().map(row).collect();
    let whole: String = report.groups.iter().map(whole).collect();
    let differences = match report.groups.len() {
        1 => String::new(),
        _ => paragraph("Values that differ:") + &table(&header, &rows),
    };
    differences + &whole
}

/// The whole configuration of a group.
fn whole(group: &Group) -> String {
    let toml = group.plan().run.to_toml().unwrap_or_default();
    let lines: String = toml.lines().map(|line| escaped(line) + "\n").collect();
    details(
        &format!("{}: config.toml of seed {}", group.label, group.runs[0].seed),
        &format!("<pre>{lines}</pre>\n"),
    )
}

fn environment(report: &Report) -> String {
    let of = |run: &RunData| {
        let mut rows: Vec<Vec<String>> = vec![vec!["folder".into(), run.folder.clone()]];
        let certificate = run
            .certificate
            .iter()
            .map(|(key, value)| vec![key.clone(), value.clone()]);
        rows.extend(certificate);
        rows.extend(
            run.digests
                .iter()
                .map(|(file, digest)| vec![format!("SHA-256 of {file}"), digest.clone()]),
        );
        details(
            &run.name,
            &format!("<div class=\"long\">{}</div>\n", table(&["", ""], &rows)),
        )
    };
    let runs: String = report.runs().map(of).collect();
    paragraph(&format!("Made by rigl-xla {}.", env!("CARGO_PKG_VERSION"))) + &runs
}
