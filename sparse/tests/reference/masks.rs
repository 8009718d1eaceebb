//! Random masks (reference 1.2; unit tests 1 and 2).

use sparse::numpy_rng::NumpyRng;
use sparse::{Distribution, Layer, MaskSeedCompat, budgets, initial_masks, random_mask};

use super::{custom, layers, options};

#[test]
fn numpy_masks_of_the_mnist_network() {
    let layers = [
        Layer::new("layer1", [784, 300]),
        Layer::new("layer2", [300, 100]),
        Layer::new("layer3", [100, 10]),
    ];
    let options = custom(
        options(Distribution::Uniform, 0.98),
        &[("layer2", 0.98 * 0.9), ("layer3", 0.0)],
    );
    let masks = initial_masks(&budgets(&layers, &options).unwrap(), 0, MaskSeedCompat::Numpy).unwrap();
    let wants: [(usize, [usize; 10], usize); 3] = [
        (4704, [5, 9, 75, 83, 85, 183, 185, 285, 413, 433], 548768562),
        (3540, [3, 11, 12, 17, 22, 32, 33, 40, 46, 50], 52862081),
        (1000, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 499500),
    ];
    for (mask, (count, first, sum)) in masks.iter().zip(wants) {
        let ones: Vec<usize> = (0..mask.len()).filter(|&i| mask[i]).collect();
        assert_eq!(
            (ones.len(), &ones[..10], ones.iter().sum::<usize>()),
            (count, &first[..], sum)
        );
    }
}

#[test]
fn numpy_masks_share_one_generator() {
    let mut rng = NumpyRng::new(0);
    let text = |mask: Vec<bool>| mask.iter().map(|&m| if m { '1' } else { '0' }).collect::<String>();
    assert_eq!(text(random_mask(20, 10, &mut rng)), "10101101000100110011");
    assert_eq!(text(random_mask(20, 10, &mut rng)), "10110111100010100100");
}

/// Unit tests 1 and 2.
#[test]
fn random_masks_have_exact_counts() {
    for (dims, s, ones) in [
        (&[30, 40][..], 0.5, 600),
        (&[30, 4], 0.5, 60),
        (&[1, 2, 1, 4], 0.8, 2),
        (&[3], 0.1, 3),
        (&[30], 0.1, 27),
        (&[0], 0.5, 0),
    ] {
        let budgets = budgets(&layers(&[dims, dims]), &options(Distribution::Uniform, s)).unwrap();
        for compat in [MaskSeedCompat::Native, MaskSeedCompat::Numpy] {
            for mask in initial_masks(&budgets, 3, compat).unwrap() {
                assert_eq!(mask.iter().filter(|&&m| m).count(), ones, "{dims:?} {s}");
            }
        }
    }
}
