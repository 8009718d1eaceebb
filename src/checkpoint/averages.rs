//! Averages of weights, which a run with `optimizer.ema_decay` keeps beside them and evaluates.

use super::Checkpoint;

/// Suffix of the name of a parameter's average.
pub const WEIGHT_AVERAGE: &str = "WeightAverage";

impl Checkpoint {
    /// Replaces weights by their averages, where there are any.
    pub fn use_averages(&mut self) {
        let suffix = format!("/{WEIGHT_AVERAGE}");
        let averages = self.tensors.keys().filter_map(|name| name.strip_suffix(&suffix));
        let averages: Vec<String> = averages
            .filter(|name| self.tensors.contains_key(*name))
            .map(str::to_owned)
            .collect();
        for name in averages {
            if let Some(average) = self.tensors.remove(&format!("{name}{suffix}")) {
                self.tensors.insert(name, average);
            }
        }
    }
}
