//! Gradients: difference quotients for every differentiable case of the conformance table, exact zeros for the
//! piecewise constant ones, and errors for the operators without a gradient.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{
    Computation, ConvDims, DType, Error, Graph, Literal, Padding, Reducer, Shape, Tensor, Update, WindowDim, grad,
};
use hlo_cases::{self as cases, Case, Gradient};

/// Deterministic numbers in [−1, 1). A linear congruential generator is enough for directions and weights.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 * (-52f64).exp2() - 1.0
    }

    fn literal(&mut self, dims: &[usize]) -> Literal {
        let n = dims.iter().product();
        Literal::new(dims, &(0..n).map(|_| self.next()).collect::<Vec<_>>())
    }
}

fn widened(literal: &Literal) -> Literal {
    match literal.dtype().is_float() {
        true => Literal::new(literal.dims(), &literal.to_f64_vec()),
        false => literal.clone(),
    }
}

fn specs(inputs: &[Literal]) -> Vec<(String, Shape)> {
    let spec = |(i, l): (usize, &Literal)| (format!("x{i}"), l.shape().clone());
    inputs.iter().enumerate().map(spec).collect()
}

/// The weighted sum of all floating-point outputs; each element has its own weight.
fn weighted<'g>(g: &'g Graph, outputs: &[Tensor<'g>]) -> Tensor<'g> {
    let mut numbers = Numbers(11);
    let term = |output: &Tensor<'g>| {
        let weights = g.constant(numbers.literal(&output.dims()));
        (output.convert(DType::F64) * weights).reduce_sum_all()
    };
    outputs
        .iter()
        .filter(|o| o.dtype().is_float())
        .map(term)
        .fold(g.number(DType::F64, 0.0), |a, b| a + b)
}

fn value(loss: &Computation, inputs: &[Literal]) -> f64 {
    loss.evaluate(inputs).unwrap()[0].item().unwrap()
}

fn moved(x: &Literal, direction: &Literal, by: f64) -> Literal {
    let sum = x
        .to_f64_vec()
        .iter()
        .zip(direction.to_f64_vec())
        .map(|(x, d)| x + by * d)
        .collect::<Vec<_>>();
    Literal::new(x.dims(), &sum)
}

