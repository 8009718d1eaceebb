//! Forward and backward passes in the evaluator: normalisation, dropout, precision, and small versions of whole
//! networks.
#![allow(clippy::unwrap_used)]

use hlo::random::Key;
use hlo::{DType, Graph, Literal, Shape, Tensor, grad};
use models::layers::{BatchNorm, Conv, Window, cross_entropy};
use models::{Draw, INPUT_INDICES, Init, Kind, Mode, Naming, Net, Options, Precision};

/// Evaluates the outputs of `f`, which receives a key for dropout.
fn evaluate(f: impl for<'g> FnOnce(&'g Graph, Key<'g>) -> Vec<Tensor<'g>>) -> Vec<Vec<f32>> {
    let g = Graph::new("test");
    let key = Key::new(g.constant(Literal::new(&[2], &[7u32, 0])));
    let outputs: Vec<_> = f(&g, key).iter().map(Tensor::output).collect();
    let results = g.build(&outputs).unwrap().evaluate(&[]).unwrap();
    results.iter().map(|r| r.to_vec().unwrap()).collect()
}

fn assert_close(got: &[f32], want: &[f64]) {
    let near = |(g, w): (&f32, &f64)| (f64::from(*g) - w).abs() < 1e-5;
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(near),
        "{got:?}, expected {want:?}"
    );
}

/// One normalised channel of four numbers, and its moving mean and variance, which start at 1 and 4.
fn normalised(numbers: [f32; 4], train: bool, unbiased: bool, precision: Precision) -> [Vec<f32>; 2] {
    let results = evaluate(|g, key| {
        let arrays = [
            ("gamma", 2.0),
            ("beta", 0.5),
            ("moving_mean", 1.0),
            ("moving_variance", 4.0),
        ];
        let array = |(name, value): (&str, f32)| {
            let array = g.constant(Literal::new(&[1], &[value]));
            (format!("m/batch_normalization/{name}"), array)
        };
        let mode = if train { Mode::Train(key) } else { Mode::Eval };
        let net = Net::new(g, mode, arrays.map(array)).with_precision(precision);
        let x = net.compute(g.constant(Literal::new(&[1, 2, 2, 1], &numbers)));
        let norm = BatchNorm {
            scope: "m",
            gamma: Init::Ones,
            unbiased,
        };
        let y = net.batch_norm(x, &norm);
        let moved = net.updated_statistics();
        let names: Vec<&str> = moved.iter().map(|(name, _)| name.as_str()).collect();
        let all = [
            "m/batch_normalization/moving_mean",
            "m/batch_normalization/moving_variance",
        ];
        assert_eq!(names, if train { &all[..] } else { &[] });
        let moved: Vec<_> = moved.into_iter().map(|(_, statistic)| statistic).collect();
        let moved = if train { g.concatenate(&moved, 0) } else { y };
        vec![y.convert(DType::F32).reshape(&[4]), moved]
    });
    results.try_into().unwrap()
}

#[test]
fn batch_norm_uses_moving_statistics_outside_training() {
    let normal =
        |mean: f64, variance: f64| [1.0, 2.0, 3.0, 6.0].map(|x| 2.0 * (x - mean) / (variance + 1e-5f64).sqrt() + 0.5);
    // Their mean is 3 and their variance 14 / 4, or 14 / 3 unbiased.
    let numbers = [1.0, 2.0, 3.0, 6.0];
    let [y, _] = normalised(numbers, false, true, Precision::F32);
    assert_close(&y, &normal(1.0, 4.0));
    for (unbiased, variance) in [(false, 14.0 / 4.0), (true, 14.0 / 3.0)] {
        let [y, moved] = normalised(numbers, true, unbiased, Precision::F32);
        assert_close(&y, &normal(3.0, 3.5));
        assert_close(&moved, &[0.9 * 1.0 + 0.1 * 3.0, 0.9 * 4.0 + 0.1 * variance]);
    }
}

#[test]
fn bfloat16_moments_are_exact_to_its_precision() {
    for numbers in [[1.0, 2.0, 3.0, 6.0], [200.0, 201.0, 202.0, 203.0], [-200.0; 4]] {
        let [y, moved] = normalised(numbers, true, false, Precision::Bf16);
        let mean = numbers.iter().sum::<f32>() / 4.0;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4.0;
        let found = (moved[1] - 0.9 * 4.0) / 0.1;
        assert!((moved[0] - (0.9 + 0.1 * mean)).abs() <= 1e-6 * mean.abs(), "{moved:?}");
        assert!(
            (found - variance).abs() <= 1e-4 * variance + 1e-5,
            "{found}, expected {variance}"
        );
        assert!(y.iter().all(|y| y.is_finite()), "{y:?}");
    }
}

