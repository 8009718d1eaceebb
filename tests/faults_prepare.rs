//! Damaged pictures, archives and lists: truncated, missing or special files are errors or are named.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::folder::Folder;
use common::{error, json, rigl_xla};
use rigl_xla::data::tfrecord::labelled::Picture;
use rigl_xla::data::tfrecord::{self, Compression};

/// Bound on the memory of a command, in KiB.
const MOST_KIB: u64 = 1 << 20;

fn picture(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/data/pictures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

impl Folder {
    /// `train` with two pictures in each of three classes.
    fn classes(&self) -> String {
        for class in ["n00", "n01", "n02"] {
            for i in 0..2 {
                self.write(&format!("train/{class}/p{i}.jpg"), &picture("small.jpg"));
            }
        }
        self.text("train")
    }

    fn prepare(&self, more: &[&str]) -> Result<serde_json::Value, String> {
        let output = self.text("out");
        let command = rigl_xla(&[&["data", "prepare", &output, "--json"], more].concat());
        let notes = String::from_utf8(command.stderr).unwrap();
        match command.status.code() {
            Some(0) => {
                let mut report: serde_json::Value = serde_json::from_slice(&command.stdout).unwrap();
                report["notes"] = notes.into();
                Ok(report)
            }
            code => {
                assert_eq!(code, Some(1), "{notes}");
                Err(notes)
            }
        }
    }
}

/// Standard error of the command, its time, and its memory at most in KiB.
fn measured(args: &[&str]) -> (String, Duration, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    let started = Instant::now();
    // A file, because a pipe that is read only at the end would fill up.
    let mut errors = tempfile::tempfile().unwrap();
    let mut child = command
        .args(args)
        .stdout(Stdio::null())
        .stderr(errors.try_clone().unwrap())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().split(' ').next()?.parse().ok());
        most = most.max(kib.unwrap_or(0));
        if started.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{args:?}: no end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut text = String::new();
    errors.rewind().unwrap();
    errors.read_to_string(&mut text).unwrap();
    (text, started.elapsed(), most)
}

