//! Reads bundles: the validated index, and the variables' data.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use prost::Message;

use super::section::{CHUNK_BYTES, Section};
use super::slice::{Assembly, elements};
use super::table::{self, Damaged, damaged};
use super::{DataType, Error, Result, Slice, index_path, proto, shard_path};
use crate::checkpoint::foreign;

/// The format version that we write, and the newest we read.
pub(super) const VERSION: i32 = 1;

/// Maximum size of an index file. A ResNet-50 in training takes 50 KB; parsing takes a small multiple in memory.
const MAX_INDEX_BYTES: u64 = 1 << 24;
/// Maximum size of an entry: decoding expands it up to 20 times.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// TensorFlow's maximum rank.
const MAX_RANK: usize = 254;
/// Maximum slices per variable: they are compared in pairs.
const MAX_SLICES: usize = 1024;
/// Buffer size per slice during assembly, in bytes.
const SLICE_CHUNK_BYTES: usize = 1 << 14;

/// A variable of a bundle.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Element type, which may be unsupported.
    pub dtype: DataType,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Positions of the data: one, or one per slice.
    parts: Vec<Stored>,
    /// Assembly order of the slices.
    assembly: Option<Assembly>,
}

impl Variable {
    /// Bytes of its data over all shards.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// Number of slices; 1 if not partitioned.
    pub fn slices(&self) -> usize {
        self.parts.len()
    }
}

/// Position of data in a shard.
#[derive(Clone, Copy, Debug)]
struct Stored {
    shard: i32,
    offset: u64,
    size: u64,
    crc: u32,
}

/// A parsed index: each entry is validated on its own, not yet against the shards.
#[derive(Debug)]
pub struct Index {
    shards: i32,
    variables: Vec<Variable>,
}

impl Index {
    /// Parses the content of index file `path`. Memory is bounded by a small multiple of the length of `bytes`,
    /// whatever they claim.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`] or [`Error::BigEndian`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |Damaged(reason)| Error::Damaged {
            path: path.into(),
            reason,
        };
        let (mut header, mut slices, mut variables) = (None, BTreeMap::new(), vec![]);
        table::read(bytes, |key, value| {
            match key {
                [] => header = Some(decode::<proto::Header>("the header", value)?),
                // Keys of slices begin with a zero byte, so they precede those of variables.
                [0, ..] => drop(slices.insert(key.to_vec(), Parsed::parse(&key.escape_ascii().to_string(), value)?.0)),
                _ => variables.push(variable(key, value, &mut slices)?),
            }
            Ok(())
        })
        .map_err(damaged)?;
        let header = header.ok_or_else(|| damaged(table::damaged("no header")))?;
        let version = header.version.unwrap_or_default().min_consumer;
        if version > VERSION {
            return Err(Error::Version {
                path: path.into(),
                found: version,
                expected: VERSION,
            });
        }
        if header.endianness != 0 {
            return Err(Error::BigEndian { path: path.into() });
        }
        let mut stored = variables
            .iter()
            .flat_map(|v: &Variable| v.parts.iter().map(move |part| (v, part)));
        match stored.find(|(_, part)| part.shard < 0 || part.shard >= header.num_shards) {
            None => Ok(Index {
                shards: header.num_shards,
                variables,
            }),
            Some((variable, part)) => Err(damaged(table::damaged(format!(
                "variable '{}' in shard {} of {}",
                variable.name, part.shard, header.num_shards
            )))),
        }
    }

    /// Variables sorted by name.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }
}

fn decode<M: Message + Default>(what: &str, value: &[u8]) -> std::result::Result<M, Damaged> {
    if value.len() > MAX_ENTRY_BYTES {
        return Err(damaged(format!(
            "{what}: {} bytes, expected at most {MAX_ENTRY_BYTES}",
            value.len()
        )));
    }
    M::decode(value).map_err(|e| damaged(format!("{what}: {e}")))
}

/// An entry, validated on its own.
struct Parsed {
    dtype: DataType,
    dims: Vec<usize>,
    stored: Stored,
}

