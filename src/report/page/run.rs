//! The data of one run in a report.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::topology::{Topology, topology};
use super::{Error, Result, read_if_there};
use crate::checkpoint::{self, CERTIFICATE, CONFIG, METRICS};
use crate::config::{Plan, Run};
use crate::report::escape;

/// Most bytes of `metrics.jsonl`.
const MAX_METRICS_BYTES: u64 = 1 << 28;
/// Most bytes of a certificate.
const MAX_CERTIFICATE_BYTES: u64 = 1 << 20;

/// A run: its plan, its metrics and the history of its masks.
#[derive(Debug, Serialize)]
pub struct RunData {
    /// The last part of the folder's path.
    pub name: String,
    /// Folder.
    pub folder: String,
    /// Seed.
    pub seed: u64,
    /// Iterations done, as far as the metrics go.
    pub iteration: u64,
    /// Scores of the last evaluation.
    pub last: Option<Value>,
    #[serde(skip)]
    pub(super) plan: Plan,
    #[serde(skip)]
    pub(super) metrics: Vec<Value>,
    #[serde(skip)]
    pub(super) topology: Option<Topology>,
    /// Values of the certificate, if the run has one.
    #[serde(skip)]
    pub(super) certificate: Vec<(String, String)>,
    /// SHA-256 of files of the folder.
    pub digests: Vec<(String, String)>,
}

impl RunData {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let config = folder.join(CONFIG);
        let text = crate::files::read_text(&config, crate::config::MAX_CONFIG_BYTES);
        let text = text.map_err(|source| Error::Io {
            path: config.clone(),
            source,
        })?;
        let run = Run::from_toml(&text, &escape::path(&config))?;
        let seed = run.train.seed;
        let plan = Plan::new(run)?;
        let metrics = lines(&read_if_there(&folder.join(METRICS), MAX_METRICS_BYTES)?.unwrap_or_default());
        let iterations = metrics.iter().filter_map(|line| line["iteration"].as_u64());
        let evaluated = |line: &&Value| {
            line.get("eval")
                .or(line.get("validation"))
                .is_some_and(Value::is_object)
        };
        let last = metrics.iter().rev().find(evaluated).cloned();
        let certificate = read_if_there(&folder.join(CERTIFICATE), MAX_CERTIFICATE_BYTES)?;
        let certificate = certificate.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(RunData {
            name,
            folder: folder.display().to_string(),
            seed,
            iteration: iterations.max().unwrap_or_default(),
            last,
            topology: topology(folder)?,
            certificate: certificate.as_ref().map(flat).unwrap_or_default(),
            digests: digests(folder),
            plan,
            metrics,
        })
    }

    /// Iterations and values of a metric by its dotted name, such as `loss` or `eval.top1`.
    pub(super) fn curve(&self, name: &str) -> Vec<(f64, f64)> {
        let pointer = format!("/{}", name.replace('.', "/"));
        let value = |line: &Value| Some((line["iteration"].as_f64()?, line.pointer(&pointer)?.as_f64()?));
        self.metrics.iter().filter_map(value).collect()
    }

    /// The last value of a metric.
    pub(super) fn last(&self, name: &str) -> Option<f64> {
        self.curve(name).last().map(|&(_, value)| value)
    }

    /// Share of correct predictions in the last evaluation on the test set, or on the validation split before there is one.
    pub(super) fn accuracy(&self) -> Option<f64> {
        self.last("eval.top1").or_else(|| self.last("validation.top1"))
    }

    /// Seconds spent in training launches, and the median rate in iterations per second.
    pub(super) fn clock(&self) -> Option<(f64, f64)> {
        let rates = self.curve("steps_per_s");
        let mut before = 0.0;
        let mut seconds = 0.0;
        for &(iteration, rate) in &rates {
            // A rate covers its launch; the first may include a longer part after a resume.
            seconds += (iteration - before) / rate.max(f64::MIN_POSITIVE);
            before = iteration;
        }
        let mut rates: Vec<f64> = rates.into_iter().map(|(_, rate)| rate).collect();
        rates.sort_by(f64::total_cmp);
        Some((seconds, *rates.get(rates.len() / 2)?))
    }
}

/// The objects of a file with one per line. A line that is cut or damaged is left out.
fn lines(bytes: &[u8]) -> Vec<Value> {
    let lines = bytes.split(|&byte| byte == b'\n');
    let objects = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    objects.filter(Value::is_object).collect()
}

/// The values of an object by dotted name, nested objects included.
pub(super) fn flat(value: &Value) -> Vec<(String, String)> {
    fn add(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let key = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    add(&key, value, out);
                }
            }
            Value::String(text) => out.push((prefix.to_owned(), text.clone())),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                out.push((prefix.to_owned(), value.to_string()));
            }
        }
    }
    let mut out = vec![];
    add("", value, &mut out);
    out
}

/// Digests of a run's files, the newest checkpoint among them.
fn digests(folder: &Path) -> Vec<(String, String)> {
    let newest = checkpoint::saved(folder).ok().and_then(|mut saved| saved.pop());
    let names = [CONFIG, METRICS, crate::topology::FILE].map(|name| folder.join(name));
    let files = names.into_iter().chain(newest.map(|(_, path)| path));
    let digest = |path: std::path::PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, crate::files::sha256(&path).ok()?))
    };
    files.filter_map(digest).collect()
}
