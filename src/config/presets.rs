//! The published recipes, compiled in.

/// The preset that runs when nothing else is asked for.
pub const DEFAULT_PRESET: &str = "mnist-rigl";

const MNIST_RIGL: &str = include_str!("../../models/presets/mnist-rigl.toml");

/// A preset that says only what it changes of `mnist-rigl`.
macro_rules! over_mnist_rigl {
    ($($name:literal),+ $(,)?) => {
        &[
            ("mnist-rigl", &[MNIST_RIGL]),
            $(($name, &[MNIST_RIGL, include_str!(concat!("../../models/presets/", $name, ".toml"))]),)+
        ]
    };
}

/// Every preset: its name and the TOML texts it consists of, later ones over earlier ones.
pub const PRESETS: &[(&str, &[&str])] = over_mnist_rigl![
    "mnist-set",
    "mnist-scratch",
    "mnist-dense",
    "mnist-static",
    "mnist-snfs",
    "mnist-rigl-inverted",
    "mnist-snip",
    "mnist-grasp",
    "mnist-dnw",
    "mnist-prune",
    "mnist-set-itop",
    "mnist-rigl-itop",
];