fn tar(names: &[&str]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for name in names {
        let bytes = picture("small.jpg");
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn rejects_tar_files_cut_anywhere() {
    let folder = Folder::new();
    let whole = tar(&["n00/a.jpg", "n01/b.jpg", "n01/c.jpg"]);
    let entry = whole.len() - 1024;
    assert!(whole[entry..].iter().all(|byte| *byte == 0) && entry.is_multiple_of(512));
    let size = entry / 3;
    let data = picture("small.jpg").len();
    for (cut, want) in [
        (size + 200, "x.tar"),
        (size + 512, "n01/b.jpg"),
        (size + 512 + data, "n01/b.jpg"),
        (size + 512 + data + 3, "n01/b.jpg"),
        (
            2 * size,
            "n01/b.jpg: the file ends there without the zeros that end a tar file",
        ),
        (entry, "n01/c.jpg: the file ends there"),
    ] {
        folder.write("x.tar", &whole[..cut]);
        let message = folder.prepare(&["--train", &folder.text("x.tar")]).unwrap_err();
        assert!(message.contains(want), "{cut}: {message}");
        // A tar file of classes within one.
        let mut outer = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(cut as u64);
        outer.append_data(&mut header, "n07.tar", &whole[..cut]).unwrap();
        folder.write("x.tar", &outer.into_inner().unwrap());
        let message = folder.prepare(&["--train", &folder.text("x.tar")]).unwrap_err();
        assert!(message.contains("x.tar/n07.tar"), "{cut}: {message}");
    }
    // One block of zeros ends an archive; data behind it is reported.
    folder.write("x.tar", &whole[..entry + 512]);
    assert_eq!(
        folder.prepare(&["--train", &folder.text("x.tar")]).unwrap()["sets"][0]["examples"],
        3
    );
    folder.write("x.tar", &[&whole[..], &whole[..]].concat());
    let message = folder.prepare(&["--train", &folder.text("x.tar")]).unwrap_err();
    assert!(
        message.contains("more follows the zeros that end a tar file"),
        "{message}"
    );
    folder.write("x.tar", &picture("small.jpg"));
    let message = folder.prepare(&["--train", &folder.text("x.tar")]).unwrap_err();
    assert!(message.contains("not a tar file, or damaged"), "{message}");
}

#[test]
fn names_empty_classes_and_keeps_their_labels() {
    let folder = Folder::new();
    let train = folder.classes();
    fs::create_dir_all(folder.path("val/n02")).unwrap();
    folder.write("val/n02/v.jpg", &picture("small.jpg"));
    for i in 0..2 {
        fs::remove_file(folder.path(&format!("train/n01/p{i}.jpg"))).unwrap();
    }
    folder.write("train/readme.txt", b"");
    let report = folder
        .prepare(&["--train", &train, "--validation", &folder.text("val")])
        .unwrap();
    let notes = report["notes"].as_str().unwrap();
    assert!(
        notes.contains("train: 1 of 3 classes have no pictures, and keep their labels: n01"),
        "{notes}"
    );
    assert!(notes.contains("validation: 2 of 3 classes have no pictures"), "{notes}");
    assert!(
        notes.contains("no pictures by their names, not read: 1 file: ") && notes.contains("readme.txt"),
        "{notes}"
    );
    assert_eq!(
        fs::read_to_string(folder.path("out/classes.txt")).unwrap(),
        "n00\nn01\nn02\n"
    );
    let report = json(&[
        "data",
        "inspect",
        &folder.text("out"),
        "--sheet",
        &folder.text("page.html"),
    ]);
    assert_eq!(
        report["sets"][0]["classes"],
        serde_json::json!({"1": "n00", "3": "n02"})
    );
    assert_eq!(report["sets"][1]["labels"], serde_json::json!({"3": 1}));
    let page = fs::read_to_string(folder.path("page.html")).unwrap();
    assert!(page.contains("<figcaption>3 n02: "), "{page}");
    let table = rigl_xla(&["data", "inspect", &folder.text("out")]).stdout;
    assert!(String::from_utf8(table).unwrap().contains("3 n02"));
}

#[test]
fn bad_pictures_are_skipped_up_to_a_limit_and_named() {
    let folder = Folder::new();
    let train = folder.classes();
    folder.write("train/n01/p0.jpg", b"<html>");
    // More than any picture has, most of it a hole.
    fs::File::create(folder.path("train/n02/p1.jpg"))
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    let message = folder.prepare(&["--train", &train, "--skip-corrupt", "1"]).unwrap_err();
    assert!(
        message.contains("p0.jpg: no picture") || message.contains("p1.jpg: 314572800 bytes, expected at most"),
        "{message}"
    );
    assert!(!folder.path("out").exists());
    let report = folder.prepare(&["--train", &train, "--skip-corrupt", "2"]).unwrap();
    let set = &report["sets"][0];
    assert_eq!(
        (&set["examples"], set["skipped"].as_array().unwrap().len()),
        (&4.into(), 2)
    );
    let notes = report["notes"].as_str().unwrap();
    assert!(
        notes.contains("2 pictures were skipped") && notes.contains("n01/p0.jpg: no picture"),
        "{notes}"
    );
    assert!(
        notes.contains("n02/p1.jpg: 314572800 bytes, expected at most 134217728"),
        "{notes}"
    );
}

#[test]
fn rejects_special_files_by_type() {
    let folder = Folder::new();
    let train = folder.classes();
    let fifo = |name: &str| {
        let path = folder.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    fifo("train/n01/pipe.jpg");
    let message = folder.prepare(&["--train", &train]).unwrap_err();
    assert!(
        message.contains("n01/pipe.jpg: a FIFO (named pipe), expected a regular file"),
        "{message}"
    );
    fs::remove_file(folder.path("train/n01/pipe.jpg")).unwrap();
    fs::create_dir(folder.path("d")).unwrap();
    fs::create_dir(folder.path("idx")).unwrap();
    let pipe = fifo("d/train-00000-of-00001");
    fifo("idx/train-images-idx3-ubyte");
    fifo("idx/train-labels-idx1-ubyte");
    let (d, idx, output) = (folder.text("d"), folder.text("idx"), folder.text("dump"));
    for args in [
        &["data", "inspect", &d][..],
        &["data", "inspect", &pipe],
        &["data", "dump", "--data", &d, "--split", "train", "--output", &output],
        &["data", "dump", "--data", &idx, "--split", "train", "--output", &output],
        &["data", "prepare", &output, "--train", &pipe],
        &["data", "prepare", &output, "--train", &train, "--synsets", &pipe],
        &[
            "data",
            "prepare",
            &output,
            "--train",
            &train,
            "--validation",
            &train,
            "--validation-classes",
            &pipe,
        ],
        &["plan", "--config", &pipe],
        &["plan", "--config", "/dev/zero"],
        &["eval", "--checkpoint", &pipe, "--data", "mnist"],
    ] {
        let (message, time, kib) = measured(args);
        assert!(message.contains("expected a regular file"), "{args:?}: {message}");
        assert!(
            time < Duration::from_secs(20) && kib < MOST_KIB / 4,
            "{args:?}: {time:?}, {kib} KiB"
        );
    }
}

#[test]
fn rejects_long_texts() {
    let folder = Folder::new();
    let train = folder.classes();
    folder.write("deep.toml", format!("a={}", "[".repeat(500_000)).as_bytes());
    folder.write("empty.toml", b"[nosuch]\n");
    // A safetensors header with a million arrays.
    let arrays = (0..1_000_000).map(|i| format!(r#""{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#));
    let header = format!("{{{}}}", arrays.collect::<Vec<_>>().join(","));
    folder.write(
        "a.safetensors",
        &[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(),
    );
    let [deep, empty, arrays] = ["deep.toml", "empty.toml", "a.safetensors"].map(|name| folder.text(name));
    for (args, wanted) in [
        (&["plan", "--config", &deep][..], "TOML parse error"),
        (&["plan", "--config", &empty], "unknown key 'nosuch'"),
        (
            &["eval", "--checkpoint", &arrays, "--data", "mnist"],
            "expected at most 16777216",
        ),
    ] {
        let (message, time, kib) = measured(args);
        assert!(
            message.contains(wanted) && message.len() < 20_000,
            "{args:?}: {} bytes: {message:.300}",
            message.len()
        );
        assert!(
            time < Duration::from_secs(20) && kib < MOST_KIB / 4,
            "{args:?}: {time:?}, {kib} KiB"
        );
    }
    fs::File::create(folder.path("big")).unwrap().set_len(8 << 30).unwrap();
    let (big, output) = (folder.text("big"), folder.text("out"));
    for args in [
        &["plan", "--config", &big][..],
        &["data", "prepare", &output, "--train", &train, "--synsets", &big],
    ] {
        let (message, time, kib) = measured(args);
        assert!(
            message.contains("8589934592 bytes, expected at most"),
            "{args:?}: {message}"
        );
        assert!(
            time < Duration::from_secs(20) && kib < MOST_KIB / 4,
            "{args:?}: {time:?}, {kib} KiB"
        );
    }
}

/// An example with the picture, which is not looked at before it is decoded.
fn record(encoded: &[u8]) -> Vec<u8> {
    Picture {
        encoded,
        format: "JPEG",
        height: 1,
        width: 1,
        channels: 3,
        filename: "p.jpg",
        label: 1,
        synset: "n00",
        text: "",
    }
    .encode()
}

/// A picture that claims another size, with as many bytes as that needs.
fn claiming(name: &str, side: u16) -> Vec<u8> {
    let mut bytes = picture(name);
    let is_frame = |pair: &[u8]| matches!(pair, [0xff, 0xc0 | 0xc2]);
    let frame = bytes.windows(2).position(is_frame).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    bytes.resize(usize::from(side) * usize::from(side) / 512 + 1000, 7);
    bytes
}

#[test]
fn large_pictures_share_bounded_memory() {
    let folder = Folder::new();
    // Each takes 363 MB, so that two at a time are too many.
    let large = record(&claiming("small.jpg", 11_000));
    let files: Vec<_> = (0..4)
        .map(|i| folder.path("d").join(tfrecord::shards::name("train", i, 4)))
        .collect();
    fs::create_dir(folder.path("d")).unwrap();
    for path in &files {
        tfrecord::write(path, Compression::None, |out| out.write(&large)).unwrap();
    }
    let (d, output) = (folder.text("d"), folder.text("dump"));
    let dump = [
        "data",
        "dump",
        "--data",
        &d,
        "--split",
        "train",
        "--output",
        &output,
        "--image-size",
        "8",
    ];
    for args in [
        &["data", "inspect", &d, "--decode", "--threads", "4"][..],
        &[
            &dump[..],
            &["--data-threads", "4", "--skip-corrupt", "2", "--limit", "4"],
        ]
        .concat(),
    ] {
        let (message, _, kib) = measured(args);
        assert!(kib < MOST_KIB, "{args:?}: {kib} KiB: {message}");
    }
    let huge = record(&claiming("progressive.jpg", 9_000));
    tfrecord::write(&files[0], Compression::None, |out| out.write(&huge)).unwrap();
    let message = rigl_xla(&["data", "inspect", files[0].to_str().unwrap(), "--decode", "--json"]).stdout;
    let message = String::from_utf8(message).unwrap();
    assert!(
        message.contains("a JPEG of 9000 x 9000 pixels in 10 scans, expected at most 50 scans, and 600000000"),
        "{message}"
    );
}

#[test]
fn rejects_jpegs_with_hundreds_of_scans() {
    let mut bytes = picture("progressive.jpg");
    let last = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    let scan = bytes[last..bytes.len() - 2].to_vec();
    bytes.truncate(bytes.len() - 2);
    (0..300).for_each(|_| bytes.extend(&scan));
    bytes.extend([0xff, 0xd9]);
    let folder = Folder::new();
    let path = folder.path("file.tfrecord");
    tfrecord::write(&path, Compression::None, |out| out.write(&record(&bytes))).unwrap();
    let output = rigl_xla(&["data", "inspect", path.to_str().unwrap(), "--decode", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let damage = report["sets"][0]["damages"][0].as_str().unwrap();
    assert!(damage.contains("scans, expected at most 50 scans"), "{damage}");
}

#[test]
fn escapes_control_characters_of_names() {
    let folder = Folder::new();
    let train = folder.classes();
    folder.write("train/n0\n\u{1b}[31mx\u{202e}/p.jpg", &picture("small.jpg"));
    folder.write("train/n00/\u{1b}]0;t\u{7}.jpg", b"none");
    folder.write("train/n00/\u{9b}2J\n.txt", b"none");
    let hidden = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let message = folder.prepare(&["--train", &train]).unwrap_err();
    assert!(
        !hidden(&message) && message.contains("\\u{1b}]0;t\\u{7}.jpg"),
        "{message:?}"
    );
    let report = folder.prepare(&["--train", &train, "--skip-corrupt", "1"]).unwrap();
    let notes = report["notes"].as_str().unwrap();
    assert!(!hidden(notes) && notes.contains("\\u{9b}2J\\n.txt"), "{notes:?}");
    let list = fs::read_to_string(folder.path("out/classes.txt")).unwrap();
    assert_eq!(list, "n00\nn01\nn02\nn0\\n\\u{1b}[31mx\\u{202e}\n");
    let page = folder.text("page.html");
    for json in [&["--json"][..], &[]] {
        let args = [
            "data",
            "inspect",
            &folder.text("out"),
            "--sheet",
            &page,
            "--records",
            "9",
        ];
        let shown = String::from_utf8(rigl_xla(&[&args[..], json].concat()).stdout).unwrap();
        assert!(!hidden(&shown) && shown.contains("n00"), "{shown:?}");
    }
    assert!(!hidden(&fs::read_to_string(&page).unwrap()));
    folder.write("c.toml", "\"a\\u001b[31m\\n\" = 1\n".as_bytes());
    let message = error(&["plan", "--config", &folder.text("c.toml")], 2);
    assert!(!hidden(&message), "{message:?}");
    // Two names that are not UTF-8 stay two classes.
    for (i, byte) in [0xfe, 0xff].into_iter().enumerate() {
        let class = folder.path("odd").join(std::ffi::OsStr::from_bytes(&[b'n', byte]));
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("p{i}.jpg")), picture("small.jpg")).unwrap();
    }
    fs::remove_dir_all(folder.path("out")).unwrap();
    folder.prepare(&["--train", &folder.text("odd")]).unwrap();
    assert_eq!(
        fs::read_to_string(folder.path("out/classes.txt")).unwrap(),
        "n\\xfe\nn\\xff\n"
    );
}
