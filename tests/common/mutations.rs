//! Checkpoints damaged as by a bad disk or an adversary: a number selects the mutation, and every one must be refused or
//! read without a panic, a read out of bounds, or excessive memory.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ::sparse::rng::{BoundedRng, Stream, stream};
use hlo::Literal;
use rigl_xla::checkpoint::sparse::{self, Format};
use rigl_xla::checkpoint::tf::table::{self, Layout};
use rigl_xla::checkpoint::tf::{self, Array, Bundle, DataType, Index, Slice};
use rigl_xla::checkpoint::{Metadata, load, save};

/// A kind of input to mutate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any bytes of an index file: checksums catch nearly all.
    Bytes,
    /// Bytes within its blocks, whose checksums are then made right: structure and compression.
    Sealed,
    /// Its keys and messages, in a table that is right: shapes, places, slices.
    Entries,
    /// The header of a safetensors file.
    Header,
    /// The header of a sparse file, which contains its layout.
    Bitmask,
    /// The text file that names the newest checkpoint of a folder.
    State,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Bytes,
        Kind::Sealed,
        Kind::Entries,
        Kind::Header,
        Kind::Bitmask,
        Kind::State,
    ];
}

/// The outcome of reading an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    /// The index or header was accepted. Holds the number of variables that were read.
    Accepted(usize),
}

/// Valid files, and a folder for mutated ones.
pub struct Subject {
    scratch: PathBuf,
    /// In several layouts.
    indices: Vec<Vec<u8>>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    safetensors: Vec<u8>,
    bitmask: Vec<u8>,
    state: Vec<u8>,
}

impl Subject {
    /// Writes good files into a folder.
    pub fn new(scratch: &Path) -> Self {
        let prefix = scratch.join("mutant");
        let layouts =
            [(1 << 18, false), (200, false), (200, true)].map(|(block_bytes, snappy)| Layout { block_bytes, snappy });
        let indices = layouts.map(|layout| {
            tf::write(&prefix, &arrays(), 2, layout, |i, slice, out| {
                let array = &arrays()[i];
                let parts = array.slices.len().max(1);
                assert_eq!(slice.is_some(), parts > 1);
                out.write_all(&vec![i as u8 % 2; array.bytes() as usize / parts])
            })
            .unwrap();
            fs::read(scratch.join("mutant.index")).unwrap()
        });
        let mut entries = BTreeMap::new();
        table::read(&indices[0], |key, value| {
            entries.insert(key.to_vec(), value.to_vec());
            Ok(())
        })
        .unwrap();
        // A string, which our writer does not write: type 7, without a shape, 3 bytes.
        entries.insert(b"string".to_vec(), vec![8, 7, 0x28, 3]);
        let state = [
            (
                "layer1/mask",
                Literal::from_bools(&[2, 3], &[true, false, true, true, false, true]),
            ),
            ("layer1/weights", Literal::new(&[2, 3], &[0.5f32; 6])),
            ("global_step", Literal::scalar(7i64)),
        ];
        let state: sparse::Arrays = state.map(|(name, array)| (name.to_owned(), array)).into();
        let path = scratch.join("mutant.safetensors");
        let metadata = Metadata::new("mnist-fc", 7, "seed = 0\n");
        sparse::save(&path, state.clone(), Some(&metadata), Format::Bitmask).unwrap();
        let bitmask = fs::read(&path).unwrap();
        save(&path, &state, &metadata).unwrap();
        tf::write_state(&prefix).unwrap();
        Subject {
            scratch: scratch.into(),
            indices: indices.to_vec(),
            entries,
            safetensors: fs::read(&path).unwrap(),
            bitmask,
            state: fs::read(scratch.join("checkpoint")).unwrap(),
        }
    }

    /// Makes and reads one input.
    pub fn run(&self, kind: Kind, number: u64) -> Outcome {
        let mut random = stream(0, "mutation", &format!("{kind:?}"), number);
        match kind {
            Kind::Bytes => {
                let mut index = pick(&mut random, &self.indices).clone();
                mutate(&mut random, &mut index, true);
                self.read_index(&index)
            }
            Kind::Sealed => {
                let mut index = pick(&mut random, &self.indices).clone();
                let seals = seals(&index);
                mutate(&mut random, &mut index, false);
                seal(&mut index, &seals);
                self.read_index(&index)
            }
            Kind::Entries => self.read_index(&self.entries(&mut random)),
            Kind::Header => {
                let mut file = self.safetensors.clone();
                self.mutate_header(&mut random, &mut file);
                self.read_safetensors(&file)
            }
            Kind::Bitmask => {
                let mut file = self.bitmask.clone();
                self.mutate_header(&mut random, &mut file);
                self.read_safetensors(&file)
            }
            Kind::State => {
                let mut state = self.state.clone();
                mutate(&mut random, &mut state, true);
                fs::write(self.scratch.join("checkpoint"), state).unwrap();
                match tf::resolve(&self.scratch) {
                    Ok(_) => Outcome::Accepted(1),
                    Err(_) => Outcome::Refused,
                }
            }
        }
    }

