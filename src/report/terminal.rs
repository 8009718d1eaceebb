//! Fits text to the terminal width.

use std::io::{self, Write};

use terminal_size::{Height, Width};

use super::escape;
use sparse::names::KNOWN_NAMES;

/// Columns of the terminal on standard output, else the variable `COLUMNS`; `None` if neither exists, as in a pipe.
pub fn output_width() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stdout()))
}

/// As [`output_width`], for standard error; 80 by default.
fn error_width() -> usize {
    columns(terminal_size::terminal_size_of(io::stderr())).unwrap_or(80)
}

fn columns(terminal: Option<(Width, Height)>) -> Option<usize> {
    let variable = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = terminal.map(|(width, _)| usize::from(width.0));
    columns.or_else(variable).filter(|columns| *columns > 0)
}

/// Prints `error: MESSAGE` to standard error in clap's style: coloured on a terminal unless `NO_COLOR` is set, or if
/// `CLICOLOR_FORCE` is set.
pub(crate) fn write_error(message: &str) {
    let styles = clap::builder::Styles::styled();
    let style = styles.get_error();
    let message = wrap_lists(&escape::text(message), error_width());
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
}

/// Breaks lines that list names after commas, at `width` columns if the names are short enough.
pub(crate) fn wrap_lists(text: &str, width: usize) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix(KNOWN_NAMES) {
        Some(names) => KNOWN_NAMES.to_owned() + &wrap(names, width, KNOWN_NAMES.len()),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Joins `names` with line breaks after commas; they start after `indent` columns of text.
fn wrap(names: &str, width: usize, indent: usize) -> String {
    let (mut text, mut column) = (String::new(), indent);
    for (i, name) in names.split(", ").enumerate() {
        let comma = if i > 0 { 2 } else { 0 };
        // A comma may follow.
        if i > 0 && column + comma + name.chars().count() + 1 > width {
            text += ",\n";
            text += &" ".repeat(indent);
            column = indent;
        } else if i > 0 {
            text += ", ";
            column += comma;
        }
        text += name;
        column += name.chars().count();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_fit_the_width_and_other_lines_stay() {
        let text = format!("a line that is longer than twenty columns\n{KNOWN_NAMES}one, two, three, four");
        assert_eq!(
            wrap_lists(&text, 21),
            "a line that is longer than twenty columns\n  known: one, two,\n         three, four"
        );
        assert_eq!(wrap_lists(&text, 80), text);
        assert_eq!(
            wrap_lists(&format!("{KNOWN_NAMES}a-long-name, b"), 4),
            "  known: a-long-name,\n         b"
        );
    }
}
