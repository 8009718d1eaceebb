//! The real training program: unit tests 7 to 9, 13 and 14 of reference section 7 through graphs, several iterations per
//! launch, and the evaluator against the plugin.

use crate::launches::{Small, Training, plan};
use crate::layer::rule;
use crate::{BACKENDS, Backend, bools, count, f32s, normals, random};
use hlo::random::Key;
use hlo::{DType, Graph, Literal, Shape, grad};
use rigl_xla::config::Plan;
use sparse::update::{Inputs, Layer, Rule, update};
use sparse::{Anneal, Counters, GrowInit, Schedule, UpdateTiming};

/// One masked layer, half of it ones, under gradient descent without momentum; one iteration per launch.
fn single_layer(
    method: &str,
    model: &Small,
    [begin, end, frequency]: [i64; 3],
    drop_fraction: f64,
    weight_decay: f64,
) -> Plan {
    plan(
        &format!("mnist-{method}"),
        model,
        &[
            (&["optimizer", "momentum"], 0.0.into()),
            (&["optimizer", "nesterov"], false.into()),
            (&["optimizer", "weight_decay"], weight_decay.into()),
            (&["learning_rate", "base"], 0.01.into()),
            (&["sparsity", "target"], 0.5.into()),
            (&["mask_update", "begin_step"], begin.into()),
            (&["mask_update", "end_step"], end.into()),
            (&["mask_update", "frequency_steps"], frequency.into()),
            (&["mask_update", "drop_fraction"], drop_fraction.into()),
            (&["mask_update", "anneal"], "constant".into()),
            (&["train", "steps_per_launch"], 1.into()),
        ],
    )
}

/// Unit test 7: masks change in runs 1 and 3 of 5 only, and keep their size.
#[test]
fn set_changes_masks_on_schedule_and_keeps_their_size() {
    for backend in BACKENDS {
        for (sizes, drop_fraction) in [([15, 25], 0.5), ([15, 25], 0.2), ([15, 25], 0.7), ([30, 10], 0.9)] {
            let model = Small(sizes.to_vec());
            let plan = single_layer("set", &model, [1, 4, 2], drop_fraction, 0.0);
            let mut training = Training::new(backend, &plan, &model);
            let ones = count(&training.mask());
            assert_eq!(ones, plan.nonzeros());
            for run in 1..=5 {
                let before = training.mask();
                let (ticks, _) = training.launch(1);
                let (after, updates) = (training.mask(), [1, 3].contains(&run));
                assert_eq!(ticks[0].update_at.is_some(), updates, "run {run}");
                assert_eq!(
                    before != after,
                    updates,
                    "{backend:?} {sizes:?} {drop_fraction} run {run}"
                );
                assert_eq!(count(&after), ones);
            }
        }
    }
}

/// Unit test 8: a drop fraction of 0 changes nothing but the counter of updates.
#[test]
fn set_without_drops_never_changes_the_mask() {
    for backend in BACKENDS {
        for schedule in [[3, 7, 2], [1, 5, 3], [0, 4, 1]] {
            let model = Small(vec![15, 25]);
            let plan = single_layer("set", &model, schedule, 0.0, 0.0);
            let mut training = Training::new(backend, &plan, &model);
            let mask = training.mask();
            let updates = (0..8).filter(|_| {
                let (ticks, _) = training.launch(1);
                assert_eq!(training.mask(), mask, "{backend:?} {schedule:?}");
                ticks[0].update_at.is_some()
            });
            assert!(updates.count() > 1);
        }
    }
}

