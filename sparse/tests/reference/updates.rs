//! Selection and mask updates on arrays (reference 2.3, 2.4; unit tests 7-10).

use sparse::reference::{DROP_NOISE_STD, LayerState, UpdateInputs, UpdateReport, mask_update, n_prune, select, top_k};
use sparse::rng::{BoundedRng, stream};
use sparse::{Anneal, Error, GrowInit, Method, Schedule, UpdateTiming, random_mask, simulate};

/// A layer that owns its arrays, with one momentum slot.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    weights: Vec<f32>,
    mask: Vec<bool>,
    slots: Vec<Vec<f32>>,
}

impl Owned {
    fn update(&mut self, method: &str, inputs: &UpdateInputs) -> Result<UpdateReport, Error> {
        let Self { weights, mask, slots } = self;
        mask_update(
            Method::find(method).unwrap(),
            LayerState { weights, mask, slots },
            inputs,
        )
    }

    /// Momentum step with Nesterov (rate 0.1, momentum 0.9) on the loss `sum(mask * weights * gradient)`.
    fn nesterov_step(&mut self, gradient: &[f32]) {
        for (i, &g) in gradient.iter().enumerate() {
            let g = if self.mask[i] { g } else { 0.0 };
            let v = &mut self.slots[0][i];
            *v = 0.9 * *v + g;
            self.weights[i] -= 0.1 * (g + 0.9 * *v);
        }
    }
}

fn bits<const N: usize>(mask: [u8; N]) -> Vec<bool> {
    mask.map(|m| m == 1).to_vec()
}

fn count(mask: &[bool]) -> usize {
    mask.iter().filter(|&&m| m).count()
}

fn assert_close(found: &[f32], want: &[f32]) {
    assert!(
        found.len() == want.len() && found.iter().zip(want).all(|(f, w)| (f - w).abs() < 5.1e-4),
        "{found:?}, expected {want:?}"
    );
}

const GRADIENT: [f32; 12] = [0.1, 0.2, 0.9, 0.3, 0.05, 0.8, 0.0, 0.6, 0.7, -1.0, 0.4, -0.65];

fn worked_example() -> Owned {
    Owned {
        weights: vec![0.9, -0.05, 0.4, 0.7, -0.3, 0.2, -0.8, 0.1, 0.6, -0.15, 0.5, -0.35],
        mask: bits([1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0]),
        slots: vec![(1..=12).map(|v| v as f32).collect()],
    }
}

/// `n` normal numbers of standard deviation `std`.
fn normals(n: usize, std: f32, step: u64) -> Vec<f32> {
    let mut rng = stream(0, "normals", "", step);
    (0..n).map(|_| rng.normal() as f32 * std).collect()
}

fn uniforms(n: usize, step: u64) -> Vec<f32> {
    let mut rng = stream(0, "uniforms", "", step);
    (0..n).map(|_| rng.uniform_f32()).collect()
}

#[test]
fn rigl_worked_example() {
    let mut layer = worked_example();
    let noise = normals(12, DROP_NOISE_STD, 0);
    let inputs = UpdateInputs {
        drop_fraction: 0.5,
        gradient: Some(&GRADIENT),
        drop_noise: Some(&noise),
        ..Default::default()
    };
    let report = layer.update("rigl", &inputs).unwrap();
    assert_eq!(
        report,
        UpdateReport {
            n_ones: 8,
            n_prune: 4,
            n_grown: 3,
            n_regrown: 1,
            n_revived: 0,
            threshold: None,
        }
    );
    assert_eq!(layer.mask, bits([1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0]));
    // The connection of weight -0.15 was dropped and grown again: it keeps its weight and its slot.
    assert_eq!(
        layer.weights,
        [0.9, -0.05, 0.0, 0.7, -0.3, 0.0, -0.8, 0.1, 0.0, -0.15, 0.5, -0.35]
    );
    assert_eq!(layer.slots[0], [1., 2., 0., 4., 5., 0., 7., 8., 0., 10., 11., 12.]);

    layer.nesterov_step(&GRADIENT);
    let weights = [
        0.8, -0.212, -0.171, 0.319, -0.705, -0.152, -1.367, -0.548, -0.133, -0.77, -0.467, -1.322,
    ];
    assert_close(&layer.weights, &weights);
    assert_close(
        &layer.slots[0],
        &[1., 1.8, 0.9, 3.9, 4.5, 0.8, 6.3, 7.2, 0.7, 8., 10.3, 10.8],
    );
}

