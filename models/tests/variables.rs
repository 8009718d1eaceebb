//! Names, shapes, order and roles of the arrays, compared with the original's graphs.
#![allow(clippy::unwrap_used)]

use models::{Declaration, Init, Naming, Options};

/// Every array that evaluation and training need, in creation order: model, whether the first layer has a mask, name,
/// shape, role. Taken from graphs that the original built.
const VARIABLES: &str = include_str!("data/variables.csv");

/// Rows of one graph in the given roles, as name and shape.
fn listed(model: &str, first_layer: &str, roles: &[&str]) -> Vec<(String, Vec<usize>)> {
    let fields = VARIABLES.lines().map(|line| line.split(',').collect::<Vec<_>>());
    fields
        .filter(|f| f[0] == model && f[1] == first_layer && roles.contains(&f[4]))
        .map(|f| {
            (
                f[2].to_string(),
                f[3].split('x').filter_map(|d| d.parse().ok()).collect(),
            )
        })
        .collect()
}

fn declared(name: &str, mask_first: Option<bool>) -> Declaration {
    let options = Options {
        mask_first,
        ..Options::new(name, true)
    };
    options.build().unwrap().declaration()
}

const GRAPHS: [(&str, &str, &str); 6] = [
    ("mnist_fc", "", "mnist-fc"),
    ("resnet50", "masked", "resnet50"),
    ("resnet50", "unmasked", "resnet50"),
    ("mobilenet_v1", "", "mobilenet-v1"),
    ("mobilenet_v2", "", "mobilenet-v2"),
    ("wrn22_2", "unmasked", "wrn-22-2"),
];

#[test]
fn arrays_match_the_original_in_order() {
    for (model, first, name) in GRAPHS {
        let declared = declared(name, (first == "masked").then_some(true));
        let params: Vec<_> = declared
            .params
            .iter()
            .map(|p| (p.name.clone(), p.dims.clone()))
            .collect();
        let trainable = ["kernel", "depthwise_kernel", "bias", "gamma", "beta"];
        assert_eq!(params, listed(model, first, &trainable), "{model} {first}");
        let statistics: Vec<_> = declared
            .statistics
            .iter()
            .map(|s| (s.name.clone(), s.dims.clone()))
            .collect();
        assert_eq!(statistics, listed(model, first, &["moving_mean", "moving_variance"]));
        let masks = declared
            .params
            .iter()
            .filter_map(|p| Some((p.mask.clone()?, p.dims.clone())));
        assert_eq!(
            masks.collect::<Vec<_>>(),
            listed(model, first, &["mask"]),
            "{model} {first}"
        );
    }
}

#[test]
fn weight_decay_covers_kernels_but_not_depthwise_ones() {
    for (model, first, name) in GRAPHS {
        let declared = declared(name, (first == "masked").then_some(true));
        let decayed: Vec<_> = declared
            .params
            .iter()
            .filter(|p| p.decayed)
            .map(|p| p.name.clone())
            .collect();
        let kernels: Vec<_> = listed(model, first, &["kernel"])
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(decayed, kernels, "{model}");
    }
}

/// Reference 3.1 to 3.6.
#[test]
fn initialisers_depend_on_network_and_role() {
    let init = |name: &str, variable: &str| {
        let declared = declared(name, None);
        let found = declared.params.iter().find(|p| p.name.ends_with(variable));
        found.unwrap_or_else(|| panic!("{name} has no {variable}")).init
    };
    for (name, variable, want) in [
        ("mnist-fc", "layer1/weights", Init::GlorotUniform),
        ("resnet50", "initial_conv/weights", Init::VarianceScaling(1.0)),
        (
            "resnet50",
            "bottleneck_2_block_group3_1_1/weights",
            Init::VarianceScaling(1.0),
        ),
        ("resnet50", "final_dense/weights", Init::Normal(0.01)),
        ("resnet50", "final_dense/biases", Init::Zeros),
        // The first block: projection, then three convolutions, the last with its scale initialised to zero.
        ("resnet50", "batch_normalization_1/gamma", Init::Ones),
        ("resnet50", "batch_normalization_3/gamma", Init::Ones),
        ("resnet50", "batch_normalization_4/gamma", Init::Zeros),
        ("resnet50", "batch_normalization_7/gamma", Init::Zeros),
        ("resnet18", "batch_normalization_3/gamma", Init::Zeros),
        ("resnet18", "batch_normalization_3/beta", Init::Zeros),
        ("mobilenet-v1", "depthwise_nxn_3/depthwise_weights", Init::GlorotUniform),
        ("mobilenet-v1", "contraction_1x1_3/weights", Init::VarianceScaling(1.0)),
        ("mobilenet-v1", "final_dense/weights", Init::VarianceScaling(1.0)),
        ("mobilenet-v2", "expand_1x1_3/weights", Init::VarianceScaling(1.0)),
        ("wrn-22-2", "conv_2_0_1/weights", Init::GlorotUniform),
        ("wrn-22-2", "logits/weights", Init::GlorotUniform),
        ("vgg-16", "conv3/conv3_2/weights", Init::VarianceScaling(2.0)),
        ("vgg-16", "fc8/weights", Init::VarianceScaling(2.0)),
    ] {
        assert_eq!(init(name, variable), want, "{name} {variable}");
    }
}

