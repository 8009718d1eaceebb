//! Files of other kinds, and of other types and names, that are given as checkpoints: each message names the kind of file, the
//! expected kind and a remedy; arrays that are not needed may have any type.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::runs::{Runs, small_mnist};
use common::{error, failed, json, rigl_xla};
use serde_json::{Value, json as value};

/// Name, type as safetensors names it, dimensions and data of an array.
type Array = (String, String, Vec<usize>, Vec<u8>);

/// A safetensors file.
fn file(arrays: &[Array], metadata: Option<Value>) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), vec![]);
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata);
    }
    for (name, dtype, dims, bytes) in arrays {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            name.clone(),
            value!({"dtype": dtype, "shape": dims, "data_offsets": offsets}),
        );
        data.extend_from_slice(bytes);
    }
    with_header(Value::from(header).to_string().as_bytes(), &data)
}

fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// A network of 784, 4 and 10 units without masks, its floating-point numbers in another type.
fn network(dtype: &str, of: impl Fn(f32) -> Vec<u8>) -> Vec<Array> {
    let array = |name: &str, dims: &[usize]| {
        let n: usize = dims.iter().product();
        let data = (0..n).flat_map(|i| of((i % 7) as f32 / 8.0 - 0.25)).collect();
        (name.to_owned(), dtype.to_owned(), dims.to_vec(), data)
    };
    vec![
        array("layer1/kernel", &[784, 4]),
        array("layer1/bias", &[4]),
        array("layer2/kernel", &[4, 10]),
        array("layer2/bias", &[10]),
    ]
}

fn plain() -> Vec<Array> {
    network("F32", |value| value.to_le_bytes().to_vec())
}

/// Every command that takes a checkpoint, with one.
fn commands(checkpoint: &str, out: &str) -> Vec<Vec<String>> {
    let run = format!("{out}-run");
    let commands = [
        ["eval", "--data", "mnist", "--checkpoint", checkpoint].to_vec(),
        [
            "predict",
            "--input",
            checkpoint,
            "--output",
            out,
            "--checkpoint",
            checkpoint,
        ]
        .to_vec(),
        ["compact", "--output", out, "--checkpoint", checkpoint].to_vec(),
        ["convert", "--to-tf", checkpoint, out].to_vec(),
        ["train", "--out", &run, "--init", checkpoint].to_vec(),
    ];
    let owned = |command: Vec<&str>| command.into_iter().map(str::to_owned).collect();
    commands.into_iter().map(owned).collect()
}

#[test]
fn names_files_of_other_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let [path, out] = ["model.safetensors", "out"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    for (bytes, found, advice) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"[..],
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (
            b"{\"metadata\":{},\"weight_map\":{\"w\":\"a.safetensors\"}}",
            "the index of a checkpoint in several safetensors files",
            "join them",
        ),
        (b"{\"some\": 1}", "a JSON file", "give the checkpoint itself"),
        (
            b"PK\x03\x04\0\0\0\0\0\0\0\0",
            "a zip archive, as PyTorch saves .pth",
            "save_file",
        ),
        (b"\x80\x02}q\0.", "a Python pickle", "save_file"),
        (b"\n <!DOCTYPE html><html>404</html>", "a web page", "download"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0", "compressed by gzip", "unpack"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture", "the checkpoint itself"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "convert"),
    ] {
        fs::write(&path, bytes).unwrap();
        for command in commands(&path, &out) {
            let message = failed(&command.iter().map(String::as_str).collect::<Vec<_>>(), 1);
            let shape = format!("{path}: {found}");
            assert!(
                message.contains(&shape)
                    && message.contains("expected a checkpoint in safetensors form: ")
                    && message.contains(advice),
                "{command:?}: {message}"
            );
        }
        fs::copy(&path, dir.path().join("bundle.index")).unwrap();
        let bundle = dir.path().join("bundle");
        let message = error(&["convert", bundle.to_str().unwrap(), &out], 1);
        assert!(
            message.contains(found) && message.contains("expected the index of a TensorFlow checkpoint"),
            "{message}"
        );
    }
}

/// The prefix, a file and the folder of a TensorFlow checkpoint, where safetensors are expected, and the other way round.
#[test]
fn names_checkpoints_in_the_other_format() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").to_str().unwrap().to_owned();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1/mnist");
    for name in [
        "model.ckpt-32000",
        "model.ckpt-32000.index",
        "model.ckpt-32000.data-00000-of-00001",
        "",
    ] {
        let given = fixture.join(name);
        for command in commands(given.to_str().unwrap(), &out) {
            let message = failed(&command.iter().map(String::as_str).collect::<Vec<_>>(), 1);
            assert!(
                message.contains("TensorFlow checkpoint")
                    && message.contains("rigl-xla convert PREFIX OUT.safetensors"),
                "{command:?}: {message}"
            );
        }
    }
}

#[test]
fn unused_arrays_may_have_any_type_and_metadata_any_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let text = path.to_str().unwrap();
    let eval = || json(&["eval", "--checkpoint", text, "--data", small_mnist()]);
    fs::write(&path, file(&plain(), None)).unwrap();
    let loss = eval()["loss"].clone();
    for (dtype, dims, data) in [
        ("U16", vec![2], vec![0; 4]),
        ("F8_E5M2", vec![2], vec![0; 2]),
        ("F4", vec![2], vec![0]),
        ("C64", vec![1], vec![0; 8]),
        ("Q7_LATER", vec![3], vec![0; 5]),
    ] {
        let extra = ("an/extra".to_owned(), dtype.to_owned(), dims, data);
        // Before and after those that are needed.
        for arrays in [[vec![extra.clone()], plain()].concat(), [plain(), vec![extra]].concat()] {
            fs::write(&path, file(&arrays, None)).unwrap();
            assert_eq!(eval()["loss"], loss, "{dtype}");
        }
    }
    for metadata in [value!(null), value!({"epoch": 3, "note": null, "c": {"a": [1]}})] {
        fs::write(&path, file(&plain(), Some(metadata))).unwrap();
        assert_eq!(eval()["loss"], loss);
    }
    let mut needed = plain();
    needed[0] = ("layer1/kernel".into(), "F8_E4M3".into(), vec![784, 4], vec![0; 784 * 4]);
    fs::write(&path, file(&needed, None)).unwrap();
    let message = error(&["eval", "--checkpoint", text, "--data", small_mnist()], 1);
    assert!(
        message.contains("'layer1/kernel' is F8_E4M3[784,4], a type that this program does not read"),
        "{message}"
    );
}