/// Normalises a batch of two channels in training mode, by the layer or by the formula. Returns the gradients of a loss
/// with respect to image, scale and shift, and the product of the Hessian with respect to the image with a direction.
fn derivatives(layer: bool) -> Vec<Vec<f32>> {
    evaluate(|g, key| {
        let array = |values: &[f32], dims: &[usize]| g.constant(Literal::new(dims, values));
        let picture = [1f32, 2.0, 3.0, 6.0, -1.0, 0.5, 4.0, 2.5, -2.0, 7.0, 0.0, -3.0];
        let (x, dims) = (array(&picture, &[2, 3, 1, 2]), [2, 3, 1, 2]);
        let (gamma, beta) = (array(&[2.0, -0.5], &[2]), array(&[0.5, 0.25], &[2]));
        let y = match layer {
            true => {
                let moving = [("moving_mean", gamma), ("moving_variance", gamma)];
                let arrays = [("gamma", gamma), ("beta", beta)].into_iter().chain(moving);
                let arrays = arrays.map(|(name, array)| (format!("m/batch_normalization/{name}"), array));
                let norm = BatchNorm {
                    scope: "m",
                    gamma: Init::Ones,
                    unbiased: true,
                };
                Net::new(g, Mode::Train(key), arrays).batch_norm(x, &norm)
            }
            false => {
                let mean = x.reduce_mean(&[0, 1, 2]);
                let variance = (x * x).reduce_mean(&[0, 1, 2]) - mean * mean;
                (x - mean) / (variance + 1e-5).sqrt() * gamma + beta
            }
        };
        let weights = [-2f32, 3.0, 1.0, -1.0, 4.0, 2.0, 0.0, -2.0, 3.0, 1.0, -1.0, 4.0];
        let direction = [1f32, -2.0, 3.0, 4.0, -5.0, 6.0, 7.0, 0.0, 9.0, 1.0, 1.0, 2.0];
        let loss = (y * y * y * array(&weights, &dims)).reduce_sum_all();
        let mut results = grad(loss, &[x, gamma, beta]);
        results.extend(grad((results[0] * array(&direction, &dims)).reduce_sum_all(), &[x]));
        results.iter().map(|r| r.reshape(&[r.shape().elements()])).collect()
    })
}

#[test]
fn first_and_second_derivatives_of_batch_norm_are_those_of_its_formula() {
    for (got, want) in derivatives(true).iter().zip(derivatives(false)) {
        let scale = want.iter().fold(1f32, |most, x| most.max(x.abs()));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * scale;
        assert!(got.iter().zip(&want).all(near), "{got:?} {want:?}");
    }
}

#[test]
fn dropout_keeps_its_rate_and_the_mean_and_differs_between_layers() {
    let n = 4000;
    let drop = |train: bool| {
        evaluate(|g, key| {
            let mode = if train { Mode::Train(key) } else { Mode::Eval };
            let net = Net::new(g, mode, []);
            let ones = g.full(&Shape::new(DType::F32, [n]), 1.0);
            vec![net.dropout(ones, 0.3), net.dropout(ones, 0.3), net.dropout(ones, 0.0)]
        })
    };
    let [first, second, none] = drop(true).try_into().unwrap();
    let kept = first.iter().filter(|&&x| x != 0.0).count() as f64 / n as f64;
    assert!((kept - 0.7).abs() < 0.03, "{kept}");
    assert!(first.iter().all(|&x| x == 0.0 || (x - 1.0 / 0.7).abs() < 1e-6));
    assert_ne!(first, second);
    assert!(none.iter().all(|&x| x == 1.0));
    assert!(drop(false).iter().flatten().all(|&x| x == 1.0));
}

