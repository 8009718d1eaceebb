//! One mask update against `sparse::reference::mask_update`: masks, weights and slots bit for bit.

use crate::layer::{Given, NOISE, Owned, Updater, rule};
use crate::{BACKENDS, Backend, bits, bools, count, f32s, normals, random};
use hlo::random::Key;
use hlo::{DType, Graph, Literal, Shape, Tensor, grad};
use sparse::rng::{BoundedRng, Stream};
use sparse::select::Select;
use sparse::update::{Inputs, Layer, Rule, prune_across_layers, update};
use sparse::{GrowScore, KeepCount, METHODS, top_k_across_layers};

/// Share of connections put up for replacement: none, all, and counts that truncate.
const DROP_FRACTIONS: [f32; 7] = [0.0, 1e-3, 0.1, 0.3, 1.0 / 3.0, 0.5, 1.0];

/// Weights, and whether gradients repeat too.
const WEIGHTS: [(&str, bool); 4] = [("normal", false), ("normal", true), ("ties", true), ("zero", false)];

fn values(kind: &str, n: usize, rng: &mut Stream) -> Vec<f32> {
    match kind {
        "normal" => normals(n, rng),
        "ties" => (0..n).map(|_| [-0.5, 0.0, 0.25, 0.5][rng.up_to(3) as usize]).collect(),
        "zero" => vec![0.0; n],
        _ => unreachable!("{kind}"),
    }
}

/// Numbers of ones from empty to full.
fn budgets(n: usize) -> Vec<usize> {
    let mut budgets = vec![0, 1, n / 50, n / 2, n - 1, n];
    budgets.sort_unstable();
    budgets.dedup();
    budgets
}

fn given(n: usize, tied: bool, drop_fraction: f32, rng: &mut Stream) -> Given {
    Given {
        gradient: values(if tied { "ties" } else { "normal" }, n, rng),
        drop_fraction,
        seed: [rng.next_u32(), rng.next_u32()],
        initial_draw: normals(n, rng),
        score: values(if tied { "ties" } else { "normal" }, n, rng),
        keep: rng.up_to(n as u64) as usize,
        threshold: 0.0,
    }
}

/// Compares one update: weights of new connections to `tolerance`, everything else exactly. Returns how many
/// connections were grown, re-initialised or revived.
fn check(updater: &Updater, layer: &Owned, given: &Given, tolerance: f32, case: &str) -> usize {
    let (found, threshold) = updater.by_graph(layer, given);
    let (expected, report) = updater.by_reference(layer, given);
    assert_eq!(found.mask, expected.mask, "masks: {case}");
    assert_eq!(
        threshold.map(f32::to_bits),
        report.threshold.map(f32::to_bits),
        "{case}"
    );
    let method = updater.rule.method;
    let ones = match method.keep {
        KeepCount::Connections => count(&layer.mask),
        _ => given.keep,
    };
    let ties = method.keep == KeepCount::Gradual;
    assert!(
        count(&found.mask) == ones || ties && count(&found.mask) > ones,
        "number of ones: {case}"
    );
    for (found, expected) in found.slots.iter().zip(&expected.slots) {
        assert_eq!(bits(found), bits(expected), "slots: {case}");
    }
    for (i, (&f, &e)) in found.weights.iter().zip(&expected.weights).enumerate() {
        let new = found.mask[i] && (!layer.mask[i] || method.grow == GrowScore::Mask);
        let close = (f - e).abs() <= tolerance * e.abs();
        assert!(
            bits(&[f]) == bits(&[e]) || new && close,
            "weight {i}: {f} for {e}: {case}"
        );
    }
    match (method.keep, method.grow) {
        (KeepCount::Connections, GrowScore::Mask) => report.n_grown + report.n_regrown,
        (KeepCount::Connections, _) => report.n_grown,
        _ => report.n_revived,
    }
}

#[test]
fn updates_match_the_reference_bit_for_bit() {
    for backend in BACKENDS {
        for method in METHODS
            .iter()
            .filter(|m| m.updates_masks() && !m.tracks_exploration)
            .map(|m| m.name)
        {
            // The largest for the methods that differ in how they select.
            let large = ["rigl", "set", "prune"].contains(&method);
            for dims in [&[1][..], &[5, 4], &[3, 3, 2, 6], &[40, 33]]
                .into_iter()
                .take(if large { 4 } else { 2 })
            {
                sweep(&Updater::new(backend, rule(method), dims), dims, backend, method);
            }
        }
    }
}

