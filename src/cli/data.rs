//! `rigl-xla data`: download data sets, prepare and inspect TFRecords, dump examples.

mod arrays;
mod dump;
mod inspect;
mod prepare;
mod sheet;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use clap::builder::PossibleValuesParser;
use serde_json::json;

use crate::cli::error::Result;
use crate::data::{Split, fetch, mnist};
use crate::report::progress::Progress;
use crate::signals::Stop;

/// Arguments of `data`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Download a public data set into the cache, or verify the cached copy
    Fetch {
        /// Name of the data set
        #[arg(value_parser = PossibleValuesParser::new(fetch::sources().map(|source| source.name)))]
        name: String,
    },
    /// Write examples as the network receives them in training or evaluation
    Dump(dump::Args),
    /// Convert folders or tar files of pictures, MNIST or CIFAR-10 to TFRecord shards
    Prepare(prepare::Args),
    /// Count the contents of TFRecord files and report damage
    Inspect(inspect::Args),
}

/// Runs `data`.
///
/// # Errors
/// Data that is missing, damaged or cannot be downloaded.
pub fn run(args: Args, json: bool, stop: &Stop) -> Result<()> {
    match args.command {
        Command::Fetch { name } => fetch(&name, json),
        Command::Dump(args) => dump::run(args, json),
        Command::Prepare(args) => prepare::run(args, json, stop),
        Command::Inspect(args) => inspect::run(args, json),
    }
}

fn fetch(name: &str, json: bool) -> Result<()> {
    let dir = fetch::fetch(name)?;
    let counts = [Split::Train, Split::Test].map(|split| mnist::load(&dir, split).map(|set| set.len()));
    let [train, test] = counts;
    let text = report(fetch::source(name)?, &dir, train?, test?, json);
    super::print(&text)
}

fn report(source: &fetch::Source, dir: &Path, train: usize, test: usize, json: bool) -> String {
    let dir = dir.display().to_string();
    let files = source.files.iter();
    if json {
        let files = files.map(|file| json!({"file": file.name, "bytes": file.bytes, "sha256": file.sha256}));
        let (files, counts) = (files.collect::<Vec<_>>(), json!({"train": train, "test": test}));
        return format!(
            "{}\n",
            json!({"name": source.name, "dir": dir, "files": files, "counts": counts})
        );
    }
    let head = format!("{}: {train} training and {test} test images in {dir}\n", source.name);
    let line =
        |file: &fetch::DataFile| format!("  {:<24} {:>11} bytes  sha256 {}\n", file.name, file.bytes, file.sha256);
    head + &files.map(line).collect::<String>()
}

/// Progress reported by several threads. The bar disappears on drop.
struct Counted {
    unit: &'static str,
    state: Mutex<(u64, Progress)>,
}

impl Counted {
    fn new(total: u64, unit: &'static str) -> Self {
        let state = Mutex::new((0, Progress::new(0, total)));
        Counted { unit, state }
    }

    /// Counts one more item.
    fn add(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, progress) = &mut *state;
        *done += 1;
        progress.advance(*done, |rate| format!("{rate:.0} {}/s,", self.unit));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.1.finish();
    }
}
