//! The original's behaviour as golden values.
#![allow(clippy::unwrap_used)]

mod budgets;
mod compact;
mod masks;
mod methods;
mod recorded;
mod schedules;
mod updates;

use rigl_xla::sparse::{Distribution, Layer, Options};

fn layers(shapes: &[&[usize]]) -> Vec<Layer> {
    shapes
        .iter()
        .enumerate()
        .map(|(i, &dims)| Layer::new(format!("var{}", i + 1), dims))
        .collect()
}

fn options(distribution: Distribution, sparsity: f64) -> Options {
    Options::new(distribution, sparsity)
}

fn custom(mut options: Options, map: &[(&str, f64)]) -> Options {
    options.custom = map.iter().map(|&(name, s)| (name.to_owned(), s)).collect();
    options
}
