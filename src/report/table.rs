//! Tables as text, Markdown or CSV.

use std::fmt::Write;

use super::terminal::output_width;

/// Output format of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Columns aligned with spaces.
    #[default]
    Text,
    /// GitHub's Markdown.
    Markdown,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
}

/// Rows of text cells under a header.
#[derive(Clone, Debug, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table without rows.
    pub fn new(header: &[&str]) -> Self {
        Table {
            header: header.iter().map(|cell| (*cell).to_owned()).collect(),
            rows: vec![],
        }
    }

    /// Adds a row. Missing cells at its end are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// The header and the rows.
    pub fn into_parts(self) -> (Vec<String>, Vec<Vec<String>>) {
        (self.header, self.rows)
    }

    /// Formats the table, with a final newline. Text is fitted to the terminal, if there is one.
    pub fn write(&self, style: Style) -> String {
        match style {
            Style::Text => self.text(output_width()),
            Style::Markdown => self.aligned("| ", " | ", " |"),
            Style::Csv => self.csv(),
        }
    }

    /// One line per row. If lines would exceed `width`, the first cell gets its own line.
    fn text(&self, width: Option<usize>) -> String {
        let text = self.aligned("", "  ", "");
        let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        if width.is_none_or(|width| columns <= width) {
            return text;
        }
        let others = |line: &Vec<String>| line.iter().skip(1).cloned().collect();
        let figures = Table {
            header: others(&self.header),
            rows: self.rows.iter().map(others).collect(),
        };
        let figures = figures.aligned("", "  ", "");
        let names = std::iter::once(&self.header).chain(&self.rows).map(|line| &line[0]);
        let lines = names.zip(figures.lines());
        lines.map(|(name, figures)| format!("{name}\n {figures}\n")).collect()
    }

    /// Aligns columns; numbers are right-aligned.
    fn aligned(&self, start: &str, between: &str, end: &str) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let columns = 0..self.header.len();
        let widths: Vec<usize> = columns
            .clone()
            .map(|c| lines().map(|line| line[c].chars().count()).max().unwrap_or(0))
            .collect();
        let right: Vec<bool> = columns
            .map(|c| self.rows.iter().all(|row| is_number(&row[c])))
            .collect();
        let mut text = String::new();
        for (i, line) in lines().enumerate() {
            let cells = line
                .iter()
                .zip(&widths)
                .zip(&right)
                .map(|((cell, &width), right)| match right {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                });
            let line = format!("{start}{}{end}", cells.collect::<Vec<_>>().join(between));
            text.extend([line.trim_end(), "\n"]);
            if i == 0 && !start.is_empty() {
                let rules = widths.iter().zip(&right).map(|(&width, right)| match right {
                    true => format!("{:->width$}:", "", width = width.max(2) - 1),
                    false => "-".repeat(width.max(1)),
                });
                text.extend([
                    &format!("{start}{}{end}", rules.collect::<Vec<_>>().join(between)),
                    "\n",
                ]);
            }
        }
        text
    }

    fn csv(&self) -> String {
        let mut text = String::new();
        for line in std::iter::once(&self.header).chain(&self.rows) {
            let cells: Vec<String> = line.iter().map(|cell| quoted(cell)).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", cells.join(","));
        }
        text
    }
}

/// Whether a cell is a number, with or without a unit, or empty.
fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit())
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_too_wide_has_names_on_lines_of_their_own() {
        let mut table = Table::new(&["layer", "weights"]);
        table.row(["a/long/name".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(Some(20)), "layer        weights\na/long/name        7\n");
        assert_eq!(table.text(Some(19)), "layer\n weights\na/long/name\n       7\n");
        assert_eq!(table.text(None), table.text(Some(20)));
    }

    #[test]
    fn one_table_in_three_styles() {
        let mut table = Table::new(&["name", "size"]);
        table.row(["a, \"b\"".to_owned(), "7".to_owned()]);
        table.row(["c".to_owned(), "1024".to_owned()]);
        table.row(["d".to_owned()]);
        assert_eq!(
            table.write(Style::Text),
            "name    size\na, \"b\"     7\nc       1024\nd\n"
        );
        assert_eq!(
            table.write(Style::Markdown),
            "| name   | size |\n| ------ | ---: |\n| a, \"b\" |    7 |\n| c      | 1024 |\n| d      |      |\n"
        );
        assert_eq!(table.write(Style::Csv), "name,size\n\"a, \"\"b\"\"\",7\nc,1024\nd,\n");
    }
}
