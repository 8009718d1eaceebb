//! Data sets ([`sets`]) as host arrays: fetching ([`fetch`]), readers ([`idx`], [`mnist`], [`cifar`], [`tfrecord`]),
//! training order ([`batches`]), and conversion of pixels to network inputs ([`pixels`]). Sets that do not fit in
//! memory are streamed while the device works ([`records`], [`pipeline`]).

pub mod arrays;
pub mod batches;
mod budget;
pub mod cifar;
pub mod classes;
pub mod fetch;
pub mod folder;
pub mod held_out;
pub mod idx;
pub mod imagenet;
pub mod inspect;
pub mod mnist;
mod parallel;
pub use pictures as picture;
pub mod pipeline;
pub mod pixels;
pub mod prepare;
pub mod records;
pub mod resize;
pub mod sets;
pub mod synthetic;
pub mod tfrecord;

use std::{io, path::PathBuf};

use hlo::{Literal, Shape};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};

use crate::report::escape;
use sparse::names::Unknown;

/// Labelled images, entirely in host memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// `u8[N, …]`: raw pixels, 0 to 255, channels last, or `f32[N, …]`. The graph converts them to network inputs
    /// ([`pixels`]).
    pub images: Literal,
    /// `s32[N]`: classes, each in `0..classes`.
    pub labels: Literal,
    /// Number of classes.
    pub classes: usize,
}

impl Dataset {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.shape().elements()
    }

    /// Whether there are no examples. No reader here returns an empty set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Training examples.
    Train,
    /// Evaluation examples.
    Test,
}

/// Why data could not be loaded. Each message names the file, the value found and the value expected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("cache: {0}")]
    Cache(io::Error),
    #[error(
        "{}: not an IDX file: it starts with {found:02x?}, expected [00, 00]{}",
        escape::path(path), idx::hint(*found)
    )]
    NotIdx { path: PathBuf, found: [u8; 2] },
    #[error(
        "{}: IDX element type 0x{found:02x}, expected 0x08 (unsigned bytes)",
        escape::path(path)
    )]
    ElementType { path: PathBuf, found: u8 },
    #[error("{}: IDX array of rank {found}, expected rank {expected}", escape::path(path))]
    Rank { path: PathBuf, found: u8, expected: u8 },
    #[error("{}: IDX dimensions {dims:?} are too large for any file", escape::path(path))]
    Overflow { path: PathBuf, dims: Vec<usize> },
    #[error(
        "{}: truncated: {found} bytes, expected {expected} (uncompressed)",
        escape::path(path)
    )]
    Truncated { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "{}: trailing bytes: {found} bytes, expected {expected} (uncompressed)",
        escape::path(path)
    )]
    Trailing { path: PathBuf, found: u64, expected: u64 },
    #[error("{}: cannot hold {found}: IDX arrays written here are u8", escape::path(path))]
    NotBytes { path: PathBuf, found: Shape },
    #[error(
        "{}: {found} bytes, expected at least one record and nothing but whole records of {record} bytes",
        escape::path(path)
    )]
    Records { path: PathBuf, found: u64, record: usize },
    #[error("{}: images of {found:?}, expected at least one of {expected:?}", escape::path(path))]
    ImageSize {
        path: PathBuf,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error(
        "{}: label {found} at index {index}, expected less than {classes}",
        escape::path(path)
    )]
    Label {
        path: PathBuf,
        index: usize,
        found: u8,
        classes: usize,
    },
    #[error(
        "{} has {images} images, but {} has {labels} labels; expected as many",
        escape::path(images_path),
        escape::path(labels_path)
    )]
    Count {
        images_path: PathBuf,
        images: usize,
        labels_path: PathBuf,
        labels: usize,
    },
    #[error("{}: found none of {}", escape::path(dir), expected.join(", "))]
    Missing { dir: PathBuf, expected: Vec<String> },
    #[error(
        "{}: {missing} is missing, but {found} is there; expected files numbered without a gap",
        escape::path(dir)
    )]
    MissingPart {
        dir: PathBuf,
        missing: String,
        found: String,
    },
    #[error(
        "{}: {found} bytes of images, expected at most {expected}: the set is kept in memory",
        escape::path(path)
    )]
    TooLarge { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "{} and {} both hold a data set; give one of them with --data",
        escape::path(first),
        escape::path(second)
    )]
    SeveralSets { first: PathBuf, second: PathBuf },
    #[error("{}: {what}: {advice}", escape::path(path))]
    Foreign {
        path: PathBuf,
        what: &'static str,
        advice: &'static str,
    },
    #[error("{}: no such folder", escape::path(path))]
    NoFolder { path: PathBuf },
    #[error(
        "{}: no data set: expected the IDX files of MNIST or Fashion-MNIST (train-images-idx3-ubyte), the binary files of \
         CIFAR-10 (data_batch_1.bin) or TFRecord shards (train-00000-of-00001, train.tfrecord)",
        escape::path(path)
    )]
    NoDataSet { path: PathBuf },
    #[error("{}: class {found} in the {split} set, expected {expected}", escape::path(path))]
    UnknownClass {
        path: PathBuf,
        split: &'static str,
        found: i64,
        expected: String,
    },
    #[error("{}: line {line}: {problem}", escape::path(path))]
    Classes {
        path: PathBuf,
        line: usize,
        problem: &'static str,
    },
    #[error(transparent)]
    UnknownName(#[from] Unknown),
    #[error("cannot fetch {name}: {reason}\n{advice}")]
    Fetch {
        name: &'static str,
        reason: String,
        advice: String,
    },
    #[error(
        "{name}: no package has it, so it cannot be fetched; give the folder with {what} with --data, or put it at {}",
        escape::path(folder)
    )]
    NotFetched {
        name: &'static str,
        what: &'static str,
        folder: PathBuf,
    },
    #[error(transparent)]
    TfRecord(#[from] tfrecord::Error),
    #[error("{}: {found} bytes, expected {expected}", escape::path(path))]
    Size { path: PathBuf, found: u64, expected: u64 },
    #[error("{}: SHA-256 {found}, expected {expected}", escape::path(path))]
    Digest {
        path: PathBuf,
        found: String,
        expected: &'static str,
    },
    #[error(
        "batch size {batch}, expected 1 to the number of examples, {examples} (at most {})",
        i32::MAX
    )]
    Batch { batch: usize, examples: usize },
    #[error("data.validation holds out {held} of {examples} training examples, expected at least one fewer")]
    Validation { held: usize, examples: usize },
    #[error(
        "the network takes examples of dimensions {dims:?}, expected [size, size, 3]: TFRecords hold pictures in colour"
    )]
    NotPictures { dims: Vec<usize> },
    #[error("{}: found no record in {files} files, expected at least one", escape::path(dir))]
    NoRecords { dir: PathBuf, files: usize },
    #[error("arrays: only a model exported from JAX takes them, expected a data set of pictures")]
    OnlyExported,
    #[error(transparent)]
    Arrays(#[from] arrays::Error),
    #[error("a thread that reads data cannot be started: {0}")]
    Thread(io::Error),
    #[error("the threads that read data have stopped")]
    Workers,
}

