//! Methods other than RigL and SET on arrays: static, SNFS, SNIP, DNW and gradual pruning (reference 2.5-2.9; unit tests
//! 11, 12, 15 and 16).

use sparse::reference::{DROP_NOISE_STD, LayerState, UpdateInputs, UpdateReport, mask_update, update_average};
use sparse::rng::stream;
use sparse::{Anneal, GradualPruning, Method, Rounding, Schedule, n_zeros, random_mask, simulate};

/// Shapes and sparsities of unit tests 15 and 16.
const SHAPES: [(usize, usize, f64); 3] = [(3, 4, 0.5), (5, 3, 0.8), (8, 5, 0.8)];

/// One update of a layer without slots.
fn update(method: &Method, weights: &mut [f32], mask: &mut [bool], inputs: &UpdateInputs) -> UpdateReport {
    let slots = &mut [];
    mask_update(method, LayerState { weights, mask, slots }, inputs).unwrap()
}

fn normals(n: usize, purpose: &str, step: u64) -> Vec<f32> {
    let mut rng = stream(0, purpose, "", step);
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn schedule(begin_step: i64, end_step: i64, frequency_steps: i64) -> Schedule {
    Schedule {
        begin_step,
        end_step,
        frequency_steps,
        drop_fraction: 0.5,
        anneal: Anneal::Constant,
    }
}

/// Checks that `mask` has the budgeted zeros, and that nothing it keeps scores below what it does not.
fn assert_keeps_largest(mask: &[bool], scores: &[f32], sparsity: f64) {
    let of = |kept: bool| (0..mask.len()).filter(move |&i| mask[i] == kept).map(|i| scores[i]);
    assert_eq!(of(false).count(), n_zeros(mask.len(), sparsity, Rounding::Floor));
    assert!(of(true).fold(f32::INFINITY, f32::min) >= of(false).fold(0.0, f32::max));
}

/// Unit test 11, with re-initialisation of the weakest connections, in a layer without zeros too.
#[test]
fn static_masks_never_change_but_weak_weights_are_reinitialised() {
    let method = Method::find("static").unwrap();
    for (n, ones, d) in [(375, 188, 0.5), (375, 188, 0.2), (15, 8, 0.2), (40, 40, 0.5)] {
        let first = random_mask(n, n - ones, &mut stream(0, "mask", "", n as u64));
        let (mut mask, mut weights) = (first.clone(), normals(n, "weights", n as u64));
        let mut slots = vec![vec![1.0; n], vec![2.0; n]];
        let mut updates = vec![];
        for tick in simulate(method.timing, &schedule(1, 4, 2), 5) {
            for (w, v) in weights.iter_mut().zip(&mut slots[0]) {
                (*w, *v) = (*w - 0.01, 1.0);
            }
            let Some(at) = tick.update_at else { continue };
            updates.push(at);
            let before = weights.clone();
            let noise: Vec<f32> = normals(n, "noise", at as u64)
                .iter()
                .map(|z| z * DROP_NOISE_STD)
                .collect();
            let gradient = vec![1.0; n];
            let layer = LayerState {
                weights: &mut weights,
                mask: &mut mask,
                slots: &mut slots,
            };
            let inputs = UpdateInputs {
                drop_fraction: d,
                drop_noise: Some(&noise),
                gradient: Some(&gradient),
                initial_acc_scale: 0.5,
                ..Default::default()
            };
            let report = mask_update(method, layer, &inputs).unwrap();
            let regrown = (ones as f32 * d) as usize;
            assert_eq!((report.n_regrown, report.n_grown, report.n_revived), (regrown, 0, 0));
            let mut active: Vec<usize> = (0..n).filter(|&i| mask[i]).collect();
            active.sort_by(|&a, &b| (before[a].abs() + noise[a]).total_cmp(&(before[b].abs() + noise[b])));
            for (rank, i) in active.into_iter().enumerate() {
                let expected = if rank < regrown {
                    [0.0; 3]
                } else {
                    [before[i], 1.0, 2.0]
                };
                assert_eq!([weights[i], slots[0][i], slots[1][i]], expected);
            }
            assert!((0..n).all(|i| mask[i] || weights[i] == before[i]));
            slots[1].fill(2.0);
        }
        assert_eq!((mask, &updates[..]), (first, &[1, 3][..]));
    }
}

/// Unit test 12: exact, since the gradients are small whole numbers.
#[test]
fn snfs_averages_the_dense_gradient() {
    for (n_in, n_out, m) in [(3, 4, 0.5), (5, 2, 0.0), (2, 5, 1.0)] {
        let gradient: Vec<f32> = (0..n_in * n_out).map(|i| (i % n_out) as f32).collect();
        let mut average = vec![0.0; n_in * n_out];
        let mut expected = average.clone();
        for _ in 0..6 {
            update_average(&mut average, &gradient, f64::from(m)).unwrap();
            for (e, g) in expected.iter_mut().zip(&gradient) {
                *e = m * *e + (1.0 - m) * g;
            }
            assert_eq!(average, expected);
        }
    }
}

/// Reference 2.5 with the data of 2.3: the average and the step come first.
#[test]
fn snfs_worked_example() {
    let gradient = [0.1, 0.2, 0.9, 0.3, 0.05, 0.8, 0.0, 0.6, 0.7, -1.0, 0.4, -0.65];
    let mut weights = [0.9, -0.05, 0.4, 0.7, -0.3, 0.2, -0.8, 0.1, 0.6, -0.15, 0.5, -0.35];
    let mut mask = [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0].map(|m| m == 1);
    let mut slots = [(1..=12).map(|v| v as f32).collect::<Vec<f32>>()];
    let mut average = [0.0; 12];
    update_average(&mut average, &gradient, 0.9).unwrap();
    for i in 0..12 {
        let g = if mask[i] { gradient[i] } else { 0.0 };
        slots[0][i] = 0.9 * slots[0][i] + g;
        weights[i] -= 0.1 * (g + 0.9 * slots[0][i]);
    }
    let stepped = (weights, slots[0].clone());
    let inputs = UpdateInputs {
        drop_fraction: 0.5,
        average: Some(&average),
        ..Default::default()
    };
    let layer = LayerState {
        weights: &mut weights,
        mask: &mut mask,
        slots: &mut slots,
    };
    mask_update(Method::find("snfs").unwrap(), layer, &inputs).unwrap();
    assert_eq!(mask.map(u8::from), [1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1]);
    for i in 0..12 {
        let new = [2, 5, 8, 11].contains(&i);
        let expected = if new { (0.0, 0.0) } else { (stepped.0[i], stepped.1[i]) };
        assert_eq!((weights[i], slots[0][i]), expected, "{i}");
    }
}

/// Unit test 15: the mask once, in the place of the first step, by the gradient that holds the L2 term.
#[test]
fn snip_prunes_once_by_saliency() {
    let method = Method::find("snip").unwrap();
    for (n_in, n_out, sparsity) in SHAPES {
        let n = n_in * n_out;
        let (first, gradient) = (normals(n, "weights", n as u64), normals(n, "gradient", n as u64));
        let loss_gradient: Vec<f32> = first.iter().zip(&gradient).map(|(w, g)| g + 0.5 * w).collect();
        let (mut weights, mut mask) = (first.clone(), vec![true; n]);
        let mut runs = vec![];
        for tick in simulate(method.timing, &schedule(5, 9, 3), 4) {
            runs.push((tick.step_before, tick.update_at.is_some()));
            if tick.update_at.is_some() {
                let inputs = UpdateInputs {
                    gradient: Some(&gradient),
                    loss_gradient: Some(&loss_gradient),
                    keep: Some(n - n_zeros(n, sparsity, Rounding::Floor)),
                    ..Default::default()
                };
                update(method, &mut weights, &mut mask, &inputs);
            }
            let scores: Vec<f32> = first.iter().zip(&loss_gradient).map(|(w, g)| (w * g).abs()).collect();
            assert_keeps_largest(&mask, &scores, sparsity);
            assert_eq!(weights, first);
        }
        assert_eq!(runs, [(0, true), (0, false), (1, false), (2, false)]);
    }
}

/// Unit test 16: after every step the largest weights, also those that were inactive.
#[test]
fn dnw_keeps_the_largest_weights_after_every_step() {
    let method = Method::find("dnw").unwrap();
    assert!(method.straight_through);
    for (n_in, n_out, sparsity) in SHAPES {
        let n = n_in * n_out;
        let (mut weights, mut mask) = (normals(n, "weights", n as u64), vec![true; n]);
        let (mut returned, mut updates) = (0, 0);
        for tick in simulate(method.timing, &schedule(5, 9, 3), 5) {
            let gradient = normals(n, "gradient", tick.iteration);
            weights.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= 0.5 * g);
            updates += u64::from(tick.update_at == Some(tick.step_after));
            let (before, stepped) = (mask.clone(), weights.clone());
            let inputs = UpdateInputs {
                keep: Some(n - n_zeros(n, sparsity, Rounding::Floor)),
                ..Default::default()
            };
            update(method, &mut weights, &mut mask, &inputs);
            let magnitudes: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
            assert_keeps_largest(&mask, &magnitudes, sparsity);
            assert_eq!(weights, stepped);
            returned += (0..n).filter(|&i| mask[i] && !before[i]).count();
        }
        assert_eq!(updates, 5);
        assert!(returned > 0, "no weight ever came back");
    }
}

