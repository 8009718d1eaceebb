//! Fitting text to the terminal.

use std::io::{self, Write};

use terminal_size::{Height, Width};

use super::escape;
use crate::names::LIST;

/// Columns of the terminal of standard output, else the variable `COLUMNS`; `None` where neither is there, as in a pipe.
pub fn output_width() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stdout()))
}

/// As [`output_width`], of standard error, by default 80.
fn error_width() -> usize {
    columns(terminal_size::terminal_size_of(io::stderr())).unwrap_or(80)
}

fn columns(terminal: Option<(Width, Height)>) -> Option<usize> {
    let variable = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = terminal.map(|(width, _)| usize::from(width.0));
    columns.or_else(variable).filter(|columns| *columns > 0)
}

/// Writes `error: MESSAGE` to standard error, styled as the parser of the command line styles its own errors: coloured on a
/// terminal, unless `NO_COLOR` is set, or where `CLICOLOR_FORCE` is.
pub(crate) fn write_error(message: &str) {
    let styles = clap::builder::Styles::styled();
    let style = styles.get_error();
    let message = wrap_lists(&escape::text(message), error_width());
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
}

/// Breaks lines that list names after commas, to at most `width` columns where the names are shorter than that.
pub(crate) fn wrap_lists(text: &str, width: usize) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix(LIST) {
        Some(names) => LIST.to_owned() + &wrap(names, width, LIST.len()),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `names`, which follow `indent` columns of text, with line ends after commas.
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
        let text = format!("a line that is longer than twenty columns\n{LIST}one, two, three, four");
        assert_eq!(
            wrap_lists(&text, 21),
            "a line that is longer than twenty columns\n  known: one, two,\n         three, four"
        );
        assert_eq!(wrap_lists(&text, 80), text);
        assert_eq!(
            wrap_lists(&format!("{LIST}a-long-name, b"), 4),
            "  known: a-long-name,\n         b"
        );
    }
}
