//! TensorFlow checkpoints of version 2, as TensorFlow 1.15 and 2 write them: bundles of an index, `PREFIX.index`, and
//! shards of raw little-endian data, `PREFIX.data-00000-of-00001` and so on.
//!
//! The index is a [`table`] of names and entries with type, shape, position and checksum. The entry of a partitioned
//! variable has no data; it lists slices, each with its own entry. A `checkpoint` file names the newest prefix of a
//! folder.

mod bundle;
mod convert;
mod dtype;
pub mod original;
mod place;
mod proto;
mod role;
mod section;
mod slice;
pub mod table;
mod writer;

pub use bundle::{Bundle, Index, Variable};
pub use convert::{Written, from_safetensors, to_safetensors};
pub use dtype::DataType;
pub use place::{resolve, write_state};
pub use role::Role;
pub use slice::Slice;
pub use writer::{Array, write};

use std::io;
use std::path::{Path, PathBuf};

/// Why a TensorFlow checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: no such file, and no TensorFlow checkpoint of this prefix (no file {}): check the path", prefix.display(), index.display())]
    NoIndex { prefix: PathBuf, index: PathBuf },
    #[error("{}: no file 'checkpoint' there that names one: give the prefix, as model.ckpt-1000", folder.display())]
    NoState { folder: PathBuf },
    #[error("{}: a checkpoint of version 1, expected version 2, with an .index file: restore it and save it again in TensorFlow", path.display())]
    V1 { path: PathBuf },
    #[error("{}: damaged or not the index of a TensorFlow checkpoint: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {found}, expected the index of a TensorFlow checkpoint: {advice}", path.display())]
    OtherKind {
        path: PathBuf,
        found: &'static str,
        advice: &'static str,
    },
    #[error("{}: format version {found}, expected at most {expected}", path.display())]
    Version { path: PathBuf, found: i32, expected: i32 },
    #[error("{}: written on a big-endian machine, expected little-endian data", path.display())]
    BigEndian { path: PathBuf },
    #[error("{}: missing, of {count} shards: variable '{name}' lies in it", path.display())]
    NoShard { path: PathBuf, count: i32, name: String },
    #[error("{}: damaged: {found} bytes, expected at least {expected} for variable '{name}'", path.display())]
    Length {
        path: PathBuf,
        name: String,
        found: u64,
        expected: u64,
    },
    #[error("{}: damaged: variable '{name}' has checksum {found:08x}, expected {expected:08x}", path.display())]
    Checksum {
        path: PathBuf,
        name: String,
        found: u32,
        expected: u32,
    },
    #[error("{}: damaged: variable '{name}' holds a boolean of value {found}, expected 0 or 1", path.display())]
    Boolean { path: PathBuf, name: String, found: u8 },
    #[error("{}: tensor '{name}' is {found}, expected a real number, integer or boolean of 1 to 8 bytes", path.display())]
    ElementType { path: PathBuf, name: String, found: String },
}

impl Error {
    /// For `map_err` around a call on `path`.
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Appends to `PREFIX`. Not an extension, because `model.ckpt-1` has one.
fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The index file of a prefix, which marks a bundle.
pub fn index_path(prefix: &Path) -> PathBuf {
    with_suffix(prefix, ".index")
}

fn shard_path(prefix: &Path, shard: i32, count: i32) -> PathBuf {
    with_suffix(prefix, &format!(".data-{shard:05}-of-{count:05}"))
}
