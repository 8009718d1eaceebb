//! `rigl-xla report`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::compiled;
use super::error::{Context, Result, Usage};
use crate::checkpoint::{CONFIG, METRICS, atomic};
use crate::report::page::{Compiled, MARK, Report, run_folders};
use crate::report::table::Style;
use crate::report::{escape, note};

/// Arguments of `report`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run folders, or folders with run folders in them; runs that differ only in their seeds are drawn together
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the folder, or in the current one with several RUNs]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Heading of the page [default: the name of the folder]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Replace the output file even if it is not a report
    #[arg(long)]
    overwrite: bool,
    /// Add the compiler's figures: compiles the programs of each configuration for its device
    #[arg(long)]
    compiled: bool,
    /// Write the page again whenever the runs have new metrics, until they are done; the page loads itself again
    #[arg(long, conflicts_with_all = ["csv", "compiled"])]
    watch: bool,
    /// Print the metrics of all runs as comma-separated values instead of writing a page
    #[arg(long, conflicts_with_all = ["output", "title", "overwrite", "compiled"])]
    csv: bool,
}

/// Seconds between two looks at the runs of `--watch`.
const WATCH_SECONDS: u64 = 5;

/// Runs `report`.
///
/// # Errors
/// Folders without runs, runs that cannot be read, or a page that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    if args.csv && json {
        return Err(Usage("--json excludes --csv: one form at a time".into()).into());
    }
    if args.csv {
        return super::print(&Report::read(&args.runs)?.csv());
    }
    let output = args.output();
    refuse_foreign(&output, args.overwrite)?;
    super::check_output(&output)?;
    let mut seen = None;
    loop {
        let now = state(&args.runs)?;
        if seen.as_ref() != Some(&now) {
            let report = Report::read(&args.runs)?;
            let compiled = args.compiled.then(|| figures(&report)).transpose()?.unwrap_or_default();
            let again = (args.watch && !report.is_done()).then_some(WATCH_SECONDS);
            let page = report.html(&args.title(), &compiled, again);
            let shown = escape::path(&output);
            let written = atomic::write(&output, |out| std::io::Write::write_all(out, page.as_bytes()));
            written.context(format!("{shown}: not written"))?;
            if again.is_none() {
                return finish(&report, &output, json);
            }
            if seen.is_none() {
                note!("{shown}: written; it follows the runs until they are done (Ctrl-C ends)");
            }
            seen = Some(now);
        }
        std::thread::sleep(Duration::from_secs(WATCH_SECONDS));
    }
}

fn finish(report: &Report, output: &Path, json: bool) -> Result<()> {
    let (groups, runs) = (report.groups.len(), report.runs().count());
    match json {
        true => super::print_json(&serde_json::json!({ "output": output.display().to_string(), "report": report })),
        false => super::print(&format!(
            "{}: {runs} runs, {groups} configurations\n",
            escape::path(output)
        )),
    }
}

impl Args {
    fn output(&self) -> PathBuf {
        match (&self.output, &self.runs[..]) {
            (Some(output), _) => output.clone(),
            (None, [only]) if only.is_dir() => only.join("report.html"),
            (None, _) => PathBuf::from("report.html"),
        }
    }

    fn title(&self) -> String {
        let name = |path: &PathBuf| {
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        match (&self.title, &self.runs[..]) {
            (Some(title), _) => title.clone(),
            (None, [only]) => name(only),
            (None, several) => format!("{} runs", several.len()),
        }
    }
}

/// Refuses to replace a file that is not a report.
fn refuse_foreign(output: &Path, overwrite: bool) -> Result<()> {
    use std::io::Read;
    let mut start = vec![];
    let opened = crate::files::open(output).and_then(|file| file.take(MARK.len() as u64).read_to_end(&mut start));
    match opened {
        Ok(_) if start != MARK.as_bytes() => Ok(super::refuse_existing(output, output, overwrite)?),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Lengths and times of the files that a page shows.
fn state(runs: &[PathBuf]) -> Result<Vec<(PathBuf, u64, Option<SystemTime>)>> {
    let of = |folder: PathBuf| {
        [METRICS, crate::topology::FILE, CONFIG].map(|name| {
            let path = folder.join(name);
            let file = path.metadata().ok();
            (
                path,
                file.as_ref().map_or(0, |f| f.len()),
                file.and_then(|f| f.modified().ok()),
            )
        })
    };
    Ok(run_folders(runs)?.into_iter().flat_map(of).collect())
}

/// The compiler's figures of each configuration.
fn figures(report: &Report) -> Result<Vec<Compiled>> {
    let groups = report.groups.iter();
    let of = |group: &crate::report::page::Group| {
        let programs = compiled::programs(group.plan(), false)?;
        let (header, rows) = compiled::table(&programs, Style::Text).into_parts();
        Ok(Compiled {
            title: format!("compiler: {} on {}", group.label, group.device()),
            header,
            rows,
        })
    };
    groups.map(of).collect()
}
