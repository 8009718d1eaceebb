//! Layers computed from their connections alone, on the CPU plugin: the same numbers as masked dense layers, and the same masks.
#![allow(clippy::unwrap_used)]

mod common;

use common::json;
use common::runs::Runs;
use hlo::{Computation, Graph, Literal, Padding, Tensor, grad};
use lowering::{Target, lower};
use models::layers::BatchNorm;
use models::layers::examples::take_examples;
use models::layers::sparse::{SparseKernel, Wanted, blocked, condense, expand, mask_key};
use models::{Init, Mode, Net};
use pjrt::{Arg, Client, ClientOptions, DeviceKind};
use rigl_xla::engine::options;
use rigl_xla::host_functions::register;
use rigl_xla::plugins;
use serde_json::Value;
use sparse::rng;

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

fn assert_close(found: &Literal, want: &Literal, what: &str) {
    let [found, want] = [found, want].map(|of| of.to_vec::<f32>().unwrap());
    let scale = want.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
    for (i, (found, want)) in found.iter().zip(&want).enumerate() {
        assert!(
            (found - want).abs() <= 2e-5 * scale,
            "{what}, element {i}: {found}, not {want}"
        );
    }
}

/// A layer's input, kernel, stride and padding, and its density in percent. A kernel with a last axis of 1 is depthwise.
struct Case(&'static [usize], &'static [usize], usize, Padding, u64);

const CASES: [Case; 17] = [
    Case(&[16, 8, 8, 24], &[3, 3, 24, 40], 1, Padding::Same, 10),
    Case(&[32, 9, 7, 5], &[3, 3, 5, 33], 2, Padding::Same, 30),
    Case(&[16, 8, 10, 3], &[7, 7, 3, 8], 2, Padding::Explicit([(3, 3); 2]), 50),
    Case(&[48, 6, 6, 20], &[1, 1, 20, 17], 1, Padding::Valid, 5),
    Case(&[16, 7, 7, 20], &[1, 1, 20, 40], 2, Padding::Valid, 20),
    Case(&[16, 6, 6, 4], &[3, 3, 4, 4], 1, Padding::Valid, 0),
    Case(&[16, 4, 4, 4], &[3, 3, 4, 4], 1, Padding::Same, 100),
    Case(&[16, 1, 1, 64], &[1, 1, 64, 10], 1, Padding::Valid, 10),
    Case(&[48, 1, 1, 64], &[1, 1, 64, 10], 1, Padding::Valid, 10),
    Case(&[32, 1, 1, 8], &[3, 3, 8, 9], 1, Padding::Same, 40),
    Case(&[32, 2, 2, 8], &[1, 1, 8, 9], 2, Padding::Valid, 40),
    Case(&[32, 2, 2, 8], &[3, 3, 8, 9], 2, Padding::Same, 40),
    Case(&[32, 9, 8, 24], &[3, 3, 24, 1], 1, Padding::Same, 100),
    Case(&[16, 9, 8, 7], &[3, 3, 7, 1], 2, Padding::Same, 60),
    Case(&[32, 2, 1, 7], &[3, 3, 7, 1], 2, Padding::Same, 100),
    Case(&[100, 70], &[70, 30], 1, Padding::Valid, 5),
    Case(&[16, 33], &[33, 7], 1, Padding::Valid, 60),
];

