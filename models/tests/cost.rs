//! Costs compared with the published tables (reference 5; the root crate tests distributions with unequal layers).
#![allow(clippy::unwrap_used)]

use models::cost::{Cost, Counts, Kept, Pruning, Training, widened};
use models::{Kind, Layer, find};

fn layers(name: &str) -> Vec<Layer> {
    find(name, true).unwrap().layers()
}

#[track_caller]
fn assert_rounds_to(value: f64, printed: &str) {
    let digits = printed.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    assert_eq!(format!("{value:.digits$}"), printed, "{value}");
}

/// Counts with one sparsity for the layers that `sparse` selects; the others are dense.
fn uniform(layers: &[Layer], sparsity: f64, sparse: impl Fn(&Layer) -> bool) -> Counts {
    let kept = |layer: &Layer| Kept::with_sparsity(layer, if sparse(layer) { sparsity } else { 0.0 });
    Cost::new(layers, kept).total
}

fn is_first(layer: &Layer) -> bool {
    layer.name == "resnet_model/initial_conv"
}

#[test]
fn dense_costs_match_the_tables() {
    for (name, megaflops, megabytes) in [
        ("resnet50", "8202.341", "102.122"),
        ("mobilenet-v1", "1141.544", "16.864"),
    ] {
        let total = Cost::dense(&layers(name)).total;
        assert_rounds_to(total.published_flops / 1e6, megaflops);
        assert_rounds_to(total.published_megabytes(), megabytes);
    }
}

/// Reference 5.6: a dense first layer, all others at one sparsity.
#[test]
fn uniform_resnet50_costs_match_the_tables() {
    let layers = layers("resnet50");
    let dense = Cost::dense(&layers).total.published_flops;
    for (sparsity, share, megabytes) in [
        (0.8, "0.22536", "23.7294"),
        (0.9, "0.12853", "13.5320"),
        (0.95, "0.08011", "8.4333"),
        (0.965, "0.06559", "6.9037"),
    ] {
        let total = uniform(&layers, sparsity, |l| !is_first(l));
        assert_rounds_to(total.published_flops / dense, share);
        assert_rounds_to(total.published_megabytes(), megabytes);
    }
    let total = uniform(&layers, 0.99, |l| !is_first(l));
    assert_rounds_to(total.published_flops / dense, "0.04138");
    // In the tables of the paper's first version the first layer was sparse.
    assert_rounds_to(uniform(&layers, 0.9, |_| true).published_flops / dense, "0.1012");
}

/// Reference 5.4, 5.6: depthwise kernels are dense, or only the first layer is.
#[test]
fn uniform_mobilenet_costs_match_the_tables() {
    let layers = layers("mobilenet-v1");
    let dense = Cost::dense(&layers).total.published_flops;
    let kept = uniform(&layers, 0.9, |l| !is_first(l) && l.kind != Kind::Depthwise);
    assert_rounds_to(kept.published_flops / dense, "0.1477");
    assert_rounds_to(kept.published_megabytes(), "2.396");
    let sparse = |s| uniform(&layers, s, |l| !is_first(l)).published_flops / dense;
    assert_rounds_to(sparse(0.9), "0.1199");
    assert_rounds_to(sparse(0.75), "0.27");
    assert_rounds_to(sparse(0.93), "0.0905");
}

/// Smaller dense networks and larger sparse ones (reference 4.1, 5.1; figures 2 and 3 of the paper).
#[test]
fn widened_networks_match_the_figures() {
    let share = |name: &str, width: f64| {
        let layers = layers(name);
        let [wide, plain] = [widened(&layers, width), layers].map(|l| Cost::dense(&l).total.published_flops);
        wide / plain
    };
    assert_rounds_to(share("resnet50", 0.465), "0.2218");
    assert_rounds_to(share("resnet50", 0.34), "0.12");
    assert_rounds_to(share("mobilenet-v1", 0.47), "0.23");
    assert_rounds_to(share("mobilenet-v1", 0.285), "0.09");
    let layers = layers("mobilenet-v1");
    let big = uniform(&widened(&layers, 1.98), 0.75, |l| !is_first(l));
    assert_rounds_to(big.published_flops / Cost::dense(&layers).total.published_flops, "0.98");
    assert_eq!(widened(&layers, 1.0), layers);
}

