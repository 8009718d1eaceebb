//! Networks by name and options.
#![allow(clippy::unwrap_used)]

use hlo::{DType, Graph, Shape};
use models::{Error, INPUT_INDICES, Mode, Model, Net, Options, find, names};

fn build(name: &str, change: impl FnOnce(&mut Options)) -> Result<Box<dyn Model>, Error> {
    let mut options = Options::new(name, true);
    change(&mut options);
    options.build()
}

#[test]
fn accepts_spelling_variants_of_names() {
    for name in names() {
        let canonical = find(name, true).unwrap().name().to_owned();
        assert!(canonical == name || name == "wide-resnet", "{name} {canonical}");
    }
    for (spelling, name) in [
        ("ResNet_50", "resnet50"),
        ("resnet", "resnet50"),
        ("mobilenet_v1", "mobilenet-v1"),
        ("mobilenetv2", "mobilenet-v2"),
        ("wide_resnet", "wrn-16-4"),
        ("wrn_28_10", "wrn-28-10"),
        ("vgg16", "vgg-16"),
        ("mnist_fc", "mnist-fc"),
    ] {
        assert_eq!(find(spelling, false).unwrap().name(), name, "{spelling}");
    }
    for unknown in ["resnet51", "wrn-22", "wrn-22-x", "vgg-11", "lenet", "", "resnet-50-2"] {
        let error = build(unknown, |_| ()).err();
        assert_eq!(error, Some(Error::Unknown { found: unknown.into() }));
    }
}

