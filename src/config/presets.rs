//! The published recipes, compiled in.

/// The preset that runs when nothing else is asked for.
pub const DEFAULT_PRESET: &str = "mnist-rigl";

const MNIST_RIGL: &str = include_str!("../../models/presets/mnist-rigl.toml");

/// Every preset: its name and the TOML texts it consists of, later ones over earlier ones.
pub const PRESETS: &[(&str, &[&str])] = &[
    ("mnist-rigl", &[MNIST_RIGL]),
    (
        "mnist-set",
        &[MNIST_RIGL, include_str!("../../models/presets/mnist-set.toml")],
    ),
    (
        "mnist-scratch",
        &[MNIST_RIGL, include_str!("../../models/presets/mnist-scratch.toml")],
    ),
    (
        "mnist-dense",
        &[MNIST_RIGL, include_str!("../../models/presets/mnist-dense.toml")],
    ),
];