/// Reference 2.9.
#[test]
fn gradual_sparsities() {
    let gradual = |begin_step, end_step, target_sparsity| GradualPruning {
        begin_step,
        end_step,
        initial_sparsity: 0.0,
        target_sparsity,
        exponent: 3.0,
    };
    let cifar = gradual(20000, 75000, 0.9);
    for (step, want) in [(0, 0.0), (20000, 0.0), (47500, 0.7875), (75000, 0.9), (97656, 0.9)] {
        assert!((cifar.sparsity_at(step) - want).abs() < 1e-7, "{step}");
    }
    let mnist = gradual(2000, 30000, 0.98);
    assert!((mnist.sparsity_at(16000) - 0.8575).abs() < 1e-7);
    assert!((mnist.density_at(30000, 0.882) - 0.118).abs() < 1e-7);
    assert_eq!(mnist.density_at(16000, 0.0), 1.0);
    assert_eq!(
        [
            GradualPruning::kept(10, 0.25),
            GradualPruning::kept(10, 0.35),
            GradualPruning::kept(4, 0.375)
        ],
        [2, 4, 2]
    );
}

/// Masks, thresholds and steps of three layers of one set of tied weights, made with TensorFlow 1.15's own pruning.
#[test]
fn gradual_pruning_matches_tensorflow() {
    let method = Method::find("prune").unwrap();
    let gradual = GradualPruning {
        begin_step: 2,
        end_step: 9,
        initial_sparsity: 0.1,
        target_sparsity: 0.98,
        exponent: 3.0,
    };
    let tied = |i: i32| ((i * 7919 % 601 - 300) as f32 / 8.0).round_ties_even() / 8.0;
    let mut weights: Vec<f32> = (0..600).map(tied).collect();
    let mut found = vec![];
    for tick in simulate(method.timing, &schedule(2, 9, 3), 11) {
        let Some(at) = tick.update_at else { continue };
        for target in [0.98, 0.882, 0.0] {
            let inputs = UpdateInputs {
                keep: Some(GradualPruning::kept(600, gradual.density_at(at, target))),
                ..Default::default()
            };
            let mut mask = vec![true; 600];
            let report = update(method, &mut weights, &mut mask, &inputs);
            found.push((at, report.threshold.unwrap(), mask.iter().filter(|&&m| m).count()));
        }
    }
    let wants = [
        (3, 2.0, 353),
        (3, 1.75, 385),
        (3, 0.0, 600),
        (6, 4.25, 66),
        (6, 3.875, 112),
        (6, 0.0, 600),
        (9, 4.625, 16),
        (9, 4.125, 80),
        (9, 0.0, 600),
    ];
    assert_eq!(found, wants);
}

