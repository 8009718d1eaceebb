//! Removal of dead units (reference 3.6): sizes from a separate program, and networks that compute the same function.

use sparse::dead_units::*;
use sparse::rng::{Stream, stream};
use sparse::{Distribution, Layer, MaskSeedCompat, budgets, initial_masks, random_mask};

use super::{custom, options};

const PASSES: [Passes; 2] = [Passes::One, Passes::Fixpoint];

fn connections(inputs: usize, outputs: usize, ones: &[[usize; 2]]) -> Connections {
    let mut mask = vec![false; inputs * outputs];
    ones.iter().for_each(|&[from, to]| mask[from * outputs + to] = true);
    Connections::new(inputs, outputs, mask).unwrap()
}

/// A layer with normal weights, inactive ones among them, and biases of both signs.
fn layer(connections: Connections, rng: &mut Stream) -> MaskedLayer {
    let mut normals = |n: usize| (0..n).map(|_| rng.normal() as f32).collect();
    let (weights, biases) = (normals(connections.mask().len()), normals(connections.dims()[1]));
    MaskedLayer {
        connections,
        weights,
        biases,
    }
}

fn random(sizes: &[usize], sparsity: f64, rng: &mut Stream) -> Vec<MaskedLayer> {
    let mut each = |dims: &[usize]| {
        let n = dims[0] * dims[1];
        let mask = random_mask(n, (n as f64 * sparsity) as usize, rng);
        layer(Connections::new(dims[0], dims[1], mask).unwrap(), rng)
    };
    sizes.windows(2).map(&mut each).collect()
}

/// Outputs of the network in double precision.
fn apply(layers: &[MaskedLayer], input: &[f64]) -> Vec<f64> {
    let mut x = input.to_vec();
    for (i, layer) in layers.iter().enumerate() {
        let [inputs, outputs] = layer.connections.dims();
        assert_eq!((x.len(), layer.biases.len()), (inputs, outputs));
        let term = |from: usize, to: usize| match layer.connections.connects(from, to) {
            true => x[from] * f64::from(layer.weights[from * outputs + to]),
            false => 0.0,
        };
        let unit = |to: usize| f64::from(layer.biases[to]) + (0..inputs).map(|from| term(from, to)).sum::<f64>();
        let last = i + 1 == layers.len();
        x = (0..outputs)
            .map(|to| if last { unit(to) } else { unit(to).max(0.0) })
            .collect();
    }
    x
}

fn assert_same_function(layers: &[MaskedLayer], small: &SmallerNetwork, rng: &mut Stream) {
    let inputs = layers[0].connections.dims()[0];
    for _ in 0..5 {
        let x: Vec<f64> = (0..inputs).map(|_| rng.uniform_f64()).collect();
        let kept: Vec<f64> = small.inputs.iter().map(|&i| x[i]).collect();
        let (before, after) = (apply(layers, &x), apply(&small.layers, &kept));
        let scale = before.iter().fold(1.0, |largest: f64, y| largest.max(y.abs()));
        let off = |(a, b): (&f64, &f64)| (a - b).abs() / scale;
        assert_eq!(before.len(), after.len());
        // Biases are f32 again.
        let worst = before.iter().zip(&after).map(off).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{worst}: {before:?} {after:?}");
    }
}

fn masks(layers: &[MaskedLayer]) -> Vec<Connections> {
    layers.iter().map(|layer| layer.connections.clone()).collect()
}

/// Figures of a separate NumPy program that deletes rows and columns of NumPy's own masks for seed 0.
#[test]
fn sizes_of_lenet_with_numpy_masks() {
    type Case = ([f64; 3], [([usize; 4], [f64; 3]); 2]);
    let cases: [Case; 3] = [
        (
            [0.98, 0.882, 0.0],
            [([783, 300, 100, 10], [0.979_974_457_215_836_5, 0.882, 0.0]); 2],
        ),
        (
            [0.995; 3],
            [
                (
                    [618, 116, 3, 2],
                    [0.993_457_761_410_555_9, 0.982_758_620_689_655_1, 0.5],
                ),
                ([24, 6, 3, 2], [0.833_333_333_333_333_4, 0.666_666_666_666_666_6, 0.5]),
            ],
        ),
        (
            [0.998, 0.99, 0.5],
            [
                (
                    [359, 150, 88, 10],
                    [0.994_577_530_176_315_9, 0.981_742_424_242_424_2, 0.5],
                ),
                (
                    [245, 150, 88, 10],
                    [0.992_054_421_768_707_5, 0.981_742_424_242_424_2, 0.5],
                ),
            ],
        ),
    ];
    let dims = [[784, 300], [300, 100], [100, 10]];
    for (sparsities, expected) in cases {
        let named = ["layer1", "layer2", "layer3"];
        let layers: Vec<_> = named
            .iter()
            .zip(dims)
            .map(|(&name, dims)| Layer::new(name, dims))
            .collect();
        let own = [0, 1, 2].map(|i| (named[i], sparsities[i]));
        let options = custom(options(Distribution::Uniform, 0.5), &own);
        let masks = initial_masks(&budgets(&layers, &options).unwrap(), 0, MaskSeedCompat::Numpy).unwrap();
        let layers: Vec<_> = masks
            .into_iter()
            .zip(dims)
            .map(|(mask, [inputs, outputs])| Connections::new(inputs, outputs, mask).unwrap())
            .collect();
        for (passes, (sizes, sparsities)) in PASSES.into_iter().zip(expected) {
            let report = live_size(&layers, passes).unwrap();
            assert_eq!(report.sizes, sizes);
            for (found, expected) in report.sparsities.iter().zip(sparsities) {
                assert!((found - expected).abs() < 1e-12, "{report:?}");
            }
        }
    }
}

