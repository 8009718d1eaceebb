//! `convert` with the real program: checkpoints that TensorFlow 1.15 wrote (`tests/data/tf1/make.py`) and our own.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::runs::{Runs, small_mnist};
use common::{error, json};
use hlo::Literal;
use rigl_xla::checkpoint::tf::{self, Array, Bundle, DataType, Slice, table::Layout};
use rigl_xla::checkpoint::{Metadata, load, save};
use safetensors::{Dtype, SafeTensors};
use serde_json::json as value;

/// Type, dimensions and data of each array.
type Arrays = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1").join(name);
    path.to_str().unwrap().to_owned()
}

/// The path of a file in a temporary folder.
fn within(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

fn arrays(path: &str) -> Arrays {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let array = |(name, view): (&str, safetensors::tensor::TensorView)| {
        let array = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), array)
    };
    file.iter().map(array).collect()
}

/// Little-endian values of a type that has these as numbers.
fn bytes_of(dtype: Dtype, values: &[u16]) -> Vec<u8> {
    let of = |&v: &u16| match dtype {
        Dtype::F32 => f32::from(v).to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(v).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f32(v.into()).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f32(v.into()).to_le_bytes().to_vec(),
        _ => u64::from(v).to_le_bytes()[..dtype.bitsize() / 8].to_vec(),
    };
    values.iter().flat_map(of).collect()
}

#[test]
fn every_type_of_two_shards() {
    let dir = tempfile::tempdir().unwrap();
    let out = within(&dir, "types.safetensors");
    let report = json(&["convert", &fixture("types/model.ckpt"), &out]);
    assert_eq!((&report["arrays"], &report["skipped"]), (&14.into(), &value!([])));
    let mut found = arrays(&out);
    assert_eq!(found.remove("empty").unwrap(), (Dtype::F32, vec![0, 4], vec![]));
    for (name, dtype) in [
        ("float32", Dtype::F32),
        ("float64", Dtype::F64),
        ("float16", Dtype::F16),
        ("bfloat16", Dtype::BF16),
        ("int8", Dtype::I8),
        ("int16", Dtype::I16),
        ("int32", Dtype::I32),
        ("int64", Dtype::I64),
        ("uint8", Dtype::U8),
        ("uint16", Dtype::U16),
        ("uint32", Dtype::U32),
        ("uint64", Dtype::U64),
        ("bool", Dtype::BOOL),
    ] {
        let values = if name == "bool" {
            [0, 1, 0, 1, 0, 1]
        } else {
            [0, 1, 2, 3, 4, 5]
        };
        assert_eq!(
            found.remove(name).unwrap(),
            (dtype, vec![2, 3], bytes_of(dtype, &values)),
            "{name}"
        );
    }
    assert!(found.is_empty());
}

#[test]
fn partitioned_variables_become_whole() {
    let dir = tempfile::tempdir().unwrap();
    let out = within(&dir, "out.safetensors");
    let report = json(&["convert", &fixture("sharded/model.ckpt"), &out, "--list"]);
    assert_eq!(report["skipped"], value!(["string"]));
    let slices = report["variables"].as_array().unwrap();
    let slices: Vec<_> = slices.iter().map(|v| v["slices"].as_u64().unwrap()).collect();
    assert_eq!(slices, [3, 3, 1, 1, 1, 1, 1]);
    let mut found = arrays(&out);
    let matrix: Vec<u16> = (0..30).collect();
    for name in ["rows", "columns"] {
        assert_eq!(
            found.remove(name).unwrap(),
            (Dtype::F32, vec![5, 6], bytes_of(Dtype::F32, &matrix))
        );
    }
    for i in 0..4 {
        let values: Vec<u16> = (i..i + 6).collect();
        assert_eq!(
            found.remove(&format!("variable{i}")).unwrap().2,
            bytes_of(Dtype::F32, &values)
        );
    }
    assert!(found.is_empty());

    json(&["convert", "--overwrite", &fixture("grid/model.ckpt.index"), &out]);
    let mut found = arrays(&out);
    assert_eq!(found.remove("grid").unwrap().2, bytes_of(Dtype::I32, &matrix));
    let vector: Vec<u16> = (0..300).collect();
    assert_eq!(
        found.remove("vector").unwrap(),
        (Dtype::I16, vec![300], bytes_of(Dtype::I16, &vector))
    );
    assert_eq!(
        found.remove("whole").unwrap(),
        (Dtype::F32, vec![], 1.5f32.to_le_bytes().to_vec())
    );
    assert!(found.is_empty());
}

