//! `rigl-xla data inspect`: reports the contents of TFRecord files and arrays.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use super::sheet;
use crate::cli::error::{Result, bail};
use crate::cli::table_args::TableArgs;
use crate::data::inspect::{self, Depth, Range, Set};
use crate::data::{folder, named};
use crate::report::escape;
use crate::report::table::{Style, Table};

/// Arguments of `data inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TFRecord file or a folder of shards; or arrays: .safetensors, .npz, .npy, tokens, or a folder of them
    path: PathBuf,
    /// Number of records per set whose features are listed
    #[arg(long, value_name = "N", default_value_t = 1)]
    records: usize,
    /// Decode every picture, not only its header, to find damaged ones
    #[arg(long)]
    decode: bool,
    /// Write an HTML page with the first pictures of each set and their labels
    #[arg(long, value_name = "OUT.html")]
    sheet: Option<PathBuf>,
    /// Number of pictures per set on the page
    #[arg(long, value_name = "N", default_value_t = 60, requires = "sheet")]
    pictures: usize,
    /// Number of threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    table: TableArgs,
}

/// Runs `data inspect`.
///
/// # Errors
/// Files that cannot be read or a missing shard; after the report, damaged records or pictures.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if super::arrays::are_in(&args.path) {
        return super::arrays::inspect(&args.path, json);
    }
    let depth = Depth {
        threads: args.threads.unwrap_or_else(crate::threads::cores),
        records: args.records,
        decode: args.decode,
    };
    let found = inspect::sets(&args.path)?;
    let classes = folder::listed_classes(&args.path)?;
    let sets: Vec<Set> = {
        let files = found.iter().map(|set| set.files.len() as u64).sum();
        let progress = super::Counted::new(files, "files");
        let inspected = found
            .iter()
            .map(|set| inspect::inspect(set, classes.as_ref(), depth, &|| progress.add()));
        inspected.collect::<Result<_, _>>()?
    };
    if let Some(path) = &args.sheet {
        sheet::write(path, &found, classes.as_ref(), args.pictures)?;
    }
    match json {
        true => crate::cli::print_json(&serde_json::json!({"path": args.path.display().to_string(), "sets": sets}))?,
        false if style == Style::Text => crate::cli::print(&text(&sets, args.decode))?,
        false => crate::cli::print(&all_labels(&sets).write(style))?,
    }
    match sets.iter().map(|set| set.tally.damaged()).sum() {
        0u64 => Ok(()),
        damaged => bail!(
            "{}: {damaged} damaged records or pictures, expected none",
            args.path.display()
        ),
    }
}

/// Every label of every set.
fn all_labels(sets: &[Set]) -> Table {
    let mut table = Table::new(&["set", "label", "class", "examples"]);
    for set in sets {
        for (label, count) in &set.tally.labels {
            let class = set.classes.get(label).map(|name| escape::name(name).into_owned());
            let set = escape::name(&set.name).into_owned();
            table.row([set, label.to_string(), class.unwrap_or_default(), count.to_string()]);
        }
    }
    table
}

fn text(sets: &[Set], decoded: bool) -> String {
    let mut text = String::new();
    for set in sets {
        let tally = &set.tally;
        let pixels = |range: &Range| format!("{} to {}, mean {:.1}", range.min, range.max, range.mean());
        let damaged = match decoded {
            true => "damaged pictures",
            false => "damaged headers",
        };
        let rows = [
            ("files", set.files.to_string()),
            ("records", format!("{} of {} bytes", tally.records, tally.bytes)),
            (
                "pictures",
                format!(
                    "{} ({} JPEG, {} PNG; {} grey, {} CMYK)",
                    tally.pictures, tally.jpeg, tally.png, tally.grey, tally.cmyk
                ),
            ),
            ("bytes", pixels(&tally.picture_bytes)),
            ("height", pixels(&tally.height)),
            ("width", pixels(&tally.width)),
            ("labels", labels(&tally.labels)),
            ("damaged records", tally.damaged_records.to_string()),
            ("no examples", tally.no_examples.to_string()),
            (damaged, tally.damaged_pictures.to_string()),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", escape::name(&set.name));
        for (what, value) in rows {
            let _ = writeln!(text, "  {what:<18}{value}");
        }
        let lists = [("without records", &set.empty_files), ("not read", &set.ignored_files)];
        for (what, files) in lists.into_iter().filter(|(_, files)| !files.is_empty()) {
            let files = named(files.iter().map(|file| escape::name(file).into_owned()));
            let _ = writeln!(text, "  {what:<18}{files}");
        }
        text.extend(tally.damages.iter().map(|damage| format!("  {damage}\n")));
        text += &histogram(&tally.labels, &set.classes);
        for record in &set.first {
            let _ = writeln!(
                text,
                "  {}, byte {}: {} bytes",
                escape::name(&record.file),
                record.offset,
                record.bytes
            );
            text.extend(
                record
                    .features
                    .iter()
                    .map(|(key, value)| format!("    {:<26}{}\n", escape::name(key), escape::name(value))),
            );
        }
    }
    text
}

fn labels(labels: &BTreeMap<i64, u64>) -> String {
    let (Some(first), Some(last)) = (labels.keys().next(), labels.keys().last()) else {
        return "none".into();
    };
    let least = labels.values().min().unwrap_or(&0);
    let most = labels.values().max().unwrap_or(&0);
    format!("{} of {first} to {last}, {least} to {most} examples each", labels.len())
}

/// Maximum bars of a histogram; further labels are grouped with their neighbours.
const ROWS: usize = 20;
/// Length of the longest bar, in characters.
const BAR: u64 = 40;

fn histogram(labels: &BTreeMap<i64, u64>, classes: &BTreeMap<i64, String>) -> String {
    let all: Vec<(&i64, &u64)> = labels.iter().collect();
    let groups = all.chunks(all.len().div_ceil(ROWS).max(1));
    let shown = |label: &i64| match classes.get(label) {
        Some(name) => format!("{label} {}", escape::name(name)),
        None => label.to_string(),
    };
    let row = |group: &[(&i64, &u64)]| {
        let name = match (group.first(), group.last()) {
            (Some((first, _)), Some((last, _))) if first != last => format!("{}-{}", shown(first), shown(last)),
            (Some((first, _)), _) => shown(first),
            _ => String::new(),
        };
        (name, group.iter().map(|(_, count)| **count).sum::<u64>())
    };
    let rows: Vec<(String, u64)> = groups.map(row).collect();
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let mut table = Table::new(&["label", "examples", ""]);
    for (name, count) in rows {
        let bar = "#".repeat((count as u128 * u128::from(BAR)).div_ceil(most.into()) as usize);
        table.row([name, count.to_string(), bar]);
    }
    table
        .write(Style::Text)
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_labels_become_few_rows() {
        let labels = (1..=1000).map(|label| (label, 10 + u64::from(label > 950))).collect();
        let text = histogram(&labels, &BTreeMap::new());
        assert_eq!(text.lines().count(), 1 + ROWS);
        assert!(
            text.contains("951-1000       550  ########################################\n"),
            "{text}"
        );
        assert!(
            text.contains("1-50       500  #####################################\n"),
            "{text}"
        );
        assert_eq!(histogram(&BTreeMap::new(), &BTreeMap::new()).lines().count(), 1);
    }
}