/// The error for an unsupported option has the found and the expected value.
#[test]
fn reports_wrong_options() {
    type Change = fn(&mut Options);
    let cases: [(&str, Change, &str); 15] = [
        (
            "resnet",
            |o| o.depth = Some(20),
            "depth of resnet is 20, expected one of 18, 34, 50, 101, 152, 200",
        ),
        (
            "resnet50",
            |o| o.depth = Some(18),
            "depth of resnet50 is 18, expected 50, as the name says",
        ),
        (
            "resnet50",
            |o| o.width = Some(0.01),
            "width of resnet50 is 0.01, expected from 0.0625 to 64",
        ),
        (
            "resnet50",
            |o| o.width = Some(f64::NAN),
            "width of resnet50 is NaN, expected from 0.0625 to 64",
        ),
        (
            "resnet50",
            |o| o.classes = Some(0),
            "classes of resnet50 is 0, expected from 1 to 65536",
        ),
        (
            "resnet50",
            |o| o.hidden = Some(vec![3]),
            "hidden of resnet50 is [3], expected nothing: the network has no such option",
        ),
        (
            "wide-resnet",
            |o| o.depth = Some(23),
            "depth of wide-resnet is 23, expected 6 n + 4 layers, such as 16, 22 or 28",
        ),
        (
            "wide-resnet",
            |o| o.depth = Some(4),
            "depth of wide-resnet is 4, expected from 10 to 1000",
        ),
        (
            "wrn-22-2",
            |o| o.width = Some(4.0),
            "width of wrn-22-2 is 4, expected 2, as the name says",
        ),
        (
            "wrn-22-2",
            |o| o.dropout = Some(1.0),
            "dropout of wrn-22-2 is 1, expected from 0 to 0.99",
        ),
        (
            "mobilenet-v1",
            |o| o.mask_first = Some(true),
            "mask_first of mobilenet-v1 is true, expected false: its first layer has no mask",
        ),
        (
            "mobilenet-v1",
            |o| o.expansion = Some(6.0),
            "expansion of mobilenet-v1 is 6, expected nothing: the network has no such option",
        ),
        (
            "vgg-16",
            |o| o.mask_first = Some(false),
            "mask_first of vgg-16 is false, expected true: its first layer always has a mask",
        ),
        (
            "vgg-16",
            |o| o.image_size = Some(15),
            "image_size of vgg-16 is 15, expected from 16 to 65536",
        ),
        (
            "mnist-fc",
            |o| o.hidden = Some(vec![300, 0]),
            "hidden of mnist-fc is 0, expected units from 1 to 65536",
        ),
    ];
    for (name, change, message) in cases {
        let error = build(name, change).err().unwrap();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn depth_and_width_come_from_options_or_the_name() {
    let apart = build("wide-resnet", |o| {
        o.depth = Some(22);
        o.width = Some(2.0);
    });
    assert_eq!(
        apart.unwrap().declaration(),
        find("wrn-22-2", true).unwrap().declaration()
    );
    let deep = build("resnet", |o| o.depth = Some(101)).unwrap();
    assert_eq!((deep.name(), deep.layers().len()), ("resnet101", 105));
}

/// Reference 3.1 to 3.3: channel counts are truncated, or rounded to multiples of 8.
#[test]
fn width_scales_channels_as_the_original_does() {
    let dims = |name: &str, width: f64| -> Vec<Vec<usize>> {
        let network = build(name, |o| o.width = Some(width)).unwrap();
        network.layers().into_iter().map(|l| l.dims).collect()
    };
    let resnet = dims("resnet50", 0.34);
    assert_eq!(resnet[0], [7, 7, 3, 21]);
    assert_eq!(resnet[1], [1, 1, 21, 84]);
    assert_eq!(resnet.last().unwrap(), &[4 * 174, 1000]);
    let mobile = dims("mobilenet-v1", 0.47);
    assert_eq!(mobile[0], [3, 3, 3, 16]);
    assert_eq!(mobile[2], [1, 1, 16, 30], "the first block is not rounded");
    assert_eq!(mobile[4], [1, 1, 30, 64], "60 to the nearest multiple of 8");
    let expanded = build("mobilenet-v2", |o| o.expansion = Some(4.0)).unwrap().layers();
    assert_eq!(expanded[3].dims, [1, 1, 16, 64]);
    assert_eq!(dims("mobilenet-v2", 0.5).last().unwrap(), &[1280, 1000]);
    assert_eq!(dims("mobilenet-v2", 2.0).last().unwrap(), &[2560, 1000]);
}

/// The graphs of the smallest and narrowest networks have no error.
#[test]
fn every_network_builds_at_its_limits() {
    for name in names() {
        for smallest in [false, true] {
            let network = build(name, |o| {
                if smallest && name != "mnist-fc" {
                    o.image_size = Some(if name.starts_with("vgg") { 16 } else { 1 });
                    o.width = (name != "wrn-22-2").then_some(1.0 / 16.0);
                }
                o.classes = Some(1);
            });
            let network = network.unwrap();
            let g = Graph::new(name);
            let declared = network.declaration();
            let arrays: Vec<_> = declared
                .params
                .iter()
                .map(|p| (p.name.clone(), p.dims.clone()))
                .collect();
            let statistics = declared.statistics.iter().map(|s| (s.name.clone(), s.dims.clone()));
            let arrays = arrays.into_iter().chain(statistics).map(|(name, dims)| {
                let array = g.parameter(name.clone(), Shape::new(DType::F32, dims));
                (name, array)
            });
            let net = Net::new(&g, Mode::Eval, arrays.collect::<Vec<_>>());
            let images = Shape::new(DType::F32, [vec![2], network.input_dims()].concat());
            let logits = network.apply(&net, g.parameter("images", images));
            assert_eq!(logits.dims(), [2, 1], "{name}");
            let output = logits.output();
            g.build(&[output]).unwrap();
        }
    }
}

#[test]
fn a_compacted_network_gathers_its_input() {
    let network = build("mnist-fc", |o| {
        o.kept_pixels = Some(3);
        o.hidden = Some(vec![4]);
        o.classes = Some(2);
    });
    let declared = network.unwrap().declaration();
    assert_eq!(
        declared.fixed,
        [(INPUT_INDICES.to_string(), Shape::new(DType::S32, [3]))]
    );
    let dims: Vec<_> = declared.params.into_iter().map(|p| p.dims).collect();
    assert_eq!(dims, [vec![3, 4], vec![4], vec![4, 2], vec![2]]);
}
