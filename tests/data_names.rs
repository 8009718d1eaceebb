//! Data folders as people have them: names of shards, compressed shards, layouts of small sets, other programs' files.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::folder::Folder;
use common::{error, json, rigl_xla};
use rigl_xla::data::folder;
use rigl_xla::data::sets;
use rigl_xla::data::tfrecord::{self, Compression, labelled};

/// A grey picture of 5 rows and 7 columns.
fn png() -> Vec<u8> {
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, 7, 5);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[9; 35]).unwrap();
    writer.finish().unwrap();
    file
}

/// A file of records with these labels, from 0.
fn write(path: &Path, compression: Compression, labels: &[i64]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    tfrecord::write(path, compression, |out| {
        let mut records = labels.iter().map(|&label| labelled::encode_small(&png(), label));
        records.try_for_each(|record| out.write(&record))
    })
    .unwrap();
}

impl Folder {
    /// `data dump` of a split of the data in `name`.
    fn dump(&self, name: &str, split: &str) -> Vec<String> {
        let (data, output) = (self.text(name), self.text("dump.safetensors"));
        let args = [
            "data",
            "dump",
            "--data",
            &data,
            "--split",
            split,
            "--output",
            &output,
            "--image-size",
            "8",
        ];
        args.map(str::to_owned).to_vec()
    }

