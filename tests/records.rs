//! TFRecord files through the program: made from folders, tar files and small data sets, inspected, damaged.
#![allow(clippy::unwrap_used)]

#[path = "common/array_mutations.rs"]
mod array_mutations;
mod common;
#[path = "common/data_mutations.rs"]
mod data_mutations;
#[path = "common/mutations.rs"]
mod mutations;
#[path = "common/record_mutations.rs"]
mod record_mutations;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::folder::Folder;
use common::{error, json, rigl_xla};
use mutations::Outcome;
use record_mutations::{Kind, Subject};
use rigl_xla::data::idx;
use rigl_xla::data::picture::{self, Dct, Image};
use rigl_xla::data::prepare::{self, Plan, Request};
use rigl_xla::data::tfrecord::labelled::Labelled;
use rigl_xla::data::tfrecord::shards::{self, Role};
use rigl_xla::data::tfrecord::{self, Compression, Indexed, Options, Reader};
use rigl_xla::signals::Stop;

/// 16 rows and 8 columns of black, in grey or in four inks.
const GREY: &str = "ffd8ffe000104a46494600010100000100010000ffdb0043\
00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
ffc0000b080010000801011100ffc4001500010100000000000000000000000000000003ffc40014100100000000000000000000000000000000\
ffda0008010100003f0098ffd9";
const INKS: &str = "ffd8ffee000e41646f626500640000000000ffdb0043\
00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
ffc000140800100008044311004d11005911004b1100ffc4001500010100000000000000000000000000000003ffc40014100100000000000000\
000000000000000000ffda000e0443004d0059004b00003f00a28a2800ffd9";

fn jpeg(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_image_data(&vec![9; (3 * width * height) as usize])
        .unwrap();
    writer.finish().unwrap();
    file
}

/// Pictures by class and name. Bytes after the picture, which readers ignore, make each one unique.
fn pictures() -> BTreeMap<(String, String), Vec<u8>> {
    let mut pictures = BTreeMap::new();
    for (class, count) in [("n02", 5), ("n01", 7), ("n03", 1)] {
        for i in 0..count {
            let mut bytes = match i {
                1 => jpeg(INKS),
                2 => png(5, 3),
                _ => jpeg(GREY),
            };
            bytes.extend(format!("{class}{i}").bytes());
            pictures.insert((class.to_owned(), format!("{class}_{i}.JPEG")), bytes);
        }
    }
    pictures
}

impl Folder {
    /// A folder of classes, with other files among its pictures.
    fn classes(&self, name: &str) -> String {
        for ((class, file), bytes) in pictures() {
            let class = self.path(name).join(class);
            fs::create_dir_all(&class).unwrap();
            fs::write(class.join(file), bytes).unwrap();
            fs::write(class.join(".hidden.jpg"), b"").unwrap();
        }
        fs::write(self.path(name).join("readme.txt"), b"").unwrap();
        self.text(name)
    }