/// Every budget, drop fraction and kind of weights; on the evaluator each large layer with some of them.
fn sweep(updater: &Updater, dims: &[usize], backend: Backend, method: &str) {
    let n: usize = dims.iter().product();
    let mut rng = random(method, n);
    let (mut case_number, mut grown) = (0, 0);
    for ones in budgets(n) {
        for (kind, tied) in WEIGHTS {
            for drop_fraction in DROP_FRACTIONS {
                case_number += 1;
                let rare = n > 1000 && backend == Backend::Evaluator;
                if rare && case_number % 16 != 0 {
                    continue;
                }
                let layer = Owned::new(values(kind, n, &mut rng), ones);
                let mut given = given(n, tied, drop_fraction, &mut rng);
                if method == "prune" {
                    given.keep = given.keep.max(1); // as `GradualPruning::kept` has it
                }
                let case = format!("{backend:?} {method} {dims:?}, {ones} ones, {kind}, d {drop_fraction}");
                grown += check(updater, &layer, &given, 0.0, &case);
            }
        }
    }
    assert!(n == 1 || grown > 0, "no connection moved");
}

/// Without noise ties are real: the lower index stays and grows.
#[test]
fn ties_without_noise_go_to_the_lower_index() {
    for backend in BACKENDS {
        for select in [Select::Bits, Select::Sort, Select::Topk] {
            let rule = Rule {
                drop_noise_std: 0.0,
                select,
                ..rule("rigl")
            };
            let updater = Updater::new(backend, rule, &[4, 6]);
            let mut layer = Owned::new(vec![0.5; 24], 0);
            layer.mask = (0..24).map(|i| i >= 12).collect();
            let given = Given {
                gradient: vec![-2.0; 24],
                drop_fraction: 0.5,
                seed: [0, 0],
                initial_draw: vec![0.0; 24],
                score: vec![0.0; 24],
                keep: 0,
                threshold: 0.0,
            };
            let (found, _) = updater.by_graph(&layer, &given);
            let expected: Vec<bool> = (0..24).map(|i| i < 6 || (12..18).contains(&i)).collect();
            assert_eq!(found.mask, expected, "{backend:?} {select:?}");
            check(&updater, &layer, &given, 0.0, "ties");
        }
    }
}

/// Entries with a NaN gradient grow last; a slot scale of 0 keeps NaN out of the slots.
#[test]
fn nan_gradients_rank_last() {
    for backend in BACKENDS {
        for (scale, drop_fraction) in [(0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0)] {
            let rule = Rule {
                initial_acc_scale: scale,
                ..rule("rigl")
            };
            let updater = Updater::new(backend, rule, &[30]);
            let mut rng = random("nan", 0);
            for ones in [3, 15, 29, 30] {
                let layer = Owned::new(normals(30, &mut rng), ones);
                let mut given = given(30, false, drop_fraction, &mut rng);
                for i in 0..30 {
                    given.gradient[i] = match i % 3 {
                        0 => f32::NAN,
                        1 if i % 2 == 0 => f32::NEG_INFINITY,
                        _ => given.gradient[i],
                    };
                }
                check(&updater, &layer, &given, 0.0, &format!("{backend:?} {scale} {ones}"));
            }
        }
    }
}

/// Layers that are ranked together, ties between them too: the earlier layer first.
#[test]
fn ranking_across_layers_matches_the_reference() {
    let dims: [&[usize]; 3] = [&[5, 4], &[3], &[2, 2, 6]];
    let names = ["a", "b", "c"].map(str::to_owned);
    let shapes = dims.map(|d| Shape::new(DType::F32, d.to_vec()));
    let keep = ("keep".to_string(), Shape::scalar(DType::S32));
    let parameters: Vec<_> = names.into_iter().zip(shapes).chain([keep]).collect();
    for backend in BACKENDS {
        for select in [Select::Bits, Select::Sort, Select::Topk] {
            let graph = Graph::function("overall", &parameters, |_, p| {
                prune_across_layers(&p[..3], p[3], select)
            });
            let program = backend.program(graph.unwrap());
            let mut rng = random("overall", 0);
            for kind in ["normal", "ties"] {
                let scores = dims.map(|d| values(kind, d.iter().product(), &mut rng));
                for keep in [0, 1, 17, 46, 47] {
                    let arrays = dims.iter().zip(&scores).map(|(d, s)| Literal::new(d, s));
                    let arguments: Vec<_> = arrays.chain([Literal::scalar(keep as i32)]).collect();
                    let found: Vec<_> = program.run(&arguments).iter().map(bools).collect();
                    let slices: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
                    assert_eq!(
                        found,
                        top_k_across_layers(&slices, keep),
                        "{backend:?} {select:?} {kind} {keep}"
                    );
                }
            }
        }
    }
}

