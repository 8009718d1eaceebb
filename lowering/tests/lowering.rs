//! Every form of every convolution evaluates to the operator's values.
#![allow(clippy::unwrap_used, missing_docs)]

use hlo::{Computation, DType, Graph, Literal, Op, Padding, Shape, Tensor, grad};
use hlo_cases::{self as cases, Case};
use lowering::{
    COLUMN_SUMS, ConvFacts, ConvForm, ConvLowering, DirectConvolution, Grouping, MAX_POOL, MAX_POOL_GRADIENT, Target,
    lower, lower_convolutions,
};
use std::cell::RefCell;
use std::collections::BTreeSet;

fn lowerings() -> impl Iterator<Item = ConvLowering> {
    let both = |form| [false, true].map(|phases| ConvLowering { form, phases });
    ConvForm::ALL.into_iter().flat_map(both)
}

fn convolutions(computation: &Computation) -> usize {
    let own = |node: &hlo::Node| {
        let called: usize = node.op.called().iter().map(|c| convolutions(c)).sum();
        called + usize::from(matches!(node.op, Op::Convolution { .. }))
    };
    computation.nodes.iter().map(own).sum()
}

/// Whether the computation contains a host call.
fn calls(computation: &Computation) -> bool {
    computation
        .nodes
        .iter()
        .any(|node| DirectConvolution::from_call(&node.op).is_some())
}

#[test]
fn every_form_keeps_the_values_of_every_case() {
    let with_convolutions = |case: &Case| case.op == "convolution";
    let mut replaced = BTreeSet::new();
    for case in cases::all().iter().filter(|case| with_convolutions(case)) {
        let computation = case.computation().unwrap();
        for lowering in lowerings() {
            let lowered = lower_convolutions(&computation, &|_| lowering).unwrap();
            if convolutions(&lowered) < convolutions(&computation) || calls(&lowered) {
                replaced.insert(lowering);
            }
            let got = lowered.evaluate(&case.inputs).unwrap();
            if let Err(why) = case.check(&got) {
                panic!("{lowering:?}: {why}");
            }
        }
        for target in [Target::Cpu, Target::CpuWithHostFunctions] {
            let chosen = lower(&computation, target).unwrap();
            case.check(&chosen.evaluate(&case.inputs).unwrap()).unwrap();
        }
    }
    let forms: BTreeSet<ConvForm> = replaced.iter().map(|lowering| lowering.form).collect();
    assert_eq!(forms, ConvForm::ALL[2..].iter().copied().collect(), "{replaced:?}");
}

/// `[n, h, w, c]`, `[kh, kw, c / groups, filters]`, strides, padding, groups.
type Row = ([usize; 4], [usize; 4], usize, Padding, usize);

/// Small versions of the convolutions in the networks.
const TABLE: [Row; 13] = [
    ([2, 5, 4, 3], [1, 1, 3, 2], 1, Padding::Same, 1),
    ([2, 5, 4, 3], [1, 1, 3, 2], 2, Padding::Same, 1),
    ([2, 5, 4, 3], [3, 3, 3, 2], 1, Padding::Same, 1),
    ([2, 5, 4, 3], [3, 3, 3, 2], 2, Padding::Same, 1),
    ([1, 6, 6, 2], [3, 3, 2, 3], 2, Padding::Explicit([(1, 1); 2]), 1),
    ([1, 9, 8, 2], [7, 7, 2, 3], 2, Padding::Explicit([(3, 3); 2]), 1),
    ([1, 7, 8, 2], [3, 2, 2, 3], 3, Padding::Valid, 1),
    ([1, 1, 2, 2], [3, 3, 2, 3], 1, Padding::Same, 1),
    ([2, 5, 4, 3], [3, 3, 1, 3], 1, Padding::Same, 3),
    ([2, 6, 5, 3], [3, 3, 1, 3], 2, Padding::Explicit([(1, 1); 2]), 3),
    ([2, 5, 4, 4], [3, 3, 2, 4], 1, Padding::Same, 2),
    ([2, 5, 4, 2], [3, 3, 1, 4], 1, Padding::Same, 2),
    // Enough examples that the kernel gradient sums over them in parts.
    ([64, 16, 16, 1], [2, 2, 1, 2], 1, Padding::Same, 1),
];

fn values(dims: &[usize], seed: usize) -> Literal {
    let value = |i: usize| (((i + seed) * 2_654_435_761 % 4093) as f32 - 2046.0) / 1024.0;
    Literal::new(dims, &(0..dims.iter().product()).map(value).collect::<Vec<_>>())
}

