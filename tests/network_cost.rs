//! Published costs of networks under Erdős–Rényi distributions (reference 5.4, 5.6): shapes from the models, sparsities
//! from the distributions.
#![allow(clippy::unwrap_used)]

use models::cost::{Cost, Counts, Kept, Training, widened};
use models::{Kind, Layer, find};
use rigl_xla::cost::NetworkCost;
use sparse::{BudgetOptions, Distribution, Rounding};

#[track_caller]
fn assert_rounds_to(value: f64, printed: &str) {
    let digits = printed.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    assert_eq!(format!("{value:.digits$}"), printed, "{value}");
}

fn layers(name: &str) -> Vec<Layer> {
    find(name, true).unwrap().layers()
}

/// Counts of `counted`, with the sparsities that the distribution gives to `layers`, zeros rounded up as when the tables
/// were made, and those that `dense` names kept whole.
fn counts(
    distribution: Distribution,
    sparsity: f64,
    [layers, counted]: [&[Layer]; 2],
    dense: impl Fn(&Layer) -> bool,
) -> Counts {
    let shapes: Vec<_> = layers
        .iter()
        .map(|l| sparse::Layer::new(&l.name, l.dims.clone()))
        .collect();
    let kept = layers.iter().filter(|l| dense(l)).map(|l| (l.name.clone(), 0.0));
    let options = BudgetOptions {
        custom: kept.collect(),
        rounding: Rounding::Ceil,
        ..BudgetOptions::new(distribution, sparsity)
    };
    let budgets = sparse::budgets(&shapes, &options).unwrap();
    let kept = |layer: &Layer| {
        let budget = budgets.iter().find(|b| b.name == layer.name).unwrap();
        Kept {
            sparsity: budget.sparsity,
            nonzeros: budget.nonzeros,
        }
    };
    Cost::new(counted, kept).total
}

fn is_first(layer: &Layer) -> bool {
    layer.name == "resnet_model/initial_conv"
}

/// The rows again, from the masks of a checkpoint, which hold whole connections.
#[test]
fn costs_of_resnet50_masks_match_the_tables() {
    let network = models::Options {
        mask_first: Some(true),
        ..models::Options::new("resnet50", true)
    };
    let needs = network.build().unwrap().declaration();
    let shape = |l: &Layer| sparse::Layer::new(&l.name, l.dims.clone());
    let shapes: Vec<_> = needs.layers.iter().map(shape).collect();
    for (sparsity, inference, megabytes) in [(0.8, "0.4153", "23.683"), (0.9, "0.2431", "13.499")] {
        let options = BudgetOptions {
            rounding: Rounding::Ceil,
            ..BudgetOptions::new(Distribution::Erk, sparsity)
        };
        let budgets = sparse::budgets(&shapes, &options).unwrap();
        let ones = |mask: &str| {
            let budget = budgets.iter().find(|b| mask == format!("{}/mask", b.name));
            budget.map(|budget| budget.nonzeros)
        };
        let cost = NetworkCost::of(&needs, ones);
        let [sparse, dense] = [&cost.sparse.total, &cost.dense.total];
        assert_rounds_to(sparse.published_flops / dense.published_flops, inference);
        assert_rounds_to(sparse.published_megabytes(), megabytes);
        assert_eq!(sparse.nonzeros, budgets.iter().map(|b| b.nonzeros).sum::<usize>());
        // 25557032 parameters and 53120 statistics; a bit for each weight of the layers with zeros.
        assert_eq!(cost.plain_bytes[1], 4.0 * f64::from(25_557_032 + 53_120));
        let with_zeros = budgets.iter().filter(|b| b.zeros > 0);
        let [zeros, bits] = with_zeros.fold([0, 0], |[z, n], b| [z + b.zeros, n + b.nonzeros + b.zeros]);
        assert_eq!(
            cost.plain_bytes[0],
            cost.plain_bytes[1] - 4.0 * zeros as f64 + bits as f64 / 8.0
        );
    }
}

#[test]
fn erk_resnet50_costs_match_the_tables() {
    let layers = layers("resnet50");
    let dense = Cost::dense(&layers).total.published_flops;
    let rigl = Training::DenseGradientEvery {
        frequency_steps: 100,
        batches: 1,
    };
    for (sparsity, inference, training, megabytes) in [
        (0.8, "0.41528", "0.4172", "23.68342"), // rounded down: 0.41529 and 23.68364
        (0.9, "0.24314", "0.2456", "13.49865"), // rounded down: 0.24315 and 13.49886
        (0.95, "0.12300", "0.1259", "8.39859"),
        (0.965, "0.08651", "0.0895", "6.86842"),
        (0.99, "0.05478", "0.0579", "4.35418"),
    ] {
        let total = counts(Distribution::Erk, sparsity, [&layers, &layers], |l| {
            sparsity == 0.99 && is_first(l)
        });
        assert_rounds_to(total.published_flops / dense, inference);
        assert_rounds_to(rigl.flops(total.published_flops, dense) / (3.0 * dense), training);
        assert_rounds_to(total.published_megabytes(), megabytes);
    }
    let snfs = |sparsity| {
        let total = counts(Distribution::Erk, sparsity, [&layers, &layers], |_| false);
        Training::DenseGradient.flops(total.published_flops, dense) / (3.0 * dense)
    };
    assert_rounds_to(snfs(0.8), "0.61");
    assert_rounds_to(snfs(0.95), "0.415");
    // Printed in the tables in the place of others: Erdős–Rényi without kernel, and a dense first layer.
    let er = counts(Distribution::ErdosRenyi, 0.8, [&layers, &layers], |_| false);
    assert_rounds_to(er.published_megabytes(), "23.6848");
    let first = counts(Distribution::Erk, 0.965, [&layers, &layers], is_first);
    assert_rounds_to(first.published_flops / dense, "0.1125");
    assert_rounds_to(first.published_megabytes(), "6.9036");
}

/// There the classifier is a convolution, which makes its Erdős–Rényi density a little greater.
#[test]
fn erk_mobilenet_costs_match_the_figures() {
    let mut layers = layers("mobilenet-v1");
    let classifier = layers.last_mut().unwrap();
    classifier.dims = [vec![1, 1], classifier.dims.clone()].concat();
    classifier.kind = Kind::Conv;
    let dense = Cost::dense(&layers).total.published_flops;
    let erk = |sparsity, width, kept: fn(&Layer) -> bool| {
        let wide = widened(&layers, width);
        counts(Distribution::Erk, sparsity, [&layers, &wide], kept).published_flops / dense
    };
    assert_rounds_to(erk(0.9, 1.0, |l| l.kind == Kind::Depthwise), "0.2927");
    assert_rounds_to(erk(0.9, 1.0, is_first), "0.2742");
    assert_rounds_to(erk(0.75, 1.0, is_first), "0.52");
    assert_rounds_to(erk(0.93, 1.0, is_first), "0.211");
    assert_rounds_to(erk(0.75, 1.98, is_first), "1.91");
}

/// As a reproduction of the paper reports it.
#[test]
fn wide_resnet_costs_match_a_reproduction() {
    let layers = layers("wrn-22-2");
    let dense = Cost::dense(&layers).total;
    for (distribution, share) in [(Distribution::Erk, "0.35"), (Distribution::Uniform, "0.20")] {
        let first = |layer: &Layer| layer.name == "resnet_model/conv_1";
        let total = counts(distribution, 0.8, [&layers, &layers], first);
        assert_rounds_to(total.published_flops / dense.published_flops, share);
        assert_rounds_to(total.plain_flops / dense.plain_flops, share);
    }
}
