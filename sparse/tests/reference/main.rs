//! The original's behaviour as golden values.
#![allow(clippy::unwrap_used)]

mod budgets;
mod dead_units;
mod masks;
mod methods;
mod schedules;
mod updates;

use sparse::{BudgetOptions, Distribution, Layer};

fn layers(shapes: &[&[usize]]) -> Vec<Layer> {
    shapes
        .iter()
        .enumerate()
        .map(|(i, &dims)| Layer::new(format!("var{}", i + 1), dims))
        .collect()
}

fn options(distribution: Distribution, sparsity: f64) -> BudgetOptions {
    BudgetOptions::new(distribution, sparsity)
}

fn custom(mut options: BudgetOptions, map: &[(&str, f64)]) -> BudgetOptions {
    options.custom = map.iter().map(|&(name, s)| (name.to_owned(), s)).collect();
    options
}
