//! Checkpoints and TFRecords of a real TensorFlow 2, both ways. Those of TensorFlow 1.15, which needs an old Python, are in `tests/data/tf1`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{json, python};
use hlo::Literal;
use rigl_xla::checkpoint::tf::{self, Array, DataType, Slice, table::Layout};
use rigl_xla::checkpoint::{Metadata, load, save};
use rigl_xla::data::tfrecord::labelled::{Labelled, Picture};
use rigl_xla::data::tfrecord::{self, Compression, Options, Reader};

const PACKAGES: &[&str] = &["tensorflow-cpu==2.21.0", "safetensors==0.5.3"];

/// A state as training leaves it, of every type that both sides have.
fn write_ours(folder: &Path) {
    let kernel: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
    let mask: Vec<bool> = (0..12).map(|i| i % 3 == 0).collect();
    let state = [
        ("layer1/weights", Literal::new(&[3, 4], &kernel)),
        ("layer1/mask", Literal::from_bools(&[3, 4], &mask)),
        ("layer1/weights/Momentum", Literal::new(&[3, 4], &kernel)),
        ("layer1/biases", Literal::new(&[4], &[1f32, 2.0, 3.0, 4.0])),
        ("layer1/threshold", Literal::scalar(0f32)),
        ("global_step", Literal::scalar(32_000i64)),
        ("model_pruning/last_mask_update_step", Literal::scalar(-7i32)),
        ("is_snipped", Literal::from_bools(&[], &[true])),
        ("pixels", Literal::new(&[3], &[0u8, 128, 255])),
        ("double", Literal::new(&[2], &[0.1f64, -2.0])),
    ];
    let state = state.map(|(name, array)| (name.to_owned(), array)).into();
    let ours = folder.join("ours.safetensors");
    save(&ours, &state, &Metadata::new("test", 32_000, "")).unwrap();
    fs::create_dir(folder.join("ours")).unwrap();
    let prefix = folder.join("ours/model.ckpt");
    let report = json(&["convert", "--to-tf", ours.to_str().unwrap(), prefix.to_str().unwrap()]);
    assert_eq!(report["arrays"], state.len());
}

/// Many variables and a partitioned one, in a compressed index of small blocks, whose look-ups TensorFlow then needs.
fn write_snappy(folder: &Path) {
    let variable = |i: usize| Array {
        name: format!("variable{i}"),
        dtype: DataType::FLOAT32,
        dims: vec![2, 3],
        slices: vec![],
    };
    let mut arrays: Vec<_> = (0..300).map(variable).collect();
    // Lengths and starts of one and of two bytes in their keys.
    let rows = [(0, 70), (70, 30)].map(|rows| Slice(vec![Some(rows), None]));
    arrays.push(Array {
        name: "parts".into(),
        dtype: DataType(9),
        dims: vec![100, 70],
        slices: rows.to_vec(),
    });
    let layout = Layout {
        block_bytes: 500,
        snappy: true,
    };
    tf::write(
        &folder.join("snappy.ckpt"),
        &arrays,
        2,
        layout,
        |i, slice, out| match slice {
            None => out.write_all(&(i as f32).to_le_bytes().repeat(6)),
            Some(slice) => {
                let values = if slice == 0 { 0..4900i64 } else { 4900..7000 };
                out.write_all(&values.flat_map(i64::to_le_bytes).collect::<Vec<_>>())
            }
        },
    )
    .unwrap();
}

#[test]
fn tensorflow_2_restores_ours_and_we_read_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write_ours(folder);
    write_snappy(folder);
    let old = ["mnist/model.ckpt-32000", "grid/model.ckpt"];
    let old = old.map(|prefix| format!("{}/tests/data/tf1/{prefix}", env!("CARGO_MANIFEST_DIR")));
    for (i, prefix) in old.iter().enumerate() {
        let converted = folder.join(format!("converted{i}.safetensors"));
        json(&["convert", prefix, converted.to_str().unwrap()]);
    }
    let args = [folder.to_str().unwrap(), &old[0], &old[1]];
    let output = python::run(PACKAGES, "tensorflow2.py", &args);
    assert_eq!(output, "TensorFlow 2\n");

    let converted = |prefix: &str| {
        let out = folder.join("out.safetensors");
        let prefix = folder.join(prefix);
        json(&[
            "convert",
            "--overwrite",
            prefix.to_str().unwrap(),
            out.to_str().unwrap(),
        ]);
        fs::read(out).unwrap()
    };
    let (bytes, values) = (
        converted("theirs"),
        fs::read(folder.join("theirs.safetensors")).unwrap(),
    );
    let [bytes, values] = [&bytes, &values].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(values.len(), 14);
    assert_eq!(bytes.len(), values.len());
    for (name, value) in values.iter() {
        let found = bytes.tensor(name).unwrap();
        assert_eq!(
            (found.dtype(), found.shape(), found.data()),
            (value.dtype(), value.shape(), value.data()),
            "{name}"
        );
    }

    converted("object");
    let mut found = load(&folder.join("out.safetensors")).unwrap().tensors;
    let bias = found.remove("layer/bias/.ATTRIBUTES/VARIABLE_VALUE").unwrap();
    assert_eq!(
        (bias.to_f64_vec(), bias.dtype()),
        (vec![1.0, 2.0, 3.0], hlo::DType::BF16)
    );
    assert_eq!(found, load(&folder.join("object.safetensors")).unwrap().tensors);
}

#[test]
fn tensorflow_2_reads_our_records_and_we_read_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let compressions = [Compression::None, Compression::Gzip, Compression::Zlib];
    let names = ["plain", "gzip", "zlib"];
    // From 1 byte to more than one read buffer.
    let picture = |i: usize| (0..1 + 90_000 * i).map(|at| ((at * at) >> 5) as u8).collect::<Vec<_>>();
    for (name, compression) in names.into_iter().zip(compressions) {
        tfrecord::write(&dir.path().join(format!("ours.{name}")), compression, |out| {
            (0..7).try_for_each(|i| {
                let picture = Picture {
                    encoded: &picture(i),
                    format: "JPEG",
                    height: 10 + i,
                    width: 20 + i,
                    channels: 3,
                    filename: "n01440764_18.JPEG",
                    label: 994 + i as i64,
                    synset: "n01440764",
                    text: "tench, Tinca tinca",
                };
                out.write(&picture.encode())
            })
        })
        .unwrap();
    }
    let output = python::run(PACKAGES, "records.py", &[dir.path().to_str().unwrap()]);
    assert_eq!(output, "TensorFlow 2\n");

    for name in names {
        let path = dir.path().join(format!("theirs.{name}"));
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        for i in 0..7 {
            let record = reader.next().unwrap().unwrap();
            let example = record.example().unwrap();
            let labelled = Labelled::of(&example).unwrap();
            assert_eq!(
                (labelled.encoded, labelled.label),
                (&picture(i)[..], 994 + i as i64),
                "{name}"
            );
            assert_eq!(example.floats("floats").unwrap(), [0.5, -1.0, f32::INFINITY]);
            assert_eq!(example.get("integers").unwrap().int64s(), [i64::MIN, -1, 0, i64::MAX]);
            assert!(example.get("empty").unwrap().is_empty());
            assert_eq!(example.get("strings").unwrap().bytes(), [&b""[..], b"\xff\x00"]);
        }
        assert!(reader.next().unwrap().is_none());
    }
}