/// Reference 3: the four naming forms, and the layers that have no masks in the original.
#[test]
fn unmasked_layers_have_other_names() {
    let kernels = |options: Options| -> Vec<String> {
        let layers = options.build().unwrap().layers();
        assert!(
            layers
                .iter()
                .all(|l| l.masked == l.kernel.starts_with(&format!("{}/w", l.name)))
        );
        [layers.first(), layers.last()]
            .map(|l| l.unwrap().kernel.clone())
            .to_vec()
    };
    let unmasked = |name: &str, mask_first| Options {
        mask_first,
        mask_last: Some(false),
        ..Options::new(name, true)
    };
    assert_eq!(
        kernels(unmasked("resnet50", Some(false))),
        [
            "resnet_model/initial_conv/initial_conv/weights",
            "resnet_model/final_dense/final_dense/weights"
        ]
    );
    assert_eq!(
        kernels(unmasked("mobilenet-v1", None)),
        ["resnet_model/initial_conv/kernel", "resnet_model/final_dense/kernel"]
    );
    assert_eq!(
        kernels(unmasked("vgg-16", None)),
        ["vgg_16/conv1/conv1_1/weights", "vgg_16/fc8/fc8/weights"]
    );
    assert_eq!(
        kernels(unmasked("wrn-22-2", Some(true))),
        ["resnet_model/conv_1/weights", "resnet_model/logits/logits/weights"]
    );
    assert_eq!(Naming::Plain.bias("layer1"), "layer1/bias");
    assert_eq!(Naming::Doubled.bias("a/b"), "a/b/b/biases");
}

/// The original's baseline: no masks where it has none; where its masks are ones, the names of the masked network.
#[test]
fn dense_baselines_have_the_names_of_the_original() {
    let dense = |name: &str| Options::new(name, false).build().unwrap().declaration();
    let names = |declaration: &Declaration| declaration.params.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    for name in ["resnet50", "mobilenet-v1", "mobilenet-v2", "vgg-16"] {
        assert_eq!(names(&dense(name)), names(&declared(name, None)), "{name}");
    }
    let wide = dense("wrn-22-2");
    let kernels = wide.layers.iter().map(|l| (&l.name, &l.kernel));
    for (scope, kernel) in kernels {
        let own = scope.rsplit('/').next().unwrap();
        assert_eq!(*kernel, format!("{scope}/{own}/weights"));
    }
    assert_eq!(names(&wide).last().unwrap(), "resnet_model/logits/logits/biases");
    assert_eq!(names(&dense("mnist-fc"))[..2], ["layer1/kernel", "layer1/bias"]);
    for name in models::names() {
        assert!(dense(name).params.iter().all(|p| p.mask.is_none()), "{name}");
    }
}

#[test]
fn vgg_is_named_by_its_variant() {
    let a = declared("vgg_a", None);
    let names: Vec<_> = a.params.iter().map(|p| (p.name.as_str(), p.dims.as_slice())).collect();
    assert_eq!(
        names[..3],
        [
            ("vgg_a/conv1/conv1_1/weights", &[3, 3, 3, 64][..]),
            ("vgg_a/conv2/conv2_1/weights", &[3, 3, 64, 128]),
            ("vgg_a/conv3/conv3_1/weights", &[3, 3, 128, 256]),
        ]
    );
    assert_eq!(names[8..], [("vgg_a/fc8/weights", &[1, 1, 512, 1000][..])]);
    let layers = |name| declared(name, None).layers.len();
    assert_eq!(["vgg-a", "vgg-16", "vgg-19"].map(layers), [9, 14, 17]);
}

#[test]
fn no_two_arrays_share_a_name() {
    for name in models::names() {
        let declared = declared(name, None);
        let params = declared
            .params
            .iter()
            .flat_map(|p| [Some(&p.name), p.mask.as_ref()])
            .flatten();
        let mut names: Vec<_> = params.chain(declared.statistics.iter().map(|s| &s.name)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{name}");
    }
}