/// Unit test 9, for both methods: new connections start at exactly 0. So do their slots, which are not 0 before, as weight
/// decay goes on in inactive weights.
#[test]
fn new_connections_start_at_zero() {
    for backend in BACKENDS {
        for (method, sizes) in [("set", [3, 5]), ("set", [9, 8]), ("rigl", [9, 8])] {
            let model = Small(sizes.to_vec());
            let plan = single_layer(method, &model, [0, 4, 1], 0.5, 0.1);
            let mut training = Training::new(backend, &plan, &model);
            let mut grown = 0;
            for _ in 0..8 {
                let (before, weights) = (training.mask(), f32s(training.get("layer1/weights")));
                let (ticks, _) = training.launch(1);
                let mask = training.mask();
                let [new_weights, velocity] =
                    ["layer1/weights", "layer1/weights/Momentum"].map(|name| f32s(training.get(name)));
                for i in (0..mask.len()).filter(|&i| mask[i] && !before[i]) {
                    grown += 1;
                    assert!(ticks[0].update_at.is_some());
                    assert_eq!(
                        [new_weights[i].to_bits(), velocity[i].to_bits()],
                        [0, 0],
                        "{method} {i}"
                    );
                }
                if method == "rigl" && ticks[0].update_at.is_some() {
                    let kept = |i: &usize| before[*i] || !mask[*i];
                    assert!((0..mask.len()).filter(kept).all(|i| new_weights[i] == weights[i]));
                }
            }
            assert!(grown > 2, "{backend:?} {method}: {grown} new connections");
        }
    }
}

/// Unit test 14 on the device's own counter: 1 where it was incremented.
#[test]
fn rigl_updates_replace_gradient_steps() {
    for (schedule, expected) in [
        ([3, 7, 2], "11101101101"),
        ([1, 5, 3], "10111011111"),
        ([0, 4, 1], "01010101011"),
    ] {
        for backend in BACKENDS {
            let model = Small(vec![3, 5]);
            let plan = single_layer("rigl", &model, schedule, 0.3, 0.0);
            let mut training = Training::new(backend, &plan, &model);
            let mut step = 0;
            let steps: String = (0..expected.len())
                .map(|_| {
                    let weights = f32s(training.get("layer1/weights"));
                    training.launch(1);
                    let now = training.get("global_step").item::<i64>().unwrap();
                    let incremented = now - std::mem::replace(&mut step, now);
                    // The biases' gradient is never zero: a step is a step.
                    assert!(incremented == 0 || weights != f32s(training.get("layer1/weights")));
                    char::from_digit(incremented as u32, 10).unwrap()
                })
                .collect();
            assert_eq!(steps, expected, "{backend:?} {schedule:?}");
        }
    }
}

/// Unit test 13: input `gs` times ones, loss the sum of outputs times 0, 1, …; the gradient of the product tensor is then
/// `gs * [0, 1, …]` at every entry, masked or not, and is what new connections take under `grad_scale`.
#[test]
fn rigl_uses_the_dense_gradient() {
    for dims in [[3, 4], [5, 2], [2, 5]] {
        for (drop_fraction, backend) in [
            (0.0, Backend::Evaluator),
            (0.5, Backend::Evaluator),
            (0.5, Backend::Plugin),
        ] {
            let program = backend.program(recording_layer(dims));
            let schedule = Schedule {
                begin_step: 0,
                end_step: -1,
                frequency_steps: 1,
                drop_fraction,
                anneal: Anneal::Constant,
            };
            let n = dims[0] * dims[1];
            let mut state = vec![
                Literal::new(&dims, &normals(n, &mut random("dense gradient", n))),
                Literal::from_bools(&dims, &(0..n).map(|i| i % 2 == 0).collect::<Vec<_>>()),
                Literal::zeros(Shape::new(DType::F32, dims)),
            ];
            let mut counters = Counters::start(UpdateTiming::Replaces, &schedule);
            let (mut updates, mut grown) = (0, 0);
            for _ in 0..6 {
                let tick = counters.advance(UpdateTiming::Replaces, &schedule);
                let before = bools(&state[1]);
                let inputs = [
                    Literal::scalar(tick.step_before as f32),
                    Literal::scalar(tick.drop_fraction),
                    Literal::from_bools(&[], &[tick.update_at.is_some()]),
                ];
                let mut outputs = program.run(&[&state[..], &inputs].concat());
                let expected: Vec<f32> = (0..n)
                    .map(|i| (tick.step_before * (i % dims[1]) as i64) as f32)
                    .collect();
                assert_eq!(f32s(&outputs.pop().unwrap()), expected, "{backend:?} {dims:?}");
                state = outputs;
                if tick.update_at.is_some() {
                    updates += 1;
                    let (weights, mask, slot) = (f32s(&state[0]), bools(&state[1]), f32s(&state[2]));
                    for i in (0..n).filter(|&i| mask[i] && !before[i]) {
                        grown += 1;
                        assert_eq!([weights[i], slot[i]], [expected[i], expected[i]]);
                    }
                }
            }
            assert_eq!(updates, 3, "alternating iterations");
            assert!(drop_fraction == 0.0 || grown > 0);
        }
    }
}

