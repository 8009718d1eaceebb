//! `rigl-xla presets`: the published recipes, grouped by network and data.

use serde::Serialize;

use super::table_args::TableArgs;
use crate::cli::error::Result;
use crate::config::{Layers, PRESETS};
use crate::named::Named;
use crate::report::table::{Style, Table};

/// Arguments of `presets`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print the complete configuration of this preset, or list those whose name starts with it
    name: Option<String>,
    #[command(flatten)]
    table: TableArgs,
}

/// A preset in the list.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    model: String,
    data: &'static str,
    method: String,
    sparsity: f64,
    /// The published result that it reproduces.
    what: String,
}

/// Runs `presets`.
///
/// # Errors
/// An unknown name.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if let Some(name) = args
        .name
        .as_deref()
        .filter(|name| PRESETS.iter().any(|(known, _)| known == name))
    {
        let run = Layers::preset(name)?.run()?;
        return match json {
            true => super::print_json(&run),
            false => super::print(&run.to_toml()?),
        };
    }
    let start = args.name.as_deref().unwrap_or("");
    let chosen = PRESETS.iter().filter(|(name, _)| name.starts_with(start));
    let presets: Vec<Listed> = chosen
        .map(|(name, texts)| Listed::new(name, texts))
        .collect::<Result<_>>()?;
    if presets.is_empty() {
        // The error suggests names.
        Layers::preset(start)?;
    }
    match json {
        true => super::print_json(&presets),
        false => super::print(&text(&presets, style)),
    }
}

impl Listed {
    fn new(name: &'static str, texts: &[&str]) -> Result<Self> {
        let run = Layers::preset(name)?.run()?;
        Ok(Listed {
            name,
            model: run.model.name,
            data: run.data.set.name(),
            method: run.method.name,
            sparsity: run.sparsity.target,
            what: comment(texts.last().copied().unwrap_or_default()),
        })
    }
}

/// The comment at the top of a preset's file, which says what it reproduces.
fn comment(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

/// A table; in text one under each network and data set.
fn text(presets: &[Listed], style: Style) -> String {
    if style != Style::Text {
        let mut table = Table::new(&["preset", "model", "data", "method", "sparsity", "reproduces"]);
        for preset in presets {
            let Listed {
                name,
                model,
                data,
                method,
                sparsity,
                what,
            } = preset;
            let names = [*name, model, data, method].map(str::to_owned);
            table.row(names.into_iter().chain([sparsity.to_string(), what.clone()]));
        }
        return table.write(style);
    }
    let width = presets.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    let columns = crate::report::terminal::output_width().unwrap_or(usize::MAX);
    let mut text = String::new();
    let mut group = None;
    for preset in presets {
        let own = (&preset.model, preset.data);
        if group.replace(own) != Some(own) {
            let space = if text.is_empty() { "" } else { "\n" };
            text += &format!("{space}{} on {}\n", preset.model, preset.data);
        }
        let indent = width + 4;
        let what = wrapped(&preset.what, columns.saturating_sub(indent), indent);
        text += &format!("  {:<width$}  {what}\n", preset.name);
    }
    text
}

/// Breaks text at `width` columns, at least 20, with further lines indented.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width.max(20) {
            out += &format!("\n{:indent$}", "");
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out
}
