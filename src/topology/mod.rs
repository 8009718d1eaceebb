//! The topology journal of a run: the connections that each mask update dropped and grew.
//!
//! A journal is a file of TFRecords: a header that names the layers, the first masks, and the changes of every update
//! (`docs/formats.md`, Topology journal). [`Writer`] appends, [`Journal`] replays the masks, and [`Tracker`] computes what
//! happened to them.

mod changes;
mod overlap;
pub mod pictures;
mod replay;
mod tracker;
mod writer;

pub use changes::Changes;
pub use overlap::Overlap;
pub use replay::{Journal, Record};
pub use tracker::{Fans, LayerTracker, Tracker, Update, fans, without_connections};
pub use writer::Writer;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::tfrecord;
use crate::report::escape;

/// Name of the journal in a run folder.
pub const FILE: &str = "topology.journal";
/// Value of `format` in the header.
const FORMAT: &str = "rigl-xla topology journal";
/// The version that this program writes, and the newest it reads.
const VERSION: u32 = 1;
/// Most weights of all layers together. Published networks have 26 million.
const MAX_WEIGHTS: usize = 1 << 30;
/// Most bytes of a record: a byte per weight, and the counts.
const MAX_RECORD_BYTES: u32 = (MAX_WEIGHTS + (1 << 20)) as u32;

/// A masked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Name, as in `layer1` for the mask `layer1/mask`.
    pub name: String,
    /// Dimensions of the kernel; inputs and outputs are the last two.
    pub shape: Vec<usize>,
}

impl Layer {
    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The first record of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    /// Dimensions of an example, such as `[28, 28, 1]`.
    pub input: Vec<usize>,
    /// Masked layers, in the order of the network.
    pub layers: Vec<Layer>,
}

impl Header {
    /// A header in the current format.
    pub fn new(input: Vec<usize>, layers: Vec<Layer>) -> Self {
        Header {
            format: FORMAT.into(),
            version: VERSION,
            input,
            layers,
        }
    }

    /// Parses the first record. The message says what was found and expected.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header: Header =
            serde_json::from_slice(bytes).map_err(|e| format!("no header of a topology journal: {e}"))?;
        if header.format != FORMAT {
            let found = escape::name(&header.format);
            return Err(format!("format '{found}', expected '{FORMAT}'"));
        }
        if header.version > VERSION {
            let found = header.version;
            return Err(format!(
                "version {found}, expected at most {VERSION}: a newer program wrote it"
            ));
        }
        let weights = |layer: &Layer| layer.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let total = header
            .layers
            .iter()
            .try_fold(0usize, |n, layer| n.checked_add(weights(layer)?));
        match total.filter(|&n| n <= MAX_WEIGHTS) {
            Some(_) => Ok(header),
            None => Err(format!("layers of more than {MAX_WEIGHTS} weights")),
        }
    }
}

/// Kind of a record after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The first masks, as changes of empty ones.
    Start = 0,
    /// The changes of one mask update.
    Update = 1,
    /// The net changes of several updates.
    Merged = 2,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Start, Kind::Update, Kind::Merged]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why a folder has no journal.
fn missing(path: &Path) -> String {
    match path.is_dir() {
        false => "no such folder, expected a run folder".into(),
        true => {
            format!("no topology journal there; a run writes {FILE} unless it has no masks or was given --no-topology")
        }
    }
}

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {}", escape::path(path), missing(path))]
    Missing { path: PathBuf },
    #[error(transparent)]
    Records(#[from] tfrecord::Error),
    #[error("{}: {reason}", escape::path(path))]
    Foreign { path: PathBuf, reason: String },
    #[error("{}: record at byte {offset}: {reason}", escape::path(path))]
    Damaged { path: PathBuf, offset: u64, reason: String },
    #[error(
        "{}: iteration {asked}, expected at least {first}, where the journal begins",
        escape::path(path)
    )]
    Outside { path: PathBuf, asked: u64, first: u64 },
    #[error(
        "{}: layers differ from those of {}: {reason}",
        escape::path(path),
        escape::path(other)
    )]
    OtherLayers {
        path: PathBuf,
        other: PathBuf,
        reason: String,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::Io { path, source }
    }

    /// Whether the error is in the user's flags.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Outside { .. } => true,
            Error::Io { .. }
            | Error::Missing { .. }
            | Error::Records(_)
            | Error::Foreign { .. }
            | Error::Damaged { .. }
            | Error::OtherLayers { .. } => false,
        }
    }
}

/// Results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
