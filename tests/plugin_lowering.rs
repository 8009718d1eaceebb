//! Lowered convolutions, column sums and max pooling on the CPU plugin agree with the operators.
#![allow(clippy::unwrap_used)]

use hlo::{Computation, Graph, Literal, Op, Padding, Tensor, grad};
use lowering::{ConvForm, ConvLowering, DirectConvolution, Target, lower, lower_convolutions, prepare};
use pjrt::{Arg, Client, ClientOptions, DeviceKind};
use rigl_xla::engine::options;
use rigl_xla::host_functions::register;
use rigl_xla::plugins;
use sparse::rng;

/// `[n, h, w, c]`, `[kh, kw, c / groups, filters]`, stride, padding, groups.
type Row = ([usize; 4], [usize; 4], usize, Padding, usize);

/// Layers of the networks with fewer examples.
const TABLE: [Row; 9] = [
    ([2, 32, 32, 3], [3, 3, 3, 16], 1, Padding::Same, 1),
    ([2, 16, 16, 32], [3, 3, 32, 64], 2, Padding::Same, 1),
    ([1, 28, 28, 3], [7, 7, 3, 64], 2, Padding::Explicit([(3, 3); 2]), 1),
    ([1, 14, 14, 64], [3, 3, 64, 64], 2, Padding::Explicit([(1, 1); 2]), 1),
    ([1, 7, 7, 128], [3, 3, 128, 128], 1, Padding::Same, 1),
    ([2, 14, 14, 64], [1, 1, 64, 128], 1, Padding::Same, 1),
    ([2, 14, 14, 64], [1, 1, 64, 128], 2, Padding::Same, 1),
    ([2, 14, 14, 64], [3, 3, 1, 64], 1, Padding::Explicit([(1, 1); 2]), 64),
    ([2, 15, 14, 64], [3, 3, 1, 64], 2, Padding::Explicit([(1, 1); 2]), 64),
];

/// Output, and the gradients of input and kernel under a cotangent.
fn passes(row: &Row) -> (Computation, Vec<Literal>) {
    let &(input, kernel, stride, padding, groups) = row;
    let mut stream = rng::stream(0, "plugin_lowering", "", 0);
    let mut values = |dims: &[usize]| {
        let normal = |_| stream.normal() as f32;
        Literal::new(dims, &(0..dims.iter().product()).map(normal).collect::<Vec<_>>())
    };
    let conv = |x: Tensor<'_>, k: Tensor<'_>| x.conv2d(k, [stride; 2], padding, groups).dims();
    let mut output = vec![];
    let inputs = [values(&input), values(&kernel)];
    let parameters = inputs.each_ref().map(|input| ("x".to_string(), input.shape().clone()));
    Graph::function("shape", &parameters, |_, x| {
        output = conv(x[0], x[1]);
        vec![]
    })
    .unwrap();
    let inputs = [&inputs[..], &[values(&output)]].concat();
    let parameters: Vec<_> = inputs
        .iter()
        .map(|input| ("x".to_string(), input.shape().clone()))
        .collect();
    let built = Graph::function("passes", &parameters, |_, x| {
        let y = x[0].conv2d(x[1], [stride; 2], padding, groups);
        [vec![y], grad((y * x[2]).reduce_sum_all(), &x[..2])].concat()
    });
    (built.unwrap(), inputs)
}

fn run(client: &Client, computation: &Computation, inputs: &[Literal]) -> Vec<Literal> {
    let program = client
        .compile(&computation.to_bytes(&[]), &options(DeviceKind::Cpu))
        .unwrap();
    let arguments = inputs
        .iter()
        .map(|input| Arg::Donate(client.to_device(input, 0).unwrap()));
    let outputs = program.execute(arguments.collect()).unwrap();
    outputs.iter().map(|output| output.to_literal().unwrap()).collect()
}

