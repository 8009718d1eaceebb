//! TFRecord files damaged as by a bad disk or an adversary: a number selects the mutation, and every one must be refused
//! or read without a panic, a read out of bounds, or excessive memory.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rigl_xla::data::tfrecord::example::{Kind as ValueKind, Values, encode};
use rigl_xla::data::tfrecord::labelled::{Labelled, Picture};
use rigl_xla::data::tfrecord::{Example, Indexed, Options, Reader, Writer};
use sparse::rng::stream;

use super::mutations::{Outcome, below, mutate, pick};

/// A kind of input to mutate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any bytes of a file: checksums catch nearly all.
    Records,
    /// Data and lengths of records, whose checksums are then made right.
    Resealed,
    /// An example.
    Examples,
    /// A gzipped or deflated file.
    Compressed,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Records, Kind::Resealed, Kind::Examples, Kind::Compressed];
}

/// Valid files, and a folder for mutated ones.
pub struct Subject {
    path: PathBuf,
    examples: Vec<Vec<u8>>,
    plain: Vec<u8>,
    compressed: Vec<Vec<u8>>,
}

/// Small enough that the bound is met.
const OPTIONS: Options = Options {
    compression: None,
    max_record_bytes: 1 << 20,
};

impl Subject {
    /// `scratch` is a folder.
    pub fn new(scratch: &Path) -> Self {
        let examples = vec![official(), mixed(), vec![]];
        let plain = file(&examples);
        let level = flate2::Compression::default();
        let mut gzip = flate2::write::GzEncoder::new(vec![], level);
        gzip.write_all(&plain).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(vec![], level);
        zlib.write_all(&plain).unwrap();
        Subject {
            path: scratch.join("mutant.tfrecord"),
            compressed: vec![gzip.finish().unwrap(), zlib.finish().unwrap()],
            examples,
            plain,
        }
    }

    /// Makes and reads one input.
    pub fn run(&self, kind: Kind, number: u64) -> Outcome {
        let mut random = stream(0, "mutation", &format!("{kind:?}"), number);
        match kind {
            Kind::Records => {
                let mut bytes = self.plain.clone();
                mutate(&mut random, &mut bytes, true);
                self.read(&bytes)
            }
            Kind::Resealed => {
                let mut examples = self.examples.clone();
                let at = below(&mut random, examples.len());
                mutate(&mut random, &mut examples[at], true);
                let mut bytes = file(&examples);
                if below(&mut random, 2) == 0 {
                    // A length of any size, with its checksum.
                    let length = (random.next_u64() >> below(&mut random, 64)).to_le_bytes();
                    bytes[..8].copy_from_slice(&length);
                    bytes[8..12].copy_from_slice(&seal(&length));
                }
                self.read(&bytes)
            }
            Kind::Examples => {
                let mut bytes = pick(&mut random, &self.examples).clone();
                mutate(&mut random, &mut bytes, true);
                read_example(&bytes)
            }
            Kind::Compressed => {
                let mut bytes = pick(&mut random, &self.compressed).clone();
                mutate(&mut random, &mut bytes, true);
                self.read(&bytes)
            }
        }
    }

    /// Reads a file in order and, if that is possible, by index: both must find the same.
    fn read(&self, bytes: &[u8]) -> Outcome {
        fs::write(&self.path, bytes).unwrap();
        let mut reader = Reader::open(&self.path, OPTIONS).unwrap();
        let (mut records, mut failures) = (vec![], 0);
        loop {
            match reader.next() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    records.push((record.offset, record.bytes.to_vec()));
                    let _ = record.example().map(|example| use_up(&example));
                }
                Err(_) => failures += 1,
            }
        }
        assert!(reader.next().unwrap().is_none());
        if let Ok(indexed) = Indexed::open(&self.path, OPTIONS) {
            let mut buffer = vec![];
            let mut again = vec![];
            for index in 0..indexed.len() {
                if let Ok(record) = indexed.read(index, &mut buffer) {
                    again.push((record.offset, record.bytes.to_vec()));
                }
            }
            assert_eq!(again, records);
        }
        match failures {
            0 => Outcome::Accepted(records.len()),
            _ => Outcome::Refused,
        }
    }
}

fn read_example(bytes: &[u8]) -> Outcome {
    match Example::parse(bytes) {
        Err(_) => Outcome::Refused,
        Ok(example) => Outcome::Accepted(use_up(&example)),
    }
}

/// Reads all values of an example; how many there are.
fn use_up(example: &Example<'_>) -> usize {
    let _ = Labelled::of(example);
    let values = |(_, feature): (&str, &rigl_xla::data::tfrecord::example::Feature<'_>)| {
        let found = match feature.kind() {
            None => 0,
            Some(ValueKind::Bytes) => feature.bytes().len(),
            Some(ValueKind::Floats) => feature.floats().len(),
            Some(ValueKind::Int64s) => feature.int64s().len(),
        };
        assert_eq!(found, feature.len());
        found
    };
    example.features().map(values).sum()
}

fn file(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut writer = Writer::new(&mut bytes);
    records.iter().for_each(|record| writer.write(record).unwrap());
    bytes
}

/// As [`Picture`] has it.
fn official() -> Vec<u8> {
    let picture = Picture {
        encoded: &[0xff, 0xd8, 0xff, 0xe0, 7, 7, 7, 0xff, 0xd9],
        format: "JPEG",
        height: 375,
        width: 500,
        channels: 3,
        filename: "n01440764_18.JPEG",
        label: 1000,
        synset: "n01440764",
        text: "tench, Tinca tinca",
    };
    picture.encode()
}

/// Lists of every kind, and as others write them: unpacked, with an unknown field and a group.
fn mixed() -> Vec<u8> {
    let mut bytes = encode(&[
        ("floats", Values::Floats(&[1.0, f32::NAN, 3.0])),
        ("integers", Values::Int64s(&[-1, 0, i64::MAX])),
        ("strings", Values::Bytes(&[b"", b"ab", &[0xff]])),
    ]);
    // Feature "u" of the unpacked integers 5 and 300, then field 9 as a group with a number in it.
    bytes.extend([10, 14, 10, 12, 10, 1, b'u', 18, 7, 26, 5, 8, 5, 8, 172, 2]);
    bytes.extend([0x4b, 0x08, 1, 0x4c]);
    bytes
}

fn seal(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