/// Every value of new connections, with slots scaled from the gradient, whose signs are kept.
#[test]
fn new_weights_match_the_reference() {
    let inits = [
        ("zeros", "rigl", 0.0),
        ("initial_dist", "set", 1e-6),
        ("initial_dist_3", "rigl", 1e-6),
        ("random_normal", "set", 1e-6),
        ("random_normal_2", "rigl", 1e-6),
        // Near the middle of the interval digits cancel.
        ("random_uniform", "set", 1e-5),
        ("random_uniform_0.5", "rigl", 1e-5),
        ("random_uniform_2", "static", 1e-5),
        ("initial_dist", "snfs", 1e-6),
        ("grad_scale_4", "rigl", 0.0),
        ("grad_scale_10", "rigl", 1.2e-7), // compilers divide by a constant as they like
        ("grad_sign_10", "rigl", 1.2e-7),
    ];
    for backend in BACKENDS {
        for (i, (name, method, tolerance)) in inits.into_iter().enumerate() {
            let rule = Rule {
                grow_init: name.parse().unwrap(),
                initial_acc_scale: [0.0, 0.5, -1.5][i % 3],
                ..rule(method)
            };
            let updater = Updater::new(backend, rule, &[9, 5]);
            let mut rng = random(name, 0);
            let mut grown = 0;
            for tied in [false, true] {
                let layer = Owned::new(normals(45, &mut rng), 20);
                let given = given(45, tied, 0.6, &mut rng);
                let case = format!("{backend:?} {method} {name}");
                grown += check(&updater, &layer, &given, tolerance, &case);
            }
            assert!(grown > 5, "{method} {name}: {grown} new connections");
        }
    }
}

const WEIGHTS_23: [f32; 12] = [0.9, -0.05, 0.4, 0.7, -0.3, 0.2, -0.8, 0.1, 0.6, -0.15, 0.5, -0.35];
const MASK_23: [u8; 12] = [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0];
const GRADIENT_23: [f32; 12] = [0.1, 0.2, 0.9, 0.3, 0.05, 0.8, 0.0, 0.6, 0.7, -1.0, 0.4, -0.65];

/// The masked weights of a layer.
fn effective<'g>(layer: &Layer<'g>) -> Tensor<'g> {
    layer.mask.select(layer.weights, layer.weights.zeros_like())
}

