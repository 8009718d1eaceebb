//! Sparse checkpoints of other programs, and damaged or hostile ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::error;
use common::runs::{Runs, ones};
use hlo::{DType, Literal, Shape};
use rigl_xla::checkpoint::load;
use rigl_xla::checkpoint::sparse::{self, Arrays, Format};
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A good file of one layer of 3 x 3 weights with 4 connections, and a folded normalisation.
fn good() -> (Arrays, Value) {
    let arrays = [
        ("s/mask.bits", Literal::new(&[2], &[0b1001_0101u8, 0])),
        ("s/weights.values", Literal::new(&[4], &[1f32, 2.0, 3.0, 4.0])),
        ("n/beta", Literal::new(&[2], &[5f32, 6.0])),
    ];
    let layout = json!({
        "format": "bitmask", "version": 1, "layers": {"s": {"shape": [3, 3], "connections": 4}}, "folded": ["n"],
    });
    (arrays.map(|(name, array)| (name.to_owned(), array)).into(), layout)
}

/// Writes a file with this layout by another program's library.
fn write(path: &Path, arrays: &Arrays, layout: &Value) {
    let dtype = |dtype| match dtype {
        DType::F32 => safetensors::Dtype::F32,
        DType::U8 => safetensors::Dtype::U8,
        DType::Pred => safetensors::Dtype::BOOL,
        other => panic!("{other}"),
    };
    let view = |(name, array): (&String, &'_ Literal)| {
        let (dtype, dims) = (dtype(array.dtype()), array.dims().to_vec());
        (name.clone(), (dtype, dims, array.bytes().to_vec()))
    };
    let owned: Vec<_> = arrays.iter().map(view).collect();
    let views = owned.iter().map(|(name, (dtype, dims, bytes))| {
        (
            name.clone(),
            safetensors::tensor::TensorView::new(*dtype, dims.clone(), bytes).unwrap(),
        )
    });
    let ours = json!({ "format": 1, "sparse": layout }).to_string();
    let metadata = [("rigl-xla".to_owned(), ours)].into();
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

#[test]
fn reads_files_of_other_programs() {
    let runs = Runs::new();
    let path = runs.path("a.safetensors");
    let (arrays, layout) = good();
    write(&path, &arrays, &layout);
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.metadata, None);
    let f32s = |name: &str| loaded.tensors[name].to_vec::<f32>().unwrap();
    assert_eq!(f32s("s/weights"), [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 4.0, 0.0]);
    assert_eq!(loaded.tensors["s/weights"].dims(), [3, 3]);
    let ones: Vec<usize> = ones(&loaded.tensors["s/mask"]);
    assert_eq!(ones, [0, 2, 4, 7]);
    assert_eq!(
        (f32s("n/gamma"), f32s("n/moving_mean"), f32s("n/moving_variance")),
        (vec![1.0; 2], vec![0.0; 2], vec![0.99999; 2])
    );
    assert_eq!(loaded.tensors.len(), 6);
}

