//! TensorFlow checkpoints that are truncated, garbled, incomplete or made to harm.
#![allow(clippy::unwrap_used)]

#[path = "common/mutations.rs"]
mod mutations;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use mutations::{Kind, Outcome, Subject};
use rigl_xla::checkpoint::tf::table::{self, Layout};
use rigl_xla::checkpoint::tf::{self, Bundle, Error, Index, to_safetensors};

/// A copy of a checkpoint of TensorFlow 1.15 in two shards, to be damaged.
fn copy(dir: &tempfile::TempDir) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1/grid");
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    dir.path().join("model.ckpt")
}

/// Converts everything; returns the error text.
fn convert(prefix: &Path) -> Result<(), String> {
    let bundle = Bundle::open(prefix).map_err(|e| e.to_string())?;
    let all: Vec<_> = bundle.variables().iter().collect();
    to_safetensors(&bundle, &all, &prefix.with_file_name("out.safetensors")).map_err(|e| e.to_string())
}

#[test]
fn detects_every_damaged_byte() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = copy(&dir);
    convert(&prefix).unwrap();
    let good = fs::read(dir.path().join("out.safetensors")).unwrap();
    let shards = [0, 1].map(|i| format!("model.ckpt.data-0000{i}-of-00002"));
    for name in [&shards[0], &shards[1], "model.ckpt.index"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes).unwrap();
            let message = convert(&prefix).unwrap_err();
            assert!(
                message.contains(": damaged") && message.contains("model.ckpt"),
                "{name} {at}: {message}"
            );
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let message = convert(&prefix).unwrap_err();
            assert!(
                message.contains(": damaged") && message.contains(name),
                "{name} of {length}: {message}"
            );
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(fs::read(dir.path().join("out.safetensors")).unwrap(), good);
    fs::remove_file(dir.path().join(&shards[1])).unwrap();
    let message = convert(&prefix).unwrap_err();
    assert!(
        message.contains(&format!("{}: missing, of 2 shards: variable 'grid'", shards[1])),
        "{message}"
    );
}