    fn dumped(&self, name: &str, split: &str) -> serde_json::Value {
        let args = self.dump(name, split);
        json(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn refused(&self, name: &str, split: &str, code: i32) -> String {
        let args = self.dump(name, split);
        error(&args.iter().map(String::as_str).collect::<Vec<_>>(), code)
    }
}

#[test]
fn every_command_finds_shards_by_common_names() {
    let folder = Folder::new();
    for (i, [train, validation]) in [
        ["train-00000-of-00001.tfrecord", "validation-00000-of-00001.tfrecord"],
        ["train.tfrecord", "validation.tfrecord"],
        [
            "cars_train_00000-of-00001.tfrecord",
            "cars_validation_00000-of-00001.tfrecord",
        ],
        ["coco_train.record-00000-of-00001", "coco_val.record-00000-of-00001"],
        ["train-00001-of-00001", "validation-00001-of-00001"],
        ["train/train-00000-of-00001", "validation/validation-00000-of-00001"],
        ["train-00000-of-00001", "valid-00000-of-00001"],
        ["train-00000-of-00001", "val-00000-of-00001"],
        ["train-00000-of-00001", "test-00000-of-00001"],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case{i}");
        for compression in [Compression::None, Compression::Gzip] {
            write(&folder.path(&name).join(train), compression, &[0, 1, 2]);
            write(&folder.path(&name).join(validation), compression, &[2, 1]);
            assert_eq!(folder.dumped(&name, "train")["examples"], 3, "{train}");
            assert_eq!(folder.dumped(&name, "test")["examples"], 2, "{validation}");
            let sets = json(&["data", "inspect", &folder.text(&name)]);
            let records: Vec<u64> = [0, 1].map(|i| sets["sets"][i]["records"].as_u64().unwrap()).into();
            assert_eq!(records, [3, 2], "{train} {validation}");
            let contents = folder::contents(&folder.path(&name)).unwrap();
            assert_eq!(
                (contents.set, contents.classes, contents.examples, contents.size),
                (&sets::IMAGENET, Some(3), [3, 2], [5, 7])
            );
        }
    }
}

#[test]
fn incomplete_and_mixed_shards_are_errors() {
    let folder = Folder::new();
    for i in [0, 2, 3] {
        write(
            &folder.path("gap").join(tfrecord::shards::name("train", i, 4)),
            Compression::None,
            &[0],
        );
    }
    let message = folder.refused("gap", "train", 1);
    assert!(
        message.contains("shard train-00001-of-00004 is missing: 3 of 4 are there"),
        "{message}"
    );
    let message = error(&["data", "inspect", &folder.text("gap")], 1);
    assert!(message.contains("shard train-00001-of-00004 is missing"), "{message}");
    write(&folder.path("both/train-00000-of-00001"), Compression::None, &[0]);
    write(&folder.path("both/train-00000-of-00001.gz"), Compression::Gzip, &[0]);
    let message = folder.refused("both", "train", 1);
    assert!(message.contains("are the same shard"), "{message}");
}

#[test]
fn notes_empty_shards_and_other_files() {
    let folder = Folder::new();
    write(&folder.path("d/train-00000-of-00002"), Compression::None, &[0, 1]);
    fs::write(folder.path("d/train-00001-of-00002"), b"").unwrap();
    fs::write(folder.path("d/train-00000-of-00002.idx"), b"0 100\n").unwrap();
    fs::write(folder.path("d/train-00000-of-00002.gstmp"), b"abc").unwrap();
    let args = folder.dump("d", "train");
    let output = rigl_xla(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains("files without a record: 1 file: train-00001-of-00002"),
        "{notes}"
    );
    assert!(notes.contains("not read, as they are no shards: 2 files: "), "{notes}");
    assert!(
        notes.contains("train-00000-of-00002.idx") && notes.contains(".gstmp"),
        "{notes}"
    );
}

#[test]
fn validation_classes_unknown_to_training_are_an_error() {
    let folder = Folder::new();
    write(&folder.path("d/train.tfrecord"), Compression::None, &[0, 1]);
    write(&folder.path("d/val.tfrecord"), Compression::None, &[2]);
    let message = folder::contents(&folder.path("d")).unwrap_err().to_string();
    assert!(
        message.contains("class 3 in the validation set, expected at most 2"),
        "{message}"
    );
    fs::write(folder.path("d/classes.txt"), "a\nb\nc\n").unwrap();
    assert_eq!(folder::contents(&folder.path("d")).unwrap().classes, Some(3));
}

/// MNIST's files in little: 20 training and 10 test images.
fn mnist_files() -> Vec<(&'static str, Vec<u8>)> {
    let array = |dims: &[u32], bytes: Vec<u8>| {
        let dims_be = dims.iter().flat_map(|dim| dim.to_be_bytes());
        let header = [0, 0, 8, dims.len() as u8].into_iter().chain(dims_be);
        header.chain(bytes).collect::<Vec<u8>>()
    };
    let images = |n: u32| array(&[n, 28, 28], vec![7; 784 * n as usize]);
    let labels = |n: u32| array(&[n], (0..n).map(|i| (i % 10) as u8).collect());
    vec![
        ("train-images-idx3-ubyte", images(20)),
        ("train-labels-idx1-ubyte", labels(20)),
        ("t10k-images-idx3-ubyte", images(10)),
        ("t10k-labels-idx1-ubyte", labels(10)),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Two records of CIFAR-10.
fn cifar() -> Vec<u8> {
    let record = |label: u8| [vec![label], vec![9; 3072]].concat();
    [record(3), record(9)].concat()
}

impl Folder {
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn reads_small_sets_in_every_layout() {
    type Layout = fn(&str, &[u8]) -> (String, Vec<u8>);
    let layouts: [Layout; 8] = [
        |name, bytes| (name.to_owned(), bytes.to_vec()),
        |name, bytes| (format!("{name}.gz"), gzip(bytes)),
        |name, bytes| (name.to_owned(), gzip(bytes)),
        |name, bytes| (format!("{name}.gz"), bytes.to_vec()),
        |name, bytes| (name.replace("-idx", ".idx"), bytes.to_vec()),
        |name, bytes| (name.to_uppercase(), bytes.to_vec()),
        |name, bytes| (format!("MNIST/raw/{name}"), bytes.to_vec()),
        |name, bytes| (format!("{name}.gz"), [gzip(&bytes[..9]), gzip(&bytes[9..])].concat()),
    ];
    let folder = Folder::new();
    for (i, layout) in layouts.into_iter().enumerate() {
        let name = format!("mnist{i}");
        for (file, bytes) in mnist_files() {
            let (file, bytes) = layout(file, &bytes);
            folder.put(&format!("{name}/{file}"), &bytes);
        }
        assert_eq!(folder.dumped(&name, "train")["examples"], 20, "{i}");
        let contents = folder::contents(&folder.path(&name)).unwrap();
        assert_eq!(
            (contents.set, contents.examples, contents.size),
            (&sets::MNIST, [20, 10], [28, 28])
        );
    }
    for nested in ["", "cifar-10-batches-bin/"] {
        for file in [
            "data_batch_1",
            "data_batch_2",
            "data_batch_3",
            "data_batch_4",
            "data_batch_5",
            "test_batch",
        ] {
            folder.put(&format!("cifar/{nested}{file}.bin"), &cifar());
        }
        let contents = folder::contents(&folder.path("cifar")).unwrap();
        assert_eq!(
            (contents.set, contents.classes, contents.examples),
            (&sets::CIFAR10, Some(10), [10, 2])
        );
        fs::remove_dir_all(folder.path("cifar")).unwrap();
    }
}

#[test]
fn incomplete_cifar_is_an_error_or_noted() {
    let folder = Folder::new();
    for i in [1, 3, 4, 5] {
        folder.put(&format!("d/data_batch_{i}.bin"), &cifar());
    }
    folder.put("d/test_batch.bin", &cifar());
    let message = folder.refused("d", "train", 1);
    assert!(
        message.contains("data_batch_2.bin is missing, but data_batch_3.bin is there"),
        "{message}"
    );
    // Before the run is announced.
    let (data, out) = (folder.text("d"), folder.text("run"));
    let message = error(&["train", "cifar10-rigl", "--data", &data, "--out", &out], 1);
    assert!(
        message.contains("data_batch_2.bin is missing") && !folder.path("run").exists(),
        "{message}"
    );
    folder.put("d/data_batch_2.bin", &cifar());
    fs::remove_file(folder.path("d/data_batch_5.bin")).unwrap();
    let args = folder.dump("d", "train");
    let output = rigl_xla(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(
        notes.contains("4 of 5 training files of CIFAR-10; missing: data_batch_5.bin"),
        "{notes}"
    );
}

#[test]
fn names_files_of_other_programs_with_advice() {
    let folder = Folder::new();
    let ubyte = |name: &str| name.replace("t10k", "test");
    for (file, bytes) in mnist_files() {
        folder.put(&format!("emnist/emnist-letters-{}", ubyte(file)), &bytes);
    }
    for file in [
        "npz/mnist.npz",
        "python/cifar-10-batches-py/data_batch_1",
        "python_flat/data_batch_1",
        "packed/cifar-10-binary.tar.gz",
        "cifar100/train.bin",
        "tars/train.tar",
        "parquet/train-00000-of-00001.parquet",
        "pictures/n01/a.jpg",
        "pictures/n02/b.JPEG",
    ] {
        folder.put(file, b"x");
    }
    fs::create_dir(folder.path("empty")).unwrap();
    for (name, what, advice) in [
        ("emnist", "EMNIST", "rename"),
        ("npz", "a NumPy archive", "data fetch mnist"),
        ("npz/mnist.npz", "a NumPy archive", "data fetch mnist"),
        ("python", "the Python version of CIFAR-10", "cifar-10-binary.tar.gz"),
        (
            "python_flat",
            "the Python version of CIFAR-10",
            "cifar-10-binary.tar.gz",
        ),
        ("packed", "CIFAR-10, packed", "tar -xzf"),
        ("cifar100", "CIFAR-100", "data prepare"),
        ("tars", "an archive", "data prepare"),
        ("parquet", "Parquet", "data prepare"),
        ("pictures", "pictures", "data prepare OUT --train"),
        ("empty", "no data set: expected the IDX files", "train.tfrecord"),
    ] {
        let message = folder.refused(name, "train", 1);
        assert!(message.contains(what) && message.contains(advice), "{name}: {message}");
        let (data, out) = (folder.text(name), folder.text("run"));
        let message = error(&["train", "--data", &data, "--out", &out], 1);
        assert!(message.contains(what) || name == "empty", "{name}: {message}");
        assert!(!folder.path("run").exists());
    }
}

#[test]
fn reports_unknown_data_as_name_or_folder_before_the_run() {
    let folder = Folder::new();
    let out = folder.text("run");
    let missing = folder.text("nosuch");
    for (data, wanted) in [
        ("mnsit", "did you mean 'mnist'?"),
        ("nosuch", "unknown data set or folder 'nosuch'"),
        (missing.as_str(), "nosuch: no such folder"),
    ] {
        let message = error(&["train", "--data", data, "--out", &out], 2);
        assert!(message.contains(wanted), "{data}: {message}");
        assert!(!folder.path("run").exists());
    }
    let output = folder.text("dump");
    let dump = |data| {
        error(
            &["data", "dump", "--data", data, "--split", "train", "--output", &output],
            2,
        )
    };
    let message = dump("cifar-10");
    let wanted = "unknown data set or folder 'cifar-10'; did you mean 'cifar10'?";
    assert!(message.contains(wanted), "{message}");
    assert!(dump(&missing).contains("no such folder"));
}
