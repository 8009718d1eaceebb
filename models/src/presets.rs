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

/// The list of presets: those given, then each `imagenet` one again in bf16, its name with `-bf16` at the end.
macro_rules! presets {
    (
        $($name:literal $(over $($below:literal),+)?;)+
        imagenet: $($large:literal $(over $($under:literal),+)?;)+
    ) => {
        &[
            $(preset!($name $(over $($below),+)?),)+
            $(preset!($large over "imagenet" $($(, $under)+)?),)+
            $((
                concat!($large, "-bf16"),
                &[text!("imagenet"), $($(text!($under),)+)? text!($large), text!("bf16")],
            ),)+
        ]
    };
}

/// Every preset: its name and the TOML texts it consists of, later ones over earlier ones.
#[rustfmt::skip] // one line per preset
pub const PRESETS: &[(&str, &[&str])] = presets! {
    "mnist-rigl";
    "mnist-set" over "mnist-rigl";
    "mnist-scratch" over "mnist-rigl";
    "mnist-dense" over "mnist-rigl";
    "mnist-static" over "mnist-rigl";
    "mnist-snfs" over "mnist-rigl";
    "mnist-rigl-inverted" over "mnist-rigl";
    "mnist-snip" over "mnist-rigl";
    "mnist-grasp" over "mnist-rigl";
    "mnist-dnw" over "mnist-rigl";
    "mnist-prune" over "mnist-rigl";
    "mnist-set-itop" over "mnist-rigl";
    "mnist-rigl-itop" over "mnist-rigl";
    "cifar10-rigl";
    "cifar10-set" over "cifar10-rigl";
    "cifar10-scratch" over "cifar10-rigl";
    "cifar10-dense" over "cifar10-rigl";
    "cifar10-static" over "cifar10-rigl";
    "cifar10-snfs" over "cifar10-rigl";
    "cifar10-snip" over "cifar10-rigl";
    "cifar10-prune" over "cifar10-rigl";
    imagenet:
    "resnet50-rigl";
    "resnet50-set" over "resnet50-rigl";
    "resnet50-scratch" over "resnet50-rigl";
    "resnet50-dense" over "resnet50-rigl";
    "resnet50-static" over "resnet50-rigl";
    "resnet50-snfs" over "resnet50-rigl";
    "resnet50-snip" over "resnet50-rigl";
    "resnet50-dnw" over "resnet50-rigl";
    "resnet50-rigl-erk-0.8" over "resnet50-rigl";
    "resnet50-rigl-erk-0.9" over "resnet50-rigl";
    "resnet50-rigl-erk-0.95" over "resnet50-rigl";
    "resnet50-rigl-erk-0.965" over "resnet50-rigl";
    "resnet50-rigl-erk-0.99" over "resnet50-rigl";
    "resnet50-rigl-uniform-0.8" over "resnet50-rigl";
    "resnet50-rigl-uniform-0.9" over "resnet50-rigl";
    "resnet50-rigl-uniform-0.95" over "resnet50-rigl";
    "resnet50-rigl-uniform-0.965" over "resnet50-rigl";
    "mobilenet-v1-rigl";
    "mobilenet-v1-dense" over "mobilenet-v1-rigl";
    "mobilenet-v1-rigl-erk-0.75" over "mobilenet-v1-rigl";
    "mobilenet-v1-rigl-erk-0.9" over "mobilenet-v1-rigl";
    "mobilenet-v1-rigl-uniform-0.75" over "mobilenet-v1-rigl";
    "mobilenet-v1-rigl-uniform-0.9" over "mobilenet-v1-rigl";
    "mobilenet-v2-rigl" over "mobilenet-v1-rigl";
    "mobilenet-v2-dense" over "mobilenet-v1-rigl", "mobilenet-v2-rigl";
    "vgg-16-rigl";
    "vgg-16-dense" over "vgg-16-rigl";
};

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
