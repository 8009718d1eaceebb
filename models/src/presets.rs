//! The published recipes, compiled in.

/// The text of a file of presets.
macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../presets/", $name, ".toml"))
    };
}

/// A preset, which contains only its changes to those below it.
macro_rules! preset {
    ($name:literal $(over $($below:literal),+)?) => {
        ($name, &[$($(text!($below),)+)? text!($name)])
    };
}

/// A preset for ImageNet in bf16.
macro_rules! bf16 {
    ($name:literal over $($below:literal),+) => {
        (concat!($name, "-bf16"), &[$(text!($below),)+ text!($name), text!("bf16")])
    };
}

/// Every preset: its name and the TOML texts it consists of, later ones over earlier ones.
#[rustfmt::skip] // one line per preset
pub const PRESETS: &[(&str, &[&str])] = &[
    preset!("mnist-rigl"),
    preset!("mnist-set" over "mnist-rigl"),
    preset!("mnist-scratch" over "mnist-rigl"),
    preset!("mnist-dense" over "mnist-rigl"),
    preset!("mnist-static" over "mnist-rigl"),
    preset!("mnist-snfs" over "mnist-rigl"),
    preset!("mnist-rigl-inverted" over "mnist-rigl"),
    preset!("mnist-snip" over "mnist-rigl"),
    preset!("mnist-grasp" over "mnist-rigl"),
    preset!("mnist-dnw" over "mnist-rigl"),
    preset!("mnist-prune" over "mnist-rigl"),
    preset!("mnist-set-itop" over "mnist-rigl"),
    preset!("mnist-rigl-itop" over "mnist-rigl"),
    preset!("cifar10-rigl"),
    preset!("cifar10-set" over "cifar10-rigl"),
    preset!("cifar10-scratch" over "cifar10-rigl"),
    preset!("cifar10-dense" over "cifar10-rigl"),
    preset!("cifar10-static" over "cifar10-rigl"),
    preset!("cifar10-snfs" over "cifar10-rigl"),
    preset!("cifar10-snip" over "cifar10-rigl"),
    preset!("cifar10-prune" over "cifar10-rigl"),
    preset!("resnet50-rigl" over "imagenet"),
    preset!("resnet50-set" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-scratch" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-dense" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-static" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-snfs" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-snip" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-dnw" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-erk-0.8" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-erk-0.9" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-erk-0.95" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-erk-0.965" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-erk-0.99" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-uniform-0.8" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-uniform-0.9" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-uniform-0.95" over "imagenet", "resnet50-rigl"),
    preset!("resnet50-rigl-uniform-0.965" over "imagenet", "resnet50-rigl"),
    preset!("mobilenet-v1-rigl" over "imagenet"),
    preset!("mobilenet-v1-dense" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v1-rigl-erk-0.75" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v1-rigl-erk-0.9" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v1-rigl-uniform-0.75" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v1-rigl-uniform-0.9" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v2-rigl" over "imagenet", "mobilenet-v1-rigl"),
    preset!("mobilenet-v2-dense" over "imagenet", "mobilenet-v1-rigl", "mobilenet-v2-rigl"),
    preset!("vgg-16-rigl" over "imagenet"),
    preset!("vgg-16-dense" over "imagenet", "vgg-16-rigl"),
    bf16!("resnet50-rigl" over "imagenet"),
    bf16!("resnet50-set" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-scratch" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-dense" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-static" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-snfs" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-snip" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-dnw" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-erk-0.8" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-erk-0.9" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-erk-0.95" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-erk-0.965" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-erk-0.99" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-uniform-0.8" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-uniform-0.9" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-uniform-0.95" over "imagenet", "resnet50-rigl"),
    bf16!("resnet50-rigl-uniform-0.965" over "imagenet", "resnet50-rigl"),
    bf16!("mobilenet-v1-rigl" over "imagenet"),
    bf16!("mobilenet-v1-dense" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v1-rigl-erk-0.75" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v1-rigl-erk-0.9" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v1-rigl-uniform-0.75" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v1-rigl-uniform-0.9" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v2-rigl" over "imagenet", "mobilenet-v1-rigl"),
    bf16!("mobilenet-v2-dense" over "imagenet", "mobilenet-v1-rigl", "mobilenet-v2-rigl"),
    bf16!("vgg-16-rigl" over "imagenet"),
    bf16!("vgg-16-dense" over "imagenet", "vgg-16-rigl"),
];

/// A recipe for exported models: a method's changes to `exported-rigl`.
macro_rules! exported {
    ($name:literal with $changes:literal) => {
        ($name, &[text!("exported-rigl"), text!($changes)])
    };
}

/// Recipes for models exported from JAX, by method; their schedules are fitted to the run.
#[rustfmt::skip] // one line per preset
pub const EXPORTED: &[(&str, &[&str])] = &[
    preset!("exported-rigl"),
    exported!("exported-set" with "mnist-set"),
    exported!("exported-scratch" with "mnist-scratch"),
    preset!("exported-dense" over "exported-rigl"),
    exported!("exported-static" with "mnist-static"),
    exported!("exported-snfs" with "mnist-snfs"),
    exported!("exported-rigl-inverted" with "mnist-rigl-inverted"),
    exported!("exported-snip" with "mnist-snip"),
    exported!("exported-dnw" with "mnist-dnw"),
    exported!("exported-prune" with "mnist-prune"),
    exported!("exported-set-itop" with "mnist-set-itop"),
    exported!("exported-rigl-itop" with "mnist-rigl-itop"),
];