    /// Names of its entries.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.root()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn tar(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Label, synset, name and picture of each record of a set, in order.
fn examples(dir: &Path, role: Role) -> Vec<(i64, String, String, Vec<u8>)> {
    let mut all = vec![];
    for path in shards::find(dir, &[role]).unwrap().files {
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        while let Some(record) = reader.next().unwrap() {
            let example = record.example().unwrap();
            let labelled = Labelled::of(&example).unwrap();
            let text = |key: &str| String::from_utf8(example.bytes(key).unwrap().to_vec()).unwrap();
            all.push((
                labelled.label,
                text("image/class/synset"),
                text("image/filename"),
                labelled.encoded.to_vec(),
            ));
        }
    }
    all
}

/// The expected records of [`pictures`], sorted.
fn wanted() -> Vec<(i64, String, String, Vec<u8>)> {
    let all = pictures().into_iter().map(|((class, name), bytes)| {
        let label = class[1..].parse().unwrap();
        (label, class, name, bytes)
    });
    all.collect()
}

#[test]
fn folders_and_tar_files_of_classes_become_the_same_shards() {
    let folder = Folder::new();
    let inner = ["n01", "n02", "n03"].map(|class| {
        let of_class = pictures().into_iter().filter(|((c, _), _)| c == class);
        (
            format!("{class}.tar"),
            tar(of_class.map(|((_, name), bytes)| (name, bytes))),
        )
    });
    fs::write(folder.path("nested.tar"), tar(inner.clone())).unwrap();
    let flat = pictures()
        .into_iter()
        .map(|((class, name), bytes)| (format!("train/{class}/{name}"), bytes));
    fs::write(folder.path("plain.tar"), tar(flat)).unwrap();
    fs::create_dir(folder.path("tars")).unwrap();
    inner
        .iter()
        .for_each(|(name, bytes)| fs::write(folder.path("tars").join(name), bytes).unwrap());

    let mut files = vec![];
    let sources = [
        folder.classes("classes"),
        folder.text("nested.tar"),
        folder.text("plain.tar"),
        folder.text("tars"),
    ];
    for (i, source) in sources.iter().enumerate() {
        let output = folder.text(&format!("out{i}"));
        let threads = ["1", "3", "8", "2"][i];
        let args = [
            "data",
            "prepare",
            &output,
            "--train",
            source,
            "--train-shards",
            "4",
            "--threads",
            threads,
        ];
        let report = json(&args);
        assert_eq!(report["sets"][0]["examples"], 13);
        assert_eq!(report["sets"][0]["classes"], 3);
        let found = examples(Path::new(&output), Role::Train);
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, wanted());
        assert_ne!(found, sorted, "shuffled");
        let shards = shards::find(Path::new(&output), &[Role::Train]).unwrap().files;
        files.push(shards.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>());
        assert_eq!(
            fs::read_to_string(Path::new(&output).join("classes.txt")).unwrap(),
            "n01\nn02\nn03\n"
        );
    }
    assert!(files.iter().all(|shards| shards == &files[0]));
    let args = [
        "data",
        "prepare",
        &folder.text("other"),
        "--train",
        &sources[0],
        "--train-shards",
        "4",
        "--seed",
        "1",
    ];
    json(&args);
    assert_ne!(
        examples(&folder.path("other"), Role::Train),
        examples(&folder.path("out0"), Role::Train)
    );
}

#[test]
fn validation_pictures_get_their_classes_from_a_list() {
    let folder = Folder::new();
    let names = ["v_2.JPEG", "v_1.JPEG", "v_3.JPEG"];
    fs::write(
        folder.path("val.tar"),
        tar(names.map(|name| (name.to_owned(), jpeg(GREY)))),
    )
    .unwrap();
    fs::write(folder.path("list.txt"), "n03\nn01\nn03\n").unwrap();
    fs::write(folder.path("synsets.txt"), "n03 a cat\nn02\nn01 dog, hound\n").unwrap();
    let (train, validation, list) = (folder.classes("train"), folder.text("val.tar"), folder.text("list.txt"));
    let both = [
        "--train",
        &train,
        "--validation",
        &validation,
        "--validation-classes",
        &list,
    ];
    let prepare = |output: &str, more: &[&str]| json(&[&["data", "prepare", output], &both[..], more].concat());
    let output = folder.text("out");
    let report = prepare(&output, &["--synsets", &folder.text("synsets.txt"), "--gzip"]);
    assert_eq!(report["sets"][1]["set"], "validation");
    let mut found = examples(Path::new(&output), Role::Validation);
    found.sort_by(|a, b| a.2.cmp(&b.2));
    let labels: Vec<_> = found
        .iter()
        .map(|(label, synset, name, _)| (*label, &synset[..], &name[..]))
        .collect();
    assert_eq!(
        labels,
        [(1, "n03", "v_1.JPEG"), (3, "n01", "v_2.JPEG"), (1, "n03", "v_3.JPEG")]
    );
    // Without a list of synsets, the training classes count.
    prepare(&folder.text("again"), &[]);
    let mut found = examples(&folder.path("again"), Role::Validation);
    found.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(found.iter().map(|(label, ..)| *label).collect::<Vec<_>>(), [3, 1, 3]);

    fs::write(folder.path("list.txt"), "n03\nn01\n").unwrap();
    let message = error(&[&["data", "prepare", &folder.text("x")], &both[..]].concat(), 1);
    assert!(
        message.contains("list.txt: 2 classes, but ") && message.contains("has 3 pictures"),
        "{message}"
    );
    fs::write(folder.path("list.txt"), "n03\nn09\nn01\n").unwrap();
    let message = error(&[&["data", "prepare", &folder.text("x")], &both[..]].concat(), 1);
    assert!(
        message.contains("class 'n09' of v_2.JPEG is none of the 3"),
        "{message}"
    );
    let message = error(&["data", "prepare", &folder.text("x"), "--validation", &validation], 1);
    assert!(message.contains("v_1.JPEG is in no class"), "{message}");
    assert!(!folder.path("x").exists());
}

