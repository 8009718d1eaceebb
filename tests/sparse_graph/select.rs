//! Selection: the three graph forms, and the keys, against `sparse::reference`.

use crate::{BACKENDS, Backend, Program, bools, random};
use hlo::{Computation, DType, Graph, Literal, Shape};
use sparse::reference::{grow_key, sort_key, top_k, top_k_keys};
use sparse::rng::{BoundedRng, Stream};
use sparse::select::{Select, grow_keys, sort_keys, top_k_mask};

const FORMS: [Select; 3] = [Select::Bits, Select::Sort, Select::Topk];

/// Keys and selections of scores of `dims`: parameters scores, kept entries and k; outputs the keys of the scores and of
/// growth, then for each form the k largest scores and the k largest candidates for growth.
fn selections(dims: &[usize]) -> Computation {
    let parameters = [
        ("scores".to_string(), Shape::new(DType::F32, dims)),
        ("kept".to_string(), Shape::new(DType::Pred, dims)),
        ("k".to_string(), Shape::scalar(DType::S32)),
    ];
    Graph::function("selections", &parameters, |_, p| {
        let keys = [sort_keys(p[0]), grow_keys(p[0], p[1])];
        let masks = FORMS.iter().flat_map(|&form| keys.map(|k| top_k_mask(k, p[2], form)));
        keys.into_iter().chain(masks).collect()
    })
    .unwrap()
}

/// Scores whose order is easy to get wrong, each a full vector of `n`.
const KINDS: [&str; 9] = [
    "random",
    "ties",
    "equal",
    "negative",
    "zeros",
    "nans",
    "infinities",
    "denormals",
    "bit patterns",
];

const SPECIAL: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::NAN,
    -f32::NAN,
    f32::from_bits(0x7f80_0001), // signalling NaNs
    f32::from_bits(0xff80_0001),
    f32::from_bits(0x7fff_ffff),
    f32::from_bits(0xffff_ffff),
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::from_bits(1), // smallest denormals
    f32::from_bits(0x8000_0001),
    f32::from_bits(0x007f_ffff), // largest denormals
    f32::from_bits(0x807f_ffff),
    1e-40,
    -1e-40,
    1.0 + f32::EPSILON,
    16_777_216.0,
];

fn score(kind: &str, rng: &mut Stream) -> f32 {
    let pick = |of: &[f32], rng: &mut Stream| of[rng.up_to(of.len() as u64 - 1) as usize];
    match kind {
        "random" => rng.normal() as f32,
        "ties" => pick(&[0.0, 0.25, 0.5, -0.5], rng),
        "equal" => 0.125,
        "negative" => -(rng.uniform_f32() + 0.5),
        "zeros" => pick(&[0.0, -0.0], rng),
        "nans" => pick(&[f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), 1.0, -1.0], rng),
        "infinities" => pick(&[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0, f32::NAN], rng),
        // Would all be ties if an operator flushed them to zero.
        "denormals" => f32::from_bits(rng.next_u32() & 0x807f_ffff),
        "bit patterns" => f32::from_bits(rng.next_u32()),
        _ => unreachable!("{kind}"),
    }
}

fn sizes_of_k(n: usize) -> [usize; 6] {
    [0, 1, n / 2, n - 1, n, n + 5]
}

/// Runs `selections` on random scores of a kind and compares every output with the reference.
fn check(program: &Program, dims: &[usize], kind: &str, k: usize) {
    let n: usize = dims.iter().product();
    let mut rng = random(kind, n * 31 + k);
    let scores: Vec<f32> = (0..n).map(|_| score(kind, &mut rng)).collect();
    let kept: Vec<bool> = (0..n).map(|_| rng.up_to(2) == 0).collect();
    let outputs = program.run(&[
        Literal::new(dims, &scores),
        Literal::from_bools(dims, &kept),
        Literal::scalar(k as i32),
    ]);
    let keys: Vec<u32> = scores.iter().map(|&s| sort_key(s)).collect();
    let growth: Vec<u32> = scores.iter().zip(&kept).map(|(&s, &k)| grow_key(s, k)).collect();
    assert_eq!(outputs[0].to_vec::<u32>().unwrap(), keys, "keys of {kind} {n}");
    assert_eq!(outputs[1].to_vec::<u32>().unwrap(), growth, "growth keys of {kind} {n}");
    let largest = [top_k(&scores, k), top_k_keys(growth, k)];
    for (i, form) in FORMS.iter().enumerate() {
        for (j, expected) in largest.iter().enumerate() {
            let found = bools(&outputs[2 + 2 * i + j]);
            assert!(found == *expected, "{form:?}, output {j}: {k} of {n} {kind}");
        }
    }
}

#[test]
fn every_algorithm_matches_the_reference() {
    for backend in BACKENDS {
        for n in [1, 2, 3, 7, 8, 9, 31, 512, 513, 1000] {
            let program = backend.program(selections(&[n]));
            // One vector of each kind is enough of the long ones on the evaluator.
            let all = n < 100 || backend == Backend::Plugin;
            for (i, kind) in KINDS.iter().enumerate() {
                let sizes = sizes_of_k(n);
                let sizes = if all { &sizes[..] } else { &sizes[i % 6..=i % 6] };
                sizes.iter().for_each(|&k| check(&program, &[n], kind, k));
            }
        }
    }
}

/// More elements than 16 bits can count, one more than a power of two and than whole rows of packed counts.
#[test]
fn algorithms_agree_on_long_vectors() {
    let n = (1 << 16) + 1;
    let plugin = Backend::Plugin.program(selections(&[n]));
    for kind in KINDS {
        sizes_of_k(n).into_iter().for_each(|k| check(&plugin, &[n], kind, k));
    }
    let evaluator = Backend::Evaluator.program(selections(&[n]));
    check(&evaluator, &[n], "ties", n / 2);
}

/// Ties go to the lower index of the flattened array, whatever its shape.
#[test]
fn ties_follow_row_major_order() {
    let dims = [3, 2, 5, 4];
    for backend in BACKENDS {
        let program = backend.program(selections(&dims));
        for kind in ["equal", "ties", "random"] {
            check(&program, &dims, kind, 47);
        }
    }
}

/// Scores as they come from memory: no operator on the way to the keys may round, flush or compare floats.
#[test]
fn keys_are_exact_for_special_values_and_random_bit_patterns() {
    for (backend, n) in [(Backend::Evaluator, 5_000), (Backend::Plugin, 1_000_000)] {
        let mut rng = random("keys", 0);
        let patterns = (SPECIAL.len()..n).map(|_| f32::from_bits(rng.next_u32()));
        let scores: Vec<f32> = SPECIAL.into_iter().chain(patterns).collect();
        let parameters = [("scores".to_string(), Shape::new(DType::F32, [n]))];
        let graph = Graph::function("keys", &parameters, |_, p| vec![sort_keys(p[0])]).unwrap();
        let outputs = backend.program(graph).run(&[Literal::new(&[n], &scores)]);
        let found = outputs[0].to_vec::<u32>().unwrap();
        for (score, key) in scores.iter().zip(found) {
            assert_eq!(key, sort_key(*score), "{backend:?}: {:08x}", score.to_bits());
        }
    }
}
