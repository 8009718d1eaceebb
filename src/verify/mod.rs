//! Verifies a finished run: its files against the certificate, and a part of it by computing it again.

mod compare;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::certificate::{metrics_digest, records};
use crate::checkpoint::{self, CONFIG, Certificate, ExamplesDigest, METRICS, Mode};
use crate::config::{self, Device, Layers, Plan};
use crate::report::escape;
use crate::{files, signals, topology, train};

use compare::{arrays, metrics};

/// Why a run cannot be verified.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {}", escape::path(path), uncertified(path))]
    NoCertificate { path: PathBuf },
    #[error("{}: no checkpoint of iteration {found}, expected {expected}", escape::path(path))]
    NoWindow {
        path: PathBuf,
        found: u64,
        expected: String,
    },
    #[error("{}: {source}", escape::path(path))]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// Why a folder has no certificate.
fn uncertified(path: &Path) -> &'static str {
    match (path.is_dir(), path.join(checkpoint::CONFIG).is_file()) {
        (false, _) => "no such folder, expected a run folder",
        (true, false) => "no run there, expected a run folder with config.toml",
        (true, true) => "no certificate.json: the run has not ended; finish it with train --resume",
    }
}

impl Error {
    /// Whether flags are wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::NoWindow { .. })
    }
}

/// Options of a verification.
#[derive(Clone, Debug)]
pub struct Options {
    /// Checkpoint from which the window is computed again, 0 for the start of the run. Default: the one before [`Options::to`],
    /// or 0.
    pub from: Option<u64>,
    /// Checkpoint at its end. Default: the newest.
    pub to: Option<u64>,
    /// Relative difference that is allowed on another processor, plugin or version.
    pub tolerance: f64,
    /// Whether only files are compared with their digests.
    pub files_only: bool,
    /// Where to compute, in place of the run's device.
    pub device: Option<Device>,
}

/// How the window was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Byte by byte: everything that computes is the same.
    Bytes,
    /// Within a tolerance: another processor, plugin, program or version computed.
    Tolerance,
}

/// One thing that was verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as certified.
    pub ok: bool,
    /// Description of the result.
    pub found: String,
}

/// Result of a verification.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Run folder.
    #[serde(serialize_with = "crate::report::path")]
    pub run: PathBuf,
    /// Whether every check passed.
    pub verified: bool,
    /// Iterations of the window, if one was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<[u64; 2]>,
    /// How the window was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Why it was not compared byte by byte.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Every check, in order.
    pub checks: Vec<Check>,
}

/// Verifies a run folder.
///
/// # Errors
/// A run without a certificate, or whose files cannot be read. Everything that differs is in the report.
pub fn verify(run: &Path, options: &Options, stop: &signals::Stop) -> Result<Report, Error> {
    let Some(certificate) = Certificate::read(run)? else {
        return Err(Error::NoCertificate { path: run.into() });
    };
    let mut report = Report {
        run: run.into(),
        verified: false,
        window: None,
        comparison: None,
        differences: vec![],
        checks: files(run, &certificate)?,
    };
    if !options.files_only {
        let [from, to] = window(run, options)?;
        report.window = Some([from, to]);
        let replayed = replay(run, [from, to], options.device.as_ref(), stop);
        match replayed {
            Ok(replay) => compare_window(&mut report, &certificate, &replay, options.tolerance)?,
            Err(why) => report.add("window", false, why),
        }
    }
    report.verified = report.checks.iter().all(|check| check.ok);
    Ok(report)
}

impl Report {
    fn add(&mut self, name: impl Into<String>, ok: bool, found: impl Into<String>) {
        self.checks.push(Check {
            name: name.into(),
            ok,
            found: found.into(),
        });
    }
}

/// Compares the files of a run with their digests.
fn files(run: &Path, certificate: &Certificate) -> Result<Vec<Check>, Error> {
    let digest = |path: PathBuf| files::sha256(&path).map_err(|error| error.to_string());
    let mut checks = vec![compared(CONFIG, &certificate.config, digest(run.join(CONFIG)))];
    let of_metrics = metrics_digest(run).map_err(|error| error.to_string());
    checks.push(compared(METRICS, &certificate.metrics, of_metrics));
    if let Some(wanted) = &certificate.topology {
        checks.push(compared(topology::FILE, wanted, digest(run.join(topology::FILE))));
    }
    for (name, wanted) in certificate.checkpoints.iter().chain(&certificate.others) {
        // A name from a file: it must stay in the folder.
        let name = Path::new(name).file_name().unwrap_or_default();
        checks.push(compared(&name.to_string_lossy(), wanted, digest(run.join(name))));
    }
    Ok(checks)
}

fn compared(name: &str, wanted: &str, found: Result<String, String>) -> Check {
    let (ok, found) = match found {
        Ok(found) if found == wanted => (true, format!("SHA-256 {}", short(&found))),
        Ok(found) => (false, format!("SHA-256 {}, certified {}", short(&found), short(wanted))),
        Err(error) => (false, error),
    };
    Check {
        name: name.to_owned(),
        ok,
        found,
    }
}

