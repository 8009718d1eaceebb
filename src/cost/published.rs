//! The published tables of operations and sizes, recomputed next to the printed figures (reference 5.4-5.6).

use models::cost::{Cost, Counts, Kept, Pruning, Training, widened};
use models::{Kind, Layer};
use sparse::{BudgetOptions, Distribution, Rounding};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("published.csv");

/// Computed columns, in the order of [`Row::printed`].
pub const COLUMNS: [&str; 3] = ["training", "inference", "size"];

/// One published row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the table.
    pub table: &'static str,
    /// Network, as printed.
    pub model: &'static str,
    /// Training method, as printed.
    pub method: &'static str,
    /// Sparsity distribution, as printed.
    pub distribution: &'static str,
    /// Fraction of zeros, as printed.
    pub sparsity: f64,
    /// Training length multiplier.
    pub multiplier: f64,
    /// Printed text per column; empty if none.
    pub printed: [&'static str; 3],
    /// Known reason why the printed figure differs from the row's rule.
    pub remarks: [&'static str; 3],
    /// Value by the row's rule, in the unit of the printed one; `None` if no rule was published.
    pub computed: [Option<f64>; 3],
}

impl Row {
    /// Whether column `i` agrees with its rule to the last printed digit; `None` if there is nothing to compare.
    pub fn agrees(&self, i: usize) -> Option<bool> {
        let computed = self.computed[i]?;
        (!self.printed[i].is_empty()).then(|| like(self.printed[i], computed) == self.printed[i])
    }
}

/// Formats `value` with the digits of a printed number: `0.42x`, `3.2e18`, `23.683`.
pub fn like(printed: &str, value: f64) -> String {
    let number = printed.trim_end_matches('x');
    let unit = &printed[number.len()..];
    let decimals = |text: &str| text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    match number.split_once('e') {
        // Keeps the printed exponent: 97.1e3.
        Some((mantissa, exponent)) => {
            let scale = 10f64.powi(exponent.parse().unwrap_or(0));
            format!("{:.*}e{exponent}", decimals(mantissa), value / scale)
        }
        None => format!("{value:.*}{unit}", decimals(number)),
    }
}

/// Returns every published row with operations or a size, recomputed.
///
/// # Errors
/// None for the table and networks of this crate.
pub fn rows() -> Result<Vec<Row>, sparse::Error> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    let networks = Networks::new();
    lines
        .filter_map(parse)
        .map(|row| {
            let computed = compute(&row, &networks)?;
            Ok(Row { computed, ..row })
        })
        .collect()
}

fn parse(line: &'static str) -> Option<Row> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[table, model, method, distribution, sparsity, multiplier, ref rest @ ..] = &fields[..] else {
        return None;
    };
    Some(Row {
        table,
        model,
        method,
        distribution,
        sparsity: sparsity.parse().ok()?,
        multiplier: multiplier.parse().ok()?,
        printed: rest.get(..3)?.try_into().ok()?,
        remarks: rest.get(3..6)?.try_into().ok()?,
        computed: [None; 3],
    })
}

/// Adapts the layers of a network to the published counter, in which MobileNet-v1's classifier is a convolution. That
/// makes its Erdős–Rényi density slightly higher.
pub(super) fn as_counted(model: &str, layers: &mut [Layer]) {
    if let (Some(last), "mobilenet-v1") = (layers.last_mut(), model) {
        last.dims.splice(0..0, [1, 1]);
        last.kind = Kind::Conv;
    }
}

/// Layers of the tables' networks, as their counter sees them.
struct Networks(BTreeMap<&'static str, Vec<Layer>>);

impl Networks {
    fn new() -> Self {
        let layers = |name: &'static str| {
            let mut layers = models::find(name, true).map(|m| m.layers()).unwrap_or_default();
            as_counted(name, &mut layers);
            (name, layers)
        };
        Networks(["resnet50", "mobilenet-v1", "wrn-22-2"].map(layers).into())
    }
}