#[test]
fn small_data_sets_become_pngs() {
    let folder = Folder::new();
    let pixels: Vec<u8> = (0..3 * 784).map(|i| (i / 7) as u8).collect();
    for (part, n) in [("train", 3), ("t10k", 2)] {
        let images = hlo::Literal::new(&[n, 28, 28], &pixels[..n * 784]);
        idx::write(&folder.path(&format!("{part}-images-idx3-ubyte")), &images).unwrap();
        let labels = hlo::Literal::new(&[n], &[7u8, 0, 9][..n]);
        idx::write(&folder.path(&format!("{part}-labels-idx1-ubyte")), &labels).unwrap();
    }
    let (source, output) = (folder.text(""), folder.text("out"));
    let report = json(&["data", "prepare", &output, "--train", &source, "--validation", &source]);
    let sets = [&report["sets"][0], &report["sets"][1]].map(|set| (set["set"].as_str(), set["examples"].as_u64()));
    assert_eq!(sets, [(Some("train"), Some(3)), (Some("test"), Some(2))]);
    let file = shards::find(&folder.path("out"), &[Role::Train])
        .unwrap()
        .files
        .remove(0);
    let indexed = Indexed::open(&file, Options::default()).unwrap();
    let mut found = BTreeMap::new();
    for i in 0..3 {
        let mut buffer = vec![];
        let example = indexed.read(i, &mut buffer).unwrap().example().unwrap();
        let labelled = Labelled::of(&example).unwrap();
        let mut decoded = Image::default();
        picture::decode(
            labelled.encoded,
            Dct::Fast,
            |h| Ok::<_, picture::Error>(h.whole()),
            &mut decoded,
        )
        .unwrap();
        let grey: Vec<u8> = (0..28)
            .flat_map(|row| decoded.row(row).iter().copied().step_by(3).collect::<Vec<_>>())
            .collect();
        found.insert(labelled.label, grey);
    }
    let wanted = [7, 0, 9]
        .into_iter()
        .zip(pixels.chunks(784).map(<[u8]>::to_vec))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_incomplete_set_leaves_no_files() {
    let folder = Folder::new();
    let source = folder.classes("classes");
    let bad = folder.path("classes").join("n02/n02_9.JPEG");
    fs::write(&bad, b"GIF89a").unwrap();
    let message = error(&["data", "prepare", &folder.text("out"), "--train", &source], 1);
    assert!(message.contains("n02_9.JPEG: no picture: it starts with"), "{message}");
    assert_eq!(folder.names(), ["classes"]);
    fs::remove_file(&bad).unwrap();
    let message = error(
        &[
            "data",
            "prepare",
            &folder.text("out"),
            "--train",
            &source,
            "--train-shards",
            "14",
        ],
        1,
    );
    assert!(message.contains("14 shards of train for 13 pictures"), "{message}");
    let message = error(&["data", "prepare", &source, "--train", &source], 1);
    assert!(message.contains("it exists"), "{message}");
    fs::create_dir(folder.path("empty")).unwrap();
    let message = error(
        &["data", "prepare", &folder.text("out"), "--train", &folder.text("empty")],
        1,
    );
    assert!(message.contains("no pictures"), "{message}");
    fs::write(folder.path("x.tar"), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    let message = error(
        &["data", "prepare", &folder.text("out"), "--train", &folder.text("x.tar")],
        1,
    );
    assert!(
        message.contains("x.tar: compressed; expected a plain tar file"),
        "{message}"
    );
    let mut cut = tar([("a/b.jpg".to_owned(), jpeg(GREY))]);
    cut.truncate(600);
    fs::write(folder.path("x.tar"), cut).unwrap();
    let message = error(
        &["data", "prepare", &folder.text("out"), "--train", &folder.text("x.tar")],
        1,
    );
    assert!(message.contains("x.tar"), "{message}");
    assert!(!folder.path("out").exists());
}

#[test]
fn a_stopped_preparation_leaves_no_files() {
    let folder = Folder::new();
    let plan = Plan::new(&Request {
        train: Some(folder.classes("classes").into()),
        shards: [Some(2), None],
        ..Request::default()
    })
    .unwrap();
    // Stopped after the third picture, with a shard whole or not.
    let (stop, done) = (Stop::new(), AtomicUsize::new(0));
    let count = || {
        if done.fetch_add(1, Ordering::Relaxed) == 2 {
            assert_eq!(folder.names().len(), 2);
            stop.ask(15);
        }
    };
    let error = plan.write(&folder.path("out"), 1, &stop, &count).unwrap_err();
    assert!(matches!(error, prepare::Error::Stopped), "{error}");
    assert_eq!(folder.names(), ["classes"]);
}

#[test]
fn inspection_counts_examples() {
    let folder = Folder::new();
    let (source, output) = (folder.classes("classes"), folder.text("out"));
    json(&["data", "prepare", &output, "--train", &source, "--train-shards", "3"]);
    let page = folder.text("page.html");
    let report = json(&[
        "data",
        "inspect",
        &output,
        "--decode",
        "--records",
        "2",
        "--sheet",
        &page,
    ]);
    let set = &report["sets"][0];
    for (key, want) in [
        ("files", 3),
        ("records", 13),
        ("pictures", 13),
        ("jpeg", 11),
        ("png", 2),
        ("grey", 9),
        ("cmyk", 2),
    ] {
        assert_eq!(set[key], want, "{key}");
    }
    assert_eq!(set["labels"], serde_json::json!({"1": 7, "2": 5, "3": 1}));
    assert_eq!(
        (&set["height"]["min"], &set["height"]["max"], &set["height"]["sum"]),
        (&3.into(), &16.into(), &182.into())
    );
    assert_eq!(set["first"].as_array().unwrap().len(), 2);
    assert!(
        set["first"][0]["features"]["image/format"]
            .as_str()
            .unwrap()
            .contains('\'')
    );
    let page = fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<figure>").count(), 13);
    assert_eq!(page.matches("data:image/png;base64,").count(), 2);

    // A single file, as a table.
    let file = folder.text("out/train-00000-of-00003");
    let output = rigl_xla(&["data", "inspect", &file]);
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(
        message.starts_with("train-00000-of-00003\n  files") && message.contains("image/class/synset"),
        "{message}"
    );
}

#[test]
fn inspection_finds_damaged_and_missing_files() {
    let folder = Folder::new();
    let (source, output) = (folder.classes("classes"), folder.text("out"));
    json(&["data", "prepare", &output, "--train", &source, "--train-shards", "2"]);
    let file = folder.path("out/train-00001-of-00002");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    bytes.truncate(bytes.len() - 3);
    fs::write(&file, &bytes).unwrap();
    let inspected = rigl_xla(&["data", "inspect", &output, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected.status.code(), Some(1));
    let set = &report["sets"][0];
    assert_eq!((&set["damaged_records"], &set["records"]), (&2.into(), &11.into()));
    let damage = set["damages"][0].as_str().unwrap();
    assert!(
        damage.contains("train-00001-of-00002: record at byte 0: checksum of the data"),
        "{damage}"
    );
    fs::remove_file(file).unwrap();
    let message = error(&["data", "inspect", &output], 1);
    assert!(
        message.contains("shard train-00001-of-00002 is missing: 1 of 2 are there"),
        "{message}"
    );
    let message = error(&["data", "inspect", &source], 1);
    assert!(
        message.contains("no TFRecord files named train-00000-of-00001"),
        "{message}"
    );
}

#[test]
fn faults_name_the_file_and_the_byte() {
    let folder = Folder::new();
    let path = folder.path("file");
    let records = [vec![1; 50], vec![2; 70]];
    tfrecord::write(&path, Compression::None, |out| {
        records.iter().try_for_each(|record| out.write(record))
    })
    .unwrap();
    let good = fs::read(&path).unwrap();
    type Edit = fn(&mut Vec<u8>);
    let cases: [(Edit, &str); 7] = [
        (
            |b| b.truncate(66 + 5),
            "record at byte 66: 5 bytes are left, expected the 12 of a length",
        ),
        (
            |b| b.truncate(66 + 12),
            "record at byte 66: 0 bytes are left after its length, expected 74",
        ),
        (
            |b| b.truncate(66 + 40),
            "record at byte 66: 28 bytes are left after its length, expected 74",
        ),
        (
            |b| b.extend([7; 3]),
            "record at byte 152: 3 bytes are left, expected the 12",
        ),
        (
            |b| b.extend([7; 30]),
            "record at byte 152: checksum of the length 07070707, expected",
        ),
        (|b| b[66] ^= 1, "record at byte 66: checksum of the length"),
        (
            |b| {
                b[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                let crc = crc32c::crc32c(&[0xff; 8]);
                b[8..12].copy_from_slice(&crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
            },
            "record at byte 0: length 18446744073709551615, expected at most 134217728",
        ),
    ];
    for (i, (edit, want)) in cases.into_iter().enumerate() {
        let mut bytes = good.clone();
        edit(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        let in_order = loop {
            match reader.next() {
                Ok(record) => assert!(record.is_some(), "{i}"),
                Err(error) => break error,
            }
        };
        assert!(!in_order.is_of_one_record() && reader.next().unwrap().is_none());
        let indexed = Indexed::open(&path, Options::default()).unwrap_err().to_string();
        assert_eq!(in_order.to_string(), indexed);
        assert!(
            indexed.starts_with(path.to_str().unwrap()) && indexed.contains(want),
            "{i}: {indexed}"
        );
    }
    // A gzipped file that ends early.
    tfrecord::write(&path, Compression::Gzip, |out| {
        records.iter().try_for_each(|record| out.write(record))
    })
    .unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let mut reader = Reader::open(&path, Options::default()).unwrap();
    let message = std::iter::from_fn(|| Some(reader.next().map(drop).err()))
        .take(4)
        .flatten()
        .next()
        .unwrap();
    assert!(message.to_string().contains("file: byte "), "{message}");
}

#[test]
fn rejects_or_reads_mutated_records() {
    let dir = tempfile::tempdir().unwrap();
    let subject = Subject::new(dir.path());
    for kind in Kind::ALL {
        let outcomes: Vec<Outcome> = (0..500).map(|number| subject.run(kind, number)).collect();
        assert!(outcomes.contains(&Outcome::Refused), "{kind:?}");
        // Hardly any change of a compressed file escapes both its checksum and ours.
        let taken = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Accepted(1..)));
        assert!(taken || kind == Kind::Compressed, "{kind:?}");
    }
}

#[test]
fn rejects_or_reads_mutated_sets_lists_and_configurations() {
    let dir = tempfile::tempdir().unwrap();
    let subject = data_mutations::Subject::new(dir.path());
    for kind in data_mutations::Kind::ALL {
        let outcomes: Vec<Outcome> = (0..300).map(|number| subject.run(kind, number)).collect();
        assert!(outcomes.contains(&Outcome::Refused), "{kind:?}");
        assert!(
            outcomes.iter().any(|outcome| matches!(outcome, Outcome::Accepted(1..))),
            "{kind:?}"
        );
    }
}

#[test]
fn rejects_or_reads_mutated_arrays_and_models() {
    let dir = tempfile::tempdir().unwrap();
    let subject = array_mutations::Subject::new(dir.path());
    for kind in array_mutations::Kind::ALL {
        let outcomes: Vec<Outcome> = (0..300).map(|number| subject.run(kind, number)).collect();
        assert!(outcomes.contains(&Outcome::Refused), "{kind:?}");
        let taken = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Accepted(1..)));
        assert!(taken, "{kind:?}");
    }
}