/// The first digits of a digest.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// The window to compute again.
fn window(run: &Path, options: &Options) -> Result<[u64; 2], Error> {
    let saved = checkpoint::saved(run)?.into_iter();
    let all: Vec<u64> = saved.map(|(iteration, _)| iteration).collect();
    let listed = || match all.len() {
        0 => "a run with a checkpoint".to_owned(),
        _ => format!(
            "one of {}",
            all.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let wrong = |found: u64, expected: String| Error::NoWindow {
        path: run.into(),
        found,
        expected,
    };
    let to = options.to.or(all.last().copied()).unwrap_or(0);
    if !all.contains(&to) {
        return Err(wrong(to, listed()));
    }
    let before = all.iter().copied().rfind(|&iteration| iteration < to);
    let from = options.from.unwrap_or(before.unwrap_or(0));
    match from < to && (from == 0 || all.contains(&from)) {
        true => Ok([from, to]),
        false => Err(wrong(
            from,
            format!("0 or one of {} before {to}", listed().trim_start_matches("one of ")),
        )),
    }
}

/// A window that was computed again.
struct Replay {
    folder: tempfile::TempDir,
    _undone: signals::Undone,
    from: u64,
    to: u64,
}

impl Replay {
    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

/// Computes the iterations from `from` to `to` again, in a folder of its own.
fn replay(run: &Path, [from, to]: [u64; 2], device: Option<&Device>, stop: &signals::Stop) -> Result<Replay, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (folder, undone) = signals::temporary(tempfile::tempdir).map_err(|error| text(&error))?;
    let replay = Replay {
        folder,
        _undone: undone,
        from,
        to,
    };
    let copy = || -> Result<Plan, Box<dyn std::error::Error>> {
        let layers = Layers::preset(config::DEFAULT_PRESET)?.file(&run.join(CONFIG))?;
        let mut plan = layers.plan()?;
        plan.output_dir = replay.run();
        if let Some(device) = device {
            plan.run.device = device.clone();
        }
        plan.run.output.tensorboard = Some(false);
        // Times differ.
        plan.run.stop.time = None;
        // Both ends stay, and nothing is compressed away by a newer best one.
        plan.run.train.keep_checkpoints = usize::MAX;
        if from > 0 {
            fs::create_dir_all(replay.run())?;
            let name = format!("ckpt-{from}.safetensors");
            fs::copy(run.join(&name), replay.run().join(&name))?;
            fs::copy(run.join(METRICS), replay.run().join(METRICS))?;
            fs::write(replay.run().join(CONFIG), plan.run.to_toml()?)?;
            let journal = run.join(topology::FILE);
            if journal.is_file() {
                fs::copy(&journal, replay.run().join(topology::FILE))?;
            }
        }
        Ok(plan)
    };
    let plan = copy().map_err(|error| text(&error))?;
    let mode = if from > 0 { Mode::Resume } else { Mode::Fresh };
    let summary = train::train_until(&plan, mode, to, stop).map_err(|error| text(&error))?;
    match summary.steps == to {
        true => Ok(replay),
        false => Err(format!("it ended after {} iterations, expected {to}", summary.steps)),
    }
}

/// Compares a window with what was computed again.
fn compare_window(report: &mut Report, certified: &Certificate, replay: &Replay, tolerance: f64) -> Result<(), Error> {
    let run = report.run.clone();
    let Some(own) = Certificate::read(&replay.run())? else {
        return Err(Error::NoCertificate { path: replay.run() });
    };
    for (name, wanted) in &certified.origin.data {
        let found = own.origin.data.get(name);
        let shown =
            |digest: &ExamplesDigest| format!("{} examples, SHA-256 {}", digest.examples, short(&digest.sha256));
        let shown_found = found.map_or("nothing".to_owned(), shown);
        match found == Some(wanted) {
            true => report.add(format!("{name} data"), true, shown_found),
            false => report.add(
                format!("{name} data"),
                false,
                format!("{shown_found}; certified {}", shown(wanted)),
            ),
        }
    }
    report.differences = differences(certified, &own);
    let comparison = match report.differences.is_empty() {
        true => Comparison::Bytes,
        false => Comparison::Tolerance,
    };
    report.comparison = Some(comparison);
    let allowed = (comparison == Comparison::Tolerance).then_some(tolerance);
    let name = format!("ckpt-{}.safetensors", replay.to);
    let load = |folder: &Path| checkpoint::load(&folder.join(&name));
    match load(&run) {
        Ok(stored) => report
            .checks
            .extend(arrays(&stored.tensors, &load(&replay.run())?.tensors, allowed)),
        Err(error) => report.add(format!("arrays of {name}"), false, error.to_string()),
    }
    let journals = [&run, &replay.run()].map(|folder| fs::read(folder.join(topology::FILE)).ok());
    if let ([Some(stored), Some(own)], None) = (&journals, allowed) {
        let found = format!("{} bytes up to iteration {}", own.len(), replay.to);
        report.add("mask updates", stored.starts_with(own), found);
    }
    let both: [Vec<Value>; 2] = [records(&run)?, records(&replay.run())?];
    report.checks.push(metrics(&both, [replay.from, replay.to], allowed));
    Ok(())
}

/// Describes changes of version, device and programs.
fn differences(certified: &Certificate, own: &Certificate) -> Vec<String> {
    let mut differences = vec![];
    if certified.version != own.version {
        differences.push(format!("version: {} then, {} now", certified.version, own.version));
    }
    for (name, wanted) in &certified.origin.device {
        let found = own.origin.device.get(name).map_or("nothing", String::as_str);
        if found != wanted {
            let line = |text: &str| escape::name(text.lines().next().unwrap_or_default()).into_owned();
            differences.push(format!("{name}: {} then, {} now", line(wanted), line(found)));
        }
    }
    for (name, wanted) in &certified.origin.programs {
        if own.origin.programs.get(name) != Some(wanted) {
            differences.push(format!("the {name} program"));
        }
    }
    differences
}