#[test]
fn rejects_layouts_and_arrays_that_disagree() {
    let runs = Runs::new();
    let path = runs.path("a.safetensors");
    type Change = fn(&mut Arrays, &mut Value);
    let cases: &[(Change, &str)] = &[
        (
            |_, l| l["version"] = 2.into(),
            "stores masked layers as 'bitmask' of version 2, expected bitmask of version at most 1",
        ),
        (|_, l| l["format"] = "zip".into(), "stores masked layers as 'zip'"),
        (|_, l| l["layers"] = 3.into(), "its metadata: invalid type"),
        (
            |_, l| l["layers"]["s"]["connections"] = 5.into(),
            "'s/mask.bits' has 4 bits set, expected one for each of the 5 connections",
        ),
        (
            |_, l| l["layers"]["s"]["connections"] = 10.into(),
            "10 connections, expected at most 9, the weights of [3, 3]",
        ),
        (
            |_, l| l["layers"]["s"]["connections"] = 9.into(),
            "'s/weights' is missing",
        ),
        (
            |_, l| l["layers"]["s"]["connections"] = (-1).into(),
            "its metadata: invalid value",
        ),
        (
            |_, l| l["layers"]["s"]["shape"] = json!([1u64 << 33, 1u64 << 33]),
            "shape [8589934592, 8589934592] overflows",
        ),
        (|_, l| l["layers"]["s"]["shape"] = json!([u64::MAX, 0, 2]), "overflows"),
        (
            |_, l| l["layers"]["s"]["shape"] = json!([1u64 << 40]),
            "'s/mask.bits' is u8[2], expected u8[137438953472]",
        ),
        (
            |_, l| l["layers"]["s"]["shape"] = json!([3, 2]),
            "'s/mask.bits' is u8[2], expected u8[1]",
        ),
        (
            |_, l| l["layers"]["s"]["shape"] = json!([7, 0]),
            "4 connections, expected at most 0",
        ),
        (
            |_, l| l["layers"]["t"] = l["layers"]["s"].clone(),
            "'t/mask.bits' is missing, expected u8[2]",
        ),
        (
            |_, l| l["folded"] = json!(["n", "n"]),
            "'n/gamma' is stored both complete and sparse",
        ),
        (
            |_, l| l["folded"] = json!(["m"]),
            "'m/beta' is missing, expected that of a folded normalisation",
        ),
        (
            |a, _| drop(a.insert("s/mask.bits".into(), Literal::new(&[2], &[0b1001_0101u8, 2]))),
            "has bit 9 set, expected 0 after the 9 bits",
        ),
        (
            |a, _| drop(a.insert("s/mask.bits".into(), Literal::new(&[2], &[0b1001_0100u8, 0]))),
            "has 3 bits set",
        ),
        (
            |a, _| drop(a.insert("s/mask.bits".into(), Literal::new(&[2], &[0f32; 2]))),
            "'s/mask.bits' is f32[2], expected u8[2]",
        ),
        (|a, _| drop(a.remove("s/mask.bits")), "'s/mask.bits' is missing"),
        (
            |a, _| drop(a.remove("s/weights.values")),
            "'s/weights.values' is missing",
        ),
        (
            |a, _| drop(a.insert("s/weights.values".into(), Literal::new(&[3], &[0f32; 3]))),
            "'s/weights.values' is f32[3], expected an array of [4]",
        ),
        (
            |a, _| drop(a.insert("s/mask".into(), Literal::new(&[1], &[0u8]))),
            "'s/mask' is stored both complete and sparse",
        ),
        (
            |a, _| drop(a.insert("s/weights".into(), Literal::new(&[1], &[0f32]))),
            "'s/weights' is stored both complete and sparse",
        ),
        (
            |a, _| drop(a.insert("n/beta".into(), Literal::new(&[1, 2], &[0f32; 2]))),
            "'n/beta' is f32[1,2], expected f32 of one dimension",
        ),
    ];
    for (change, expected) in cases {
        let (mut arrays, mut layout) = good();
        change(&mut arrays, &mut layout);
        write(&path, &arrays, &layout);
        let message = load(&path).unwrap_err().to_string();
        assert!(
            message.starts_with(text(&path)) && message.contains(expected),
            "{message}\nexpected {expected}"
        );
        assert!(error(&["eval", "--checkpoint", text(&path), "--data", "synthetic"], 1).contains(expected));
    }
}

#[test]
fn damaged_bytes_do_not_panic() {
    let runs = Runs::new();
    let path = runs.path("a.safetensors");
    let (arrays, layout) = good();
    write(&path, &arrays, &layout);
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for at in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        refused += usize::from(load(&path).is_err());
    }
    // Numbers in arrays and names carry no redundancy.
    assert!(refused > 8 * whole.len() / 2, "{refused} of {}", 8 * whole.len());
}

#[test]
fn rejects_invalid_masks_and_taken_names() {
    let runs = Runs::new();
    let path = runs.path("a.safetensors");
    let arrays = |mask: Literal, other: &str| -> Arrays {
        [
            ("s/weights".to_owned(), Literal::new(&[2], &[1f32, 2.0])),
            ("s/mask".to_owned(), mask),
            (other.to_owned(), Literal::zeros(Shape::new(DType::F32, [1]))),
        ]
        .into()
    };
    let refused = |arrays, expected: &str| {
        let message = sparse::save(&path, arrays, None, Format::Bitmask)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!path.exists());
    };
    refused(
        arrays(Literal::new(&[2], &[1f32, 0.5]), "x"),
        "mask 's/mask' holds 0.5 at index 1, expected 0 or 1",
    );
    let mask = Literal::from_bools(&[2], &[true, false]);
    refused(arrays(mask.clone(), "s/mask.bits"), "the name 's/mask.bits' is taken");
    // A mask must have the shape of its layer.
    let other = Literal::from_bools(&[3], &[true; 3]);
    let written = sparse::save(&path, arrays(other, "x"), None, Format::Bitmask).unwrap();
    assert_eq!((written.layers, written.arrays), (0, 3));
}
