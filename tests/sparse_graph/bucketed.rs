//! Updates of a bucket against updates of single layers, bit for bit.

use crate::layer::rule;
use crate::{BACKENDS, normals, random};
use hlo::random::Key;
use hlo::{Computation, DType, Graph, Literal, Shape, Tensor};
use sparse::bucketed::{buckets, update_bucket};
use sparse::update::{Inputs, Layer, Rule, update};
use sparse::{GrowInit, KeepCount};

/// Layers of the same size, and of several sizes.
const SIZES: [[&[usize]; 4]; 2] = [
    [&[6, 200], &[1200], &[2, 3, 4, 50], &[1200, 1]],
    [&[501], &[6, 200], &[2, 3, 4, 50], &[7, 1, 100]],
];
const KEYS: [u64; 4] = [3, 1 << 40, 0, u64::MAX];
const STEP: i64 = (1 << 33) + 5;

/// The updates of all layers, as a bucket or one by one.
fn graph(dims: [&[usize]; 4], rule: &Rule, together: bool) -> Computation {
    let kinds = [DType::F32, DType::Pred, DType::F32, DType::F32, DType::F32];
    let arrays = dims.iter().flat_map(|&dims| kinds.map(|dtype| Shape::new(dtype, dims)));
    let shapes = arrays.chain([Shape::new(DType::U32, [2])]);
    let named = shapes.enumerate().map(|(i, shape)| (format!("p{i}"), shape));
    let parameters: Vec<_> = named.collect();
    Graph::function("updates", &parameters, |g, p| {
        let (&seed, arrays) = p.split_last().unwrap();
        let (own, step) = (Key::new(seed), g.scalar(STEP));
        let layers: Vec<_> = arrays
            .chunks(kinds.len())
            .enumerate()
            .map(|(i, a)| given(g, i, a, own))
            .collect();
        let after = match together {
            true => update_bucket(rule, &layers, own.fold_each(&KEYS).fold_step(step).seeds()),
            false => layers
                .iter()
                .map(|(layer, inputs)| update(rule, layer, inputs))
                .collect(),
        };
        let outputs = after.into_iter().flat_map(|layer| {
            let threshold = layer.threshold.filter(|_| rule.method.keep == KeepCount::Gradual);
            let arrays = [layer.weights, layer.mask].into_iter().chain(layer.slots);
            arrays.chain(threshold).collect::<Vec<_>>()
        });
        outputs.collect()
    })
    .unwrap()
}

fn given<'g>(g: &'g Graph, i: usize, arrays: &[Tensor<'g>], own: Key<'g>) -> (Layer<'g>, Inputs<'g>) {
    let layer = Layer {
        weights: arrays[0],
        mask: arrays[1],
        slots: vec![arrays[2]],
        threshold: Some(g.scalar(0.5 + i as f32)),
    };
    let inputs = Inputs {
        gradient: arrays[3],
        score: Some(arrays[4]),
        drop_fraction: g.scalar(0.3f32),
        keep: Some(g.scalar(100 * i as i32)),
        key: own.fold(KEYS[i]).fold_step(g.scalar(STEP)),
        initial_draw: Some(arrays[4]),
        valid: None,
    };
    (layer, inputs)
}

#[test]
fn bucket_updates_match_single_updates() {
    SIZES.into_iter().for_each(compare);
}

#[test]
fn buckets_group_layers_of_similar_size() {
    assert_eq!(
        buckets(&[10, 100, 40, 39, 250, 101]),
        [vec![4, 5, 1], vec![2, 3], vec![0]]
    );
    assert_eq!(buckets(&[]), Vec::<Vec<usize>>::new());
}

fn compare(dims: [&[usize]; 4]) {
    let mut rng = random("alike", 0);
    let mut arguments = vec![];
    for dims in dims {
        let n = dims.iter().product();
        let array = |values: Vec<f32>| Literal::new(dims, &values);
        let active: Vec<bool> = (0..n).map(|_| rng.next_u32().is_multiple_of(4)).collect();
        // Also layers whose scores tie.
        let rounded = |values: Vec<f32>| values.into_iter().map(|v| (v * 2.0).round()).collect();
        arguments.push(array(rounded(normals(n, &mut rng))));
        arguments.push(Literal::from_bools(dims, &active));
        arguments.extend([0; 3].map(|_| array(rounded(normals(n, &mut rng)))));
    }
    arguments.push(Literal::new(&[2], &[7u32, 9]));
    let inits = [GrowInit::RandomNormal(2.0), GrowInit::InitialDist(2.0)].map(|init| ("rigl", init));
    let methods = [
        "rigl",
        "set",
        "snfs",
        "static",
        "rigl-inverted",
        "prune",
        "snip",
        "dense",
    ];
    let methods = methods.map(|method| (method, GrowInit::Zeros));
    let one_size = dims.iter().all(|dims| dims.iter().product::<usize>() == 1200);
    // Layers of several sizes, with every algorithm and every optional input.
    let wanted = |(method, _): &(&str, GrowInit)| one_size || ["rigl-inverted", "set", "prune"].contains(method);
    for (method, grow_init) in methods.into_iter().chain(inits).filter(wanted) {
        let rule = Rule {
            grow_init,
            threshold_decay: 0.4,
            ..rule(method)
        };
        for backend in BACKENDS {
            let [together, alone] = [true, false].map(|t| backend.program(graph(dims, &rule, t)).run(&arguments));
            assert!(together == alone, "{method} {grow_init:?} {backend:?} {dims:?}");
            let changed = together.iter().any(|array| !arguments.contains(array));
            assert_eq!(changed, method != "dense", "{method} {grow_init:?}");
        }
    }
}