#[test]
fn floating_point_numbers_of_other_types_are_converted_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let text = path.to_str().unwrap();
    let eval = || {
        let output = rigl_xla(&["eval", "--json", "--checkpoint", text, "--data", small_mnist()]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["loss"].clone(), message)
    };
    fs::write(&path, file(&plain(), None)).unwrap();
    let (loss, message) = eval();
    assert!(!message.contains("converted"), "{message}");
    // Values that each of these types has.
    let f16 = network("F16", |value| half::f16::from_f32(value).to_le_bytes().to_vec());
    let bf16 = network("BF16", |value| half::bf16::from_f32(value).to_le_bytes().to_vec());
    let f64 = network("F64", |value| f64::from(value).to_le_bytes().to_vec());
    for (arrays, name) in [(f16, "f16"), (bf16, "bf16"), (f64, "f64")] {
        fs::write(&path, file(&arrays, None)).unwrap();
        let (found, message) = eval();
        assert_eq!(found, loss, "{name}");
        assert!(
            message.contains(&format!("c.safetensors: {name} converted to f32")),
            "{message}"
        );
    }
}

#[test]
fn names_the_array_of_a_damaged_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let entry = |name: &str, shape: &str, from: usize, to: usize| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let header = |entries: &[String]| format!("{{{}}}", entries.join(","));
    let many = format!("[{}]", vec!["1"; 40].join(","));
    for (header, expected) in [
        (
            header(&[entry("a", "[1]", 64, 68)]),
            "tensor 'a' takes bytes 64 to 68 of the data, expected to begin at 0",
        ),
        (
            header(&[entry("a", "[2]", 0, 8), entry("b", "[1]", 4, 8)]),
            "tensor 'b' takes bytes 4 to 8 of the data, expected to begin at 8",
        ),
        (
            header(&[entry("a", "[2]", 0, 4)]),
            "tensor 'a' is F32[2], which takes 8 bytes, and has 4",
        ),
        (
            header(&[entry("a", "[1]", 0, 4), entry("a", "[1]", 0, 4)]),
            "tensor 'a' is listed twice",
        ),
        (header(&[entry("a", "[-1]", 0, 4)]), "invalid value: integer `-1`"),
        (header(&[entry("a", &many, 0, 4)]), "at most 32 dimensions"),
        ("\u{feff}{}".into(), "its header is not that of safetensors"),
        (
            "{}\0\0".into(),
            "its header is not that of safetensors: trailing characters",
        ),
    ] {
        fs::write(&path, with_header(header.as_bytes(), &[0; 8])).unwrap();
        let message = rigl_xla::checkpoint::load(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{header}: {message}");
    }
}

#[test]
fn reports_names_of_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let text = path.to_str().unwrap();
    let named = |names: &[&str]| {
        let array = |name: &&str| (name.to_string(), "F32".to_owned(), vec![1], vec![0; 4]);
        fs::write(&path, file(&names.iter().map(array).collect::<Vec<_>>(), None)).unwrap();
    };
    for (names, expected) in [
        (
            &[
                "conv1.weight",
                "bn1.weight",
                "layer1.0.conv1.weight",
                "fc.weight",
                "fc.bias",
            ][..],
            "names are torchvision's, of a ResNet ('bn1.weight', 'conv1.weight', 'fc.bias' and 2 more)",
        ),
        (
            &["features.0.0.weight", "classifier.1.weight"],
            "names are torchvision's, of a MobileNet",
        ),
        (
            &["model.layers.0.mlp.up_proj.weight"],
            "names are those of Hugging Face transformers",
        ),
        (&["linear.weight", "linear.bias"], "names are PyTorch's"),
        (
            &["a/\u{202e}b"],
            "holds 'a/\\u{202e}b', expected arrays under the original's names",
        ),
        (&[], "holds no arrays"),
    ] {
        named(names);
        for asked in [&[][..], &["--model", "resnet50"]] {
            let message = error(
                &[&["eval", "--checkpoint", text, "--data", small_mnist()], asked].concat(),
                1,
            );
            assert!(
                message.contains(expected) && message.contains("c.safetensors: "),
                "{message}"
            );
            assert!(!message.contains("mnist-fc"), "{message}");
        }
    }
}

#[test]
fn compare_continues_past_a_folder_without_a_checkpoint() {
    let runs = Runs::new();
    runs.train("good", &["--steps", "25"]);
    fs::create_dir(runs.path("empty")).unwrap();
    let [good, empty] = ["good", "empty"].map(|run| runs.path(run).to_str().unwrap().to_owned());
    let output = rigl_xla(&["eval", "--json", "--data", small_mnist(), "--compare", &empty, &good]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("/empty: no checkpoint there") && message.contains("left out"),
        "{message}"
    );
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    let message = error(&["eval", "--data", small_mnist(), "--compare", &empty], 1);
    assert!(message.contains("no checkpoint there"), "{message}");
}