#[test]
fn rigl_scales_gradients_into_new_connections() {
    let mut layer = worked_example();
    layer.slots.push(vec![-1.0; 12]);
    let inputs = UpdateInputs {
        drop_fraction: 0.5,
        gradient: Some(&GRADIENT),
        grow_init: "grad_scale_10".parse().unwrap(),
        initial_acc_scale: 0.5,
        ..Default::default()
    };
    layer.update("rigl", &inputs).unwrap();
    let new = |array: &[f32]| [array[2], array[5], array[8]];
    assert_eq!(new(&layer.weights), [0.9 / 10.0, 0.8 / 10.0, 0.7 / 10.0]);
    for (slot, others) in layer.slots.iter().zip([10.0, -1.0]) {
        assert_eq!(new(slot), [0.45, 0.40, 0.35]);
        assert_eq!(slot[9], others);
    }
}

/// Reference 2.4 with the data of 2.3: the gradient step comes first, and slots of new connections are 0 whatever the scale.
#[test]
fn set_updates_after_the_step() {
    let mut layer = worked_example();
    layer.nesterov_step(&GRADIENT);
    let stepped = layer.clone();
    let scores = [0.0, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.95, 0.4, 0.5, 0.0, 0.6];
    let inputs = UpdateInputs {
        drop_fraction: 0.5,
        grow_uniform: Some(&scores),
        initial_acc_scale: 0.5,
        ..Default::default()
    };
    let report = layer.update("set", &inputs).unwrap();
    // |M*W| after the step: .80 .23 - .31 .71 - 1.37 .61 - .77 .54 -: positions 0 4 6 9 stay.
    assert_eq!(
        report,
        UpdateReport {
            n_ones: 8,
            n_prune: 4,
            n_grown: 1,
            n_regrown: 3,
            n_revived: 0,
            threshold: None,
        }
    );
    assert_eq!(layer.mask, bits([1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 0]));
    let changed: Vec<usize> = (0..12).filter(|&i| layer.weights[i] != stepped.weights[i]).collect();
    assert_eq!(changed, [5]);
    assert_eq!((layer.weights[5], layer.slots[0][5]), (0.0, 0.0));
}

/// Trains a layer with plain gradient descent and SET for `runs` iterations; the masks after each, and before the first.
fn set_masks(n: usize, schedule: &Schedule, runs: u64, mut on_update: impl FnMut(&Owned, &Owned)) -> Vec<Vec<bool>> {
    let mask = random_mask(n, n / 2, &mut stream(0, "mask", "", n as u64));
    let mut layer = Owned {
        weights: normals(n, 1.0, 99),
        mask,
        slots: vec![],
    };
    let mut masks = vec![layer.mask.clone()];
    for tick in simulate(UpdateTiming::After, schedule, runs) {
        for i in (0..n).filter(|&i| layer.mask[i]) {
            layer.weights[i] -= 0.01 * i as f32;
        }
        if let Some(gs) = tick.update_at {
            let before = layer.clone();
            let (noise, scores) = (normals(n, DROP_NOISE_STD, gs as u64), uniforms(n, gs as u64));
            let inputs = UpdateInputs {
                drop_fraction: tick.drop_fraction,
                drop_noise: Some(&noise),
                grow_uniform: Some(&scores),
                ..Default::default()
            };
            layer.update("set", &inputs).unwrap();
            on_update(&before, &layer);
        }
        masks.push(layer.mask.clone());
    }
    masks
}

fn constant(begin_step: i64, end_step: i64, frequency_steps: i64, drop_fraction: f64) -> Schedule {
    Schedule {
        begin_step,
        end_step,
        frequency_steps,
        drop_fraction,
        anneal: Anneal::Constant,
    }
}