/// The output, and the gradients of input and kernel.
fn passes<'g>(x: &[Tensor<'g>], &(_, _, stride, padding, groups): &Row) -> Vec<Tensor<'g>> {
    let y = x[0].conv2d(x[1], [stride; 2], padding, groups);
    let loss = (y * y).reduce_sum_all();
    [vec![y], grad(loss, x)].concat()
}

fn computation(row: &Row) -> (Computation, [Literal; 2]) {
    let inputs = [values(&row.0, 1), values(&row.1, 5)];
    let parameters = inputs.each_ref().map(|input| ("x".to_string(), input.shape().clone()));
    let built = Graph::function("passes", &parameters, |_, x| passes(x, row)).unwrap();
    (built, inputs)
}

#[test]
fn every_form_agrees_on_network_shapes() {
    for row in &TABLE {
        let (computation, inputs) = computation(row);
        let want = computation.evaluate(&inputs).unwrap();
        for lowering in lowerings() {
            let lowered = lower_convolutions(&computation, &|_| lowering).unwrap();
            assert_eq!(lowered.parameter_specs(), computation.parameter_specs());
            assert_eq!(lowered.output_shapes(), computation.output_shapes());
            for (got, want) in lowered.evaluate(&inputs).unwrap().iter().zip(&want) {
                assert_close(got, want, &format!("{row:?} {lowering:?}"));
            }
        }
    }
}

fn assert_close(got: &Literal, want: &Literal, what: &str) {
    let (got, want) = (got.to_f64_vec(), want.to_f64_vec());
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() <= 1e-5 * largest, "{what}: {g}, not {w}, of {largest}");
    }
}

#[test]
fn facts_distinguish_the_three_convolutions_of_a_layer() {
    let seen = |row: &Row| {
        let seen: RefCell<Vec<ConvFacts>> = RefCell::default();
        let record = |facts: &ConvFacts| {
            seen.borrow_mut().push(facts.clone());
            ConvLowering::KEEP
        };
        lower_convolutions(&computation(row).0, &record).unwrap();
        seen.into_inner()
    };
    let strided = seen(&TABLE[4]);
    let [forward, input, kernel] = strided.as_slice() else {
        panic!("{strided:?}");
    };
    assert_eq!((forward.window_elements(), forward.positions_count()), (9, 9));
    assert!(!forward.has_holes() && input.has_holes() && !kernel.has_holes());
    assert_eq!((input.channels, input.filters, input.positions_count()), (3, 2, 36));
    assert_eq!((kernel.batch, kernel.channels, kernel.positions_count()), (2, 1, 9));
    // All three do the same work: 2 · positions · window · channels · filters.
    let work = [forward, input, kernel].map(ConvFacts::flops);
    assert_eq!(work, [2.0 * 9.0 * 9.0 * 6.0; 3]);
    let groupings: Vec<Grouping> = seen(&TABLE[8]).iter().map(|facts| facts.grouping).collect();
    assert_eq!(
        groupings,
        [Grouping::PerChannel, Grouping::PerChannel, Grouping::PerExample]
    );
    // Grouped convolutions with several channels per group have no other form.
    assert!(seen(&TABLE[10]).is_empty());
}

#[test]
fn rewrites_called_computations_and_keeps_scopes() {
    let image = Shape::new(DType::F32, [1, 4, 4, 2]);
    let kernel = Shape::new(DType::F32, [1, 1, 2, 2]);
    let parameters = [("x".to_string(), image), ("k".to_string(), kernel)];
    let built = Graph::function("loop", &parameters, |g, x| {
        let looped = g.repeat(g.scalar(3i32), x, |g, _, x| {
            let _scope = g.scope("layer");
            vec![x[0].conv2d(x[1], [1, 1], Padding::Same, 1), x[1]]
        });
        g.conditional(looped[0].reduce_sum_all().gt(0.0), &looped, branch, branch)
    })
    .unwrap();
    let lowered = lower_convolutions(&built, &|_| ConvLowering {
        form: ConvForm::Taps,
        phases: false,
    })
    .unwrap();
    assert_eq!((convolutions(&built), convolutions(&lowered)), (3, 0));
    let inputs = [values(&[1, 4, 4, 2], 3), values(&[1, 1, 2, 2], 9)];
    let (got, want) = (lowered.evaluate(&inputs).unwrap(), built.evaluate(&inputs).unwrap());
    assert_close(&got[0], &want[0], "loop");
    let products = |c: &Computation| {
        let dots = c.nodes.iter().filter(|node| matches!(node.op, Op::Dot(_)));
        dots.map(|node| node.scope.clone()).collect::<Vec<_>>()
    };
    let called: Vec<_> = lowered.nodes.iter().flat_map(|node| node.op.called()).collect();
    let scopes: Vec<_> = called.iter().flat_map(|c| products(c)).collect();
    assert_eq!(scopes, ["layer", "branch", "branch"]);
}

