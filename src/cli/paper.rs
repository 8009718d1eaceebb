//! `rigl-xla cost --paper`.

use serde::Serialize;

use crate::cli::error::Result;
use crate::cost::published::{COLUMNS, Row, like, rows};
use crate::report::table::{Style, Table};

/// Prints every published row, computed and as printed.
///
/// # Errors
/// I/O errors.
pub fn run(style: Style, json: bool) -> Result<()> {
    let rows = rows()?;
    if json {
        let rows: Vec<Shown> = rows.iter().map(Shown::new).collect();
        return super::print_json(&serde_json::json!({ "rows": rows, "agreement": agreement(&rows) }));
    }
    let mut text = table(&rows, style).write(style);
    if style != Style::Csv {
        let rows: Vec<Shown> = rows.iter().map(Shown::new).collect();
        text.push('\n');
        for (column, Agreement { agree, printed }) in agreement(&rows) {
            text.push_str(&format!("{column}: {agree} of {printed} as printed\n"));
        }
    }
    super::print(&text)
}

/// A row in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    table: &'a str,
    model: &'a str,
    method: &'a str,
    distribution: &'a str,
    sparsity: f64,
    multiplier: f64,
    training: Option<Figure<'a>>,
    inference: Option<Figure<'a>>,
    size: Option<Figure<'a>>,
}

/// A published figure; absent if none was printed.
#[derive(Serialize)]
struct Figure<'a> {
    /// The printed text: `x` is a multiple of the dense network, sizes are in 10^6 bytes.
    printed: &'a str,
    /// The computed value in the same unit; absent if no rule was published.
    computed: Option<f64>,
    /// Whether both agree to the printed digit.
    agrees: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    remark: &'a str,
}

impl<'a> Shown<'a> {
    fn new(row: &'a Row) -> Self {
        let figure = |i: usize| {
            let printed = row.printed[i];
            (!printed.is_empty()).then(|| Figure {
                printed,
                computed: row.computed[i],
                agrees: row.agrees(i) == Some(true),
                remark: row.remarks[i],
            })
        };
        Shown {
            table: row.table,
            model: row.model,
            method: row.method,
            distribution: row.distribution,
            sparsity: row.sparsity,
            multiplier: row.multiplier,
            training: figure(0),
            inference: figure(1),
            size: figure(2),
        }
    }
}

/// Counts the figures of a column that agree.
#[derive(Serialize)]
struct Agreement {
    agree: usize,
    printed: usize,
}

fn agreement(rows: &[Shown]) -> [(&'static str, Agreement); 3] {
    let columns: [fn(&Shown) -> Option<bool>; 3] = [
        |row| row.training.as_ref().map(|f| f.agrees),
        |row| row.inference.as_ref().map(|f| f.agrees),
        |row| row.size.as_ref().map(|f| f.agrees),
    ];
    [0, 1, 2].map(|i| {
        let figures: Vec<bool> = rows.iter().filter_map(columns[i]).collect();
        let agree = figures.iter().filter(|&&agrees| agrees).count();
        let printed = figures.len();
        (COLUMNS[i], Agreement { agree, printed })
    })
}

fn table(rows: &[Row], style: Style) -> Table {
    let mut table = Table::new(&[
        "table",
        "model",
        "method",
        "distribution",
        "sparsity",
        "length",
        "training",
        "training computed",
        "inference",
        "inference computed",
        "size MB",
        "size computed",
        "remarks",
    ]);
    for row in rows {
        let computed = |i: usize| match (row.printed[i], row.computed[i], style) {
            ("", ..) => String::new(),
            (_, None, _) => "-".to_owned(),
            (_, Some(value), Style::Csv) => value.to_string(),
            (printed, Some(value), _) => like(printed, value),
        };
        let marked = |i: usize| match row.agrees(i) {
            Some(false) if style != Style::Csv => format!("{} *", computed(i)),
            _ => computed(i),
        };
        let remarks = row.remarks.iter().zip(COLUMNS).filter(|(remark, _)| !remark.is_empty());
        let remarks: Vec<String> = remarks.map(|(remark, column)| format!("{column}: {remark}")).collect();
        table.row([
            row.table.to_owned(),
            row.model.to_owned(),
            row.method.to_owned(),
            row.distribution.to_owned(),
            row.sparsity.to_string(),
            format!("{}x", row.multiplier),
            row.printed[0].to_owned(),
            marked(0),
            row.printed[1].to_owned(),
            marked(1),
            row.printed[2].to_owned(),
            marked(2),
            remarks.join("; "),
        ]);
    }
    table
}
