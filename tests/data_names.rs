//! Data folders as people have them: names of shards, compressed shards, layouts of small sets, other programs' files.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{error, json, rigl_xla};
use rigl_xla::data::folder;
use rigl_xla::data::sets::Set;
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

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

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
                (Set::ImageNet, Some(3), [3, 2], [5, 7])
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
fn empty_shards_and_files_beside_shards_are_noted() {
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
