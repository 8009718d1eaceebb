//! Checkpoints of networks with random arrays, written without training.
#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::path::Path;

use hlo::Literal;
use models::Options;
use sparse::rng::hash64;
use sparse::{Distribution, Rounding};

pub type Arrays = BTreeMap<String, Literal>;

/// Numbers of ones per mask of an ERK or uniform network, zeros rounded up as in the published ones.
pub fn budgets(network: &Options, distribution: Distribution, sparsity: f64) -> Vec<sparse::Budget> {
    let layers = network.build().unwrap().layers();
    let masked = layers.iter().filter(|layer| layer.masked);
    let shapes: Vec<_> = masked
        .map(|layer| sparse::Layer::new(&layer.name, layer.dims.clone()))
        .collect();
    let options = sparse::BudgetOptions {
        rounding: Rounding::Ceil,
        ..sparse::BudgetOptions::new(distribution, sparsity)
    };
    sparse::budgets(&shapes, &options).unwrap()
}

/// The arrays that inference needs, all different, and masks with the zeros of these budgets.
pub fn random(network: &Options, budgets: &[sparse::Budget]) -> Arrays {
    let needs = network.build().unwrap().declaration();
    let mut arrays = Arrays::new();
    for param in &needs.params {
        let centre = if param.name.ends_with("/gamma") { 1.0 } else { 0.0 };
        arrays.insert(param.name.clone(), spread(&param.name, &param.dims, centre, 0.25));
        if let Some(name) = &param.mask {
            let layer = name.strip_suffix("/mask").unwrap();
            let budget = budgets.iter().find(|budget| budget.name == layer).unwrap();
            let mask = scattered(budget.zeros + budget.nonzeros, budget.nonzeros);
            arrays.insert(name.clone(), Literal::from_bools(&param.dims, &mask));
        }
    }
    for statistic in &needs.statistics {
        let (centre, radius) = if statistic.name.ends_with("variance") {
            (1.0, 0.5)
        } else {
            (0.0, 0.5)
        };
        arrays.insert(
            statistic.name.clone(),
            spread(&statistic.name, &statistic.dims, centre, radius),
        );
    }
    arrays
}

/// Numbers around `centre`: a generator of few instructions, as networks of millions of weights are made in tests.
fn spread(name: &str, dims: &[usize], centre: f32, radius: f32) -> Literal {
    let mut state = hash64("test", name) as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        centre + radius * (state as i32 as f32 / i32::MAX as f32)
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    Literal::new(dims, &values)
}

/// A mask of `n` weights with this number of ones, far from regular.
fn scattered(n: usize, ones: usize) -> Vec<bool> {
    let mut mask = vec![false; n];
    let mut at = 0;
    // A step without a common factor reaches every index once.
    let step = (n * 618 / 1000..).find(|&step| gcd(step, n) == 1).unwrap();
    for _ in 0..ones {
        mask[at] = true;
        at = (at + step) % n;
    }
    mask
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Length of the header of a safetensors file with the eight bytes before it, and of the arrays.
pub fn lengths(path: &Path) -> [u64; 2] {
    let bytes = std::fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    [header, bytes.len() as u64 - header]
}
