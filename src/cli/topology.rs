//! `rigl-xla topology`.

mod pictures;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;

use hlo::{Literal, Shape};
use serde::Serialize;

use self::summary::{LayerSummary, Summary};
use super::error::{Result, bail};
use super::table_args::TableArgs;
use crate::checkpoint::{self, Metadata};
use crate::report::escape;
use crate::report::note;
use crate::report::table::{Style, Table};
use crate::topology::{Error, Journal, Overlap, Tracker, Update};

/// Arguments of `topology`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run folder, or its topology.journal
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Masks after N iterations [default: those of the last update]
    #[arg(long, value_name = "N")]
    at: Option<u64>,
    /// Compare with the masks after N iterations of the same run
    #[arg(long, value_name = "N", conflicts_with = "with")]
    from: Option<u64>,
    /// Compare with the masks of another run, at the iteration of --at
    #[arg(long, value_name = "RUN")]
    with: Option<PathBuf>,
    /// List every mask update instead of the layers
    #[arg(long, conflicts_with_all = ["from", "with"])]
    updates: bool,
    /// Compare the masks of every checkpoint in the run folder with those of the journal; exit code 1 if any differs
    #[arg(long, conflicts_with_all = ["from", "with", "updates"])]
    check: bool,
    /// Write the masks to a file in safetensors format, by name
    #[arg(long, value_name = "FILE")]
    masks: Option<PathBuf>,
    /// Write pictures to a folder: connections of each input pixel, also animated (APNG); masks; and fan-in histograms (SVG)
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    #[command(flatten)]
    table: TableArgs,
}

/// Runs `topology`.
///
/// # Errors
/// A journal that cannot be read, an iteration before its first, or files that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if args.check {
        return check(&args, json);
    }
    let mut journal = Journal::open(&args.run)?;
    let mut tracker = Tracker::new(journal.header());
    let mut film = args.pictures.as_ref().map(|_| pictures::Film::new(journal.header()));
    let (mut first, mut first_bytes) = (vec![], 0);
    let iteration = journal.replay(args.at, |record, journal| {
        tracker.add(record);
        if tracker.updates.len() == 1 {
            (first, first_bytes) = (journal.masks().to_vec(), journal.offset());
        }
        film.iter_mut().for_each(|film| film.add(journal));
    })?;
    if journal.is_cut() {
        note!("note: the last record is cut: the run is being written, or was killed");
    }
    if let Some(path) = &args.masks {
        write_masks(&journal, iteration, path)?;
    }
    if let (Some(folder), Some(film)) = (&args.pictures, &film) {
        pictures::write(folder, film, &journal, &first)?;
    }
    if args.from.is_some() || args.with.is_some() {
        let other = match (&args.with, args.from) {
            (Some(run), _) => masks_of(run, args.at, &journal)?,
            (None, from) => masks_of(&args.run, from, &journal)?,
        };
        return print_overlap(&args, json, &journal, other);
    }
    let summary = Summary::new(&journal, &tracker, iteration, first_bytes);
    if json {
        let updates = args.updates.then_some(&tracker.updates);
        return super::print_json(&Report { summary, updates });
    }
    match args.updates {
        true => super::print(&updates_table(&tracker.updates).write(style)),
        false => super::print(&summary.text(style)),
    }
}

/// Output of `topology --json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    updates: Option<&'a Vec<Update>>,
}

fn updates_table(updates: &[Update]) -> Table {
    let mut table = Table::new(&[
        "iteration",
        "global step",
        "dropped",
        "grown",
        "connections",
        "ever active",
        "mean age",
    ]);
    for update in updates {
        table.row([
            update.iteration.to_string(),
            update.global_step.to_string(),
            update.dropped.to_string(),
            update.grown.to_string(),
            update.connections.to_string(),
            format!("{:.4}", update.ever_active),
            format!("{:.1}", update.mean_age),
        ]);
    }
    table
}

/// The iteration and masks of a journal up to `iteration`, whose layers must be those of `like`.
fn masks_of(run: &std::path::Path, iteration: Option<u64>, like: &Journal) -> Result<(u64, Vec<Vec<u8>>)> {
    let mut other = Journal::open(run)?;
    let pairs = other.header().layers.iter().zip(&like.header().layers);
    let different = pairs.into_iter().find(|(a, b)| a != b);
    let counts = [other.header().layers.len(), like.header().layers.len()];
    let reason = match different {
        Some((a, b)) => Some(format!("{} {:?} and {} {:?}", a.name, a.shape, b.name, b.shape)),
        None if counts[0] != counts[1] => Some(format!("{} and {} layers", counts[0], counts[1])),
        None => None,
    };
    if let Some(reason) = reason {
        return Err(Error::OtherLayers {
            path: other.path().into(),
            other: like.path().into(),
            reason,
        }
        .into());
    }
    let at = other.replay(iteration, |_, _| {})?;
    Ok((at, other.masks().to_vec()))
}

/// The comparison of a layer.
#[derive(Serialize)]
struct LayerOverlap<'a> {
    name: &'a str,
    #[serde(flatten)]
    overlap: Overlap,
}

