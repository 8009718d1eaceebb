//! Checkpoints: named arrays and metadata in one safetensors file, written atomically.
//!
//! Any safetensors reader can open these files. Our metadata is JSON with sorted keys under a single key,
//! [`METADATA_KEY`], so the same state gives the same bytes.

pub(crate) mod atomic;
mod averages;
pub mod certificate;
mod file;
mod fit;
mod foreign;
mod header;
mod run_dir;
pub mod sparse;
pub mod tf;
pub mod torch;

pub use averages::WEIGHT_AVERAGE;
pub use certificate::{Certificate, ExamplesDigest, Origin};
pub use file::{Stored, layout, load, save};
pub use fit::Problem;
pub use run_dir::{BEST, CERTIFICATE, CONFIG, METRICS, Mode, RunDir, SUMMARY, checkpoints as saved, resolve};

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use hlo::Literal;
use serde::{Deserialize, Serialize};

/// The safetensors metadata key of our [`Metadata`].
pub const METADATA_KEY: &str = "rigl-xla";

/// The format version that this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Metadata of a checkpoint, sufficient to evaluate or resume from the file alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Format version.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Number of iterations done.
    pub iteration: u64,
    /// Configuration of the run, in TOML.
    pub config: String,
    /// Additional entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

impl Metadata {
    /// Creates metadata in the current format, without additional entries.
    pub fn new(model: impl Into<String>, iteration: u64, config: impl Into<String>) -> Self {
        Metadata {
            format: FORMAT,
            model: model.into(),
            iteration,
            config: config.into(),
            extra: BTreeMap::new(),
        }
    }
}

/// A loaded checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Path of the file.
    pub path: PathBuf,
    /// Every array of the file, by name.
    pub tensors: BTreeMap<String, Literal>,
    /// Type and dimensions of arrays with an unsupported element type, which were not read, by name.
    pub unread: BTreeMap<String, String>,
    /// `None` if another program wrote the file.
    pub metadata: Option<Metadata>,
}

/// Why a checkpoint or run folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: no such file, expected a file in safetensors form: check the path", path.display())]
    Missing { path: PathBuf },
    #[error("{}: an empty file, expected a file in safetensors form: copy or download it again", path.display())]
    Empty { path: PathBuf },
    #[error("{}: not saved: {source}; what was there before is untouched", path.display())]
    Save { path: PathBuf, source: io::Error },
    #[error("{}: damaged: {found} bytes, expected {expected}: copy or download it again", path.display())]
    Length { path: PathBuf, found: u64, expected: u64 },
    #[error("{}: {found}, expected a checkpoint in safetensors form: {advice}", path.display())]
    OtherKind {
        path: PathBuf,
        found: &'static str,
        advice: &'static str,
    },
    #[error("{}: a folder, expected a file in safetensors form", path.display())]
    Folder { path: PathBuf },
    #[error("{}: damaged or not a safetensors file: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: damaged, expected what a run wrote: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{}: tensor '{name}' has type {found}, which TensorFlow's checkpoints do not have", path.display())]
    ElementType { path: PathBuf, name: String, found: String },
    #[error("{}: checkpoint format {found}, expected at most {FORMAT}: a newer program wrote it", path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("{}: stores masked layers as '{format}' of version {version}, expected bitmask of version at most {}: convert the checkpoint that it was made from",
        path.display(), sparse::VERSION)]
    SparseFormat {
        path: PathBuf,
        format: String,
        version: u32,
    },
    #[error("{}: holds {found}, which {model} of torchvision and timm does not have: a variant that this program does not build", path.display())]
    NotTorch {
        path: PathBuf,
        found: String,
        model: String,
    },
    #[error("{}: not saved: the name '{name}' is taken, expected no array of this name in the checkpoint", path.display())]
    NameTaken { path: PathBuf, name: String },
    #[error("{}: does not fit: {}", path.display(), fit::Listed(problems))]
    Unfit { path: PathBuf, problems: Vec<Problem> },
    #[error("{} holds another run ({found}): give --resume to continue it, --overwrite to replace it, or another folder", path.display())]
    Occupied { path: PathBuf, found: String },
    #[error("{}: nothing to resume: no config.toml there; leave out --resume to start a run", path.display())]
    NoRun { path: PathBuf },
    #[error("{}: {found}; expected a folder, or nothing, to keep a run in", path.display())]
    NoFolder { path: PathBuf, found: String },
    #[error("{}: no checkpoint there (ckpt-<iteration>.safetensors)", path.display())]
    NoCheckpoint { path: PathBuf },
    #[error("{}: another process is using this run folder", path.display())]
    Locked { path: PathBuf },
    #[error("{newest}; {}", Previous(previous.as_deref()))]
    NewestDamaged {
        newest: Box<Error>,
        previous: Option<PathBuf>,
    },
}

struct Previous<'a>(Option<&'a Path>);

impl fmt::Display for Previous<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(
                f,
                "the newest good checkpoint is {}: move the damaged file away to resume there",
                path.display()
            ),
            None => f.write_str("there is no good checkpoint before it"),
        }
    }
}

impl Error {
    /// For `map_err` around a call on `path`.
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }
}

/// For a fault in the content of a file.
fn damaged(path: &Path, reason: &dyn fmt::Display) -> Error {
    Error::Damaged {
        path: path.into(),
        reason: reason.to_string(),
    }
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;
