//! Header of a safetensors file: names, types and positions of its arrays.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::StrDeserializer};
use serde::{Deserialize, Deserializer};

use super::{Error, METADATA_KEY, Result, damaged, file, foreign};

/// Maximum size of the JSON header, 16 MiB, as parsing takes several times as much memory. The largest models have 1
/// MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const LENGTH_BYTES: u64 = 8;
/// Maximum rank of an array. Bounds the memory that a header can request.
const MAX_RANK: usize = 32;

/// A parsed header.
#[derive(Debug)]
pub(super) struct Header {
    /// Value of [`METADATA_KEY`]; metadata of other programs is ignored.
    pub metadata: Option<String>,
    /// Arrays in the order of their data, which has no gaps.
    pub arrays: Vec<Entry>,
}

/// An array of the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Element type as spelt in the file.
    pub dtype: String,
    pub dims: Vec<usize>,
    /// Range of its data, relative to the end of the header.
    pub begin: usize,
    pub end: usize,
}

impl Entry {
    /// The element type, if the safetensors crate knows it.
    pub fn known(&self) -> Option<Dtype> {
        known(&self.dtype)
    }

    /// Formats type and dimensions for messages.
    pub fn shape(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(ToString::to_string).collect();
        format!("{}[{}]", self.dtype, dims.join(","))
    }
}

/// The element type with this name, if the safetensors crate knows it.
pub(super) fn known(dtype: &str) -> Option<Dtype> {
    let name: StrDeserializer<'_, serde::de::value::Error> = serde::de::IntoDeserializer::into_deserializer(dtype);
    Dtype::deserialize(name).ok()
}

impl Header {
    /// Reads the header and checks the file's length against it. Leaves `file` at the first array's data.
    ///
    /// # Errors
    /// A file of another kind or another length, or an inconsistent header.
    pub fn read(path: &Path, file: &mut File) -> Result<Header> {
        let found = file.metadata().map_err(Error::io(path))?.len();
        if found == 0 {
            return Err(Error::Empty { path: path.into() });
        }
        let mut start = Vec::new();
        let head = file.by_ref().take(foreign::LOOKED_AT);
        { head }.read_to_end(&mut start).map_err(Error::io(path))?;
        foreign::refuse(path, &start)?;
        let Some((length, _)) = start.split_first_chunk::<8>() else {
            return Err(Error::Length {
                path: path.into(),
                found,
                expected: LENGTH_BYTES,
            });
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            let reason = format!("header of {length} bytes, expected at most {MAX_HEADER_BYTES}");
            return Err(damaged(path, &reason));
        }
        if length > found - LENGTH_BYTES {
            return Err(Error::Length {
                path: path.into(),
                found,
                expected: LENGTH_BYTES + length,
            });
        }
        file.seek(SeekFrom::Start(LENGTH_BYTES)).map_err(Error::io(path))?;
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io(path))?;
        let (header, data_bytes) = parse(&header).map_err(|reason| damaged(path, &reason))?;
        let expected = LENGTH_BYTES + length + data_bytes as u64;
        match found == expected {
            true => Ok(header),
            false => Err(Error::Length {
                path: path.into(),
                found,
                expected,
            }),
        }
    }
}

/// Parses a header. Also returns the number of data bytes that follow it.
fn parse(json: &[u8]) -> std::result::Result<(Header, usize), String> {
    let raw: Raw = json_of(json)?;
    let entry = |(name, info): (String, Info)| Entry {
        name,
        dtype: info.dtype,
        dims: info.shape.0,
        begin: info.data_offsets.0,
        end: info.data_offsets.1,
    };
    let mut arrays: Vec<Entry> = raw.arrays.into_iter().map(entry).collect();
    arrays.sort_by_key(|array| (array.begin, array.end));
    let mut at = 0;
    for array in &arrays {
        let (name, begin, end) = (&array.name, array.begin, array.end);
        if begin != at || end < begin {
            return Err(format!(
                "tensor '{name}' takes bytes {begin} to {end} of the data, expected to begin at {at}, where the one before ends"
            ));
        }
        check_size(array)?;
        at = end;
    }
    let header = Header {
        metadata: raw.metadata,
        arrays,
    };
    Ok((header, at))
}

fn json_of<T: DeserializeOwned>(json: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(json).map_err(|error| format!("its header is not that of safetensors: {error}"))
}

/// Checks that the data has the size of type and dimensions, if the type is known.
fn check_size(array: &Entry) -> std::result::Result<(), String> {
    let (name, dims) = (&array.name, &array.dims);
    let bits = array.known().map_or(1, |dtype| dtype.bitsize());
    let Some(elements) = file::elements(dims, bits) else {
        return Err(format!("tensor '{name}': dimensions {dims:?} overflow"));
    };
    let (found, expected) = (array.end - array.begin, (bits * elements).div_ceil(8));
    match array.known().is_none() || found == expected {
        true => Ok(()),
        false => Err(format!(
            "tensor '{name}' is {}, which takes {expected} bytes, and has {found}",
            array.shape()
        )),
    }
}

struct Raw {
    metadata: Option<String>,
    arrays: BTreeMap<String, Info>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Dims,
    data_offsets: (usize, usize),
}

struct Dims(Vec<usize>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OfDims;
        impl<'de> Visitor<'de> for OfDims {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> std::result::Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = values.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(OfDims)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OfRaw;
        impl<'de> Visitor<'de> for OfRaw {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a tensor under each name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
                let mut raw = Raw {
                    metadata: None,
                    arrays: BTreeMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Ours>()?.0;
                        continue;
                    }
                    match raw.arrays.entry(name) {
                        Slot::Vacant(slot) => drop(slot.insert(map.next_value()?)),
                        Slot::Occupied(slot) => {
                            let twice = format!("tensor '{}' is listed twice", slot.key());
                            return Err(A::Error::custom(twice));
                        }
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(OfRaw)
    }
}

/// Extracts the value of [`METADATA_KEY`] from metadata of any form: other programs store numbers, lists and nulls
/// there.
struct Ours(Option<String>);

impl<'de> Deserialize<'de> for Ours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OfOurs;
        impl<'de> Visitor<'de> for OfOurs {
            type Value = Ours;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of metadata")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ours, A::Error> {
                let mut ours = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA_KEY {
                        ours = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Ours(ours))
            }
            fn visit_unit<E>(self) -> std::result::Result<Ours, E> {
                Ok(Ours(None))
            }
        }
        deserializer.deserialize_any(OfOurs)
    }
}