impl Parsed {
    /// Decodes an entry and the slices it lists.
    fn parse(name: &str, value: &[u8]) -> std::result::Result<(Self, Vec<proto::TensorSlice>), Damaged> {
        let entry: proto::Entry = decode(&format!("'{name}'"), value)?;
        let shape = entry.shape.unwrap_or_default();
        let dims: Option<Vec<usize>> = shape.dim.iter().map(|dim| usize::try_from(dim.size).ok()).collect();
        let dims = dims.filter(|dims| dims.len() <= MAX_RANK && !shape.unknown_rank);
        let dims = dims.ok_or_else(|| damaged(format!("'{name}': not a shape")))?;
        let [offset, size] = [entry.offset, entry.size].map(u64::try_from);
        let (Ok(offset), Ok(size)) = (offset, size) else {
            return Err(damaged(format!("'{name}': {} bytes at {}", entry.size, entry.offset)));
        };
        let dtype = DataType(entry.dtype);
        // A zero could hide an overflowing product of the other dimensions.
        let width = dtype.bytes().unwrap_or(1);
        if dims
            .iter()
            .filter(|&&dim| dim > 0)
            .try_fold(width, |n, &dim| n.checked_mul(dim))
            .is_none()
        {
            return Err(damaged(format!("'{name}': dimensions {dims:?} overflow")));
        }
        let expected = (width * elements(&dims)) as u64;
        if entry.slices.is_empty() && dtype.bytes().is_some() && size != expected {
            return Err(damaged(format!(
                "'{name}': {size} bytes, expected {expected} for {dtype} {dims:?}"
            )));
        }
        let stored = Stored {
            shard: entry.shard_id,
            offset,
            size,
            crc: entry.crc32c,
        };
        Ok((Parsed { dtype, dims, stored }, entry.slices))
    }
}

/// Builds the variable of a key. Takes its slices from `slices`.
fn variable(
    key: &[u8],
    value: &[u8],
    slices: &mut BTreeMap<Vec<u8>, Parsed>,
) -> std::result::Result<Variable, Damaged> {
    let name = std::str::from_utf8(key).map_err(|_| damaged(format!("name '{}' is not UTF-8", key.escape_ascii())))?;
    let (Parsed { dtype, dims, stored }, listed) = Parsed::parse(name, value)?;
    let (parts, assembly) = match listed.as_slice() {
        [] => (vec![stored], None),
        listed if listed.len() <= MAX_SLICES => {
            let (parts, assembly) = assemble(name, dtype, &dims, listed, slices)?;
            (parts, Some(assembly))
        }
        listed => {
            return Err(damaged(format!(
                "'{name}': {} slices, expected at most {MAX_SLICES}",
                listed.len()
            )));
        }
    };
    Ok(Variable {
        name: name.to_owned(),
        dtype,
        dims,
        parts,
        assembly,
    })
}

fn assemble(
    name: &str,
    dtype: DataType,
    dims: &[usize],
    listed: &[proto::TensorSlice],
    entries: &mut BTreeMap<Vec<u8>, Parsed>,
) -> std::result::Result<(Vec<Stored>, Assembly), Damaged> {
    let (mut parts, mut all) = (vec![], vec![]);
    for slice in listed {
        let bad = || damaged(format!("'{name}': slice {slice:?} does not fit {dtype} {dims:?}"));
        let slice = Slice::of(slice).ok_or_else(bad)?;
        let entry = entries.remove(&slice.key(name));
        let entry = entry.ok_or_else(|| damaged(format!("'{name}': a slice without an entry, or listed twice")))?;
        if entry.dtype != dtype || slice.dims(dims) != Some(entry.dims) {
            return Err(bad());
        }
        parts.push(entry.stored);
        all.push(slice);
    }
    let assembly = Assembly::new(dims, &all);
    let assembly = assembly.ok_or_else(|| damaged(format!("'{name}': its slices overlap or do not cover {dims:?}")))?;
    Ok((parts, assembly))
}

/// A bundle with open shards.
#[derive(Debug)]
pub struct Bundle {
    prefix: PathBuf,
    index: Index,
    shards: BTreeMap<i32, Shard>,
}

#[derive(Debug)]
struct Shard {
    file: File,
    bytes: u64,
}

impl Shard {
    /// Name of a variable in the shard, for messages.
    fn open(path: &Path, count: i32, variable: &Variable) -> Result<Self> {
        let file = crate::files::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoShard {
                path: path.into(),
                count,
                name: variable.name.clone(),
            },
            _ => Error::io(path)(source),
        })?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        Ok(Shard { file, bytes })
    }
}