#[test]
fn a_masked_network_of_the_original_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, stripped, input, output] =
        ["whole", "stripped", "input", "output"].map(|name| within(&dir, &format!("{name}.safetensors")));
    // By folder, prefix and file; the same bytes each time.
    json(&["convert", &fixture("mnist"), &whole]);
    let bytes = fs::read(&whole).unwrap();
    for name in ["", ".index", ".data-00000-of-00001"] {
        let prefix = fixture(&format!("mnist/model.ckpt-32000{name}"));
        json(&["convert", "--overwrite", &prefix, &whole]);
        assert_eq!(fs::read(&whole).unwrap(), bytes);
    }
    let report = json(&["convert", &fixture("mnist"), &stripped, "--strip-training"]);
    let layer =
        |suffixes: [&'static str; 3]| (1..4).flat_map(move |i| suffixes.map(|suffix| format!("layer{i}/{suffix}")));
    let mut left_out: Vec<_> = layer(["biases/Momentum", "threshold", "weights/Momentum"]).collect();
    left_out.splice(0..0, ["global_step".into(), "last_mask_update_step".into()]);
    assert_eq!(report["stripped"], value!(left_out));
    let kept: Vec<_> = layer(["biases", "mask", "weights"]).collect();
    assert_eq!(arrays(&stripped).into_keys().collect::<Vec<_>>(), kept);
    assert_eq!(arrays(&whole).len(), kept.len() + left_out.len());
    assert_eq!(arrays(&whole)["global_step"].2, 32000i64.to_le_bytes());

    let eval = |path: &str| json(&["eval", "--checkpoint", path, "--data", small_mnist()]);
    let report = eval(&whole);
    assert_eq!(report["top1"], eval(&stripped)["top1"]);
    assert_eq!(
        (&report["model"], &report["nonzeros"]),
        (&"mnist-fc".into(), &(784 + 3 + 7).into())
    );
    // As the original's eval_once reports them; the L2 term is of all raw weights, dropped ones too.
    let once = &report["eval_once"];
    let wave = |n: i64| {
        (0..n)
            .map(|i| (((i * 37 % 101) - 50) as f64 / 64.0 * 0.25).powi(2))
            .sum::<f64>()
    };
    let l2 = 1e-4 / 2.0 * (wave(784 * 4) + wave(4 * 3) + wave(3 * 10));
    let figure = |name: &str| once[name].as_f64().unwrap();
    assert!((figure("reg_loss") - l2).abs() < 1e-12, "{once}, expected {l2}");
    // Reading JSON rounds the last bit.
    let sum = figure("cross_loss") + figure("reg_loss");
    assert!((figure("loss") - sum).abs() < 1e-15 + 1e-15 * sum, "{once}");
    for (name, ours) in [
        ("eval_accuracy", "top1"),
        ("top_5_eval_accuracy", "top5"),
        ("cross_loss", "loss"),
    ] {
        assert_eq!(once[name], report[ours]);
    }
    assert_eq!(
        (once["global_step"].as_i64(), figure("pruning/layer1/mask/sparsity")),
        (Some(32_000), 0.75)
    );
    assert_eq!(eval(&stripped)["eval_once"].get("global_step"), None);
    let doubled = [
        "eval",
        "--checkpoint",
        &whole,
        "--data",
        small_mnist(),
        "--weight-decay",
        "2e-4",
    ];
    let doubled = json(&doubled)["eval_once"]["reg_loss"].as_f64().unwrap();
    assert!((doubled - 2.0 * l2).abs() < 1e-12);
    let text = common::rigl_xla(&["eval", "--checkpoint", &whole, "--data", small_mnist()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("reg_loss                {l2:.7}\n")), "{text}");
    assert!(text.contains("global_step             32000\n"), "{text}");
    // TensorFlow's own logits of a pattern.
    let pixels: Vec<f32> = (0..784).map(|i| (i % 3) as f32 / 2.0).collect();
    let images = [("images".to_owned(), Literal::new(&[1, 784], &pixels))];
    save(input.as_ref(), &images.into(), &Metadata::new("", 0, "")).unwrap();
    json(&[
        "predict",
        "--checkpoint",
        &stripped,
        "--input",
        &input,
        "--output",
        &output,
    ]);
    let logits: Vec<f32> = load(output.as_ref()).unwrap().tensors["logits"].to_vec().unwrap();
    let want: Vec<f32> = serde_json::from_slice(&fs::read(fixture("mnist/logits.json")).unwrap()).unwrap();
    assert_eq!(want.len(), logits.len());
    for (found, want) in logits.iter().zip(&want) {
        assert!(
            (found - want).abs() <= 1e-5 * want.abs().max(1.0),
            "{logits:?}, expected {want:?}"
        );
    }
}