impl Error {
    /// True for a misspelled name, false for data that cannot be read.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Arrays(error) => error.is_usage(),
            error => matches!(
                error,
                Error::UnknownName(_) | Error::NoFolder { .. } | Error::Validation { .. } | Error::OnlyExported
            ),
        }
    }

    /// Whether the fault is limited to one record, so that the others are usable.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Error::TfRecord(error) if error.is_of_one_record())
    }

    /// For `map_err` around a call on `path`.
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Maximum bytes of images of a set in memory: 768 MiB. The largest public set in one of these formats, EMNIST's, has
/// 522 MiB.
pub const MAX_SET_BYTES: u64 = 768 << 20;

/// Formats names for a message: the first ones, and the total count.
pub(crate) fn named(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        n if n > SHOWN => format!("{n} files: {shown}, …"),
        1 => format!("1 file: {shown}"),
        n => format!("{n} files: {shown}"),
    }
}

/// Joins the first names of a list, each truncated to a bounded length.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    const LETTERS: usize = 80;
    let short = |name: &String| escape::name(&name.chars().take(LETTERS).collect::<String>()).into_owned();
    let shown: Vec<String> = names.iter().take(SHOWN).map(short).collect();
    match names.len() > SHOWN {
        true => format!("{} and {} more", shown.join(", "), names.len() - SHOWN),
        false => shown.join(", "),
    }
}

/// The random stream of one (seed, purpose, step), independent of all other streams and of earlier draws.
/// Older than [`sparse::rng::stream`], whose key would put the examples of existing runs into another order.
fn stream(seed: u64, purpose: &str, step: u64) -> ChaCha8Rng {
    let mut key = Sha256::new();
    key.update(seed.to_le_bytes());
    key.update(step.to_le_bytes());
    key.update(purpose);
    ChaCha8Rng::from_seed(key.finalize().into())
}