/// Runs itself again with memory for little more than the program: beyond it, an allocation ends the process.
#[test]
#[cfg(target_os = "linux")]
fn rejects_or_reads_mutants_in_little_memory() {
    const CHILD: &str = "FAULTS_CONVERT_CHILD";
    const INPUTS: u64 = 4000;
    if env::var_os(CHILD).is_some() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::new(dir.path());
        for kind in Kind::ALL {
            let outcomes: Vec<_> = (0..INPUTS).map(|number| subject.run(kind, number)).collect();
            let refused = outcomes.iter().filter(|&&outcome| outcome == Outcome::Refused).count();
            println!("child: {kind:?} {refused}");
        }
        return;
    }
    let child = Command::new("sh")
        .args(["-c", "ulimit -v 600000; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "rejects_or_reads_mutants_in_little_memory", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&child.stdout);
    let failed = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{message}{failed}");
    // Checksums catch nearly everything. Mutants with valid checksums of every kind reach the code behind them.
    let refused = |kind: Kind| {
        let line = message
            .lines()
            .find_map(|line| line.split_once(&format!("child: {kind:?} ")));
        line.unwrap().1.parse::<u64>().unwrap()
    };
    assert!(refused(Kind::Bytes) > INPUTS * 9 / 10, "{message}");
    for kind in [Kind::Sealed, Kind::Entries, Kind::Header, Kind::Bitmask, Kind::State] {
        assert!((INPUTS / 10..INPUTS * 99 / 100).contains(&refused(kind)), "{message}");
    }
}

/// A field of a message: its number, wire type, and number or bytes.
fn number(tag: u8, value: i64) -> Vec<u8> {
    let mut bytes = vec![tag << 3];
    let mut value = value as u64;
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn message(tag: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.concat();
    let length = number(0, fields.len() as i64);
    [&[tag << 3 | 2], &length[1..], &fields].concat()
}

/// An entry of float32 in shard 0.
fn entry(dims: &[i64], offset: i64, size: i64) -> Vec<u8> {
    let dims: Vec<_> = dims.iter().map(|&dim| message(2, &[number(1, dim)])).collect();
    [number(1, 1), message(2, &dims), number(4, offset), number(5, size)].concat()
}

fn slice(start: i64, length: i64) -> Vec<u8> {
    message(7, &[message(1, &[number(1, start), number(2, length)])])
}

/// An index of one shard with these entries.
fn index(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let header = number(1, 1);
    let header = [(&b""[..], &header[..])];
    let entries = entries.iter().map(|(key, value)| (*key, &value[..]));
    table::write(header.into_iter().chain(entries), Layout::default())
}

#[test]
fn rejects_impossible_entries_before_allocating() {
    let parse = |bytes: &[u8]| Index::parse("m.index".as_ref(), bytes);
    let good = [(&b"w"[..], entry(&[2, 3], 0, 24))];
    assert_eq!(parse(&index(&good)).unwrap().variables()[0].dims, [2, 3]);
    let partitioned = |slices: &[Vec<u8>]| [entry(&[4], 0, 0), slices.concat()].concat();
    let half: &[u8] = b"\0w\0\x01\x01\x01\x80\x82"; // elements 0 and 1
    let many: Vec<_> = (0..2000).map(|i| slice(i, 1)).collect();
    for (entries, expected) in [
        (vec![(&b"w"[..], entry(&[1 << 40, 1 << 40], 0, 8))], "overflow"),
        (vec![(b"w", entry(&[0, 1 << 40, 1 << 40], 0, 0))], "overflow"),
        (
            vec![(b"w", entry(&[2, 3], 0, 28))],
            "28 bytes, expected 24 for float32 [2, 3]",
        ),
        (vec![(b"w", entry(&[-2, 3], 0, 24))], "not a shape"),
        (vec![(b"w", entry(&[1; 300], 0, 4))], "not a shape"),
        (vec![(b"w", entry(&[2, 3], -1, 24))], "24 bytes at -1"),
        (vec![(b"w", entry(&[1], 0, -1))], "-1 bytes at 0"),
        (
            vec![(b"w", [entry(&[1], 0, 4), number(3, 1)].concat())],
            "in shard 1 of 1",
        ),
        (
            vec![(b"w", [entry(&[1], 0, 4), number(3, -1)].concat())],
            "in shard -1 of 1",
        ),
        (vec![(b"\xff", entry(&[1], 0, 4))], "is not UTF-8"),
        (vec![(b"w", vec![0xff; 20])], "'w': failed to decode"),
        (
            vec![(b"w", vec![0; (1 << 20) + 1])],
            "1048577 bytes, expected at most 1048576",
        ),
        (vec![(b"w", partitioned(&[slice(0, 2)]))], "a slice without an entry"),
        (vec![(b"w", partitioned(&[slice(-1, 2)]))], "does not fit"),
        (vec![(b"w", partitioned(&many))], "2000 slices, expected at most 1024"),
        (
            vec![(half, entry(&[2], 0, 8)), (b"w", partitioned(&[slice(0, 2)]))],
            "do not cover [4]",
        ),
        (
            vec![(half, entry(&[3], 0, 12)), (b"w", partitioned(&[slice(0, 2)]))],
            "does not fit",
        ),
        (
            vec![
                (half, entry(&[2], 0, 8)),
                (b"w", partitioned(&[slice(0, 2), slice(0, 2)])),
            ],
            "or listed twice",
        ),
    ] {
        let message = parse(&index(&entries)).unwrap_err().to_string();
        assert!(
            message.contains("m.index: damaged") && message.contains(expected),
            "{expected}: {message}"
        );
    }
    let with_header = |fields: &[Vec<u8>]| table::write([(&b""[..], &fields.concat()[..])], Layout::default());
    let big_endian = with_header(&[number(1, 1), number(2, 1)]);
    assert!(matches!(parse(&big_endian), Err(Error::BigEndian { .. })));
    let newer = with_header(&[number(1, 1), message(3, &[number(1, 3), number(2, 2)])]);
    assert!(matches!(
        parse(&newer),
        Err(Error::Version {
            found: 2,
            expected: 1,
            ..
        })
    ));
    let headless = table::write([(&b"w"[..], &entry(&[1], 0, 4)[..])], Layout::default());
    assert!(parse(&headless).unwrap_err().to_string().contains("no header"));
}

#[test]
fn rejects_sizes_beyond_the_shards() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("m");
    fs::write(dir.path().join("m.data-00000-of-00001"), [0; 24]).unwrap();
    let error_of = |entries: &[(&[u8], Vec<u8>)]| {
        fs::write(dir.path().join("m.index"), index(entries)).unwrap();
        Bundle::open(&prefix).unwrap_err().to_string()
    };
    let beyond = error_of(&[(b"w", entry(&[1 << 40], 0, 1 << 42))]);
    assert!(
        beyond.contains("damaged: 24 bytes, expected at least 4398046511104"),
        "{beyond}"
    );
    let beyond = error_of(&[(b"w", entry(&[6], i64::MAX, 24))]);
    assert!(
        beyond.contains("damaged: 24 bytes, expected at least 9223372036854775831"),
        "{beyond}"
    );
    let shared = error_of(&[(b"v", entry(&[6], 0, 24)), (b"w", entry(&[6], 0, 24))]);
    assert!(shared.contains("variables of 48 bytes in shards of 24"), "{shared}");
    fs::write(dir.path().join("m.index"), vec![0; (1 << 24) + 1]).unwrap();
    let huge = Bundle::open(&prefix).unwrap_err().to_string();
    assert!(huge.contains("more than 16777216 bytes"), "{huge}");
}

#[test]
fn a_boolean_is_zero_or_one() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("m");
    let mask = tf::Array {
        name: "mask".into(),
        dtype: tf::DataType::BOOL,
        dims: vec![3],
        slices: vec![],
    };
    tf::write(&prefix, &[mask], 1, Layout::default(), |_, _, out| {
        out.write_all(&[0, 1, 2])
    })
    .unwrap();
    let message = convert(&prefix).unwrap_err();
    assert!(
        message.contains("variable 'mask' holds a boolean of value 2, expected 0 or 1"),
        "{message}"
    );
    assert!(!dir.path().join("out.safetensors").exists());
}