/// Thresholds (bits) and numbers of ones with `threshold_decay`, made with TensorFlow 1.15's own pruning: weights grow by an
/// eighth of their first value per step.
#[test]
fn smoothed_thresholds_match_tensorflow() {
    let method = Method::find("prune").unwrap();
    let gradual = GradualPruning {
        begin_step: 2,
        end_step: 20,
        initial_sparsity: 0.1,
        target_sparsity: 0.98,
        exponent: 3.0,
    };
    let tied = |i: i32| ((i * 7919 % 601 - 300) as f32 / 8.0).round_ties_even() / 8.0;
    let wants = [
        (
            0.4,
            [
                ([0x3f6d_999a, 0x3f53_3334, 0], [513, 527, 600]),
                ([0x4048_28f6, 0x4034_b852, 0], [367, 399, 600]),
                ([0x40bb_ee98, 0x40a8_be77, 0], [239, 289, 600]),
                ([0x410b_961f, 0x40f7_7f63, 0], [162, 208, 600]),
                ([0x4134_08da, 0x411f_e647, 0], [98, 162, 600]),
                ([0x4158_5058, 0x4140_a8ea, 0], [66, 130, 600]),
            ],
        ),
        (
            0.9,
            [
                ([0x3e1e_6667, 0x3e0c_cccd, 0], [591, 591, 600]),
                ([0x3f19_3d70, 0x3f0a_147b, 0], [559, 559, 600]),
                ([0x3fa7_8ed8, 0x3f96_8937, 0], [527, 527, 600]),
                ([0x400f_66ae, 0x3fff_7b7e, 0], [481, 495, 600]),
                ([0x4053_dc69, 0x403c_912c, 0], [449, 463, 600]),
                ([0x408f_6ffc, 0x407f_82a8, 0], [417, 449, 600]),
            ],
        ),
    ];
    let rhythm = schedule(2, 20, 3);
    for (threshold_decay, wants) in wants {
        let mut thresholds = [0.0; 3];
        let updates = simulate(method.timing, &rhythm, 23).filter_map(|tick| tick.update_at);
        let found: Vec<_> = updates
            .map(|at| {
                let mut weights: Vec<f32> = (0..600).map(|i| tied(i) * (1.0 + at as f32 / 8.0)).collect();
                let mut ones = [0; 3];
                for (i, target) in [0.98, 0.882, 0.0].into_iter().enumerate() {
                    let inputs = UpdateInputs {
                        keep: Some(GradualPruning::kept(600, gradual.density_at(at, target))),
                        threshold: thresholds[i],
                        threshold_decay,
                        ..Default::default()
                    };
                    let mut mask = vec![true; 600];
                    thresholds[i] = update(method, &mut weights, &mut mask, &inputs).threshold.unwrap();
                    ones[i] = mask.iter().filter(|&&m| m).count();
                }
                (thresholds.map(f32::to_bits), ones)
            })
            .collect();
        assert_eq!(found, wants, "decay {threshold_decay}");
    }
}