/// Unit test 7.
#[test]
fn set_changes_masks_on_schedule_and_keeps_their_size() {
    for (n, d) in [
        (15 * 25, 0.5),
        (15 * 25, 0.2),
        (3 * 5, 0.2),
        (15 * 25, 0.7),
        (30 * 10, 0.9),
    ] {
        let masks = set_masks(n, &constant(1, 4, 2, d), 5, |_, _| {});
        for run in 1..=5 {
            assert_eq!(count(&masks[run]), n - n / 2);
            // So few connections of the smallest layer move that they may all come straight back.
            let may_stay = n == 15 && [1, 3].contains(&run);
            assert!(
                may_stay || (masks[run] != masks[run - 1]) == [1, 3].contains(&run),
                "{n} {d} run {run}"
            );
        }
    }
}

/// Unit test 8.
#[test]
fn set_without_drops_changes_nothing() {
    for (begin, end, frequency) in [(3, 7, 2), (1, 5, 3), (0, 4, 1)] {
        let mut updates = 0;
        let masks = set_masks(375, &constant(begin, end, frequency, 0.0), 10, |before, after| {
            updates += 1;
            assert_eq!(before, after);
        });
        assert!(updates > 1 && masks.iter().all(|m| *m == masks[0]));
    }
}

/// Unit test 9.
#[test]
fn set_connections_start_at_zero() {
    let mut grown = 0;
    set_masks(15, &constant(0, 4, 1, 0.5), 6, |before, after| {
        for i in (0..15).filter(|&i| after.mask[i] && !before.mask[i]) {
            assert_eq!(after.weights[i], 0.0);
            grown += 1;
        }
    });
    assert!(grown > 0);
}

/// Unit test 10, with values: statistics are over all raw weights, active and inactive.
#[test]
fn grow_tensors() {
    let weights = [1.0f32, -1.0, 3.0, -3.0];
    let draw = [0.5f32, 0.25, 0.75, -2.0];
    let grown = |init: &str| {
        let mut layer = Owned {
            weights: weights.to_vec(),
            mask: bits([1, 1, 0, 0]),
            slots: vec![],
        };
        let init = init.parse::<GrowInit>().unwrap();
        let (gradient, draw) = ([0.0, 0.0, -4.0, 2.0], Some(&draw[..]));
        let inputs = UpdateInputs {
            drop_fraction: 1.0,
            gradient: Some(&gradient),
            grow_init: init,
            grow_draw: draw,
            ..Default::default()
        };
        assert_eq!(layer.update("rigl", &inputs).unwrap().n_grown, 2);
        assert_eq!(layer.weights[..2], weights[..2]);
        [layer.weights[2], layer.weights[3]]
    };
    let std = 5f32.sqrt();
    assert_eq!(grown("zeros"), [0.0, 0.0]);
    assert_eq!(grown("random_normal"), [0.75 * std, -2.0 * std]);
    assert_eq!(grown("random_normal_2"), [0.75 * std / 2.0, -2.0 * std / 2.0]);
    // Mean |w| is 2, so uniform numbers map to [-2, 2).
    assert_eq!(grown("random_uniform"), [1.0, -10.0]);
    assert_eq!(grown("random_uniform_.5"), [2.0, -20.0]);
    assert_eq!(grown("initial_dist_4"), [0.1875, -0.5]);
    assert_eq!(grown("grad_scale"), [-4.0, 2.0]);
    assert_eq!(grown("grad_sign_10"), [-0.1, 0.1]);
}

/// The quirk of 2.3: with active weights near 0, noise keeps inactive entries, whose old weights and slots become live.
#[test]
fn drop_noise_revives_inactive_entries() {
    let mask = random_mask(200, 150, &mut stream(0, "mask", "", 0));
    let weights: Vec<f32> = mask.iter().map(|&m| if m { 0.0 } else { 7.0 }).collect();
    let (noise, gradient) = (normals(200, DROP_NOISE_STD, 1), vec![1.0; 200]);
    let mut layer = Owned {
        weights,
        mask,
        slots: vec![vec![3.0; 200]],
    };
    let before = layer.clone();
    let inputs = UpdateInputs {
        gradient: Some(&gradient),
        drop_noise: Some(&noise),
        ..Default::default()
    };
    let report = layer.update("rigl", &inputs).unwrap();
    assert_eq!((report.n_ones, report.n_prune, report.n_grown), (50, 0, 0));
    assert!((25..=50).contains(&report.n_revived), "{report:?}");
    let live = (0..200).filter(|&i| layer.mask[i] && layer.weights[i] == 7.0).count();
    assert_eq!(live, report.n_revived);
    assert_eq!((&layer.weights, &layer.slots), (&before.weights, &before.slots));
}