/// The worked example of reference 2.3: loss `sum(mask * weights * G)`, an update, then a step of momentum.
#[test]
fn matches_the_worked_example() {
    let array = Shape::new(DType::F32, [3, 4]);
    let parameters = [
        ("weights".to_string(), array.clone()),
        ("mask".to_string(), Shape::new(DType::Pred, [3, 4])),
        ("velocity".to_string(), array.clone()),
        ("factors".to_string(), array),
        ("seed".to_string(), Shape::new(DType::U32, [2])),
    ];
    let graph = Graph::function("example", &parameters, |g, p| {
        let layer = Layer {
            weights: p[0],
            mask: p[1],
            slots: vec![p[2]],
            threshold: None,
        };
        let product = effective(&layer);
        let inputs = Inputs {
            gradient: grad((product * p[3]).reduce_sum_all(), &[product])[0],
            drop_fraction: g.scalar(0.5f32),
            key: Key::new(p[4]),
            initial_draw: None,
            valid: None,
            score: None,
            keep: None,
        };
        let after = update(&rule("rigl"), &layer, &inputs);
        let gradient = grad((effective(&after) * p[3]).reduce_sum_all(), &[after.weights])[0];
        let velocity = after.slots[0] * 0.9 + gradient;
        let weights = after.weights - (gradient + velocity * 0.9) * 0.1;
        vec![after.weights, after.mask, after.slots[0], weights, velocity]
    })
    .unwrap();
    for backend in BACKENDS {
        let outputs = backend.program(graph.clone()).run(&[
            Literal::new(&[3, 4], &WEIGHTS_23),
            Literal::from_bools(&[3, 4], &MASK_23.map(|m| m == 1)),
            Literal::new(&[3, 4], &std::array::from_fn::<f32, 12, _>(|i| i as f32 + 1.0)),
            Literal::new(&[3, 4], &GRADIENT_23),
            Literal::new(&[2], &[5u32, 0]),
        ]);
        let values = |i: usize| f32s(&outputs[i]);
        let updated = [0.9, -0.05, 0.0, 0.7, -0.3, 0.0, -0.8, 0.1, 0.0, -0.15, 0.5, -0.35];
        assert_eq!(values(0), updated);
        assert_eq!(bools(&outputs[1]), [1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0].map(|m| m == 1));
        assert_eq!(values(2), [1., 2., 0., 4., 5., 0., 7., 8., 0., 10., 11., 12.]);
        let stepped = [
            0.8, -0.212, -0.171, 0.319, -0.705, -0.152, -1.367, -0.548, -0.133, -0.77, -0.467, -1.322,
        ];
        let velocity = [1., 1.8, 0.9, 3.9, 4.5, 0.8, 6.3, 7.2, 0.7, 8., 10.3, 10.8];
        for (i, expected) in [(3, stepped), (4, velocity)] {
            for (found, expected) in values(i).into_iter().zip(expected) {
                assert!((found - expected).abs() < 5.1e-4, "{backend:?} {i}: {:?}", values(i));
            }
        }
    }
}

/// Masks and thresholds, bit for bit, with previous thresholds below and above the k-th largest magnitude.
#[test]
fn smoothed_thresholds_match_the_reference() {
    let mut rng = random("smoothed", 0);
    for backend in BACKENDS {
        for threshold_decay in [0.4, 0.9, 0.123] {
            let rule = Rule {
                threshold_decay,
                ..rule("prune")
            };
            let updater = Updater::new(backend, rule, &[40, 33]);
            for previous in [0.0, 0.37, 2.9] {
                let layer = Owned::new(normals(1320, &mut rng), 1320);
                let given = Given {
                    threshold: previous,
                    ..given(1320, false, 0.0, &mut rng)
                };
                let (found, threshold) = updater.by_graph(&layer, &given);
                let (expected, report) = updater.by_reference(&layer, &given);
                let case = format!("{backend:?}, decay {threshold_decay}, previous {previous}");
                assert_eq!(
                    threshold.map(f32::to_bits),
                    report.threshold.map(f32::to_bits),
                    "{case}"
                );
                assert_eq!(found.mask, expected.mask, "{case}");
            }
        }
    }
}

/// The second half of the worked example: slots and weights of new connections from the gradient.
#[test]
fn matches_the_worked_example_with_scaled_slots() {
    let rule = Rule {
        grow_init: "grad_scale_10".parse().unwrap(),
        initial_acc_scale: 0.5,
        drop_noise_std: NOISE,
        ..rule("rigl")
    };
    for backend in BACKENDS {
        let mut layer = Owned::new(WEIGHTS_23.to_vec(), 0);
        layer.mask = MASK_23.map(|m| m == 1).to_vec();
        let given = Given {
            gradient: GRADIENT_23.to_vec(),
            drop_fraction: 0.5,
            seed: [0, 0],
            initial_draw: vec![0.0; 12],
            score: vec![0.0; 12],
            keep: 0,
            threshold: 0.0,
        };
        let (after, _) = Updater::new(backend, rule, &[3, 4]).by_graph(&layer, &given);
        for (i, weight, slot) in [(2, 0.09, 0.45), (5, 0.08, 0.40), (8, 0.07, 0.35)] {
            assert!((after.weights[i] - weight).abs() < 1e-7, "{:?}", after.weights);
            assert_eq!([after.slots[0][i], after.slots[1][i]], [slot, slot]);
        }
        assert_eq!((after.weights[9], after.slots[0][9]), (-0.15, 10.0), "regrown");
    }
}
