//! Images in parts, as for TPUs, give the same results.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{Computation, DType, Graph, Literal, Op, Padding, Shape, Tensor, grad};
use lowering::{Target, lower};

/// Half of the lanes of a TPU.
const BATCH: usize = 64;

fn numbers(shape: &Shape, seed: usize) -> Literal {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
    let values: Vec<f32> = (0..shape.elements()).map(value).collect();
    Literal::new(&shape.dims, &values)
}

/// A loss of images `[64, rows, 4, channels]` and kernels, and the gradients of all of them.
fn training(
    rows: usize,
    channels: usize,
    kernels: &[[usize; 4]],
    loss: impl for<'g> Fn(Tensor<'g>, &[Tensor<'g>]) -> Tensor<'g>,
) -> Computation {
    let images = ("images".to_string(), Shape::new(DType::F32, [BATCH, rows, 4, channels]));
    let kernels = kernels
        .iter()
        .map(|dims| ("kernel".to_string(), Shape::new(DType::F32, *dims)));
    let parameters: Vec<_> = [images].into_iter().chain(kernels).collect();
    Graph::function("training", &parameters, |_, inputs| {
        let loss = loss(inputs[0], &inputs[1..]);
        [vec![loss], grad(loss, inputs)].concat()
    })
    .unwrap()
}

fn sum<'g>(y: Tensor<'g>) -> Tensor<'g> {
    (y * y * 0.01 + y).reduce_sum_all()
}

/// Images whose batch is twice as large as those of the original.
fn images_in_parts(computation: &Computation) -> usize {
    let convolutions = computation
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Convolution { .. }));
    convolutions
        .filter(|node| computation.nodes[node.operands[0]].shape().dims[0] == 2 * BATCH)
        .count()
}

/// The lowered computation evaluates to the same as the original, and has at least `least` convolutions in parts.
fn check(computation: &Computation, least: usize) {
    let lowered = lower(computation, Target::Tpu).unwrap();
    assert!(images_in_parts(&lowered) >= least, "{}", images_in_parts(&lowered));
    let specs = computation.parameter_specs();
    let inputs: Vec<Literal> = specs
        .iter()
        .enumerate()
        .map(|(i, (_, shape))| numbers(shape, i))
        .collect();
    let [expected, got] = [computation, &lowered].map(|c| c.evaluate(&inputs).unwrap());
    for (i, (expected, got)) in expected.iter().zip(&got).enumerate() {
        let [expected, got] = [expected, got].map(|array| array.to_vec::<f32>().unwrap());
        let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (expected, got) in expected.iter().zip(&got) {
            assert!(
                (expected - got).abs() <= 2e-5 * scale,
                "output {i}: {got}, expected {expected}"
            );
        }
    }
}

#[test]
fn convolutions_of_every_geometry_keep_their_values() {
    for (size, stride, padding) in [
        (1, 1, Padding::Same),
        (1, 2, Padding::Same),
        (3, 1, Padding::Same),
        (3, 2, Padding::Same),
        (3, 2, Padding::Explicit([(1, 1); 2])),
        (5, 1, Padding::Same),
        (4, 2, Padding::Same),
        (7, 2, Padding::Explicit([(3, 3); 2])),
    ] {
        let rows = if size == 7 { 16 } else { 8 };
        let computation = training(rows, 2, &[[size, size, 2, 3]], |x, k| {
            sum(x.conv2d(k[0], [stride; 2], padding, 1))
        });
        check(&computation, 3);
    }
}

#[test]
fn depthwise_convolutions_keep_their_values() {
    for stride in [1, 2] {
        let computation = training(8, 4, &[[3, 3, 1, 4]], |x, k| {
            sum(x.conv2d(k[0], [stride; 2], Padding::Explicit([(1, 1); 2]), 4))
        });
        check(&computation, 3);
    }
}

/// Normalisation over the batch, as in networks.
fn normalised(x: Tensor<'_>) -> Tensor<'_> {
    let axes = [0, 1, 2];
    let mean = x.reduce_mean(&axes);
    let variance = (x * x).reduce_mean(&axes) - mean * mean;
    (x - mean) * (variance + 1e-3).rsqrt()
}

#[test]
fn a_residual_network_keeps_its_values() {
    let kernels = [[3, 3, 2, 4], [3, 3, 4, 4], [3, 3, 4, 6], [1, 1, 4, 6]];
    let computation = training(8, 2, &kernels, |x, k| {
        let x = normalised(x.conv2d(k[0], [1, 1], Padding::Same, 1)).relu();
        let x = x + normalised(x.conv2d(k[1], [1, 1], Padding::Same, 1)).relu();
        let y = normalised(x.conv2d(k[2], [2, 2], Padding::Same, 1)) + x.conv2d(k[3], [2, 2], Padding::Same, 1);
        sum(y.relu().reduce_mean(&[1, 2]))
    });
    check(&computation, 10);
}

#[test]
fn wide_images_stay_whole() {
    let kernels = [[1, 1, 2, 64], [3, 3, 64, 128], [1, 1, 128, 2]];
    let computation = training(8, 2, &kernels, |x, k| {
        let x = normalised(x.conv2d(k[0], [1, 1], Padding::Same, 1)).relu();
        let x = normalised(x.conv2d(k[1], [2, 2], Padding::Same, 1)).relu();
        sum(x.conv2d(k[2], [1, 1], Padding::Same, 1))
    });
    check(&computation, 6);
}

#[test]
fn pooled_images_stay_whole() {
    let computation = training(16, 2, &[[3, 3, 2, 4], [3, 3, 4, 4]], |x, k| {
        let x = x
            .conv2d(k[0], [1, 1], Padding::Same, 1)
            .max_pool([2, 2], [2, 2], Padding::Same);
        sum(x.conv2d(k[1], [1, 1], Padding::Same, 1))
    });
    check(&computation, 3);
}

#[test]
fn mostly_wide_images_stay_whole() {
    let kernels = [[1, 1, 256, 64], [3, 3, 64, 64], [1, 1, 64, 256]];
    let computation = training(2, 256, &kernels, |x, k| {
        let x = x
            .conv2d(k[0], [1, 1], Padding::Same, 1)
            .conv2d(k[1], [1, 1], Padding::Same, 1);
        sum(x.conv2d(k[2], [1, 1], Padding::Same, 1))
    });
    let lowered = lower(&computation, Target::Tpu).unwrap();
    assert_eq!(lowered.to_bytes(&[]), computation.to_bytes(&[]));
}

#[test]
fn full_lanes_are_left_alone() {
    for (batch, channels) in [(128, 4), (64, 128), (32, 4)] {
        let shapes = [
            ("images".to_string(), Shape::new(DType::F32, [batch, 8, 8, channels])),
            ("kernel".to_string(), Shape::new(DType::F32, [3, 3, channels, channels])),
        ];
        let computation = Graph::function("forward", &shapes, |_, inputs| {
            vec![inputs[0].conv2d(inputs[1], [1, 1], Padding::Same, 1)]
        })
        .unwrap();
        let lowered = lower(&computation, Target::Tpu).unwrap();
        assert_eq!(
            lowered.to_bytes(&[]),
            computation.to_bytes(&[]),
            "{batch} images of {channels}"
        );
    }
}