fn compute(row: &Row, networks: &Networks) -> Result<[Option<f64>; 3], sparse::Error> {
    if let Some(network) = final_architecture(row.method).filter(|_| row.model == "mnist-fc") {
        return Ok(fully_connected(network));
    }
    let (model, width) = match row.model.split_once("-w") {
        Some((model, width)) => (model, width.parse().unwrap_or(1.0)),
        None => (row.model, 1.0),
    };
    let Some(layers) = networks.0.get(model) else {
        return Ok([None; 3]);
    };
    let Some((counts, training)) = counted(row, layers, width)? else {
        return Ok([None; 3]);
    };
    let dense = Cost::dense(layers).total.published_flops;
    let unit = |column: usize, flops: f64| match row.printed[column].ends_with('x') {
        true => flops / dense,
        false => flops,
    };
    let absolute = !row.printed[0].ends_with('x');
    // A whole run of 32000 steps of 4096 examples, or its ratio to three dense passes.
    let training = match absolute {
        true => training * row.multiplier * 32_000.0 * 4096.0,
        false => training * row.multiplier / (3.0 * dense),
    };
    Ok([
        Some(training),
        Some(unit(1, counts.published_flops)),
        Some(counts.published_megabytes()),
    ])
}

/// Counts a row's network, and its operations per example of a training iteration.
fn counted(row: &Row, layers: &[Layer], width: f64) -> Result<Option<(Counts, f64)>, sparse::Error> {
    let dense = Cost::dense(layers).total.published_flops;
    let wide = widened(layers, width);
    let rigl = Training::DenseGradientEvery {
        frequency_steps: 100,
        batches: 1,
    };
    let total = match (row.method, row.distribution) {
        ("dense", _) => Cost::dense(&wide).total,
        ("small-dense", _) => match small_dense_width(row.model, row.sparsity) {
            Some(width) => Cost::dense(&widened(layers, width)).total,
            None => return Ok(None),
        },
        (_, "erk" | "uniform") => Cost::new(&wide, kept(row, layers)?).total,
        _ => return Ok(None),
    };
    let sparse = total.published_flops;
    let training = match row.method {
        "dense" | "small-dense" | "static" | "snip" | "set" => Training::Sparse.flops(sparse, dense),
        "snfs" => Training::DenseGradient.flops(sparse, dense),
        "rigl" => rigl.flops(sparse, dense),
        // One RigL run finds the mask; a second run trains with it from the first initialisation.
        "static-lottery" => rigl.flops(sparse, dense) + Training::Sparse.flops(sparse, dense),
        "rigl-lottery" => 2.0 * rigl.flops(sparse, dense),
        "pruning" => pruning(row, &wide),
        _ => return Ok(None),
    };
    Ok(Some((total, training)))
}

/// Sparsities of a row's layers, from the shapes before widening.
fn kept(row: &Row, layers: &[Layer]) -> Result<impl Fn(&Layer) -> Kept + use<>, sparse::Error> {
    let erk = row.distribution == "erk";
    let first = layers.first().map(|l| l.name.clone()).unwrap_or_default();
    let readme_mobilenet = row.table == "readme_mobilenet";
    let stays_dense = |layer: &Layer| {
        let is_first = layer.name == first;
        match row.model.split_once("-w").map_or(row.model, |(model, _)| model) {
            "resnet50" => is_first && (!erk || row.sparsity == 0.99),
            "mobilenet-v1" if readme_mobilenet => layer.kind == Kind::Depthwise || (is_first && !erk),
            // Figure 3 counts depthwise kernels as sparse.
            _ => is_first,
        }
    };
    let shapes: Vec<_> = layers
        .iter()
        .map(|l| sparse::Layer::new(&l.name, l.dims.clone()))
        .collect();
    let dense = layers.iter().filter(|l| stays_dense(l)).map(|l| (l.name.clone(), 0.0));
    let distribution = if erk { Distribution::Erk } else { Distribution::Uniform };
    // The README prints the sparsity that results from a setting of 0.9.
    let sparsity = if readme_mobilenet { 0.9 } else { row.sparsity };
    let options = BudgetOptions {
        custom: dense.collect(),
        rounding: Rounding::Ceil,
        ..BudgetOptions::new(distribution, sparsity)
    };
    let budgets = sparse::budgets(&shapes, &options)?;
    let shares: BTreeMap<String, f64> = budgets.into_iter().map(|b| (b.name, b.sparsity)).collect();
    Ok(move |layer: &Layer| Kept::with_sparsity(layer, shares.get(&layer.name).copied().unwrap_or(0.0)))
}