/// Reference 5.5, 5.6.
#[test]
fn training_costs_match_the_tables() {
    let layers = layers("resnet50");
    let dense = Cost::dense(&layers).total.published_flops;
    let forward = |sparsity| uniform(&layers, sparsity, |l| !is_first(l)).published_flops;
    let relative = |training: Training, sparsity| training.flops(forward(sparsity), dense) / (3.0 * dense);
    let rigl = Training::DenseGradientEvery {
        frequency_steps: 100,
        batches: 1,
    };
    for (sparsity, share) in [(0.8, "0.2279"), (0.9, "0.1314"), (0.95, "0.0831"), (0.965, "0.0687")] {
        assert_rounds_to(relative(rigl, sparsity), share);
    }
    assert_rounds_to(relative(Training::Sparse, 0.95), "0.080");
    assert_rounds_to(relative(Training::Dense, 0.95), "1.000");
    // With no steps between updates, every iteration has a dense gradient.
    let always = Training::DenseGradientEvery {
        frequency_steps: 0,
        batches: 1,
    };
    assert_eq!(relative(always, 0.9), relative(Training::DenseGradient, 0.9));
    // A whole run: 32000 steps of 4096 examples.
    assert_rounds_to(Training::Dense.flops(0.0, dense) * 32000.0 * 4096.0 / 1e18, "3.225");
}

/// Reference 5.5: the classifier stays at 0.8.
#[test]
fn gradual_pruning_costs_match_the_tables() {
    let layers = layers("resnet50");
    let forward = |sparsity: f64| {
        let own = |layer: &Layer| match layer.kind {
            Kind::Dense => 0.8,
            _ if is_first(layer) => 0.0,
            _ => sparsity,
        };
        let cost = Cost::new(&layers, |layer| Kept::with_sparsity(layer, own(layer)));
        cost.total.published_flops
    };
    let dense = Cost::dense(&layers).total.published_flops;
    for (target, share) in [(0.8, "0.56"), (0.9, "0.51"), (0.95, "0.478"), (0.965, "0.469")] {
        let pruning = Pruning {
            target,
            begin_step: 10_000,
            end_step: 25_000,
        };
        assert_eq!(pruning.sparsity_at(10_000), 0.0);
        assert!((pruning.sparsity_at(17_500) - target * 0.875).abs() < 1e-15);
        assert_eq!(pruning.sparsity_at(25_000), target);
        assert_rounds_to(pruning.training_flops(32_000, 1000, forward) / (3.0 * dense), share);
    }
}

/// Two operations per multiply-add at the true size of the output: known figures of these networks.
#[test]
fn multiply_adds_count_as_two_operations() {
    let gigaflops = |name: &str| Cost::dense(&layers(name)).total.plain_flops / 1e9;
    // 1.814 as usually built. The original also projects in the first group, which adds 64 x 64 x 56 x 56.
    assert_rounds_to(gigaflops("resnet18") / 2.0, "1.827");
    assert_rounds_to(gigaflops("resnet50") / 2.0, "4.09");
    assert_rounds_to(gigaflops("mobilenet-v1") / 2.0, "0.569");
    assert_rounds_to(gigaflops("mobilenet-v2") / 2.0, "0.301");
    assert_eq!(gigaflops("mnist-fc"), 2.0 * 266_200.0 / 1e9);
    let cost = Cost::new(&layers("mnist-fc"), |layer| Kept {
        sparsity: 0.5,
        nonzeros: layer.weights() / 4,
    });
    assert_eq!(cost.total.plain_flops, 2.0 * 66_550.0);
    assert_eq!((cost.total.nonzeros, cost.total.sparsity()), (66_550, 0.75));
    assert_eq!(cost.layers.len(), 3);
}

/// The padding of a strided convolution counts where it does in the published list (reference 5.2, 5.3).
#[test]
fn layer_sizes() {
    let sizes = |name: &str, layer: &str| {
        let layers = layers(name);
        let layer = layers.iter().find(|l| l.name.ends_with(layer)).unwrap();
        [layer.input[0], layer.output[0], layer.counted_input[1]]
    };
    assert_eq!(sizes("resnet50", "/initial_conv"), [224, 112, 230]);
    assert_eq!(
        sizes("resnet50", "bottleneck_2_block_group_projection_block_group2"),
        [56, 28, 56]
    );
    assert_eq!(sizes("resnet50", "bottleneck_3_block_group4_2_1"), [7, 7, 7]);
    assert_eq!(sizes("mobilenet-v1", "/initial_conv"), [224, 112, 225]);
    for (layer, counted) in [(1, 113), (3, 57), (5, 29), (11, 15)] {
        assert_eq!(sizes("mobilenet-v1", &format!("depthwise_nxn_{layer}"))[2], counted);
    }
    assert_eq!(sizes("wrn-22-2", "skip_conv_3"), [32, 16, 32]);
    assert_eq!(sizes("wrn-22-2", "conv_4_0_2"), [8, 8, 8]);
    assert_eq!(sizes("vgg-16", "conv5_3"), [14, 14, 14]);
    assert_eq!(sizes("vgg-16", "fc8"), [1, 1, 1]);
}