#[test]
fn our_checkpoint_survives_a_round_trip() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "25"]);
    let ours = runs.checkpoint_path("run", 25);
    let ours = ours.to_str().unwrap();
    let [prefix, back] = ["tf/model.ckpt-25", "back.safetensors"].map(|name| runs.path(name));
    let [prefix, back] = [&prefix, &back].map(|path| path.to_str().unwrap());
    fs::create_dir(runs.path("tf")).unwrap();
    for kept in [true, false] {
        let flags: &[&str] = if kept { &["--bool-masks"] } else { &[] };
        let report = json(&[&["convert", "--to-tf", "--overwrite", ours, prefix], flags].concat());
        // The folder's `checkpoint` file names it.
        json(&["convert", "--overwrite", runs.path("tf").to_str().unwrap(), back]);
        let (before, mut after) = (arrays(ours), arrays(back));
        let thresholds: Vec<_> = (1..4).map(|i| format!("layer{i}/threshold")).collect();
        assert_eq!(report["added"], value!(thresholds));
        for name in thresholds {
            assert_eq!(after.remove(&name).unwrap(), (Dtype::F32, vec![], vec![0; 4]));
        }
        assert_eq!(report["arrays"], before.len() + 3);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, (dtype, dims, data)) in before {
            let mask = !kept && name.ends_with("/mask");
            let want = if mask {
                data.iter().flat_map(|&m| f32::from(m).to_le_bytes()).collect()
            } else {
                data
            };
            assert_eq!(
                after[&name],
                (if mask { Dtype::F32 } else { dtype }, dims, want),
                "{name}"
            );
        }
        let eval = |path: &str| json(&["eval", "--checkpoint", path, "--data", small_mnist()]);
        assert_eq!(eval(back)["loss"], eval(ours)["loss"]);
    }
    let report = json(&["convert", "--to-tf", "--overwrite", "--strip-training", ours, prefix]);
    let stripped: Vec<String> = serde_json::from_value(report["stripped"].clone()).unwrap();
    assert!(stripped.iter().any(|name| name == "layer1/weights/Momentum"));
    assert_eq!(Bundle::open(prefix.as_ref()).unwrap().variables().len(), 9);
}

/// Every size of table and number of shards; slices that are no grid, and a variable whose slices lie in several shards.
#[test]
fn our_writer_and_reader_agree_in_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let slice = |extents: [Option<(usize, usize)>; 2]| Slice(extents.to_vec());
    let mut all: Vec<Array> = (0..200)
        .map(|i| Array {
            name: format!("layer{:03}/weights", i * 7 % 200),
            dtype: DataType(if i % 2 == 0 { 1 } else { 17 }),
            dims: vec![i % 5, 3],
            slices: vec![],
        })
        .collect();
    all.push(Array {
        name: "parts".into(),
        dtype: DataType(9),
        dims: vec![200, 70],
        slices: vec![
            slice([Some((0, 1)), None]),
            slice([Some((1, 199)), Some((30, 40))]),
            slice([Some((1, 199)), Some((0, 30))]),
        ],
    });
    let data = |i: usize, slice: Option<usize>| {
        let array = &all[i];
        let whole: Vec<u8> = (0..array.bytes()).map(|byte| (byte * 31 + i as u64) as u8).collect();
        let Some(slice) = slice else { return whole };
        let columns = [0..70, 30..70, 0..30][slice].clone();
        let rows = [0..1, 1..200, 1..200][slice].clone();
        rows.flat_map(|row| whole[8 * (70 * row + columns.start)..8 * (70 * row + columns.end)].to_vec())
            .collect()
    };
    for (shards, block_bytes, snappy) in [(1, 1 << 18, false), (2, 1000, true), (5, 1, false)] {
        let prefix: PathBuf = dir.path().join(format!("m-{shards}"));
        let layout = Layout { block_bytes, snappy };
        tf::write(&prefix, &all, shards, layout, |i, slice, out| {
            out.write_all(&data(i, slice))
        })
        .unwrap();
        assert_eq!(tf::resolve(&prefix).unwrap(), prefix);
        let bundle = Bundle::open(&prefix).unwrap();
        // Two pieces hold nearly everything: the shards that they fill have all the data.
        assert_eq!(bundle.files().len(), shards.min(2) + 1);
        assert_eq!(bundle.variables().len(), all.len());
        assert!(bundle.variables().is_sorted_by_key(|v| &v.name));
        for variable in bundle.variables() {
            let i = all.iter().position(|array| array.name == variable.name).unwrap();
            assert_eq!((variable.dtype, &variable.dims), (all[i].dtype, &all[i].dims));
            let mut copied = vec![];
            let copy = &mut |bytes: &[u8]| {
                copied.extend_from_slice(bytes);
                Ok(())
            };
            bundle.copy(variable, copy).unwrap();
            assert_eq!(copied, data(i, None), "{}", variable.name);
        }
    }
}