/// The layer's record and its parameter agree in both convolutions.
#[test]
fn a_convolution_declares_itself() {
    let g = Graph::new("test");
    let kernel = |name: &str, dims: [usize; 4]| (name.to_string(), g.parameter(name, Shape::new(DType::F32, dims)));
    let arrays = [
        kernel("a/b/weights", [3, 3, 2, 5]),
        (
            "a/b/biases".to_string(),
            g.parameter("bias", Shape::new(DType::F32, [5])),
        ),
        kernel("d/depthwise_weights", [3, 3, 5, 1]),
    ];
    let net = Net::new(&g, Mode::Eval, arrays);
    let window = Window {
        padding: hlo::Padding::Same,
        counted_padding: 1,
        ..Window::fixed(3, 2)
    };
    let conv = Conv {
        scope: "a/b".into(),
        naming: Naming::Masked,
        window,
        filters: 5,
        bias: true,
        init: Init::GlorotUniform,
    };
    let x = net.conv(g.parameter("x", Shape::new(DType::F32, [1, 7, 9, 2])), &conv);
    let window = Window {
        stride: 1,
        padding: hlo::Padding::Valid,
        ..window
    };
    let y = net.depthwise(x, "d", window, Init::GlorotUniform);
    assert_eq!((x.dims(), y.dims()), (vec![1, 4, 5, 5], vec![1, 2, 3, 5]));
    let declared = net.declared();
    let [dense, depthwise] = &declared.layers[..] else {
        panic!("{:?}", declared.layers)
    };
    assert_eq!(
        (dense.input, dense.output, dense.counted_input),
        ([7, 9], [4, 5], [8, 10])
    );
    assert_eq!((dense.masked, dense.bias, dense.groups), (true, true, 1));
    assert_eq!(
        (depthwise.kind, depthwise.groups, &depthwise.dims[..]),
        (Kind::Depthwise, 5, &[3, 3, 5, 1][..])
    );
    assert_eq!((depthwise.masked, depthwise.bias), (false, false));
}

#[test]
fn layers_name_the_batch_norm_to_fold_into_them() {
    let norms = |name: &str| -> Vec<(String, Option<String>)> {
        let layers = models::find(name, true).unwrap().layers();
        layers.into_iter().map(|layer| (layer.name, layer.norm)).collect()
    };
    let scope = |i: usize| match i {
        0 => "resnet_model/batch_normalization".to_owned(),
        i => format!("resnet_model/batch_normalization_{i}"),
    };
    for (network, count) in [("resnet50", 53), ("mobilenet-v1", 27), ("mobilenet-v2", 52)] {
        let mut norms = norms(network);
        assert_eq!(norms.pop().unwrap(), ("resnet_model/final_dense".into(), None));
        let expected: Vec<_> = (0..count).map(|i| Some(scope(i))).collect();
        assert_eq!(norms.into_iter().map(|(_, norm)| norm).collect::<Vec<_>>(), expected);
    }
    // Pre-activation: the other outputs also feed the shortcut, or are a term of a sum.
    let folded = norms("wrn-10-1")
        .into_iter()
        .filter_map(|(name, norm)| Some((name, norm?)));
    let expected = [("conv_2_0_1", 1), ("conv_3_0_1", 3), ("conv_4_0_1", 5)];
    let expected = expected.map(|(layer, i)| (format!("resnet_model/{layer}"), scope(i)));
    assert_eq!(folded.collect::<Vec<_>>(), expected);
    assert!(norms("vgg-16").iter().all(|(_, norm)| norm.is_none()));
}

#[test]
#[should_panic(expected = "no array was given for layer1/weights")]
fn reports_a_missing_array() {
    let g = Graph::new("test");
    let network = models::find("mnist-fc", true).unwrap();
    network.apply(
        &Net::new(&g, Mode::Eval, []),
        g.full(&Shape::new(DType::F32, [1, 784]), 0.0),
    );
}

/// The gathered pixels are those at the indices.
#[test]
fn network_reads_only_kept_pixels() {
    let options = Options {
        kept_pixels: Some(2),
        hidden: Some(vec![]),
        classes: Some(1),
        ..Options::new("mnist-fc", true)
    };
    let network = options.build().unwrap();
    let logits = evaluate(|g, _| {
        let arrays = [
            (
                "layer1/weights".to_string(),
                g.constant(Literal::new(&[2, 1], &[1f32, 100.0])),
            ),
            ("layer1/biases".to_string(), g.constant(Literal::new(&[1], &[0.5f32]))),
            (INPUT_INDICES.to_string(), g.constant(Literal::new(&[2], &[783i32, 2]))),
        ];
        let pixels = g.iota(Shape::new(DType::F32, [3, 784]), 1);
        vec![network.apply(&Net::new(g, Mode::Eval, arrays), pixels).reshape(&[3])]
    });
    assert_eq!(logits[0], [783.0 + 200.0 + 0.5; 3]);
}

