//! The report of runs: one HTML page that needs no network and no other file.

mod charts;
mod groups;
mod html;
mod run;
mod sections;
mod topology;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use groups::Group;
pub use run::RunData;

use crate::{config, files, topology as journal};

/// First line of a page, which tells it from files of others.
pub const MARK: &str = "<!DOCTYPE html><!-- rigl-xla report -->";

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation; the fields are their values
pub enum Error {
    #[error("{}: {source}", super::escape::path(path))]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{}: no run there, expected a run folder with config.toml, or a folder of run folders",
        super::escape::path(path)
    )]
    NoRun { path: PathBuf },
    #[error(
        "{}: more than {limit} run folders, expected fewer for one page",
        super::escape::path(path)
    )]
    TooMany { path: PathBuf, limit: usize },
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Topology(#[from] journal::Error),
}

impl Error {
    /// Whether flags or a configuration are wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::NoRun { .. } | Error::TooMany { .. } => true,
            Error::Config(error) => error.is_usage(),
            Error::Topology(error) => error.is_usage(),
            Error::Io { .. } => false,
        }
    }
}

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Figures of programs from a compiler: a title, and rows of cells under a header.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Names of the program and the processor.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// Runs, grouped by configuration: those of a group differ in their seeds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Groups in the order of the runs.
    pub groups: Vec<Group>,
    /// Keys whose values differ between groups.
    pub varied: Vec<String>,
}

impl Report {
    /// Reads runs. A folder without `config.toml` stands for the runs in it.
    ///
    /// # Errors
    /// A folder without runs, or a run with a configuration or journal that cannot be read.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let folders = run_folders(paths)?;
        let runs = folders
            .iter()
            .map(|path| RunData::read(path))
            .collect::<Result<Vec<_>>>()?;
        Ok(groups::grouped(runs))
    }

    /// The runs, group by group.
    pub fn runs(&self) -> impl Iterator<Item = &RunData> {
        self.groups.iter().flat_map(|group| &group.runs)
    }

    /// Whether every run has done all its iterations.
    pub fn is_done(&self) -> bool {
        self.runs().all(|run| run.iteration >= run.plan.iterations)
    }

    /// The page. With `refresh` it loads itself again after that many seconds.
    pub fn html(&self, title: &str, compiled: &[Compiled], refresh: Option<u64>) -> String {
        html::page(title, refresh, &sections::all(self, compiled))
    }

    /// The metrics of all runs as comma-separated values: a column for the run, then one per key.
    pub fn csv(&self) -> String {
        let mut keys: Vec<String> = vec![];
        let lines: Vec<(String, Vec<(String, String)>)> = self
            .runs()
            .flat_map(|run| run.metrics.iter().map(|line| (run.name.clone(), run::flat(line))))
            .collect();
        for (key, _) in lines.iter().flat_map(|(_, line)| line) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        let header: Vec<&str> = std::iter::once("run").chain(keys.iter().map(String::as_str)).collect();
        let mut table = super::table::Table::new(&header);
        for (run, line) in lines {
            let value = |key: &String| {
                line.iter()
                    .find(|(k, _)| k == key)
                    .map_or(String::new(), |(_, v)| v.clone())
            };
            table.row(std::iter::once(run).chain(keys.iter().map(value)));
        }
        table.write(super::table::Style::Csv)
    }
}

/// Most runs on a page.
const MOST_RUNS: usize = 500;
/// Levels of folders that are searched for runs.
const LEVELS: usize = 3;

/// The run folders that `paths` name, each once.
pub fn run_folders(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for path in paths {
        let before = found.len();
        search(path, LEVELS, &mut found)?;
        if found.len() == before {
            return Err(Error::NoRun { path: path.clone() });
        }
        if found.len() > MOST_RUNS {
            let path = path.clone();
            return Err(Error::TooMany { path, limit: MOST_RUNS });
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|path: &PathBuf| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(found)
}

fn search(path: &Path, levels: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if path.join(crate::checkpoint::CONFIG).is_file() {
        found.push(path.to_owned());
        return Ok(());
    }
    if levels == 0 || !path.is_dir() || found.len() > MOST_RUNS {
        return Ok(());
    }
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(path).map_err(io)?;
    let mut entries: Vec<PathBuf> = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<std::result::Result<_, _>>()
        .map_err(io)?;
    entries.sort();
    let folders = entries.iter().filter(|path| path.is_dir() && !path.is_symlink());
    folders.into_iter().try_for_each(|path| search(path, levels - 1, found))
}

/// Reads a file of a run folder, if it is there.
fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match files::read(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: path.into(),
            source,
        }),
    }
}
