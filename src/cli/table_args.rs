//! Flags for the format of a table.

use crate::cli::error::Usage;
use crate::report::table::Style;

/// Format of a table.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct TableArgs {
    /// Print comma-separated values, with exact figures
    #[arg(long)]
    csv: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "csv")]
    markdown: bool,
}

impl TableArgs {
    /// Whether one of the flags is given.
    pub fn is_given(self) -> bool {
        self.csv || self.markdown
    }

    /// The format asked for.
    ///
    /// # Errors
    /// Another format beside `--json`.
    pub fn style(self, json: bool) -> Result<Style, Usage> {
        let style = match (self.csv, self.markdown) {
            (true, _) => Style::Csv,
            (_, true) => Style::Markdown,
            (false, false) => Style::Text,
        };
        match json && style != Style::Text {
            true => Err(Usage("--json excludes --csv and --markdown: one form at a time".into())),
            false => Ok(style),
        }
    }
}
