//! Gradients of layers together, compared with those of one operator after the other.
#![allow(clippy::unwrap_used)]

use hlo::random::Key;
use hlo::{DType, Graph, Literal, Padding, Shape, Tensor, grad};
use models::layers::{BatchNorm, Conv, Window};
use models::{Init, Mode, Naming, Net, Precision};

const NORM: BatchNorm = BatchNorm {
    scope: "m",
    gamma: Init::Ones,
    unbiased: true,
};

/// Pseudo-random numbers between -1 and 1.
fn numbers(dims: &[usize], seed: u32) -> Literal {
    let count: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Literal::new(dims, &values)
}

/// The results of `f` on a network in training mode, whose arrays are those of one convolution and its normalisation.
fn evaluate(
    kernel: &[usize],
    f: impl for<'g> FnOnce(&'g Graph, &dyn Fn() -> Net<'g>, [Tensor<'g>; 3]) -> Vec<Tensor<'g>>,
) -> Vec<Vec<f32>> {
    let g = Graph::new("test");
    let key = Key::new(g.constant(Literal::new(&[2], &[7u32, 0])));
    let channels = kernel[3];
    let weights = g.constant(numbers(kernel, 1));
    let [gamma, beta, moving] = [2, 3, 4].map(|seed| g.constant(numbers(&[channels], seed)));
    let net = || {
        let arrays = [
            ("gamma", gamma),
            ("beta", beta),
            ("moving_mean", moving),
            ("moving_variance", moving),
        ];
        let norm = arrays.map(|(name, array)| (format!("m/batch_normalization/{name}"), array));
        let all = norm.into_iter().chain([("conv/kernel".to_owned(), weights)]);
        Net::new(&g, Mode::Train(key), all)
    };
    let outputs = f(&g, &net, [weights, gamma, beta]);
    let outputs: Vec<_> = outputs.iter().map(|t| t.convert(DType::F32).output()).collect();
    let results = g.build(&outputs).unwrap().evaluate(&[]).unwrap();
    results.iter().map(|r| r.to_vec().unwrap()).collect()
}

fn assert_near(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(
            a.len() == b.len() && worst <= tolerance * largest,
            "array {i}: {worst} of {largest}"
        );
    }
}

/// Gradients of a convolution with its normalisation, and a Hessian-vector product.
fn of_expanding(joint: bool, precision: Precision) -> Vec<Vec<f32>> {
    evaluate(&[1, 1, 3, 12], |g, net, [weights, gamma, beta]| {
        let x = g.constant(numbers(&[2, 3, 5, 3], 9));
        let conv = Conv {
            scope: "conv".into(),
            naming: Naming::Plain,
            window: Window::fixed(1, 1),
            filters: 12,
            bias: false,
            init: Init::Zeros,
        };
        let net = net().with_precision(precision).with_joint_gradients(joint);
        let y = net.batch_norm(net.conv(x, &conv), &NORM).convert(DType::F32);
        let factors = g.constant(numbers(&[2, 3, 5, 12], 11));
        let loss = (y * y * y * factors).reduce_sum_all();
        let mut results = grad(loss, &[x, weights, gamma, beta]);
        let direction = g.constant(numbers(&[1, 1, 3, 12], 12));
        results.extend(grad((results[1] * direction).reduce_sum_all(), &[weights]));
        results.push(y);
        results
    })
}

#[test]
fn expanding_convolutions_have_the_same_gradients() {
    let [plain, joint] = [false, true].map(|joint| of_expanding(joint, Precision::F32));
    assert_near(&joint, &plain, 2e-5);
    let [plain, joint] = [false, true].map(|joint| of_expanding(joint, Precision::Bf16));
    assert_eq!(joint.last(), plain.last(), "the forward pass is the same");
    assert_near(&joint[..4], &plain[..4], 0.02);
}

/// Value and gradients of normalisation, ReLU and max pooling in bf16.
fn of_pooled(first: bool) -> Vec<Vec<f32>> {
    evaluate(&[3, 3, 2, 4], |g, net, [_, gamma, beta]| {
        let x = g.constant(numbers(&[2, 9, 7, 4], 9)).convert(DType::BF16);
        let net = net().with_precision(Precision::Bf16);
        let y = match first {
            true => net.norm_relu_max_pool(x, &NORM, 3, 2, Padding::Same),
            false => net.max_pool(net.batch_norm(x, &NORM).relu(), 3, 2, Padding::Same),
        };
        let moved: Vec<_> = net.updated_statistics().into_iter().map(|(_, value)| value).collect();
        let y = y.convert(DType::F32);
        let factors = g.constant(numbers(&y.dims(), 11));
        let results = grad((y * factors).reduce_sum_all(), &[x, gamma, beta]);
        [vec![y], moved, results].concat()
    })
}

#[test]
fn pooling_before_normalisation_is_the_same() {
    let [after, before] = [false, true].map(of_pooled);
    assert_eq!(before[..3], after[..3], "values and statistics");
    assert_near(&before[3..], &after[3..], 0.02);
}

#[test]
fn only_expanding_convolutions_have_joint_gradients() {
    let count = |joint: bool, outer: usize| {
        let g = Graph::new("test");
        let key = Key::new(g.constant(Literal::new(&[2], &[7u32, 0])));
        let array = |dims: &[usize]| g.full(&Shape::new(DType::F32, dims.to_vec()), 1.0);
        let (kernel, x) = (array(&[1, 1, 4, outer]), array(&[2, 3, 3, 4]));
        let norm = ["gamma", "beta", "moving_mean", "moving_variance"];
        let norm = norm.map(|name| (format!("m/batch_normalization/{name}"), array(&[outer])));
        let arrays = norm.into_iter().chain([("conv/kernel".to_owned(), kernel)]);
        let net = Net::new(&g, Mode::Train(key), arrays).with_joint_gradients(joint);
        let conv = Conv {
            scope: "conv".into(),
            naming: Naming::Plain,
            window: Window::fixed(1, 1),
            filters: outer,
            bias: false,
            init: Init::Zeros,
        };
        let y = net.batch_norm(net.conv(x, &conv), &NORM);
        let gradient = grad(y.reduce_sum_all(), &[kernel])[0].output();
        g.build(&[gradient]).unwrap().instruction_count()
    };
    assert_eq!(count(true, 8), count(false, 8));
    assert!(count(true, 16) > count(false, 16));
}
