//! Networks are inferred from their variables.
#![allow(clippy::unwrap_used)]

use models::{Declaration, Options, infer_model};

/// Variables of a checkpoint of the network: those of evaluation, and some that evaluation does not use.
fn variables(declaration: &Declaration) -> Vec<(String, Vec<usize>)> {
    let params = declaration.params.iter().map(|p| (p.name.clone(), p.dims.clone()));
    let masks = declaration
        .params
        .iter()
        .filter_map(|p| Some((p.mask.clone()?, p.dims.clone())));
    let statistics = declaration.statistics.iter().map(|s| (s.name.clone(), s.dims.clone()));
    let others = [("global_step".to_string(), vec![])];
    params.chain(masks).chain(statistics).chain(others).collect()
}

fn infer(variables: &[(String, Vec<usize>)]) -> Option<Options> {
    infer_model(variables.iter().map(|(name, dims)| (name.as_str(), &dims[..])))
}

/// The inferred network has the same variables as the one that was built.
fn assert_inferred(options: &Options) {
    let declaration = options.build().unwrap().declaration();
    let found = infer(&variables(&declaration)).unwrap_or_else(|| panic!("{options:?}"));
    let again = found.build().unwrap();
    assert_eq!(again.declaration().params, declaration.params, "{options:?} {found:?}");
    assert_eq!(again.declaration().statistics, declaration.statistics, "{options:?}");
}

#[test]
fn infers_every_network_in_every_layout() {
    let small = |name: &str| Options {
        image_size: (!name.starts_with("wrn")).then_some(16),
        ..Options::new(name, true)
    };
    for name in [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "wrn-10-1",
        "wrn-22-2",
        "wrn-16-4",
        "vgg-a",
        "vgg-16",
        "vgg-19",
        "mobilenet-v1",
        "mobilenet-v2",
    ] {
        assert_inferred(&small(name));
        assert_inferred(&Options {
            masked: false,
            ..small(name)
        });
        assert_inferred(&Options {
            mask_last: Some(false),
            classes: Some(7),
            ..small(name)
        });
        if name.starts_with("resnet") || name.starts_with("wrn") {
            assert_inferred(&Options {
                mask_first: Some(true),
                ..small(name)
            });
        }
    }
}

/// The published widths, and some between them.
#[test]
fn infers_every_width() {
    for width in [0.0625, 0.204, 0.231, 0.26, 0.353, 0.47, 0.5, 0.707, 1.98, 2.8] {
        for name in ["resnet18", "vgg-a", "wide-resnet", "mobilenet-v1", "mobilenet-v2"] {
            assert_inferred(&Options {
                width: Some(width),
                depth: (name == "wide-resnet").then_some(10),
                image_size: Some(16),
                ..Options::new(name, true)
            });
        }
    }
}

#[test]
fn infers_every_expansion() {
    for expansion in [0.7, 1.0, 3.3, 6.0, 7.9] {
        assert_inferred(&Options {
            expansion: Some(expansion),
            width: Some(0.3),
            image_size: Some(16),
            ..Options::new("mobilenet-v2", true)
        });
    }
}

#[test]
fn other_variables_match_no_network() {
    assert_eq!(infer(&[]), None);
    for name in ["mnist-fc", "resnet50"] {
        let declaration = Options::new(name, true).build().unwrap().declaration();
        let mut variables = variables(&declaration);
        // The last group and the classifier of a residual network determine it.
        variables.retain(|(name, _)| !name.contains("final_dense"));
        assert_eq!(infer(&variables), None, "{name}");
    }
}

/// One misshapen variable does not prevent inference, so that the message can name the variable.
#[test]
fn misshapen_variables_do_not_prevent_inference() {
    let declaration = Options::new("mobilenet-v1", true).build().unwrap().declaration();
    let mut variables = variables(&declaration);
    variables[3].1 = vec![5];
    let found = infer(&variables).unwrap();
    assert_eq!((found.name.as_str(), found.width), ("mobilenet-v1", Some(1.0)));
}