/// A variant of a network small enough for the evaluator.
fn small(name: &str) -> Options {
    let mut options = Options {
        classes: Some(3),
        ..Options::new(name, true)
    };
    if name == "mnist-fc" {
        options.hidden = Some(vec![8, 4]);
    } else {
        options.image_size = Some(16);
        let shallow = name.starts_with("resnet") || name.starts_with("vgg");
        options.width = Some(if shallow { 1.0 / 16.0 } else { 0.25 });
        options.depth = (name == "wide-resnet").then_some(10);
    }
    options
}

/// Pseudorandom numbers in ±1.
fn noise(dims: &[usize], seed: u64) -> Literal {
    let mut state = seed;
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Literal::new(dims, &values)
}

/// Logits of two examples, and the change of the loss by a step along the gradient of all parameters, relative to the
/// gradient's prediction.
fn pass(name: &str, precision: Precision, train: bool) -> (Vec<f32>, f32) {
    let network = small(name).build().unwrap();
    let declared = network.declaration();
    let results = evaluate(|g, key| {
        let params = declared.params.iter().map(|p| (&p.name, &p.dims, p.init));
        let statistics = declared.statistics.iter().map(|s| (&s.name, &s.dims, s.init));
        let arrays: Vec<(String, Tensor)> = (1..)
            .zip(params.chain(statistics))
            .map(|(i, (name, dims, init))| {
                let noise = g.constant(noise(dims, i));
                let array = match init.draw(dims) {
                    Draw::Constant(_) => noise * 0.25 + 1.0,
                    // Depthwise kernels have one input each. Their initialiser counts channels and would make every
                    // signal vanish.
                    Draw::Uniform(_) if dims.last() == Some(&1) => noise,
                    Draw::Uniform(limit) => noise * limit,
                    Draw::Normal(std) | Draw::TruncatedNormal(std) => noise * (2.0 * std),
                };
                (name.clone(), array)
            })
            .collect();
        let images = g.constant(noise(&[vec![2], network.input_dims()].concat(), 0));
        let mode = if train { Mode::Train(key) } else { Mode::Eval };
        let labels = g.constant(Literal::new(&[2], &[0i32, 2]));
        let forward = |arrays: &Vec<_>| {
            let net = Net::new(g, mode, arrays.iter().cloned()).with_precision(precision);
            let logits = network.apply(&net, images);
            assert_eq!(logits.shape(), Shape::new(DType::F32, [2, 3]));
            (logits, cross_entropy(logits, labels, 0.0).reduce_mean(&[0]))
        };
        let (logits, loss) = forward(&arrays);
        let params: Vec<_> = arrays[..declared.params.len()]
            .iter()
            .map(|(_, array)| *array)
            .collect();
        let gradients = grad(loss, &params);
        let lengths = gradients.iter().map(|&d| (d * d).reduce_sum_all());
        // A step small enough to change the loss only slightly.
        let step = 1e-3 / lengths.reduce(|a, b| a + b).unwrap();
        let [before, after] = [-1.0, 1.0].map(|sign| {
            let mut moved = arrays.clone();
            moved
                .iter_mut()
                .zip(&gradients)
                .for_each(|((_, array), &d)| *array = *array + d * (step * sign));
            forward(&moved).1
        });
        vec![logits.reshape(&[6]), (after - before) / 2e-3]
    });
    (results[0].clone(), results[1][0])
}

#[test]
fn every_network_runs_forwards_and_backwards() {
    for name in [
        "mnist-fc",
        "resnet18",
        "resnet50",
        "mobilenet-v1",
        "mobilenet-v2",
        "wide-resnet",
        "vgg-a",
    ] {
        for train in [false, true] {
            let (logits, slope) = pass(name, Precision::F32, train);
            assert!(logits.iter().all(|x| x.is_finite()), "{name} {train}: {logits:?}");
            assert_ne!(logits[..3], logits[3..], "{name} {train}");
            // When normalised over two numbers, as in the last layers of the other networks, activations are almost
            // step functions.
            if !train || matches!(name, "mnist-fc" | "wide-resnet") {
                assert!((slope - 1.0).abs() < 1e-3, "{name} {train}: {slope}");
            }
        }
    }
}

#[test]
fn bfloat16_is_close_to_float32() {
    for name in [
        "mnist-fc",
        "resnet18",
        "resnet50",
        "mobilenet-v1",
        "mobilenet-v2",
        "wide-resnet",
        "vgg-a",
    ] {
        let [exact, rounded] = [Precision::F32, Precision::Bf16].map(|precision| pass(name, precision, false).0);
        let scale = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = exact.iter().zip(&rounded).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
        assert!(worst > 0.0 && worst < 0.05, "{name}: {exact:?} {rounded:?}");
    }
}
