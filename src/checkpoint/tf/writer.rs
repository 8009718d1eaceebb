//! Writes bundles that TensorFlow can restore.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use prost::Message;

use super::section::Checked;
use super::slice::elements;
use super::table::{self, Layout};
use super::{DataType, Slice, bundle, index_path, proto, shard_path};
use crate::checkpoint::{Error, Result, atomic};

/// An array to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its name in the checkpoint.
    pub name: String,
    /// Type of its elements.
    pub dtype: DataType,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Slices of a partitioned variable; empty to store it in one piece.
    pub slices: Vec<Slice>,
}

impl Array {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        (elements(&self.dims) * self.dtype.bytes().unwrap_or(0)) as u64
    }
}

/// A piece of data: an array or a slice of an array.
struct Piece<'a> {
    array: &'a Array,
    slice: Option<usize>,
    dims: Vec<usize>,
}

impl Piece<'_> {
    /// Bytes that the caller of [`write`] must supply.
    fn bytes(&self) -> u64 {
        (elements(&self.dims) * self.array.dtype.bytes().unwrap_or(0)) as u64
    }

    fn key(&self) -> Vec<u8> {
        let name = &self.array.name;
        let slice = self.slice.map(|i| self.array.slices[i].key(name));
        slice.unwrap_or_else(|| name.as_bytes().to_vec())
    }
}

/// Writes the bundle of `prefix`: data shards of about equal size, then the index. Each file is written atomically. The
/// index comes last, so a new bundle is incomplete until all data is written.
///
/// `copy` writes the little-endian, row-major data of the array with an index, or of a slice of it. It is called once
/// for each, in order.
///
/// # Errors
/// [`Error::Save`]: an error of `copy` or the system, arrays that cannot be stored, or data of unexpected length.
pub fn write(
    prefix: &Path,
    arrays: &[Array],
    shards: usize,
    layout: Layout,
    mut copy: impl FnMut(usize, Option<usize>, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let save = |path: &Path, source| Error::Save {
        path: path.into(),
        source,
    };
    let index = index_path(prefix);
    let pieces = pieces(arrays).map_err(|source| save(&index, source))?;
    let total: u64 = pieces.iter().map(|(_, piece)| piece.bytes()).sum();
    let count = shards.clamp(1, 99_999) as i32;
    let mut entries = BTreeMap::from([(vec![], header(count))]);
    let (mut done, mut pieces) = (0, pieces.into_iter().peekable());
    for shard in 0..count {
        let share = if shard + 1 == count {
            total
        } else {
            total / count as u64 * (shard as u64 + 1)
        };
        let path = shard_path(prefix, shard, count);
        let data = |out: &mut io::BufWriter<std::fs::File>| {
            let mut offset = 0;
            while let Some((number, piece)) = pieces.next_if(|_| done < share || shard + 1 == count) {
                let mut out = Checked::new(&mut *out);
                copy(number, piece.slice, &mut out)?;
                if out.bytes != piece.bytes() {
                    let (name, found, expected) = (&piece.array.name, out.bytes, piece.bytes());
                    return Err(invalid(format!("array '{name}': {found} bytes, expected {expected}")));
                }
                entries.insert(piece.key(), entry(&piece, shard, offset, out.crc).encode_to_vec());
                offset += out.bytes;
                done += out.bytes;
            }
            Ok(())
        };
        atomic::write(&path, data).map_err(|source| save(&path, source))?;
    }
    for array in arrays.iter().filter(|array| !array.slices.is_empty()) {
        entries.insert(array.name.clone().into_bytes(), partitioned(array).encode_to_vec());
    }
    let table = table::write(entries.iter().map(|(key, value)| (&key[..], &value[..])), layout);
    atomic::write(&index, |out| out.write_all(&table)).map_err(|source| save(&index, source))
}

/// Lists the pieces in order, with the indices of their arrays.
fn pieces(arrays: &[Array]) -> io::Result<Vec<(usize, Piece<'_>)>> {
    let (mut pieces, mut names) = (vec![], BTreeSet::new());
    for (number, array) in arrays.iter().enumerate() {
        let name = &array.name;
        if name.is_empty() || name.starts_with('\0') || !names.insert(name) {
            return Err(invalid(format!(
                "array '{}': name taken or reserved",
                name.escape_debug()
            )));
        }
        if array.dtype.bytes().is_none() {
            return Err(invalid(format!("array '{name}' has type {}", array.dtype)));
        }
        let piece = |slice, dims| (number, Piece { array, slice, dims });
        if array.slices.is_empty() {
            pieces.push(piece(None, array.dims.clone()));
        }
        for (i, slice) in array.slices.iter().enumerate() {
            let dims = slice.dims(&array.dims);
            let dims =
                dims.ok_or_else(|| invalid(format!("array '{name}': slice {i} does not lie in {:?}", array.dims)))?;
            pieces.push(piece(Some(i), dims));
        }
    }
    Ok(pieces)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn header(num_shards: i32) -> Vec<u8> {
    let version = proto::Version {
        producer: bundle::VERSION,
        min_consumer: 0,
    };
    let header = proto::Header {
        num_shards,
        endianness: 0,
        version: Some(version),
    };
    header.encode_to_vec()
}

fn entry(piece: &Piece, shard_id: i32, offset: u64, crc: u32) -> proto::Entry {
    proto::Entry {
        dtype: piece.array.dtype.0,
        shape: Some(shape(&piece.dims)),
        shard_id,
        offset: offset as i64,
        size: piece.bytes() as i64,
        crc32c: table::masked(crc),
        slices: vec![],
    }
}

/// Builds the entry of a partitioned variable.
fn partitioned(array: &Array) -> proto::Entry {
    proto::Entry {
        dtype: array.dtype.0,
        shape: Some(shape(&array.dims)),
        slices: array.slices.iter().map(Slice::to_proto).collect(),
        ..Default::default()
    }
}

fn shape(dims: &[usize]) -> proto::Shape {
    let dim = |&dim: &usize| proto::Dim { size: dim as i64 };
    proto::Shape {
        dim: dims.iter().map(dim).collect(),
        unknown_rank: false,
    }
}
