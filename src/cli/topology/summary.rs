//! The table of layers that `topology` prints.

use serde::Serialize;
use sparse::dead_units::{Connections, LiveSize, Passes, live_size};

use crate::report::escape;
use crate::report::table::{Style, Table};
use crate::topology::{Journal, Tracker, fans, without_connections};

/// The topology of a run at an iteration, and what happened before.
#[derive(Serialize)]
pub struct Summary {
    journal: String,
    /// Iteration of the last record.
    iteration: u64,
    /// Mask updates since the first masks.
    updates: usize,
    layers: Vec<LayerSummary>,
    total: Total,
    /// Sizes of a fully connected network without dead units.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveSize>,
    /// Bytes of the journal up to this iteration, and of the mask updates per connection dropped or grown.
    bytes: u64,
    bytes_per_moved: f64,
    /// Whether the last record of the file is incomplete.
    cut: bool,
}

/// Figures over all layers.
#[derive(Serialize)]
struct Total {
    weights: usize,
    connections: usize,
    dropped: u64,
    grown: u64,
    /// Share of the weights that were ever active.
    ever_active: f64,
}

/// Figures of a layer.
#[derive(Serialize)]
pub struct LayerSummary {
    pub name: String,
    shape: Vec<usize>,
    pub weights: usize,
    pub connections: usize,
    pub dropped: u64,
    pub grown: u64,
    /// Share of the weights that were ever active.
    pub ever_active: f64,
    /// Share of the first connections that were never dropped.
    never_dropped: f64,
    /// Mean iterations since the connections grew.
    pub mean_age: f64,
    /// Quartiles of the same.
    age_quartiles: [u64; 3],
    /// Mean iterations from growth to drop.
    pub mean_lifetime: Option<f64>,
    pub fan_in: Fan,
    pub fan_out: Fan,
}

/// Connections per unit.
#[derive(Serialize)]
pub struct Fan {
    pub units: usize,
    pub min: u32,
    pub mean: f64,
    pub max: u32,
    /// Units without connections.
    pub without: usize,
}

impl Fan {
    fn new(fan: &[u32]) -> Self {
        Fan {
            units: fan.len(),
            min: fan.iter().copied().min().unwrap_or_default(),
            mean: fan.iter().map(|&n| f64::from(n)).sum::<f64>() / fan.len().max(1) as f64,
            max: fan.iter().copied().max().unwrap_or_default(),
            without: without_connections(fan),
        }
    }
}

impl Summary {
    pub fn new(journal: &Journal, tracker: &Tracker, iteration: u64, first_bytes: u64) -> Self {
        let layers: Vec<_> = (0..tracker.layers.len())
            .map(|i| layer_summary(journal, tracker, i))
            .collect();
        let ever: usize = tracker.layers.iter().map(|layer| layer.ever_active).sum();
        let moved: u64 = layers.iter().map(|layer| layer.dropped + layer.grown).sum();
        let weights: usize = layers.iter().map(|layer| layer.weights).sum();
        Summary {
            journal: journal.path().display().to_string(),
            iteration,
            updates: tracker.updates.len().saturating_sub(1),
            total: Total {
                weights,
                connections: layers.iter().map(|layer| layer.connections).sum(),
                dropped: layers.iter().map(|layer| layer.dropped).sum(),
                grown: layers.iter().map(|layer| layer.grown).sum(),
                ever_active: ever as f64 / weights.max(1) as f64,
            },
            live: live(journal),
            bytes: journal.offset(),
            bytes_per_moved: (journal.offset() - first_bytes) as f64 / moved.max(1) as f64,
            cut: journal.is_cut(),
            layers,
        }
    }

    pub fn text(&self, style: Style) -> String {
        let mut table = Table::new(&[
            "layer",
            "weights",
            "connections",
            "moved",
            "ever active",
            "mean age",
            "lifetime",
            "fan-in",
            "units without inputs",
            "inputs unused",
        ]);
        self.layers.iter().for_each(|layer| table.row(layer.cells()));
        let table = table.write(style);
        if style == Style::Csv {
            return table;
        }
        let total = &self.total;
        let live = self.live.as_ref().map(|live| format!("{live}\n")).unwrap_or_default();
        format!(
            "{}: after {} iterations and {} mask updates\n{table}\nin all {} of {} weights are connections; {:.2} % were ever active\n{live}\
             the journal has {} bytes, {:.2} per connection dropped or grown\n",
            escape::name(&self.journal),
            self.iteration,
            self.updates,
            total.connections,
            total.weights,
            100.0 * total.ever_active,
            self.bytes,
            self.bytes_per_moved,
        )
    }
}

fn layer_summary(journal: &Journal, tracker: &Tracker, i: usize) -> LayerSummary {
    let (layer, history) = (&journal.header().layers[i], &tracker.layers[i]);
    let fans = fans(layer, &journal.masks()[i]);
    let mut ages = tracker.ages(i);
    ages.sort_unstable();
    let quantile = |share: usize| ages.get(ages.len() * share / 4).copied().unwrap_or_default();
    let first = history.connections as u64 + history.dropped - history.grown;
    LayerSummary {
        name: layer.name.clone(),
        shape: layer.shape.clone(),
        weights: history.weights(),
        connections: history.connections,
        dropped: history.dropped,
        grown: history.grown,
        ever_active: history.ever_active as f64 / history.weights().max(1) as f64,
        never_dropped: history.original as f64 / first.max(1) as f64,
        mean_age: ages.iter().map(|&age| age as f64).sum::<f64>() / ages.len().max(1) as f64,
        age_quartiles: [1, 2, 3].map(quantile),
        mean_lifetime: history.mean_lifetime(),
        fan_in: Fan::new(&fans.fan_in),
        fan_out: Fan::new(&fans.fan_out),
    }
}

/// Sizes without dead units, if the layers are a stack of fully connected ones.
fn live(journal: &Journal) -> Option<LiveSize> {
    let layers = journal.header().layers.iter().zip(journal.masks());
    let stack = layers.map(|(layer, mask)| match layer.shape[..] {
        [inputs, outputs] => Connections::new(inputs, outputs, mask.iter().map(|&m| m != 0).collect()).ok(),
        _ => None,
    });
    live_size(&stack.collect::<Option<Vec<_>>>()?, Passes::One).ok()
}
