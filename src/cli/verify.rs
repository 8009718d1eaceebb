//! `rigl-xla verify`: is a run what its certificate says, and does computing it again give the same?

use std::path::PathBuf;

use super::input_args::DeviceArgs;
use super::table_args::TableArgs;
use crate::checkpoint::CONFIG;
use crate::cli::error::{Context, Error, Result};
use crate::config::{Device, MAX_CONFIG_BYTES, Run};
use crate::files;
use crate::named::Named;
use crate::report::table::{Style, Table};
use crate::signals::Stop;
use crate::verify::{self, Comparison, Options, Report};

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
A finished run has a certificate.json with digests of its configuration, data, programs, plugin, processor, checkpoints and metrics. \
`verify` compares the files with them. Then it continues the run from one checkpoint to the next in a temporary folder, and compares \
the data it reads, the arrays of that checkpoint and the metrics: byte by byte where the same plugin, processor and program compute, \
else within --tolerance. The exit code is 1 if anything differs.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    /// Compute again from this checkpoint's iteration, 0 for the start of the run [default: the checkpoint before --to, or else 0]
    #[arg(long, value_name = "ITERATION")]
    from: Option<u64>,
    /// Compute again up to this checkpoint's iteration [default: the newest]
    #[arg(long, value_name = "ITERATION")]
    to: Option<u64>,
    /// Relative difference allowed on another plugin, processor or version: of the norm of each array, of the connections of
    /// each mask, and of metrics
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    tolerance: f64,
    /// Compare files with their digests only, and compute nothing
    #[arg(long, conflicts_with_all = ["from", "to"])]
    files_only: bool,
    /// Where to compute again
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    table: TableArgs,
}

impl Args {
    /// Where to compute, if the flags say so: all else of the run's device stays its own.
    fn device(&self) -> Result<Option<Device>> {
        let DeviceArgs { on, engine } = &self.device;
        if on.device.is_none() && on.plugin.is_none() && engine.is_none() {
            return Ok(None);
        }
        let path = self.run.join(CONFIG);
        let text = files::read_text(&path, MAX_CONFIG_BYTES).context(path.display().to_string())?;
        let mut device = Run::from_toml(&text, &path.display().to_string())?.device;
        if let Some(kind) = &on.device {
            device.kind = Named::find(kind)?;
            device.plugin.clear();
        }
        if let Some(plugin) = &on.plugin {
            device.plugin.clone_from(plugin);
        }
        if let Some(engine) = engine {
            device.engine = Some(engine.parse()?);
            device.plugin.clear();
        }
        Ok(Some(device))
    }
}

/// Runs `verify`.
///
/// # Errors
/// A run that cannot be verified, or that is not what its certificate says.
pub fn run(args: Args, json: bool, stop: &Stop) -> Result<()> {
    let style = args.table.style(json)?;
    let options = Options {
        from: args.from,
        to: args.to,
        tolerance: args.tolerance,
        files_only: args.files_only,
        device: args.device()?,
    };
    let report = verify::verify(&args.run, &options, stop)?;
    if stop.signal().is_some() {
        return Err(Error::stopped(stop));
    }
    match json {
        true => super::print_json(&report)?,
        false => super::print(&text(&report, style))?,
    }
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|c| !c.ok)
        .map(|c| c.name.as_str())
        .collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::failure(format!(
            "{}: not as certified: {}",
            args.run.display(),
            failed.join(", ")
        ))),
    }
}

fn text(report: &Report, style: Style) -> String {
    let mut table = Table::new(&["check", "result", "found"]);
    for check in &report.checks {
        let result = if check.ok { "ok" } else { "DIFFERS" };
        table.row([check.name.clone(), result.to_owned(), check.found.clone()]);
    }
    let mut text = table.write(style);
    if style == Style::Csv {
        return text;
    }
    text += "\n";
    if let (Some([from, to]), Some(comparison)) = (report.window, report.comparison) {
        text += &format!("iterations {from} to {to} computed again, ");
        text += match comparison {
            Comparison::Bytes => "compared byte by byte: the same plugin, processor and programs\n",
            Comparison::Tolerance => "compared within a tolerance, because these differ:\n",
        };
        for difference in &report.differences {
            text += &format!("  {difference}\n");
        }
    }
    text + if report.verified {
        "verified\n"
    } else {
        "NOT verified\n"
    }
}
