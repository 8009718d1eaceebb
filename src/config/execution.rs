//! Which layers are computed from their connections alone.

use std::collections::BTreeSet;

use models::{Kind, Precision, layers::sparse::LANES};
use serde::{Deserialize, Serialize};

use super::{Error, Plan, Run, check::value};
use crate::engine::EngineKind;
use crate::pjrt::DeviceKind;

/// How masked layers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Execution {
    /// Each layer in the way that is expected to be faster.
    #[default]
    Auto,
    /// As dense layers with masked weights.
    Masked,
    /// From the connections alone.
    Sparse,
}

/// Largest share of connections at which a convolution is faster from its connections alone.
const CONV_DENSITY: f64 = 0.25;

/// The same for a dense layer.
const DENSE_DENSITY: f64 = 0.2;

/// Minimum batch size at which a dense layer fills a vector register well enough.
const FEWEST_EXAMPLES: usize = 8;

/// The properties of a layer that decide how it is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Convolution or dense.
    pub kind: Kind,
    /// Share of weights that are connections.
    pub density: f64,
    /// Examples of a batch.
    pub batch: usize,
}

impl Layer {
    /// Whether the layer is expected to be faster from its connections alone. Only this function decides it.
    pub fn gains(&self) -> bool {
        match self.kind {
            Kind::Conv => self.density <= CONV_DENSITY && self.batch.is_multiple_of(LANES),
            Kind::Dense => self.density <= DENSE_DENSITY && self.batch >= FEWEST_EXAMPLES,
            Kind::Depthwise => false,
        }
    }
}

/// Largest share of a network's multiply-adds at which its prediction is faster from connections alone.
const PREDICTION_DENSITY: f64 = 0.4;

/// Whether prediction with a network is expected to be faster from its connections alone; `density` is the share of the dense
/// network's multiply-adds.
pub fn prediction_gains(density: f64) -> bool {
    density <= PREDICTION_DENSITY
}

/// Layers that are computed from their connections alone, by the kernel's variable name.
pub type SparseLayers = BTreeSet<String>;

impl Plan {
    /// The layers that this run computes from their connections alone.
    ///
    /// # Errors
    /// Sparse execution is requested, but impossible: another device than a CPU, an engine that cannot call host functions,
    /// bf16, or a method that trains all weights.
    pub fn sparse_layers(&self) -> Result<SparseLayers, Error> {
        let asked = self.run.device.execution.unwrap_or_default();
        if asked == Execution::Masked {
            return Ok(SparseLayers::new());
        }
        if let Some((key, found, expected)) = self.masked_only() {
            return match asked {
                Execution::Sparse => Err(value(key, found, format!("{expected}, as device.execution is sparse"))),
                Execution::Auto | Execution::Masked => Ok(SparseLayers::new()),
            };
        }
        let batch = self.replica_batch();
        let sparse = self.layers.iter().filter(|layer| layer.masked).filter_map(|layer| {
            let budget = self.budgets.iter().find(|budget| budget.name == layer.name)?;
            let facts = Layer {
                kind: layer.kind,
                density: budget.nonzeros as f64 / layer.weights().max(1) as f64,
                batch,
            };
            (asked == Execution::Sparse || facts.gains()).then(|| layer.kernel.clone())
        });
        Ok(sparse.collect())
    }

    /// Whether the layer of this name is computed from its connections alone.
    pub fn is_sparse(&self, layer: &str) -> bool {
        let of = self.layers.iter().find(|known| known.name == layer);
        of.is_some_and(|layer| self.sparse.contains(&layer.kernel))
    }

    /// The setting that prevents sparse execution: a key, its value and the expected one.
    fn masked_only(&self) -> Option<(&'static str, String, &'static str)> {
        let engine = self.engine();
        let Run { device, train, .. } = &self.run;
        if device.kind != DeviceKind::Cpu {
            Some(("device.kind", device.kind.to_string(), "cpu"))
        } else if engine == EngineKind::Xla {
            Some(("device.engine", engine.to_string(), "pjrt or interpreter"))
        } else if train.precision != Precision::F32 {
            Some(("train.precision", train.precision.name().to_owned(), "f32"))
        } else if self.method.straight_through {
            Some((
                "method.name",
                self.method.name.to_owned(),
                "a method that trains connections only",
            ))
        } else {
            None
        }
    }
}
