//! `certificate.json`: what a run was made from and what came of it, as digests, so that it can be verified later.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run_dir::{CERTIFICATE, CONFIG, METRICS, SUMMARY, checkpoints};
use super::{Error, Result, RunDir, atomic};
use crate::report::events;
use crate::{exported, files, topology};

/// Format of the certificate.
const FORMAT: u32 = 1;
/// Bound on a certificate, which has some hundred bytes per checkpoint.
const MAX_BYTES: u64 = 1 << 20;

/// Digests of a run's inputs and results: SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Format version.
    pub format: u32,
    /// Version of this program.
    pub version: String,
    /// Seed of the run.
    pub seed: u64,
    /// Digest of `config.toml`.
    pub config: String,
    /// Data, programs and device.
    pub origin: Origin,
    /// Iterations done.
    pub iterations: u64,
    /// Gradient steps done.
    pub global_step: i64,
    /// Digest of each checkpoint, by file name.
    pub checkpoints: BTreeMap<String, String>,
    /// Digest of the records of `metrics.jsonl`.
    pub metrics: String,
    /// Digest of the topology journal, if the run keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<String>,
    /// Digests of its other files, by name: the summary, the events, the copy of an exported model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, String>,
}

/// The data, programs and device of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Examples of each part of the data: their number and the digest of their bytes, or of names and offsets of TFRecords.
    pub data: BTreeMap<String, ExamplesDigest>,
    /// Digest of each compiled program as a graph.
    pub programs: BTreeMap<String, String>,
    /// Engine, plugin, platform and processor.
    pub device: BTreeMap<String, String>,
}

/// Identity of examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExamplesDigest {
    /// Number of examples.
    pub examples: usize,
    /// Digest of their bytes, or of names and offsets of TFRecords.
    pub sha256: String,
}

impl Certificate {
    /// Certifies a run folder in its present state.
    ///
    /// # Errors
    /// I/O.
    pub fn of(run: &RunDir, seed: u64, origin: &Origin, iterations: u64, global_step: i64) -> Result<Self> {
        let dir = run.path();
        let digest = |path: &Path| files::sha256(path).map_err(Error::io(path));
        let named = |path: std::path::PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, digest(&path)?))
        };
        Ok(Certificate {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            seed,
            config: digest(&dir.join(CONFIG))?,
            origin: origin.clone(),
            iterations,
            global_step,
            checkpoints: checkpoints(dir)?
                .into_iter()
                .map(|(_, path)| named(path))
                .collect::<Result<_>>()?,
            metrics: metrics_digest(dir)?,
            topology: Some(dir.join(topology::FILE))
                .filter(|path| path.is_file())
                .map(|path| digest(&path))
                .transpose()?,
            others: [SUMMARY, events::FILE, exported::FILE]
                .map(|name| dir.join(name))
                .into_iter()
                .filter(|path| path.is_file())
                .map(named)
                .collect::<Result<_>>()?,
        })
    }

    /// Writes `certificate.json`.
    ///
    /// # Errors
    /// [`Error::Save`].
    pub fn write(&self, run: &RunDir) -> Result<()> {
        let path = run.path().join(CERTIFICATE);
        atomic::write(&path, |out| {
            serde_json::to_writer_pretty(out, self).map_err(io::Error::other)
        })
        .map_err(|source| Error::Save { path, source })
    }

    /// Reads the certificate of a run folder; `None` if the run has not ended.
    ///
    /// # Errors
    /// A damaged or newer certificate, or I/O.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(CERTIFICATE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read(&path, MAX_BYTES).map_err(Error::io(&path))?;
        let certificate: Certificate = serde_json::from_slice(&bytes).map_err(|error| Error::Certificate {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        match certificate.format <= FORMAT {
            true => Ok(Some(certificate)),
            false => Err(Error::Format {
                path,
                found: certificate.format,
            }),
        }
    }
}

/// Digest of the records of `metrics.jsonl`, in order.
///
/// # Errors
/// I/O.
pub fn metrics_digest(dir: &Path) -> Result<String> {
    files::sha256(&dir.join(METRICS)).map_err(Error::io(dir.join(METRICS)))
}

/// The records of `metrics.jsonl`, without lines that are no records.
///
/// # Errors
/// I/O.
pub fn records(dir: &Path) -> Result<Vec<Value>> {
    let path = dir.join(METRICS);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}