    fn entries(&self, random: &mut Stream) -> Vec<u8> {
        let mut entries: Vec<_> = self.entries.clone().into_iter().collect();
        for _ in 0..1 + below(random, 3) {
            let i = below(random, entries.len());
            match below(random, 8) {
                0 => mutate(random, &mut entries[i].0, true),
                1 => drop(entries.remove(i)),
                2 => {
                    let other = below(random, entries.len());
                    entries[i].1 = entries[other].1.clone();
                }
                _ => mutate(random, &mut entries[i].1, true),
            }
        }
        if below(random, 16) > 0 {
            entries.sort();
            entries.dedup_by(|a, b| a.0 == b.0);
        }
        table::write(
            entries.iter().map(|(key, value)| (&key[..], &value[..])),
            Layout::default(),
        )
    }

    fn mutate_header(&self, random: &mut Stream, file: &mut Vec<u8>) {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (mut header, data) = (file[8..8 + length].to_vec(), file[8 + length..].to_vec());
        mutate(random, &mut header, true);
        let mut size = (header.len() as u64).to_le_bytes().to_vec();
        if below(random, 8) == 0 {
            mutate(random, &mut size, false);
        }
        *file = [size, header, data].concat();
    }

    fn read_index(&self, bytes: &[u8]) -> Outcome {
        let path = self.scratch.join("mutant.index");
        if Index::parse(&path, bytes).is_err() {
            return Outcome::Refused;
        }
        fs::write(&path, bytes).unwrap();
        let Ok(bundle) = Bundle::open(&self.scratch.join("mutant")) else {
            return Outcome::Accepted(0);
        };
        let whole = bundle.variables().iter().filter(|variable| {
            let mut found = 0;
            let copied = bundle.copy(variable, &mut |bytes| {
                found += bytes.len();
                Ok(())
            });
            let Some(width) = variable.dtype.bytes().filter(|_| copied.is_ok()) else {
                return false;
            };
            let elements: usize = if variable.dims.contains(&0) {
                0
            } else {
                variable.dims.iter().product()
            };
            assert_eq!(found, width * elements, "{variable:?}");
            true
        });
        Outcome::Accepted(whole.count())
    }

    fn read_safetensors(&self, bytes: &[u8]) -> Outcome {
        let path = self.scratch.join("mutant.safetensors");
        fs::write(&path, bytes).unwrap();
        match load(&path) {
            Err(_) => Outcome::Refused,
            Ok(checkpoint) => Outcome::Accepted(checkpoint.tensors.len()),
        }
    }
}

/// Whole and partitioned variables of several types, one of them empty.
fn arrays() -> Vec<Array> {
    let slices = |rows: &[(usize, usize)]| rows.iter().map(|&row| Slice(vec![Some(row), None])).collect();
    let array = |name: &str, dtype: i32, dims: &[usize], slices| Array {
        name: name.into(),
        dtype: DataType(dtype),
        dims: dims.to_vec(),
        slices,
    };
    vec![
        array("global_step", 9, &[], vec![]),
        array("layer1/mask", 10, &[8, 5], vec![]),
        array("layer1/weights", 1, &[8, 5], vec![]),
        array("layer2/weights", 19, &[300, 2], slices(&[(0, 150), (150, 150)])),
        array("layer3/weights", 1, &[9, 1, 2], vec![]),
        array("layer4/empty", 2, &[0, 7], vec![]),
    ]
}

/// Up to four changes; only where `resize`, of the length too.
pub fn mutate(random: &mut Stream, bytes: &mut Vec<u8>, resize: bool) {
    for _ in 0..1 + below(random, 4) {
        let at = below(random, bytes.len() + 1);
        let end = at + below(random, (bytes.len() - at).min(40) + 1);
        match below(random, if resize { 8 } else { 4 }) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            2 if at < bytes.len() => bytes[at] = *pick(random, &[0, 1, 2, 7, 8, 0x7f, 0x80, 0xff]),
            3 => {
                let number = pick(
                    random,
                    &[0, 1, 1 << 31, 1 << 32, 1 << 62, i64::MAX as u64, 1 << 63, u64::MAX],
                );
                let number = number.to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].to_vec();
                let to = below(random, bytes.len() + 1);
                drop(bytes.splice(to..to, again));
            }
            7 => {
                // A number of the wire format, long or short.
                let number = random.next_u64() >> below(random, 64);
                let groups = (0..10).map(|i| (number >> (7 * i).min(63)) as u8 & 0x7f | 0x80);
                let mut varint: Vec<u8> = groups.take(1 + below(random, 10)).collect();
                *varint.last_mut().unwrap() &= 0x7f;
                drop(bytes.splice(at..end, varint));
            }
            _ => {}
        }
    }
}

pub fn below(random: &mut Stream, bound: usize) -> usize {
    random.up_to(bound as u64 - 1) as usize
}

pub fn pick<'a, T>(random: &mut Stream, of: &'a [T]) -> &'a T {
    &of[below(random, of.len())]
}

const FOOTER_BYTES: usize = 48;

/// Start and end of the bytes that each checksum of a table covers; the checksum follows them.
fn seals(file: &[u8]) -> Vec<(usize, usize)> {
    let (mut start, mut seals) = (0, vec![]);
    while let Some(end) =
        (start..file.len() - FOOTER_BYTES - 3).find(|&end| file[end..end + 4] == seal_of(&file[start..end]))
    {
        seals.push((start, end));
        start = end + 4;
    }
    assert_eq!(start, file.len() - FOOTER_BYTES, "blocks up to the footer");
    seals
}

fn seal(file: &mut [u8], seals: &[(usize, usize)]) {
    for &(start, end) in seals {
        let seal = seal_of(&file[start..end]);
        file[end..end + 4].copy_from_slice(&seal);
    }
}

fn seal_of(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