fn branch<'a>(g: &'a Graph, x: &[Tensor<'a>]) -> Vec<Tensor<'a>> {
    let _scope = g.scope("branch");
    vec![x[0].conv2d(x[1], [2, 2], Padding::Same, 1)]
}

/// XLA has fast CPU kernels only for channels-last order, in loops too.
#[test]
fn convolutions_for_the_cpu_have_their_axes_in_order() {
    for row in TABLE.iter().filter(|row| row.4 == 1) {
        let chosen = lower(&computation(row).0, Target::Cpu).unwrap();
        for node in &chosen.nodes {
            if let Op::Convolution { dims, .. } = &node.op {
                assert_eq!(*dims, hlo::ConvDims::channels_last(2), "{row:?}");
            }
        }
        let built = computation(row).0;
        let disordered =
            |node: &&hlo::Node| matches!(&node.op, Op::Convolution { dims, .. } if *dims != hlo::ConvDims::nhwc());
        assert!(built.nodes.iter().filter(disordered).count() > 0, "{row:?}");
    }
}

#[test]
fn other_devices_get_the_graph_unchanged() {
    let (computation, _) = computation(&TABLE[2]);
    let same = lower(&computation, Target::Any).unwrap();
    assert_eq!(same.to_bytes(&[]), computation.to_bytes(&[]));
    let kept = lower_convolutions(&computation, &|_| ConvLowering::KEEP).unwrap();
    assert_eq!(kept.to_bytes(&[]), computation.to_bytes(&[]));
}

#[test]
fn cpu_rules_keep_dense_convolutions_with_larger_windows() {
    let kept: Vec<usize> = TABLE
        .iter()
        .map(|row| convolutions(&lower(&computation(row).0, Target::Cpu).unwrap()))
        .collect();
    // Operators left per row. 1×1: none, but with a stride one, the phase of the input gradient that covers the kernel.
    // Larger windows with a stride: the output, and one per phase that covers the kernel; the kernel gradient is a sum
    // of few terms in such small images, and so is every pass on an image of one element. Depthwise: none. Several
    // channels per group: all stay. Many examples: a sum in four parts.
    assert_eq!(kept, [0, 1, 1, 5, 5, 5, 7, 0, 0, 0, 3, 3, 4]);
}

/// Sums as in batch normalisation, over examples and image, for various divisors.
#[test]
fn channel_sums_keep_their_value() {
    for dims in [
        [16, 14, 14, 8],
        [1, 70, 90, 3],
        [3, 49, 37, 5],
        [1, 131, 127, 1],
        [2, 3, 5, 7],
    ] {
        let parameter = [("x".to_string(), Shape::new(DType::F32, dims))];
        let built = Graph::function("sums", &parameter, |_, x| vec![x[0].reduce_sum(&[0, 1, 2])]).unwrap();
        let lowered = lower(&built, Target::Cpu).unwrap();
        let reduced = |node: &hlo::Node| matches!(node.op, Op::Reduce { .. });
        let large = dims.iter().product::<usize>() > 10_000;
        assert_eq!(lowered.nodes.iter().any(reduced), !large, "{dims:?}");
        // Small integers, whose sums are exact in any order.
        let values: Vec<f32> = (0..dims.iter().product()).map(|i| ((i * 7919) % 31) as f32).collect();
        let input = Literal::new(&dims, &values);
        let [want, got] = [built, lowered].map(|c| c.evaluate(std::slice::from_ref(&input)).unwrap());
        assert_eq!(want[0].to_vec::<f32>(), got[0].to_vec::<f32>(), "{dims:?}");
    }
}

#[test]
fn sums_of_products_keep_their_value() {
    for (dims, whole) in [(vec![150, 120], true), (vec![3, 5, 1201], false), (vec![10], false)] {
        let parameters = ["a", "b"].map(|name| (name.to_string(), Shape::new(DType::F32, dims.clone())));
        let built = Graph::function("sums", &parameters, |_, x| vec![(x[0] * x[1]).reduce_sum_all()]).unwrap();
        let lowered = lower(&built, Target::Cpu).unwrap();
        let reduced = |node: &hlo::Node| matches!(node.op, Op::Reduce { .. });
        assert_eq!(lowered.nodes.iter().any(reduced), !whole, "{dims:?}");
        // Small integers, whose sums are exact in any order.
        let values = |step: usize| -> Vec<f32> {
            (0..dims.iter().product())
                .map(|i: usize| ((i * step) % 13) as f32 - 4.0)
                .collect()
        };
        let inputs = [7919, 31].map(|step| Literal::new(&dims, &values(step)));
        let [want, got] = [built, lowered].map(|c| c.evaluate(&inputs).unwrap());
        assert_eq!(want[0].to_vec::<f32>(), got[0].to_vec::<f32>(), "{dims:?}");
    }
}

/// The host functions that a graph calls, with their numbers of operands and results.
fn host_calls(computation: &Computation) -> Vec<(&str, usize, usize)> {
    let call = |node: &hlo::Node| match &node.op {
        Op::Call { host: Some(host), .. } => Some((host.name, node.operands.len(), node.shapes.len())),
        _ => None,
    };
    computation.nodes.iter().filter_map(call).collect()
}

#[test]
fn batch_norm_sums_share_host_calls() {
    let dims = [16, 8, 8, 24];
    let shapes = [&dims[..], &dims, &[24]].map(|dims| ("x".to_string(), Shape::new(DType::F32, dims)));
    let numbers = |(i, (_, shape)): (usize, &(String, Shape))| {
        let number = |k: usize| ((k * 7919 + i) % 101) as f32 / 50.0 + 1.0;
        Literal::new(&shape.dims, &(0..shape.elements()).map(number).collect::<Vec<_>>())
    };
    let inputs: Vec<Literal> = shapes.iter().enumerate().map(numbers).collect();
    let axes = [0, 1, 2];
    let built = Graph::function("sums", &shapes, |_, x| {
        let [x, c, other] = [x[0], x[1], x[2]];
        let mean = x.reduce_mean(&axes);
        let centred = x - mean;
        let variance = (centred * centred).reduce_mean(&axes);
        let scale = (c * centred).reduce_sum(&axes);
        let about_another = x - other;
        let squares = (about_another * about_another).reduce_sum(&axes);
        vec![
            mean,
            variance,
            scale,
            c.reduce_sum(&axes),
            squares,
            (c * x).reduce_sum(&axes),
        ]
    })
    .unwrap();
    let lowered = lower(&built, Target::CpuWithHostFunctions).unwrap();
    let sums = |operands, results| (COLUMN_SUMS, operands, results);
    assert_eq!(host_calls(&lowered), [sums(1, 2), sums(3, 2), sums(2, 1)]);
    let reductions = |node: &hlo::Node| matches!(node.op, Op::Reduce { .. });
    assert!(!lowered.nodes.iter().any(reductions), "the last is a matrix product");
    let [got, want] = [&lowered, &built].map(|computation| computation.evaluate(&inputs).unwrap());
    for (got, want) in got.iter().zip(&want) {
        for (got, want) in got.to_f64_vec().into_iter().zip(want.to_f64_vec()) {
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{got}, not {want}");
        }
    }
    assert_eq!(host_calls(&lower(&built, Target::Cpu).unwrap()), []);
}

#[test]
fn max_pooling_and_its_gradient_become_host_calls() {
    let windows = |case: &&Case| ["reduce-window", "select-and-scatter"].contains(&case.op);
    for case in cases::all().iter().filter(windows) {
        let lowered = lower(&case.computation().unwrap(), Target::CpuWithHostFunctions).unwrap();
        case.check(&lowered.evaluate(&case.inputs).unwrap()).unwrap();
    }
    let parameter = [("x".to_string(), Shape::new(DType::F32, [2, 7, 6, 3]))];
    let built = Graph::function("maxima", &parameter, |_, x| {
        let pooled = x[0].max_pool([3, 2], [2, 1], Padding::Explicit([(1, 0), (0, 1)]));
        [vec![pooled], grad(pooled.reduce_sum_all(), &[x[0]])].concat()
    });
    let lowered = lower(&built.unwrap(), Target::CpuWithHostFunctions).unwrap();
    let hosts = lowered.nodes.iter().filter_map(|node| match &node.op {
        Op::Call { host, .. } => host.clone(),
        _ => None,
    });
    let hosts: Vec<_> = hosts.collect();
    assert_eq!([hosts[0].name, hosts[1].name], [MAX_POOL, MAX_POOL_GRADIENT]);
    let attributes = [
        ("pad_low", vec![1, 0]),
        ("stride", vec![2, 1]),
        ("window", vec![3, 2]),
        ("x", vec![2, 7, 6, 3]),
        ("y", vec![2, 3, 6, 3]),
    ];
    assert!(hosts.iter().all(|host| host.attributes == attributes), "{hosts:?}");
    let module = lowered.to_proto(&[]);
    let calls = module.computations.iter().flat_map(|c| &c.instructions);
    let call = calls.into_iter().find(|i| i.opcode == "custom-call").unwrap();
    assert_eq!(call.custom_call_target, MAX_POOL);
    let text = String::from_utf8(call.backend_config.clone()).unwrap();
    assert!(
        text.starts_with("{pad_low = array<i64: 1, 0>, stride = array<i64: 2, 1>"),
        "{text}"
    );
}