/// The layer's output, of the shape of `cotangent`.
fn forward<'g>(kernel: &SparseKernel<'g>, case: &Case, [x, effective, cotangent]: [Tensor<'g>; 3]) -> Tensor<'g> {
    let &Case(_, dims, stride, padding, _) = case;
    let y = match dims {
        [_, _, _, 1] => kernel.depthwise(blocked(x), effective, [stride; 2], padding),
        [_, _, _, _] => kernel.conv2d(blocked(x), effective, [stride; 2], padding),
        _ => kernel.matmul(x, effective),
    };
    y.reshape(&cotangent.dims())
}

/// Output of the layer, and the gradients of its input and of its weights: at the connections, and of all weights where wanted.
/// Then the same from condensed weights, if there are connections.
fn passes(case: &Case) -> (Computation, Vec<Literal>) {
    let &Case(input, kernel, stride, padding, percent) = case;
    let mut stream = rng::stream(0, "sparse_execution", "", 0);
    let mut values = |dims: &[usize]| {
        let normal = |_| stream.normal() as f32;
        Literal::new(dims, &(0..dims.iter().product()).map(normal).collect::<Vec<_>>())
    };
    let [x, weights] = [values(input), values(kernel)];
    let output = Graph::function("shape", &[], |g, _| {
        let [x, w] = [x.shape(), weights.shape()].map(|shape| g.full(shape, 0.0));
        vec![match (input, kernel) {
            (&[.., channels], &[height, width, _, 1]) => {
                let kernel = w.reshape(&[height, width, 1, channels]);
                x.conv2d(kernel, [stride; 2], padding, channels)
            }
            (_, [_, _, _, _]) => x.conv2d(w, [stride; 2], padding, 1),
            _ => x.matmul(w),
        }]
    });
    let cotangent = values(&output.unwrap().output_shapes()[0].dims);
    let mut bits = rng::stream(1, "sparse_execution", "", 0);
    let mask: Vec<bool> = (0..weights.shape().elements())
        .map(|_| bits.uniform_f64() * 100.0 < percent as f64)
        .collect();
    let inputs = vec![
        x,
        weights,
        cotangent,
        Literal::from_bools(kernel, &mask),
        Literal::from_bools(&[], &[true]),
    ];
    let parameters: Vec<_> = inputs
        .iter()
        .map(|input| ("x".to_string(), input.shape().clone()))
        .collect();
    let connections = mask.iter().filter(|&&one| one).count();
    let built = Graph::function("passes", &parameters, |g, p| {
        let (x, weights, cotangent, mask, yes) = (p[0], p[1], p[2], p[3], p[4]);
        let effective = mask.select(weights, weights.zeros_like());
        let key = mask_key(mask);
        let results = |dense_gradient| {
            let kernel = SparseKernel {
                weights,
                mask,
                key,
                dense_gradient,
            };
            let y = forward(&kernel, case, [x, effective, cotangent]);
            [vec![y], grad((y * cotangent).reduce_sum_all(), &[x, effective])].concat()
        };
        let no = g.number(hlo::DType::Pred, 0.0);
        let whole = [Wanted::Never, Wanted::Always, Wanted::If(yes), Wanted::If(no)].map(results);
        let condensed = |wanted| {
            let (values, all) = (condense(weights, mask, connections), weights.zeros_like());
            let kernel = SparseKernel {
                weights: values,
                mask,
                key,
                dense_gradient: Wanted::Apart { wanted, all },
            };
            let y = forward(&kernel, case, [x, values, cotangent]);
            let mut gradients = grad((y * cotangent).reduce_sum_all(), &[x, values, all]);
            gradients[1] = expand(gradients[1], mask);
            [vec![y, expand(values, mask)], gradients].concat()
        };
        let condensed = [yes, no].into_iter().filter(|_| connections > 0).flat_map(condensed);
        whole.concat().into_iter().chain(condensed).collect()
    });
    (built.unwrap(), inputs)
}

#[test]
fn sparse_layers_match_masked_ones() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    register(plugin).unwrap().unwrap();
    for (number, case) in CASES.iter().enumerate() {
        let (built, inputs) = passes(case);
        let sparse = lower(&built, Target::CpuWithHostFunctions).unwrap();
        assert!(sparse.calls_host());
        let masked = lower(&built, Target::Any).unwrap();
        assert!(!masked.calls_host());
        let found = run(&client, &sparse, &inputs);
        let want = run(&client, &masked, &inputs);
        // The last is a gradient that is not wanted: of a dense layer anything.
        let defined = found.len() - usize::from(case.1.len() == 2 && found.len() > 12);
        for (output, (found, want)) in found.iter().zip(&want).enumerate().take(defined) {
            assert_close(found, want, &format!("case {number}, output {output}"));
        }
        let outside = |arrays: &[Literal], output: usize| {
            let gradient = arrays[output].to_vec::<f32>().unwrap();
            let pairs = gradient.iter().zip(inputs[3].to_bools().unwrap());
            pairs.filter(|&(&g, one)| !one && g != 0.0).count()
        };
        // Weight gradients are outputs 2, 5, 8 and 11; only 5 and 8 extend beyond the mask.
        assert_eq!([2, 11].map(|output| outside(&found, output)), [0, 0], "case {number}");
        let dense = [5, 8].map(|output| outside(&found, output));
        assert_eq!(dense, [5, 8].map(|output| outside(&want, output)), "case {number}");
        assert!(case.4 == 100 || dense.iter().all(|&n| n > 0), "case {number}");
        if let [y, weights, to_x, to_weights, to_all, _, _, _, to_weights_again, nothing] = &found[12..] {
            assert_eq!(
                [y, to_x, to_weights],
                [&found[0], &found[1], &found[2]],
                "case {number}"
            );
            assert_eq!(to_weights_again, to_weights, "case {number}");
            assert_close(to_all, &found[5], &format!("case {number}, gradient of all weights"));
            assert_eq!(nothing.shape(), to_all.shape(), "case {number}");
            let masked = inputs[1]
                .to_vec::<f32>()
                .unwrap()
                .into_iter()
                .zip(inputs[3].to_bools().unwrap());
            let masked: Vec<f32> = masked.map(|(w, one)| if one { w } else { 0.0 }).collect();
            assert_eq!(weights.to_vec::<f32>().unwrap(), masked, "case {number}");
        } else {
            assert_eq!((found.len(), case.4), (12, 0), "case {number}");
        }
    }
}