#[test]
fn every_form_matches_the_operator() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    let onednn = register(plugin).unwrap();
    assert!(onednn.is_some_and(|name| name.starts_with("oneDNN 3.")));
    for row in &TABLE {
        let (built, inputs) = passes(row);
        let want = run(&client, &built, &inputs);
        // Unrolled windows of whole images take long to compile and test nothing more.
        let form = |form| {
            lower_convolutions(&built, &move |facts| match (
                form,
                facts.window_elements() > 25,
                facts.positions_count() > 25,
            ) {
                (ConvForm::Taps | ConvForm::Patches, true, _) | (ConvForm::Positions | ConvForm::Columns, _, true) => {
                    ConvLowering::KEEP
                }
                (ConvForm::Direct, ..) => ConvLowering::DIRECT,
                _ => ConvLowering {
                    form,
                    phases: facts.has_holes(),
                },
            })
        };
        let chosen = [Target::Cpu, Target::CpuWithHostFunctions].map(|target| lower(&built, target).unwrap());
        let called = form(ConvForm::Direct).unwrap();
        let direct = |node: &&hlo::Node| DirectConvolution::from_call(&node.op).is_some();
        assert_eq!(called.nodes.iter().filter(direct).count(), 3, "{row:?}");
        let others = ConvForm::ALL[1..].iter().map(|&other| form(other).unwrap());
        for lowered in others.chain(chosen) {
            for (output, (got, want)) in run(&client, &lowered, &inputs).iter().zip(&want).enumerate() {
                assert_close(got, want, &format!("{row:?}, output {output}"));
            }
        }
    }
}

/// Runs a computation split after its first parameter, the kernel. Returns the outputs, and those of the first part.
fn run_prepared(client: &Client, computation: &Computation, inputs: &[Literal]) -> [Vec<Literal>; 2] {
    let parts = prepare(computation, 1).unwrap();
    let first = run(client, &parts.first, &inputs[..1]);
    let rest = run(client, &parts.rest, &[&first, &inputs[1..]].concat());
    [rest, first]
}

#[test]
fn packed_kernels_give_identical_results() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    assert!(register(plugin).unwrap().is_some());
    let mut reordered = 0;
    // Kernels that the library pads on some processors.
    let wide = [128, 512].map(|filters| ([1, 28, 28, 128], [1, 1, 128, filters], 1, Padding::Same, 1));
    for row in TABLE.iter().chain(&wide) {
        let &(_, _, stride, padding, groups) = row;
        let (_, inputs) = passes(row);
        let inputs = [inputs[1].clone(), inputs[0].clone()];
        let parameters = inputs.each_ref().map(|input| ("x".to_string(), input.shape().clone()));
        let built = Graph::function("forward", &parameters, |_, x| {
            vec![x[1].conv2d(x[0], [stride; 2], padding, groups)]
        });
        let direct = lower_convolutions(&built.unwrap(), &|_| ConvLowering::DIRECT).unwrap();
        let want = run(&client, &direct, &inputs);
        let [got, first] = run_prepared(&client, &direct, &inputs);
        // Packing at the call or ahead of it gives the same sums.
        assert_eq!(got, want, "{row:?}");
        let values: [Vec<f32>; 2] = [&first[0], &inputs[0]].map(|array| array.to_vec().unwrap());
        let other = values[0][..values[1].len()] != values[1];
        assert!(other || !wide.contains(row), "{row:?}");
        reordered += usize::from(other);
    }
    assert!(reordered >= 6, "{reordered}");
}