#[test]
fn networks_without_dead_units_compute_the_same() {
    let mut rng = stream(0, "test", "compact", 0);
    for (sizes, sparsity) in [
        (&[784, 300, 100, 10][..], 0.995),
        (&[784, 300, 100, 10], 0.98),
        (&[30, 20, 20, 20, 4], 0.93),
        (&[30, 20, 20, 20, 4], 0.8),
        (&[12, 3], 0.9),
    ] {
        let layers = random(sizes, sparsity, &mut rng);
        let small = PASSES.map(|passes| remove_dead_units(&layers, passes).unwrap());
        for small in &small {
            assert_same_function(&layers, small, &mut rng);
            assert_eq!(small.sizes().last(), sizes.last(), "every class stays");
            let zero = |(&weight, &active): (&f32, &bool)| active || weight == 0.0;
            let masked_are_zero = |l: &MaskedLayer| l.weights.iter().zip(l.connections.mask()).all(zero);
            assert!(small.layers.iter().all(masked_are_zero));
        }
        if sparsity > 0.99 {
            assert!(small[0].sizes() > small[1].sizes() && small[0].inputs.len() < 784);
        }
        // The result of the fixpoint has nothing more to remove.
        let again = remove_dead_units(&small[1].layers, Passes::Fixpoint).unwrap();
        assert_eq!(again.layers, small[1].layers);
    }
}

#[test]
fn dense_networks_do_not_change() {
    let mut rng = stream(0, "test", "dense", 0);
    let layers = random(&[6, 5, 4], 0.0, &mut rng);
    for passes in PASSES {
        let small = remove_dead_units(&layers, passes).unwrap();
        assert_eq!((small.inputs, small.layers), ((0..6).collect(), layers.clone()));
    }
}

/// Hidden unit 1 has inputs but no outputs, unit 2 has outputs but no inputs, and unit 3 has neither.
#[test]
fn removes_units_and_folds_constants_into_biases() {
    let mut rng = stream(0, "test", "sides", 0);
    let first = connections(2, 4, &[[0, 0], [1, 1]]);
    let second = connections(4, 2, &[[0, 0], [2, 0], [2, 1]]);
    let mut layers = [layer(first, &mut rng), layer(second, &mut rng)];
    for bias in [0.75f32, -0.75] {
        layers[0].biases[2] = bias;
        let small = remove_dead_units(&layers, Passes::One).unwrap();
        // Input 1 leads only to unit 1, so only a second pass can remove it.
        assert_eq!(small.sizes(), [2, 1, 2]);
        assert_eq!(remove_dead_units(&layers, Passes::Fixpoint).unwrap().sizes(), [1, 1, 2]);
        let added = f64::from(bias.max(0.0)) * f64::from(layers[1].weights[2 * 2 + 1]);
        assert_eq!(
            small.layers[1].biases[1],
            (f64::from(layers[1].biases[1]) + added) as f32
        );
        assert_same_function(&layers, &small, &mut rng);
    }
}

#[test]
fn empty_layer_gives_constant_outputs() {
    let mut rng = stream(0, "test", "empty", 0);
    let mut layers = random(&[9, 7, 5, 3], 0.2, &mut rng);
    layers[1].connections = connections(7, 5, &[]);
    let [one, all] = PASSES.map(|passes| remove_dead_units(&layers, passes).unwrap());
    assert_eq!((one.sizes(), all.sizes()), (vec![9, 0, 0, 3], vec![0, 0, 0, 3]));
    for small in [one, all] {
        assert_same_function(&layers, &small, &mut rng);
    }
    let report = live_size(&masks(&layers), Passes::One).unwrap();
    assert_eq!((report.sizes, report.sparsities), (vec![9, 0, 0, 0], vec![0.0; 3]));
}