/// Compares the gradient of the loss that `build` returns with fourth-order difference quotients.
fn check(
    title: &str,
    inputs: &[Literal],
    wrt: &[usize],
    tolerance: f64,
    build: impl for<'a> Fn(&'a Graph, &[Tensor<'a>]) -> Tensor<'a>,
) {
    let loss = Graph::function("loss", &specs(inputs), |g, x| vec![build(g, x)]).unwrap();
    let gradients = Graph::function("gradient", &specs(inputs), |g, x| {
        grad(build(g, x), &wrt.iter().map(|&i| x[i]).collect::<Vec<_>>())
    });
    let gradients = gradients
        .unwrap_or_else(|e| panic!("{title}: {e}"))
        .evaluate(inputs)
        .unwrap();
    let mut numbers = Numbers(5);
    for (&input, gradient) in wrt.iter().zip(&gradients) {
        assert_eq!(
            gradient.shape(),
            inputs[input].shape(),
            "{title}: gradient of input {input}"
        );
        for _ in 0..3 {
            let direction = numbers.literal(inputs[input].dims());
            let at = |h: f64| {
                let mut inputs = inputs.to_vec();
                inputs[input] = moved(&inputs[input], &direction, h);
                value(&loss, &inputs)
            };
            let h = 1e-4;
            let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let pairs = gradient.to_f64_vec().into_iter().zip(direction.to_f64_vec());
            let ours: f64 = pairs.map(|(g, d)| g * d).sum();
            assert!(
                (ours - numeric).abs() <= tolerance * numeric.abs().max(1.0),
                "{title}: along a direction of input {input} the gradient gives {ours}, differences give {numeric}"
            );
        }
    }
}

fn with(gradient: impl Fn(Gradient) -> bool) -> Vec<Case> {
    cases::all().into_iter().filter(|c| gradient(c.gradient)).collect()
}

#[test]
fn smooth_cases_match_finite_differences() {
    for case in with(|g| matches!(g, Gradient::Numeric(_))) {
        let Gradient::Numeric(wrt) = case.gradient else {
            unreachable!()
        };
        let inputs: Vec<Literal> = case.inputs.iter().map(widened).collect();
        // The case rounds to f32 internally, which limits the accuracy of the quotient.
        let tolerance = if case.op == "convert" { 2e-2 } else { 1e-7 };
        check(&case.title(), &inputs, wrt, tolerance, |g, x| {
            weighted(g, &(case.build)(g, x))
        });
    }
}

#[test]
fn piecewise_constant_cases_have_zero_gradients() {
    for case in with(|g| g == Gradient::Zero) {
        let inputs: Vec<Literal> = case
            .inputs
            .iter()
            .map(|l| Literal::new(l.dims(), &l.to_f64_vec()))
            .collect();
        let types: Vec<DType> = case.inputs.iter().map(Literal::dtype).collect();
        let gradients = Graph::function("zero", &specs(&inputs), |g, x| {
            let arguments: Vec<_> = (0..x.len())
                .map(|i| match types[i].is_float() {
                    true => x[i],
                    false => x[i].convert(types[i]),
                })
                .collect();
            let outputs: Vec<_> = (case.build)(g, &arguments)
                .iter()
                .map(|o| o.convert(DType::F64))
                .collect();
            grad(weighted(g, &outputs), x)
        });
        for gradient in gradients
            .unwrap_or_else(|e| panic!("{}: {e}", case.title()))
            .evaluate(&inputs)
            .unwrap()
        {
            assert!(
                gradient.to_f64_vec().iter().all(|&v| v == 0.0),
                "{}: {gradient:?}",
                case.title()
            );
        }
    }
}

#[test]
fn missing_gradients_report_operator_and_path() {
    for case in with(|g| g == Gradient::Stop) {
        let error = Graph::function("stopped", &specs(&case.inputs), |g, x| {
            let _layer = g.scope("layer");
            let loss = weighted(g, &(case.build)(g, x));
            let smooth: Vec<_> = x.iter().filter(|x| x.dtype().is_float()).copied().collect();
            grad(loss, &smooth)
        });
        // A tuple element only passes on its cotangent; the error names the operator that made the tuple.
        let stops = if case.op == "get-tuple-element" {
            "sort"
        } else {
            case.op
        };
        match error {
            Err(Error::NoGradient { op, reason, path }) => {
                assert_eq!(op, stops, "{}", case.title());
                assert!(!reason.is_empty());
                assert!(
                    path.starts_with("layer/add <- ") && path.ends_with(&format!("layer/{stops}")),
                    "{path}"
                );
            }
            other => panic!("{}: {other:?}", case.title()),
        }
    }
}

/// Masks and random numbers derive from integers, so a sort behind them does not block a gradient.
#[test]
fn ignores_missing_gradients_behind_integers() {
    let inputs = [Literal::new(&[3], &[3.0f64, 1.0, 2.0])];
    let computation = Graph::function("ranked", &specs(&inputs), |_, x| {
        let keys = x[0].bitcast_convert(DType::U64);
        let ranked = keys.sort_with(&[keys], 0, false)[1].convert(DType::F64) * 0.0 + 2.0;
        grad((x[0] * ranked).reduce_sum_all(), x)
    });
    assert_eq!(
        computation.unwrap().evaluate(&inputs).unwrap()[0].to_f64_vec(),
        [2.0; 3]
    );
}

#[test]
fn reports_the_first_error_before_a_missing_gradient() {
    let g = Graph::new("both");
    let x = g.parameter("x", Shape::new(DType::F32, [2]));
    let wrong = x.transpose(&[1]);
    let keys = x.sort_with(&[x], 0, false)[0];
    let gradients = grad((wrong + keys).reduce_sum_all(), &[x]);
    let outputs = [gradients[0].output()];
    assert!(matches!(g.build(&outputs), Err(Error::Shape { op: "transpose", .. })));
}

#[test]
fn rejects_losses_that_are_not_float_scalars() {
    for (dims, dtype) in [(vec![2], DType::F32), (vec![], DType::S32)] {
        let g = Graph::new("loss");
        let x = g.parameter("x", Shape::new(dtype, dims));
        let (line, gradients) = (line!(), grad(x, &[x]));
        let outputs = [gradients[0].output()];
        let message = g.build(&outputs).unwrap_err().to_string();
        assert!(
            message.contains("gradient(") && message.contains(&format!("gradients.rs:{line}")),
            "{message}"
        );
    }
}

#[test]
fn unused_inputs_have_zero_gradients() {
    let g = Graph::new("independent");
    let x = g.parameter("x", Shape::new(DType::F32, [2]));
    let y = g.parameter("y", Shape::new(DType::F32, [3]));
    let gradients = grad(x.reduce_sum_all(), &[x, y]);
    let outputs = [gradients[0].output(), gradients[1].output()];
    let arguments = [Literal::new(&[2], &[1f32, 2.0]), Literal::new(&[3], &[1f32, 2.0, 3.0])];
    let results = g.build(&outputs).unwrap().evaluate(&arguments).unwrap();
    assert_eq!(results[0].to_f64_vec(), [1.0, 1.0]);
    assert_eq!(results[1].to_f64_vec(), [0.0, 0.0, 0.0]);
}

/// At a kink the derivative is a convention; ours divides it equally among ties.
#[test]
fn ties_share_the_gradient_and_relu_has_none_at_zero() {
    let inputs = [
        Literal::new(&[3], &[2.0f64, 2.0, 1.0]),
        Literal::new(&[3], &[2.0f64, 0.0, 1.0]),
    ];
    let computation = Graph::function("ties", &specs(&inputs), |_, x| {
        let max = grad(x[0].max(x[1]).reduce_sum_all(), x);
        let reduced = grad(x[0].reduce_max(&[0]), &x[..1]);
        let relu = grad((x[1] - x[1]).relu().reduce_sum_all(), &x[1..]);
        [max, reduced, relu].concat()
    });
    let results = computation.unwrap().evaluate(&inputs).unwrap();
    let want = [
        vec![0.5, 1.0, 0.5],
        vec![0.5, 0.0, 0.5],
        vec![0.5, 0.5, 0.0],
        vec![0.0; 3],
    ];
    assert_eq!(results.iter().map(Literal::to_f64_vec).collect::<Vec<_>>(), want);
}

/// Softmax cross entropy of a two-layer network, as in training.
#[test]
fn gradient_of_a_network_with_a_loss() {
    let mut numbers = Numbers(3);
    let shapes: [&[usize]; 5] = [&[4, 5], &[5, 6], &[6], &[6, 3], &[3]];
    let mut inputs: Vec<Literal> = shapes.iter().map(|dims| numbers.literal(dims)).collect();
    inputs.push(Literal::new(&[4], &[0i32, 2, 1, 2]));
    check("network", &inputs, &[0, 1, 2, 3, 4], 1e-7, |_, p| {
        let hidden = (p[0].matmul(p[1]) + p[2]).tanh();
        let logits = hidden.matmul(p[3]) + p[4];
        let shifted = logits - logits.reduce_max(&[1]).stop_gradient().reshape(&[4, 1]);
        let log_sum = shifted.exp().reduce_sum(&[1]).log();
        let chosen = (shifted * p[5].one_hot(3, DType::F64)).reduce_sum(&[1]);
        (log_sum - chosen).reduce_mean(&[0])
    });
}

/// A masked layer with an embedding: gather, scatter, select and slices, with values used several times.
#[test]
fn gradient_of_composed_layout_operators() {
    let mut numbers = Numbers(8);
    let inputs = [
        numbers.literal(&[4, 3]),
        numbers.literal(&[2, 3]),
        Literal::new(&[2], &[3i32, 3]),
        Literal::from_bools(
            &[4, 3],
            &[
                true, false, true, true, false, true, false, false, true, true, true, false,
            ],
        ),
    ];
    check("moves", &inputs, &[0, 1], 1e-7, |_, p| {
        let rows = hlo::GatherDims {
            offset: vec![1],
            collapsed: vec![0],
            start_index_map: vec![0],
            index_vector_axis: 1,
        };
        let masked = p[3].select(p[0], p[0].zeros_like());
        let table = masked.scatter(p[2], p[1] * p[1], rows, Update::Add, false);
        let taken = table.take_rows(p[2]) * table.slice(&[1, 0], &[3, 3]);
        (taken.transpose(&[1, 0]).reverse(&[0]).matmul(p[1]) + table.reduce_sum_all().sin())
            .logistic()
            .reduce_sum_all()
    });
}

/// Windows of three elements over five, with every stride, padding and dilation. Some have no position.
fn windows() -> Vec<WindowDim> {
    let mut windows = vec![];
    for (pad_low, pad_high) in [(0, 0), (1, 2), (4, 0), (-1, 1), (0, -2)] {
        for (stride, base_dilation, window_dilation) in
            (1..=3).flat_map(|s| (1..=2).flat_map(move |b| (1..=2).map(move |w| (s, b, w))))
        {
            windows.push(WindowDim {
                size: 3,
                stride,
                pad_low,
                pad_high,
                base_dilation,
                window_dilation,
            });
        }
    }
    windows
}

#[test]
fn gradients_of_convolutions_with_every_window_and_grouping() {
    let dims = ConvDims {
        input_batch: 0,
        input_feature: 2,
        input_spatial: vec![1],
        kernel_input: 1,
        kernel_output: 2,
        kernel_spatial: vec![0],
        output_batch: 0,
        output_feature: 2,
        output_spatial: vec![1],
    };
    let mut numbers = Numbers(21);
    for (features, batches) in [(1, 1), (2, 1), (4, 1), (1, 2)] {
        for window in windows() {
            let inputs = [numbers.literal(&[2, 5, 4]), numbers.literal(&[3, 4 / features, 8])];
            let title = format!("{window:?} in groups of {features} and {batches}");
            check(&title, &inputs, &[0, 1], 1e-7, |g, x| {
                let y = x[0].convolution(x[1], vec![window], dims.clone(), features, batches);
                weighted(g, &[y])
            });
        }
    }
}

#[test]
fn gradients_of_reductions_over_every_window() {
    let mut numbers = Numbers(34);
    for window in windows() {
        let inputs = [numbers.literal(&[5, 2])];
        check(&format!("{window:?}"), &inputs, &[0], 1e-7, |g, x| {
            let over = |reducer| x[0].reduce_window(vec![window, WindowDim::unit()], reducer);
            let sum = over(Reducer::Add);
            match (window.base_dilation, window.window_dilation) {
                // If a window covers padding alone, the extreme is an infinity and has no gradient to compare.
                (1, 1) if window.pad_low < 3 => weighted(g, &[sum, over(Reducer::Max), over(Reducer::Min)]),
                _ => weighted(g, &[sum]),
            }
        });
    }
}

/// The graph of a training step grows by this for every layer.
#[test]
fn gradients_of_a_convolution_are_one_convolution_each() {
    let moves = |kernel: [usize; 4], groups: usize| {
        let shapes = [vec![2, 8, 8, 4], kernel.to_vec()].map(|dims| Shape::new(DType::F32, dims));
        let parameters = shapes.map(|shape| ("x".to_string(), shape));
        let computation = Graph::function("layer", &parameters, |_, x| {
            let y = x[0].conv2d(x[1], [2, 2], Padding::Same, groups);
            grad(y.reduce_sum_all(), x)
        });
        let names: Vec<&str> = computation.unwrap().nodes.iter().map(|n| n.op.name()).collect();
        names[2..].to_vec()
    };
    let cotangent = ["constant", "broadcast"];
    let expected = |turn: &[&'static str]| [&cotangent, turn, &["convolution", "convolution"]].concat();
    assert_eq!(moves([1, 1, 4, 6], 1), expected(&[]));
    assert_eq!(moves([3, 3, 4, 6], 1), expected(&["reverse"]));
    assert_eq!(moves([3, 3, 1, 4], 4), expected(&["reverse", "reshape"]));
    assert_eq!(
        moves([3, 3, 2, 6], 2),
        expected(&["reverse", "reshape", "transpose", "reshape"])
    );
}

/// Second derivatives: the operators that the sweep emits have gradients too.
#[test]
fn second_derivatives() {
    let inputs = [Literal::new(&[3], &[0.3f64, -0.7, 1.1])];
    check("second derivative", &inputs, &[0], 1e-7, |_, p| {
        let first = grad((p[0] * p[0].tanh()).exp().reduce_sum_all(), p)[0];
        (first * first).reduce_sum_all()
    });
}

#[test]
fn relu_by_its_result_is_relu_with_the_same_gradient() {
    let inputs = [Literal::new(&[6], &[-1.0f64, -0.0, 0.0, 2.0, f64::INFINITY, f64::NAN])];
    let computation = Graph::function("relu", &specs(&inputs), |_, x| {
        let results = [x[0].relu(), x[0].relu_by_result()];
        let gradients = results.map(|y| grad((y * 3.0).reduce_sum_all(), x));
        [&results[..], &gradients.concat()].concat()
    });
    let results = computation.unwrap().evaluate(&inputs).unwrap();
    let bits = |literal: &Literal| literal.to_f64_vec().into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&results[0]), bits(&results[1]));
    for gradient in &results[2..] {
        assert_eq!(gradient.to_f64_vec(), [0.0, 0.0, 0.0, 3.0, 3.0, 3.0]);
    }
}