/// Chooses the same elements among equals, infinities and NaN, and adds the contributions of windows in their order.
#[test]
fn max_pooling_and_its_gradient_are_bit_identical() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    assert!(register(plugin).unwrap().is_some());
    let dims = [3, 7, 6, 5];
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|i: usize| match (i * 7919) % 11 {
            0 => f32::NEG_INFINITY,
            1 if i > 200 => f32::NAN,
            2 => f32::INFINITY,
            k => (k % 4) as f32 - 1.0,
        })
        .collect();
    let input = Literal::new(&dims, &values);
    let least = Literal::new(&dims, &vec![f32::NEG_INFINITY; values.len()]);
    let padded = Padding::Explicit([(2, 1), (1, 2)]);
    for size in [[3, 3], [2, 2], [1, 3], [5, 5], [1, 1]] {
        let parameter = [("x".to_string(), input.shape().clone())];
        let built = Graph::function("maxima", &parameter, |g, x| {
            let gradient = |strides: [usize; 2], padding| {
                let pooled = x[0].max_pool(size, strides, padding);
                let count = pooled.shape().elements();
                let weights: Vec<f32> = (0..count).map(|i| ((i * 31) % 17) as f32 / 7.0 - 1.0).collect();
                let weights = g.constant(Literal::new(&pooled.dims(), &weights));
                [vec![pooled], grad((pooled * weights).reduce_sum_all(), &[x[0]])].concat()
            };
            let strides = [[2, 2], [1, 1], [3, 1], [2, 5]];
            let paddings = [Padding::Same, Padding::Valid, padded];
            let each = |strides: [usize; 2]| paddings.iter().flat_map(move |&padding| gradient(strides, padding));
            strides.into_iter().flat_map(each).collect()
        });
        let built = built.unwrap();
        let lowered = lower(&built, Target::CpuWithHostFunctions).unwrap();
        let own = |node: &hlo::Node| matches!(node.op, Op::ReduceWindow { .. } | Op::SelectAndScatter { .. });
        assert!(!lowered.nodes.iter().any(own));
        for input in [&input, &least] {
            let inputs = std::slice::from_ref(input);
            let (got, want) = (run(&client, &lowered, inputs), built.evaluate(inputs).unwrap());
            assert_eq!(want.len(), 24);
            for (index, (got, want)) in got.iter().zip(&want).enumerate() {
                let bits = |x: &Literal| {
                    x.to_vec::<f32>()
                        .unwrap()
                        .into_iter()
                        .map(f32::to_bits)
                        .collect::<Vec<_>>()
                };
                assert_eq!(bits(got), bits(want), "{size:?}, {index}");
            }
        }
    }
}

/// Sizes that several threads share.
#[test]
fn column_sums_match_the_operator() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    assert!(register(plugin).unwrap().is_some());
    let mut stream = rng::stream(0, "sums_of_columns", "", 0);
    for dims in [[64, 16, 16, 24], [9, 7, 7, 512], [33, 1, 1, 2000]] {
        let mut values = |dims: &[usize], mean: f32| {
            let normal = |_| stream.normal() as f32 + mean;
            Literal::new(dims, &(0..dims.iter().product()).map(normal).collect::<Vec<_>>())
        };
        let inputs = [values(&dims, 1.0), values(&dims, 0.5), values(&dims[3..], 0.0)];
        let parameters = inputs.each_ref().map(|input| ("x".to_string(), input.shape().clone()));
        let built = Graph::function("sums", &parameters, |_, x| {
            let [x, c, other] = [x[0], x[1], x[2]];
            let (axes, mean) = ([0, 1, 2], x.reduce_mean(&[0, 1, 2]));
            let (centred, from_other) = (x - mean, x - other);
            let scale = (c * centred).reduce_sum(&axes);
            vec![
                mean,
                (centred * centred).reduce_mean(&axes),
                scale,
                c.reduce_sum(&axes),
                (from_other * from_other).reduce_sum(&axes),
            ]
        })
        .unwrap();
        let lowered = lower(&built, Target::CpuWithHostFunctions).unwrap();
        let calls = |node: &&hlo::Node| matches!(node.op, Op::Call { host: Some(_), .. });
        assert_eq!(lowered.nodes.iter().filter(calls).count(), 3);
        // The compiler's own sums are less exact.
        let (got, want) = (run(&client, &lowered, &inputs), built.evaluate(&inputs).unwrap());
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_close(got, want, &format!("{dims:?}, output {index}"));
        }
    }
}

fn assert_close(got: &Literal, want: &Literal, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let (got, want) = (got.to_f64_vec(), want.to_f64_vec());
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "{what}: nothing but zeros");
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() <= 1e-5 * largest, "{what}: {g}, not {w}, of {largest}");
    }
}