/// Gradual pruning from step 10000 to 25000 of 32000, as the paper counts it: the first layer dense, the classifier
/// always at 0.8.
fn pruning(row: &Row, layers: &[Layer]) -> f64 {
    let schedule = Pruning {
        target: row.sparsity,
        begin_step: 10_000,
        end_step: 25_000,
    };
    let last = layers.len().saturating_sub(1);
    let forward = |sparsity: f64| {
        let mut total = Counts::default();
        for (i, layer) in layers.iter().enumerate() {
            let own = if i == 0 {
                0.0
            } else if i == last {
                0.8
            } else {
                sparsity
            };
            total += Counts::new(layer, Kept::with_sparsity(layer, own));
        }
        total.published_flops
    };
    schedule.training_flops(32_000, 1000, forward)
}

/// Widths of dense networks with the same number of parameters (reference 4.1).
fn small_dense_width(model: &str, sparsity: f64) -> Option<f64> {
    let widths: &[(f64, f64)] = match model {
        "resnet50" => &[(0.8, 0.465), (0.9, 0.34), (0.95, 0.26), (0.965, 0.231)],
        "mobilenet-v1" => &[(0.75, 0.47), (0.85, 0.353), (0.9, 0.285), (0.95, 0.204)],
        _ => &[],
    };
    widths.iter().find(|(at, _)| *at == sparsity).map(|(_, width)| *width)
}

/// Final MNIST architectures of table 2 of the paper: units, and connections if masks have zeros.
fn final_architecture(method: &str) -> Option<([usize; 4], Option<usize>)> {
    match method {
        "sbp" => Some(([245, 160, 55, 10], None)),
        "l0" => Some(([266, 88, 33, 10], None)),
        "vib" => Some(([97, 71, 33, 10], None)),
        "rigl" => Some(([408, 100, 69, 10], Some(6309))),
        "rigl-plus" => Some(([375, 62, 51, 10], Some(3080))),
        _ => None,
    }
}

/// Table 2 counts two operations per connection, 4 bytes per connection and bias, and one bit per weight of the masked
/// layers, which are all but the last, in whole bytes. The rule of its training costs is unknown.
fn fully_connected((sizes, connections): ([usize; 4], Option<usize>)) -> [Option<f64>; 3] {
    let layers: Vec<usize> = sizes.windows(2).map(|pair| pair[0] * pair[1]).collect();
    let biases: usize = sizes[1..].iter().sum();
    let (kept, masks) = match connections {
        Some(connections) => (connections, layers[..2].iter().sum::<usize>() / 8),
        None => (layers.iter().sum(), 0),
    };
    let bytes = 4 * (kept + biases) + masks;
    [None, Some(2.0 * kept as f64), Some(bytes as f64 / 1e6)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_printed() {
        for (printed, value, want) in [
            ("0.42x", 0.4172, "0.42x"),
            ("5.8x", 5.79, "5.8x"),
            ("3.2e18", 3.225e18, "3.2e18"),
            ("97.1e3", 97_100.0, "97.1e3"),
            ("23.683", 23.68342, "23.683"),
            ("12.5x", 12.56, "12.6x"),
        ] {
            assert_eq!(like(printed, value), want);
        }
    }

    /// Every figure that differs from its rule has a remark, and no other figure has one.
    #[test]
    fn every_difference_is_accounted_for() {
        let rows = rows().unwrap();
        assert_eq!(rows.len(), 109);
        for row in rows {
            for (i, column) in COLUMNS.iter().enumerate() {
                let differs = row.agrees(i) != Some(true) && !row.printed[i].is_empty();
                let computed = row.computed[i];
                assert_eq!(differs, !row.remarks[i].is_empty(), "{column} {computed:?} of {row:?}");
            }
        }
    }
}