#[test]
fn selection_breaks_ties_by_index_and_ranks_nan_last() {
    let nan = f32::NAN;
    assert_eq!(top_k(&[1.0, 2.0, 1.0, 2.0, 1.0], 3), bits([1, 1, 0, 1, 0]));
    assert_eq!(top_k(&[0.0, -0.0, 0.0], 2), bits([1, 1, 0]));
    assert_eq!(top_k(&[-0.0, 0.0, -0.0], 1), bits([1, 0, 0]));
    assert_eq!(top_k(&[nan, f32::NEG_INFINITY, 1.0, -nan], 2), bits([0, 1, 1, 0]));
    assert_eq!(top_k(&[nan, 1.0, -nan], 2), bits([1, 1, 0]));
    let magnitudes = [1.0, 3.0, 1.0, nan, 0.0, 1.0];
    assert_eq!(top_k(&magnitudes, 3), bits([1, 1, 1, 0, 0, 0]));
    assert_eq!(top_k(&magnitudes, 5), bits([1, 1, 1, 0, 1, 1]));
    assert_eq!(top_k(&magnitudes, 6), [true; 6]);
    assert_eq!(top_k(&magnitudes, 0), [false; 6]);
    assert_eq!(top_k(&[1.0, 2.0], 0), bits([0, 0]));
    assert_eq!(top_k(&[1.0, 2.0], 5), bits([1, 1]));
    assert!(top_k(&[], 1).is_empty());
}

#[test]
fn equal_scores_choose_the_lowest_indices() {
    let chosen = select(4, &[0.0; 8], &[0.0; 8], 0.5).unwrap();
    assert_eq!(chosen.kept, bits([1, 1, 0, 0, 0, 0, 0, 0]));
    assert_eq!(chosen.grown, bits([0, 0, 1, 1, 0, 0, 0, 0]));
}