#[test]
fn names_variables_that_cannot_be_converted() {
    let dir = tempfile::tempdir().unwrap();
    let out = within(&dir, "out.safetensors");
    let message = error(&["convert", &fixture("complex"), &out], 1);
    assert!(
        message.contains("tensor 'fourier' is complex64, expected a real number"),
        "{message}"
    );
    assert!(!Path::new(&out).exists());
    let listed = json(&["convert", &fixture("complex"), "--list"]);
    assert_eq!(
        (&listed["variables"][0]["dtype"], &listed["output"]),
        (&"complex64".into(), &value!(null))
    );
    for name in ["v1", "v1/model.ckpt-5"] {
        let message = error(&["convert", &fixture(name), &out], 1);
        assert!(
            message.contains("model.ckpt-5: a checkpoint of version 1, expected version 2"),
            "{message}"
        );
    }
    let message = error(&["convert", &fixture("grid"), &out], 1);
    assert!(message.contains("no file 'checkpoint' there"), "{message}");
    let message = error(&["convert", &fixture("grid/model"), &out], 1);
    assert!(
        message.contains("no file ") && message.contains("grid/model.index"),
        "{message}"
    );

    let [float8, misnamed] = ["float8", "misnamed"].map(|name| within(&dir, &format!("{name}.safetensors")));
    let header = br#"{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
    fs::write(
        &float8,
        [&(header.len() as u64).to_le_bytes()[..], header, &[0, 0]].concat(),
    )
    .unwrap();
    let message = error(&["convert", "--to-tf", &float8, &out], 1);
    assert!(message.contains("tensor 'w' has type F8_E4M3"), "{message}");
    let empty = [(String::new(), Literal::scalar(1f32))];
    save(misnamed.as_ref(), &empty.into(), &Metadata::new("", 0, "")).unwrap();
    let message = error(&["convert", "--to-tf", &misnamed, &out], 1);
    assert!(message.contains("array '': name taken or reserved"), "{message}");
}

#[test]
fn converts_the_newest_checkpoint_of_a_run_and_names_missing_folders() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "25"]);
    let [run, prefix, nowhere] = ["run", "model.ckpt-25", "gone/model.ckpt-25"].map(|name| runs.path(name));
    let [run, prefix, nowhere] = [&run, &prefix, &nowhere].map(|path| path.to_str().unwrap());
    let report = json(&["convert", run, "--to-tf", prefix]);
    assert!(report["input"].as_str().unwrap().ends_with("run/ckpt-25.safetensors"));
    let message = error(&["convert", run, "--to-tf", nowhere], 1);
    assert!(
        message.contains("/gone: make it first") && !message.contains("/.model.ckpt"),
        "{message}"
    );
    fs::create_dir(runs.path("empty")).unwrap();
    let message = error(
        &["convert", runs.path("empty").to_str().unwrap(), "--to-tf", nowhere],
        1,
    );
    assert!(message.contains("no checkpoint there"), "{message}");
}

#[test]
fn distinguishes_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    fs::copy(fixture("complex/model.ckpt.index"), dir.path().join("m.index")).unwrap();
    let message = error(
        &["convert", &fixture("mnist"), &fixture("mnist/model.ckpt-32000.index")],
        2,
    );
    assert!(message.contains("is a file of the checkpoint itself"), "{message}");
    let message = error(&["convert", "--to-tf", &within(&dir, "x.safetensors"), folder], 2);
    assert!(message.contains("is a folder, expected a prefix"), "{message}");
    error(&["convert", &fixture("mnist")], 2);
    let there = within(&dir, "m");
    let ours = within(&dir, "there.safetensors");
    fs::write(&ours, "kept").unwrap();
    let bundle = fixture("mnist");
    for arguments in [&["convert", &bundle, &ours][..], &["convert", "--to-tf", &ours, &there]] {
        let message = error(arguments, 2);
        assert!(message.contains("exists: give --overwrite to replace it"), "{message}");
    }
    assert_eq!(fs::read(&ours).unwrap(), b"kept");
    error(&["convert", &fixture("mnist"), "--list", "--to-tf"], 2);
    error(&["convert", &fixture("mnist"), "out", "--bool-masks"], 2);
}