/// Indices beyond the set are clamped, and rows up to a multiple of 16 are 0.
#[test]
fn examples_are_taken_by_lanes() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    register(plugin).unwrap().unwrap();
    let set: Vec<u8> = (0..7 * 13).map(|i| (i * 37 % 251) as u8).collect();
    let inputs = [Literal::new(&[7, 13], &set), Literal::new(&[5], &[3i32, 0, 6, 9, -1])];
    let parameters: Vec<_> = inputs.iter().map(|x| ("x".to_string(), x.shape().clone())).collect();
    let built = Graph::function("take", &parameters, |_, x| {
        vec![take_examples(x[0], x[1]).convert(hlo::DType::F32)]
    })
    .unwrap();
    let lowered = [Target::CpuWithHostFunctions, Target::Any].map(|target| lower(&built, target).unwrap());
    let [found, want] = lowered.map(|program| run(&client, &program, &inputs)[0].to_vec::<f32>().unwrap());
    assert_eq!(found, want);
    for (row, example) in [3, 0, 6, 6, 0].into_iter().enumerate() {
        let want: Vec<f32> = set[example * 13..][..13].iter().map(|&x| f32::from(x)).collect();
        assert_eq!(found[row * 13..][..13], want);
    }
    assert_eq!(
        (found.len(), found[5 * 13..].iter().all(|&x| x == 0.0)),
        (16 * 13, true)
    );
}

#[test]
fn normalisation_does_not_depend_on_blocking() {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    register(plugin).unwrap().unwrap();
    let dims = [32, 5, 6, 19];
    let mut stream = rng::stream(2, "sparse_execution", "", 0);
    let mut values = |dims: &[usize]| {
        let normal = |_| stream.normal() as f32 + 2.0;
        Literal::new(dims, &(0..dims.iter().product()).map(normal).collect::<Vec<_>>())
    };
    let inputs = [values(&dims), values(&dims), values(&[19]), values(&[19])];
    let parameters = inputs.each_ref().map(|input| ("x".to_string(), input.shape().clone()));
    let built = Graph::function("normalised", &parameters, |g, p| {
        let results = |in_blocks: bool| {
            let named =
                ["gamma", "beta", "moving_mean", "moving_variance"].map(|part| format!("s/batch_normalization/{part}"));
            let net = Net::new(
                g,
                Mode::Train(hlo::random::Key::new(
                    g.full(&hlo::Shape::new(hlo::DType::U32, [2]), 1.0),
                )),
                named.into_iter().zip([p[2], p[3], p[2], p[3]]),
            );
            let norm = BatchNorm {
                scope: "s",
                gamma: Init::Ones,
                unbiased: true,
            };
            let x = if in_blocks { blocked(p[0]) } else { p[0] };
            let y = net.batch_norm(x, &norm).reshape(&dims);
            let moved = net.updated_statistics().into_iter().map(|(_, value)| value);
            [
                vec![y],
                grad((y * p[1]).reduce_sum_all(), &[p[0], p[2], p[3]]),
                moved.collect(),
            ]
            .concat()
        };
        [results(true), results(false)].concat()
    });
    let found = run(
        &client,
        &lower(&built.unwrap(), Target::CpuWithHostFunctions).unwrap(),
        &inputs,
    );
    let (blocked, plain) = found.split_at(found.len() / 2);
    for (output, (blocked, plain)) in blocked.iter().zip(plain).enumerate() {
        assert_close(blocked, plain, &format!("output {output}"));
    }
}

