//! `rigl-xla eval` and `rigl-xla predict` of exported models.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::checkpoint::{self, Metadata};
use crate::cli::error::Result;
use crate::config::share_of_zeros;
use crate::data::Split;
use crate::data::arrays::{self, Arrays};
use crate::device::Device;
use crate::exported;
use crate::report::note;
use crate::report::table::{Style, Table};
use crate::train::exported_evaluation::inputs;
use crate::train::inference::Scores;
use crate::train::loaded_export::LoadedExport;

/// JSON output of `eval` for a checkpoint of an exported model.
#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "crate::report::path")]
    checkpoint: PathBuf,
    model: &'static str,
    iteration: u64,
    #[serde(flatten)]
    scores: Scores,
    nonzeros: usize,
    maskable: usize,
    /// Fraction of zeros over all masks; 0 without masks.
    sparsity: f64,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    nonzeros: usize,
    weights: usize,
    sparsity: f64,
}

/// Evaluates a checkpoint on `data`, or on that of its run.
///
/// # Errors
/// Arrays or a device that cannot be used.
pub fn eval(loaded: &LoadedExport, data: Option<&str>, device: &Device, json: bool) -> Result<()> {
    let path = data.unwrap_or(&loaded.run.data.dir);
    arrays::exists(path)?;
    let data = Arrays::open(Path::new(path), Split::Test, &inputs(&loaded.exported, |_| true));
    let data = data.map_err(crate::data::Error::from)?;
    if let Some(note) = &data.note {
        note!("note: {note}");
    }
    let (scores, note) = loaded.scores(device, data)?;
    note.into_iter().for_each(|note| note!("note: {note}"));
    let report = Report::new(loaded, scores);
    match json {
        true => super::print_json(&report),
        false => super::print(&text(&report)),
    }
}

impl Report {
    fn new(loaded: &LoadedExport, scores: Scores) -> Self {
        let masks = loaded.masks();
        let (nonzeros, maskable) = masks.iter().fold((0, 0), |(n, m), (_, ones, all)| (n + ones, m + all));
        let layer = |&(name, nonzeros, weights): &(&str, usize, usize)| Layer {
            name: name.to_owned(),
            nonzeros,
            weights,
            sparsity: share_of_zeros(nonzeros, weights),
        };
        Report {
            checkpoint: loaded.path.clone(),
            model: exported::NAME,
            iteration: loaded.iteration,
            scores,
            nonzeros,
            maskable,
            sparsity: share_of_zeros(nonzeros, maskable),
            layers: masks.iter().map(layer).collect(),
        }
    }
}

fn text(report: &Report) -> String {
    let mut layers = Table::new(&["array", "sparsity", "weights", "nonzeros"]);
    for layer in &report.layers {
        layers.row([
            layer.name.clone(),
            format!("{:.6}", layer.sparsity),
            layer.weights.to_string(),
            layer.nonzeros.to_string(),
        ]);
    }
    let mut lines = vec![("examples".to_owned(), report.scores.examples.to_string())];
    lines.extend(report.scores.shown());
    lines.push(("sparsity".to_owned(), format!("{:.4}", report.sparsity)));
    let lines: String = lines
        .iter()
        .map(|(what, value)| format!("{what:<16}{value}\n"))
        .collect();
    format!("{}\n{lines}", layers.write(Style::Text))
}

/// Writes the predictions for the arrays of `input` to `output`.
///
/// # Errors
/// Arrays or a device that cannot be used, or an output that cannot be written.
pub fn predict(loaded: &LoadedExport, [input, output]: [&Path; 2], device: &Device, json: bool) -> Result<()> {
    arrays::exists(&input.to_string_lossy())?;
    let predictions = loaded.predictions(device, input)?;
    let shapes: Vec<_> = predictions
        .iter()
        .map(|(name, array)| (name.clone(), array.shape().to_string()))
        .collect();
    let metadata = Metadata::new(exported::NAME, loaded.iteration, "");
    checkpoint::save(output, &predictions.into_iter().collect(), &metadata)?;
    match json {
        true => {
            let shapes: serde_json::Map<_, _> = shapes.into_iter().map(|(name, shape)| (name, shape.into())).collect();
            let output = output.display().to_string();
            super::print_json(&json!({ "output": output, "model": exported::NAME, "predictions": shapes }))
        }
        false => {
            let lines = shapes
                .iter()
                .map(|(name, shape)| format!("{name} {shape} in {}\n", output.display()));
            super::print(&lines.collect::<String>())
        }
    }
}
