//! `rigl-xla compile --by-layer`: tables, JSON and a treemap of a compiled program's layers.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::aot::by_layer::{Kernel, Profile, Row, Sums};
use crate::cli::error::{Context, Result};
use crate::report::table::{Style, Table};
use crate::report::units;

/// Copies and transposes that the text shows.
const SHOWN_MOVES: usize = 12;

/// Text: the phases, the layers, what only moves data, and how the sums compare with the compiler's.
pub fn text(profile: &Profile, style: Style) -> String {
    if style == Style::Csv {
        return table(&profile.rows, None, style).write(style);
    }
    let mut text = table(&profile.phases, Some(&profile.total), style).write(style);
    text.push('\n');
    text.push_str(&table(&profile.rows, None, style).write(style));
    let moves = profile.moves();
    if !moves.is_empty() {
        text.push('\n');
        text.push_str(&moves_table(&moves, style).write(style));
        if let Some(left) = moves.len().checked_sub(SHOWN_MOVES).filter(|&left| left > 0) {
            let bytes: f64 = moves[SHOWN_MOVES..].iter().map(|k| k.moved.bytes).sum();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "and {left} more with {}", units::bytes(bytes));
        }
    }
    text.push('\n');
    text.push_str(&compared(profile));
    text
}

/// The sums beside the compiler's.
fn compared(profile: &Profile) -> String {
    let mut text = String::new();
    let form = |value: Option<f64>, form: fn(f64) -> String| value.map_or("-".to_owned(), form);
    let (total, compiler) = (&profile.total, &profile.compiler);
    for (what, ours, theirs, shown) in [
        ("FLOPs", total.flops, compiler.flops, units::count as fn(f64) -> String),
        ("bytes", total.moved.bytes, compiler.bytes, units::bytes),
    ] {
        let part = theirs.map_or(String::new(), |theirs| {
            format!(" ({:+.3} %)", 100.0 * (ours / theirs - 1.0))
        });
        let _ = writeln!(
            text,
            "{what}: {} counted, {} by the compiler{part}",
            shown(ours),
            form(theirs, shown)
        );
    }
    let _ = writeln!(
        text,
        "in no layer or known phase: {:.2} % of the bytes",
        100.0 * profile.unknown_share
    );
    text
}

/// Columns that are of no use for a device are left out: padding and cycles without a TPU, times without a chip.
struct Columns {
    padding: bool,
    cycles: bool,
    time: bool,
}

fn table(rows: &[Row], total: Option<&Sums>, style: Style) -> Table {
    let columns = Columns {
        padding: rows.iter().any(|row| row.sums.moved.padding_bytes > 0.0),
        cycles: rows.iter().any(|row| row.sums.cycles > 0.0),
        time: rows.iter().any(|row| row.sums.time_s.is_some()),
    };
    let layers = total.is_none();
    let header = [
        (layers, "layer"),
        (true, "phase"),
        (true, "kernels"),
        (true, "FLOPs"),
        (true, "accessed"),
        (true, "share"),
        (columns.padding, "padding"),
        (true, "main memory"),
        (columns.time, "ms"),
        (columns.cycles, "cycles"),
    ];
    let header: Vec<&str> = header.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    let mut table = Table::new(&header);
    for row in rows {
        let layer = layers.then(|| row.place.layer.clone());
        let names = layer.into_iter().chain([row.place.phase.name().to_owned()]);
        table.row(names.chain(cells(&row.sums, row.share, &columns, style)));
    }
    if let Some(total) = total {
        table.row(std::iter::once("total".to_owned()).chain(cells(total, 1.0, &columns, style)));
    }
    table
}

fn cells(sums: &Sums, share: f64, columns: &Columns, style: Style) -> Vec<String> {
    let [count, bytes] = units::forms(style);
    let share = match style {
        Style::Text => format!("{:.2} %", 100.0 * share),
        Style::Markdown | Style::Csv => format!("{share:.6}"),
    };
    let time = sums.time_s.unwrap_or(0.0) * 1e3;
    let cells = [
        (true, sums.kernels.to_string()),
        (true, count(sums.flops)),
        (true, bytes(sums.moved.bytes)),
        (true, share),
        (columns.padding, bytes(sums.moved.padding_bytes)),
        (true, bytes(sums.moved.main_memory_bytes)),
        (columns.time, format!("{time:.4}")),
        (columns.cycles, count(sums.cycles)),
    ];
    cells
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, cell)| cell)
        .collect()
}

fn moves_table(moves: &[&Kernel], style: Style) -> Table {
    let [_, bytes] = units::forms(style);
    let mut table = Table::new(&[
        "only moves data",
        "how",
        "layer",
        "phase",
        "result",
        "accessed",
        "main memory",
    ]);
    for kernel in moves.iter().take(SHOWN_MOVES) {
        table.row([
            kernel.name.clone(),
            kernel.moves.unwrap_or_default().to_owned(),
            kernel.place.layer.clone(),
            kernel.place.phase.name().to_owned(),
            kernel.result.clone(),
            bytes(kernel.moved.bytes),
            bytes(kernel.moved.main_memory_bytes),
        ]);
    }
    table
}

/// The page, around its data.
const PAGE: [&str; 2] = [include_str!("treemap_head.html"), include_str!("treemap_tail.html")];

/// Data of the treemap.
#[derive(Serialize)]
struct TreemapData<'a> {
    title: &'a str,
    rows: &'a [Row],
}

/// Writes the layers as a treemap: a page that needs nothing else.
///
/// # Errors
/// The file cannot be written.
pub fn write_treemap(path: &Path, title: &str, profile: &Profile) -> Result<()> {
    let data = TreemapData {
        title,
        rows: &profile.rows,
    };
    // Layer names may come from untrusted models.
    let data = serde_json::to_string(&data)
        .context("the treemap")?
        .replace('<', "\\u003c");
    super::write_file(path, format!("{}{data}{}", PAGE[0], PAGE[1]).as_bytes())
}