impl Bundle {
    /// Opens the bundle of a prefix: reads the index and checks that the shards exist and are long enough.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged, another version or byte order, missing or short shards.
    pub fn open(prefix: &Path) -> Result<Self> {
        let index = read_index(&index_path(prefix))?;
        let mut shards = BTreeMap::new();
        for variable in &index.variables {
            for part in &variable.parts {
                let path = shard_path(prefix, part.shard, index.shards);
                let shard = match shards.entry(part.shard) {
                    Entry::Occupied(open) => open.into_mut(),
                    Entry::Vacant(absent) => absent.insert(Shard::open(&path, index.shards, variable)?),
                };
                let (found, expected) = (shard.bytes, part.offset.saturating_add(part.size));
                if expected > found {
                    return Err(Error::Length {
                        path,
                        name: variable.name.clone(),
                        found,
                        expected,
                    });
                }
            }
        }
        // Shared data would let a small bundle expand to a huge file.
        let claimed = index.variables.iter().map(Variable::bytes).fold(0, u64::saturating_add);
        let found = shards.values().map(|shard| shard.bytes).fold(0, u64::saturating_add);
        if claimed > found {
            return Err(Error::Damaged {
                path: index_path(prefix),
                reason: format!("variables of {claimed} bytes in shards of {found}"),
            });
        }
        Ok(Bundle {
            prefix: prefix.into(),
            index,
            shards,
        })
    }

    /// Variables sorted by name.
    pub fn variables(&self) -> &[Variable] {
        self.index.variables()
    }

    /// The prefix of the bundle.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The files of the bundle.
    pub fn files(&self) -> Vec<PathBuf> {
        let shards = self
            .shards
            .keys()
            .map(|&shard| shard_path(&self.prefix, shard, self.index.shards));
        shards.chain([index_path(&self.prefix)]).collect()
    }

    /// Hands the data of a variable of this bundle to `out`, row-major and by chunks, and verifies its checksums. An error may come after all
    /// of the data: what was made of it is then to be discarded.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Boolean`], or I/O, that of `out` as it is.
    pub fn copy(&self, variable: &Variable, out: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let width = variable.dtype.bytes().unwrap_or(1) as u64;
        let chunk_bytes = if variable.parts.len() > 1 {
            SLICE_CHUNK_BYTES
        } else {
            CHUNK_BYTES
        };
        let section = |part: &Stored| {
            let shard = self.shards.get(&part.shard).ok_or(io::ErrorKind::NotFound)?;
            Ok(Section::new(&shard.file, part.offset, part.size, chunk_bytes))
        };
        let mut sections: Vec<Section> = variable.parts.iter().map(section).collect::<io::Result<_>>()?;
        let mut checked = |bytes: &[u8]| {
            if variable.dtype == DataType::BOOL
                && let Some(&found) = bytes.iter().find(|&&byte| byte > 1)
            {
                return Err(io::Error::other(Error::Boolean {
                    path: self.prefix.clone(),
                    name: variable.name.clone(),
                    found,
                }));
            }
            out(bytes)
        };
        match &variable.assembly {
            None => sections[0].copy(variable.bytes(), &mut checked)?,
            Some(assembly) => {
                assembly.runs(&mut |part, count| sections[part].copy(count as u64 * width, &mut checked))?
            }
        }
        for (section, part) in sections.iter().zip(&variable.parts) {
            let found = table::masked(section.crc());
            if found != part.crc {
                return Err(io::Error::other(Error::Checksum {
                    path: shard_path(&self.prefix, part.shard, self.index.shards),
                    name: variable.name.clone(),
                    found,
                    expected: part.crc,
                }));
            }
        }
        Ok(())
    }
}

fn read_index(path: &Path) -> Result<Index> {
    let file = crate::files::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_INDEX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        return Err(Error::Damaged {
            path: path.into(),
            reason: format!("more than {MAX_INDEX_BYTES} bytes"),
        });
    }
    match foreign::identify(&bytes) {
        Some((found, advice)) => Err(Error::OtherKind {
            path: path.into(),
            found,
            advice,
        }),
        None => Index::parse(path, &bytes),
    }
}