/// State in, state and dense gradient out: gradient descent, or an update whose new connections record the gradient.
fn recording_layer(dims: [usize; 2]) -> hlo::Computation {
    let parameters = [
        ("weights".to_string(), Shape::new(DType::F32, dims)),
        ("mask".to_string(), Shape::new(DType::Pred, dims)),
        ("recorded".to_string(), Shape::new(DType::F32, dims)),
        ("global_step".to_string(), Shape::scalar(DType::F32)),
        ("drop_fraction".to_string(), Shape::scalar(DType::F32)),
        ("update".to_string(), Shape::scalar(DType::Pred)),
    ];
    let rule = Rule {
        grow_init: GrowInit::GradScale(1.0),
        initial_acc_scale: 1.0,
        ..rule("rigl")
    };
    Graph::function("layer", &parameters, |g, p| {
        let [weights, mask] = [p[0], p[1]];
        let product = mask.select(weights, weights.zeros_like());
        let outputs = p[3].broadcast_to(&[1, dims[0]]).matmul(product);
        let scales = g.iota(Shape::new(DType::F32, [1, dims[1]]), 1);
        let gradient = grad((outputs * scales).reduce_sum_all(), &[product])[0];
        let layer = Layer {
            weights,
            mask,
            slots: vec![p[2]],
            threshold: None,
        };
        let inputs = Inputs {
            gradient,
            drop_fraction: p[4],
            key: Key::new(g.constant(Literal::new(&[2], &[0u32, 0]))),
            initial_draw: None,
            valid: None,
            score: None,
            keep: None,
        };
        let after = update(&rule, &layer, &inputs);
        let stepped = weights - mask.select(gradient, gradient.zeros_like()) * 0.01;
        vec![
            p[5].select(after.weights, stepped),
            p[5].select(after.mask, mask),
            p[5].select(after.slots[0], p[2]),
            gradient,
        ]
    })
    .unwrap()
}

