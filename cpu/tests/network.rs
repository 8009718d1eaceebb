//! Whole networks: batches of any size, many threads, and what no kernel takes over.
#![allow(clippy::unwrap_used)]

use cpu::{Activation, After, Kernel, Network, NetworkBuilder, Reduction, Threads, Weights, Window};

/// Numbers in [-1, 1).
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn dense(inputs: usize, outputs: usize, density: f32, seed: u32) -> (Weights<'static>, Vec<f32>) {
    let values = noise(inputs * outputs, seed);
    let mask: Vec<bool> = noise(values.len(), seed + 1)
        .iter()
        .map(|v| (v + 1.0) / 2.0 < density)
        .collect();
    let effective = values.iter().zip(&mask).map(|(&v, &set)| if set { v } else { 0.0 });
    let effective = effective.collect();
    let weights = Weights {
        kernel: Kernel::new(1, 1, inputs, outputs),
        window: Window::unit(),
        mask: Some(mask.into()),
        values: values.into(),
    };
    (weights, effective)
}

fn near(found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "{i}: {a} and {b}");
    }
}

#[test]
fn dense_layers_agree_with_plain_sums_in_batches_of_any_size() {
    for density in [0.0, 0.1, 1.0] {
        let ((first, a), (second, b)) = (dense(37, 21, density, 1), dense(21, 5, density, 3));
        let (scale, shift) = (noise(21, 7), noise(21, 8));
        let (mut builder, x) = NetworkBuilder::new([1, 1, 37]);
        let after = After {
            scale: Some(scale.clone()),
            shift: Some(shift.clone()),
            activation: Activation::Relu,
            ..After::default()
        };
        let hidden = builder.conv(x, first, after).unwrap();
        let y = builder.conv(hidden, second, After::default()).unwrap();
        let network = builder.build(y).unwrap();
        for (batch, threads) in [(1, 2), (2, 1), (16, 2), (17, 3), (64, 1), (65, 2), (200, 2)] {
            let inputs = noise(batch * 37, 9);
            let mut outputs = vec![f32::NAN; batch * 5];
            network.predict(&inputs, &mut outputs, &Threads::new(threads)).unwrap();
            let expected = inputs.chunks(37).flat_map(|x| {
                let hidden: Vec<f32> = (0..21)
                    .map(|j| {
                        let sum: f32 = (0..37).map(|i| x[i] * a[i * 21 + j]).sum();
                        (sum * scale[j] + shift[j]).max(0.0)
                    })
                    .collect();
                let b = &b;
                (0..5).map(move |k| (0..21).map(|j| hidden[j] * b[j * 5 + k]).sum())
            });
            near(&outputs, &expected.collect::<Vec<f32>>());
        }
    }
}

/// An elementwise step, a strided convolution with a residual sum, and pooling, on pictures of 6 × 5.
fn pictures(density: f32) -> Network {
    let (mut builder, x) = NetworkBuilder::new([6, 5, 3]);
    let after = After {
        scale: Some(vec![2.0, -1.0, 0.5]),
        shift: Some(vec![0.5, 0.0, -0.5]),
        activation: Activation::Relu6,
        ..After::default()
    };
    let active = builder.elementwise(x, after).unwrap();
    let conv = |size: usize, seed: u32| Weights {
        kernel: Kernel::new(size, size, 3, 4),
        window: Window::same([size; 2], [2, 2], 6, 5),
        mask: Some(
            noise(size * size * 12, seed)
                .iter()
                .map(|v| (v + 1.0) / 2.0 < density)
                .collect(),
        ),
        values: noise(size * size * 12, seed + 1).into(),
    };
    let shortcut = builder.conv(x, conv(1, 11), After::default()).unwrap();
    let residual = After {
        residual: Some(shortcut),
        ..After::default()
    };
    let sum = builder.conv(active, conv(3, 13), residual).unwrap();
    let pooled = builder
        .pool(sum, Reduction::Max, [3, 3], Window::same([3, 3], [2, 2], 3, 3))
        .unwrap();
    let mean = builder
        .pool(pooled, Reduction::Average, [2, 2], Window::unit())
        .unwrap();
    builder.build(mean).unwrap()
}

#[test]
fn predictions_are_bit_identical_for_any_number_of_threads() {
    let network = pictures(0.5);
    let inputs = noise(13 * 90, 5);
    let mut expected = vec![0.0; 13 * 4];
    for (input, output) in inputs.chunks(90).zip(expected.chunks_mut(4)) {
        network.predict(input, output, &Threads::new(1)).unwrap();
    }
    assert!(expected.iter().any(|&value| value != expected[0]));
    std::thread::scope(|scope| {
        for threads in [1, 2, 3, 1] {
            let (network, inputs, expected) = (&network, &inputs, &expected);
            scope.spawn(move || {
                let threads = Threads::new(threads);
                for _ in 0..20 {
                    let mut outputs = vec![f32::NAN; expected.len()];
                    network.predict(inputs, &mut outputs, &threads).unwrap();
                    assert_eq!(&outputs, expected);
                }
            });
        }
    });
}

#[test]
fn elementwise_steps_keep_nan_and_clamp() {
    let (mut builder, x) = NetworkBuilder::new([2, 2, 1]);
    let after = After {
        scale: Some(vec![2.0]),
        residual: Some(x),
        activation: Activation::Relu6,
        ..After::default()
    };
    let y = builder.elementwise(x, after).unwrap();
    let network = builder.build(y).unwrap();
    let mut outputs = [0.0; 4];
    let inputs = [f32::NAN, 1.0, 5.0, -1.0];
    network.predict(&inputs, &mut outputs, &Threads::new(1)).unwrap();
    assert!(outputs[0].is_nan());
    assert_eq!(outputs[1..], [3.0, 6.0, 0.0]);
}

#[test]
fn infinite_scale_of_an_empty_channel_gives_nan() {
    let weights = Weights {
        kernel: Kernel::new(1, 1, 1, 1),
        window: Window::unit(),
        mask: Some(vec![false].into()),
        values: vec![1.0].into(),
    };
    let (mut builder, x) = NetworkBuilder::new([1, 1, 1]);
    let after = After {
        scale: Some(vec![f32::INFINITY]),
        ..After::default()
    };
    let y = builder.conv(x, weights, after).unwrap();
    let mut output = [0.0];
    let network = builder.build(y).unwrap();
    network.predict(&[1.0], &mut output, &Threads::new(1)).unwrap();
    assert!(output[0].is_nan());
}

#[test]
fn rejects_arrays_that_do_not_fit() {
    let network = pictures(0.5);
    let mut outputs = [0.0; 4];
    let threads = Threads::new(1);
    assert!(network.predict(&[0.0; 91], &mut outputs, &threads).is_err());
    assert!(network.predict(&[0.0; 180], &mut outputs, &threads).is_err());
    let (mut builder, x) = NetworkBuilder::new([1, 1, 37]);
    assert!(builder.conv(x, dense(36, 5, 1.0, 1).0, After::default()).is_err());
    let after = After {
        shift: Some(vec![0.0; 4]),
        ..After::default()
    };
    assert!(builder.conv(x, dense(37, 5, 1.0, 1).0, after).is_err());
}