/// Masks and counters equal, weights and slots within rounding.
fn assert_same_run(runs: &Runs, what: &str, [one, other]: [&str; 2], steps: u64) {
    let (one, other) = (runs.tensors(one, steps), runs.tensors(other, steps));
    assert!(one.keys().eq(other.keys()), "{what}");
    for (name, array) in &one {
        match (array.to_vec::<f32>(), other[name].to_vec::<f32>()) {
            (Some(a), Some(b)) if !name.ends_with("mask") => {
                let far = a
                    .iter()
                    .zip(&b)
                    .find(|(a, b)| (*a - *b).abs() > 2e-5 * a.abs().max(1.0));
                assert_eq!(far, None, "{what}: {name}");
            }
            _ => assert!(array == &other[name], "{what}: {name}"),
        }
    }
}

/// Updates at gradient steps 0, 10 and 20 (gradual pruning: from 4 to 24).
const STEPS: u64 = 30;

fn train(runs: &Runs, run: &str, more: &[&str]) -> Value {
    let own = ["--batch-size", "32", "--steps", "30", "--allow-incomplete-schedule"];
    runs.train(run, &[&own, more].concat())
}

#[test]
fn methods_train_the_same_masks_either_way() {
    let runs = Runs::new();
    let pruning: &[&str] = &[
        "--set",
        "prune.begin_step=4",
        "--set",
        "prune.end_step=24",
        "--set",
        "prune.frequency_steps=5",
    ];
    for method in [
        "rigl",
        "set",
        "snfs",
        "static",
        "scratch",
        "snip",
        "grasp",
        "prune",
        "rigl-inverted",
        "rigl-itop",
    ] {
        let names = ["masked", "sparse"].map(|execution| {
            let name = format!("{method}-{execution}");
            let flags = ["--method", method, "--execution", execution];
            let more = if method == "prune" { pruning } else { &[] };
            train(&runs, &name, &[&flags, more].concat());
            name
        });
        assert_same_run(&runs, method, [&names[0], &names[1]], STEPS);
    }
}

/// Residual, depthwise and pooled networks, with masks on all layers that may have one.
#[test]
fn every_family_trains_either_way() {
    let runs = Runs::new();
    let resnet = "model={name='resnet18',width=0.25,image_size=16,classes=10}";
    let mobilenet = "model={name='mobilenet-v2',width=0.25,image_size=16,classes=10}";
    let vgg = "model={name='vgg-a',width=0.25,image_size=16,classes=10}";
    let wide = "model={name='wrn-10-1',image_size=16,dropout=0.0}";
    for (preset, model) in [
        ("resnet50-rigl", resnet),
        ("mobilenet-v2-rigl", mobilenet),
        ("vgg-16-rigl", vgg),
        ("cifar10-rigl", wide),
    ] {
        let losses = ["masked", "sparse"].map(|execution| {
            let out = runs.path(&format!("{preset}-{execution}"));
            let mut args = vec![
                "train",
                preset,
                "--execution",
                execution,
                "--out",
                out.to_str().unwrap(),
            ];
            args.extend([
                "--set",
                model,
                "--batch-size",
                "32",
                "--steps",
                "3",
                "--steps-per-launch",
                "2",
            ]);
            args.extend(["--data", "synthetic", "--set", "data.examples=64", "--sparsity", "0.9"]);
            if preset.starts_with("resnet") {
                args.extend(["--first-layer-sparsity", "-1"]);
            }
            let done = json(&args);
            done["eval"]["loss"].as_f64().unwrap()
        });
        assert!((losses[0] / losses[1] - 1.0).abs() < 1e-3, "{preset}: {losses:?}");
    }
}