/// Kept entries never grow, even where subtracting 1 from the least score changes nothing or scores are NaN.
#[test]
fn kept_and_grown_stay_disjoint() {
    for grow in [
        [3e38f32; 6],
        [f32::INFINITY; 6],
        [f32::NAN; 6],
        [1.0, f32::NAN, 1.0, f32::NAN, f32::NAN, f32::NAN],
    ] {
        for d in [0.0, 0.34, 1.0] {
            let chosen = select(4, &[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &grow, d).unwrap();
            assert_eq!(count(&chosen.kept) + count(&chosen.grown), 4);
            assert!(chosen.kept.iter().zip(&chosen.grown).all(|(k, g)| !(k & g)));
        }
    }
}

/// Without a scale, slots of new connections are plain 0 whatever the gradient: no -0, and no NaN from infinity times 0.
#[test]
fn unscaled_slots_are_zero() {
    let mut layer = Owned {
        weights: vec![1.0; 4],
        mask: bits([1, 1, 0, 0]),
        slots: vec![vec![1.0; 4]],
    };
    let gradient = [0.0, 0.0, -1.0, f32::INFINITY];
    let inputs = UpdateInputs {
        drop_fraction: 1.0,
        gradient: Some(&gradient),
        ..Default::default()
    };
    assert_eq!(layer.update("rigl", &inputs).unwrap().n_grown, 2);
    assert_eq!(
        layer.slots[0][2..].iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        [0, 0]
    );
}

#[test]
fn prune_counts_truncate_in_float32() {
    assert_eq!(
        [
            n_prune(50, 0.3),
            n_prune(8, 0.5),
            n_prune(7, 0.5),
            n_prune(9, 0.0),
            n_prune(9, 1.0)
        ],
        [15, 4, 3, 0, 9]
    );
    // 0.7 rounds down to float32 and up again in the product; 0.29 * 100 differs between the two precisions.
    assert_eq!([n_prune(10, 0.7), n_prune(100, 0.29)], [7, 29]);
    // The float32 above 2^24 + 1 has one more.
    assert_eq!(n_prune((1 << 24) + 3, 1.0), (1 << 24) + 3);
}

#[test]
fn degenerate_layers() {
    let gradient: Vec<f32> = (0..6).map(|i| i as f32).collect();
    for (mask, d, grown, regrown) in [
        (bits([1, 1, 1, 1, 1, 1]), 0.5, 0, 3), // all ones: unaffected
        (bits([0, 0, 0, 0, 0, 0]), 0.5, 0, 0),
        (bits([1, 1, 1, 0, 0, 0]), 1.0, 3, 0),
        (bits([1, 0, 0, 0, 0, 0]), 0.9, 0, 0), // trunc(0.9) = 0
        (vec![], 0.5, 0, 0),
    ] {
        let n = mask.len();
        let mut layer = Owned {
            weights: gradient[..n].iter().map(|g| g + 1.0).collect(),
            mask,
            slots: vec![vec![1.0; n]],
        };
        let before = layer.clone();
        let inputs = UpdateInputs {
            drop_fraction: d,
            gradient: Some(&gradient[..n]),
            ..Default::default()
        };
        let report = layer.update("rigl", &inputs).unwrap();
        assert_eq!(
            (report.n_grown, report.n_regrown, report.n_revived),
            (grown, regrown, 0)
        );
        assert_eq!(count(&layer.mask), count(&before.mask));
        assert_eq!(layer == before, grown == 0);
    }
}

#[test]
fn rejects_invalid_inputs_without_changes() {
    let refused = |method: &str, inputs: &UpdateInputs| {
        let mut layer = worked_example();
        let error = layer.update(method, inputs).unwrap_err();
        assert_eq!(layer, worked_example());
        error.to_string()
    };
    let gradient = Some(&GRADIENT[..]);
    let fine = UpdateInputs {
        drop_fraction: 0.5,
        gradient,
        grow_uniform: gradient,
        ..Default::default()
    };
    for method in ["dense", "scratch"] {
        assert!(refused(method, &fine).contains(&format!("`{method}` has no mask update")));
    }
    assert!(refused("rigl", &UpdateInputs { gradient: None, ..fine }).contains("needs the dense gradient"));
    assert!(
        refused(
            "set",
            &UpdateInputs {
                grow_uniform: None,
                ..fine
            }
        )
        .contains("needs the uniform grow score")
    );
    let normal = UpdateInputs {
        grow_init: GrowInit::RandomNormal(1.0),
        ..fine
    };
    assert!(refused("set", &normal).contains("`random_normal` needs the random draw"));
    let sign = UpdateInputs {
        grow_init: GrowInit::GradSign(1.0),
        ..fine
    };
    assert!(refused("set", &sign).contains("which method `set` does not compute"));
    let short = UpdateInputs {
        gradient: Some(&GRADIENT[..11]),
        ..fine
    };
    assert!(refused("rigl", &short).contains("dense gradient has 11 elements, expected 12"));
    for d in [-0.1, 1.1, f32::NAN] {
        assert!(
            refused(
                "rigl",
                &UpdateInputs {
                    drop_fraction: d,
                    ..fine
                }
            )
            .contains(&format!("drop_fraction is {d}"))
        );
    }
    assert!(select(3, &[1.0; 2], &[1.0; 2], 0.5).is_err());
}

/// Random layers against the definition written out with full sorts and the lifted scores.
#[test]
fn selection_matches_sorting() {
    let sorted = |scores: &[f32], k: usize| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
        let mut chosen = vec![false; scores.len()];
        order[..k].iter().for_each(|&i| chosen[i] = true);
        chosen
    };
    let mut rng = stream(0, "cases", "", 0);
    for _ in 0..300 {
        let n = 1 + rng.up_to(60) as usize;
        let n_ones = rng.up_to(n as u64) as usize;
        // Few distinct values, so that ties are everywhere.
        let mut scores = || (0..n).map(|_| rng.up_to(5) as f32 / 4.0).collect::<Vec<f32>>();
        let (drop, grow) = (scores(), scores());
        let d = rng.uniform_f32();
        let k = (n_ones as f32 * d) as i32 as usize;
        let kept = sorted(&drop, n_ones - k);
        let least = grow.iter().copied().fold(f32::INFINITY, f32::min);
        let lifted: Vec<f32> = grow
            .iter()
            .zip(&kept)
            .map(|(&g, &kept)| if kept { least - 1.0 } else { g })
            .collect();
        let chosen = select(n_ones, &drop, &grow, d).unwrap();
        assert_eq!((chosen.kept, chosen.grown), (kept, sorted(&lifted, k)));
    }
}