/// A method, and settings by key.
type Variant = (&'static str, &'static [(&'static [&'static str], &'static str)]);

/// Methods with their differences from the preset: every row of the table that updates masks, every optimizer, and gradients
/// averaged over batches.
const VARIANTS: [Variant; 13] = [
    ("rigl", &[]),
    ("set", &[]),
    ("static", &[]),
    ("snfs", &[]),
    ("rigl-inverted", &[]),
    ("snip", &[]),
    ("grasp", &[]),
    ("dnw", &[]),
    ("prune", &[]),
    ("rigl-itop", &[]),
    ("rigl", &[(&["method", "gradient_batches"], "2")]),
    ("rigl", &[(&["optimizer", "name"], "'adam'")]),
    ("snip", &[(&["optimizer", "name"], "'sgd'")]),
];

/// The preset's recipe on a network of three layers, the last one dense, with updates in iterations 0, 3 and 6 (RigL).
fn three_layers((method, settings): Variant, model: &Small, steps_per_launch: i64) -> Plan {
    let parse = |text: &str| {
        format!("v = {text}")
            .parse::<toml::Table>()
            .unwrap()
            .remove("v")
            .unwrap()
    };
    let own: Vec<(&[&str], toml::Value)> = settings.iter().map(|(key, text)| (*key, parse(text))).collect();
    let common: [(&[&str], toml::Value); 9] = [
        (&["sparsity", "target"], 0.8.into()),
        (&["mask_update", "end_step"], 20.into()),
        (&["mask_update", "frequency_steps"], 2.into()),
        (&["prune", "begin_step"], 1.into()),
        (&["prune", "end_step"], 8.into()),
        (&["prune", "frequency_steps"], 3.into()),
        (&["learning_rate", "base"], 0.05.into()),
        (&["train", "steps_per_launch"], steps_per_launch.into()),
        (&["train", "seed"], 5.into()),
    ];
    plan(&format!("mnist-{method}"), model, &[&common[..], &own].concat())
}

/// How many iterations share a launch changes no bit of the state, nor do entries of a launch past its count.
#[test]
fn launches_of_any_length_give_the_same_state() {
    let model = Small(vec![20, 16, 12, 10]);
    for backend in BACKENDS {
        for variant in VARIANTS {
            let [together, apart] = [4, 1].map(|k| three_layers(variant, &model, k));
            let mut together = Training::new(backend, &together, &model);
            let mut apart = Training::new(backend, &apart, &model);
            let sums: f32 = (0..7).map(|_| apart.launch(1).1[1].item::<f32>().unwrap()).sum();
            let first = together.launch(4).1;
            let last = together.launch(3).1;
            for ((name, one), (_, other)) in together.arrays().zip(apart.arrays()) {
                assert_eq!(one, other, "{backend:?} {variant:?}: {name}");
            }
            assert_eq!(last[4].item::<i32>(), Some(3), "iterations done");
            let sum: f32 = [&first, &last].map(|m| m[1].item::<f32>().unwrap()).iter().sum();
            assert!((sum - sums).abs() < 1e-5 * sum, "{sum} {sums}");
        }
    }
}

/// Evaluator and plugin on the whole program: masks exactly, numbers to a few roundings of f32.
#[test]
fn evaluator_and_plugin_agree() {
    let model = Small(vec![64, 48, 32, 10]);
    for variant in VARIANTS {
        let plan = three_layers(variant, &model, 4);
        let [mut evaluator, mut plugin] = BACKENDS.map(|backend| Training::new(backend, &plan, &model));
        let masks = [1, 2].map(|i| bools(evaluator.get(&format!("layer{i}/mask"))));
        let measured = [evaluator.launch(4).1, plugin.launch(4).1];
        for (i, mask) in masks.iter().enumerate() {
            let now = bools(plugin.get(&format!("layer{}/mask", i + 1)));
            // Masks of the method called static stay where they are.
            assert_eq!(
                *mask != now,
                plan.method.name != "static",
                "an update happened: {variant:?}"
            );
        }
        let pairs = evaluator
            .arrays()
            .zip(plugin.arrays())
            .map(|((name, e), (_, p))| (name, e, p));
        let measured = measured[0].iter().zip(&measured[1]).map(|(e, p)| ("measured", e, p));
        for (name, e, p) in pairs.chain(measured) {
            if e.dtype() != DType::F32 {
                assert_eq!(e, p, "{variant:?} {name}");
            }
            for (e, p) in f32_pairs(e, p) {
                assert!(
                    (e - p).abs() <= 1e-6 + 1e-5 * e.abs(),
                    "{variant:?} {name}: {e} and {p}"
                );
            }
        }
    }
}

fn f32_pairs(a: &Literal, b: &Literal) -> Vec<(f32, f32)> {
    let values = |l: &Literal| l.to_vec::<f32>().unwrap_or_default();
    values(a).into_iter().zip(values(b)).collect()
}