/// Prints how many connections of the other masks are also in those of the journal.
fn print_overlap(args: &Args, json: bool, journal: &Journal, (from, other): (u64, Vec<Vec<u8>>)) -> Result<()> {
    let masks = other.iter().zip(journal.masks());
    let overlaps: Vec<Overlap> = masks.map(|(a, b)| Overlap::between(a, b)).collect();
    let names = journal.header().layers.iter().map(|layer| layer.name.as_str());
    let total = Overlap::total(&overlaps);
    let layers: Vec<_> = names
        .zip(overlaps)
        .map(|(name, overlap)| LayerOverlap { name, overlap })
        .collect();
    let at = journal.iteration().unwrap_or_default();
    if json {
        return super::print_json(&serde_json::json!({
            "from": { "run": args.with.as_ref().unwrap_or(&args.run).display().to_string(), "iteration": from },
            "to": { "run": args.run.display().to_string(), "iteration": at },
            "layers": layers,
            "total": total,
        }));
    }
    let mut table = Table::new(&["layer", "before", "after", "shared", "overlap", "expected by chance"]);
    let all = LayerOverlap {
        name: "all",
        overlap: total,
    };
    for layer in layers.iter().chain([&all]) {
        let [share, expected] = layer.overlap.shares();
        table.row([
            layer.name.to_owned(),
            layer.overlap.first.to_string(),
            layer.overlap.second.to_string(),
            layer.overlap.shared.to_string(),
            format!("{:.2} %", 100.0 * share),
            format!("{:.2} %", 100.0 * expected),
        ]);
    }
    let style = args.table.style(json)?;
    let other = args.with.as_ref().map(|run| format!(" of {}", escape::path(run)));
    let title = format!("masks after {from}{} and {at} iterations\n", other.unwrap_or_default());
    let title = if style == Style::Csv { String::new() } else { title };
    super::print(&(title + &table.write(style)))
}

/// Writes the masks under the names of checkpoints.
fn write_masks(journal: &Journal, iteration: u64, path: &std::path::Path) -> Result<()> {
    super::check_output(path)?;
    let mut arrays = BTreeMap::new();
    for (layer, mask) in journal.header().layers.iter().zip(journal.masks()) {
        let shape = Shape::new(hlo::DType::Pred, layer.shape.clone());
        if let Some(mask) = Literal::from_bytes(shape, mask.clone()) {
            arrays.insert(format!("{}/mask", layer.name), mask);
        }
    }
    Ok(checkpoint::save(path, &arrays, &Metadata::new("masks", iteration, ""))?)
}

/// Compares the masks of every checkpoint in the folder with the journal's.
fn check(args: &Args, json: bool) -> Result<()> {
    let saved = checkpoint::saved(&args.run)?;
    if saved.is_empty() {
        bail!("{}: no checkpoint there to compare with", escape::path(&args.run));
    }
    let mut journal = Journal::open(&args.run)?;
    let (mut equal, mut different) = (vec![], vec![]);
    for (iteration, path) in saved {
        journal.replay(Some(iteration), |_, _| {})?;
        let arrays = checkpoint::load(&path)?.tensors;
        let named = journal.header().layers.iter().zip(journal.masks());
        let differs = named
            .filter(|(layer, mask)| {
                let stored = arrays.get(&format!("{}/mask", layer.name));
                stored.is_none_or(|stored| stored.bytes() != mask.as_slice())
            })
            .map(|(layer, _)| layer.name.clone())
            .collect::<Vec<_>>();
        match differs.is_empty() {
            true => equal.push(iteration),
            false => different.push((iteration, differs)),
        }
    }
    if json {
        let listed = different
            .iter()
            .map(|(iteration, layers)| serde_json::json!({ "iteration": iteration, "layers": layers }));
        super::print_json(&serde_json::json!({ "equal": equal, "different": listed.collect::<Vec<_>>() }))?;
    } else {
        let line = |iteration: &u64| format!("ckpt-{iteration}: the masks are those of the journal\n");
        super::print(&equal.iter().map(line).collect::<String>())?;
    }
    match different.first() {
        None => Ok(()),
        Some((iteration, layers)) => bail!(
            "ckpt-{iteration}: the masks of {} differ from those of the journal, expected the same",
            layers.join(", ")
        ),
    }
}

impl LayerSummary {
    /// Cells of a line of the table.
    fn cells(&self) -> [String; 10] {
        let lifetime = self.mean_lifetime.map_or("-".to_owned(), |mean| format!("{mean:.0}"));
        [
            self.name.clone(),
            self.weights.to_string(),
            self.connections.to_string(),
            (self.dropped + self.grown).to_string(),
            format!("{:.2} %", 100.0 * self.ever_active),
            format!("{:.0}", self.mean_age),
            lifetime,
            format!("{:.1} ({}-{})", self.fan_in.mean, self.fan_in.min, self.fan_in.max),
            format!("{} of {}", self.fan_in.without, self.fan_in.units),
            format!("{} of {}", self.fan_out.without, self.fan_out.units),
        ]
    }
}
