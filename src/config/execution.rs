//! Which layers are computed from their connections alone.

use std::collections::{BTreeMap, BTreeSet};

use models::{Kind, Precision, layers::sparse::LANES};
use serde::{Deserialize, Serialize};
use sparse::{GrowInit, GrowScore, InitialMask, KeepCount};

use super::{Error, OneShot, Plan, Run, check::value};
use crate::engine::EngineKind;
use pjrt::DeviceKind;

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

/// Time of a layer's training step from its connections alone, over that of the masked layer: `fixed + each * density`. Fitted to
/// `cost --measured` at densities from 0.01 to 0.5 (`scripts/bench/results/sparse_density.md`).
struct RelativeTime {
    fixed: f64,
    each: f64,
}

/// Convolutions of one position, which oneDNN computes as matrix products.
const MATRIX_CONV: RelativeTime = RelativeTime { fixed: 0.12, each: 2.3 };

/// Other convolutions.
const WINDOW_CONV: RelativeTime = RelativeTime {
    fixed: 0.09,
    each: 1.85,
};

/// Dense layers.
const DENSE: RelativeTime = RelativeTime { fixed: 0.04, each: 4.4 };

/// Least expected gain: below it the change of layout between layers of different execution takes what is won.
const LEAST_GAIN: f64 = 1.2;

/// Minimum batch size at which a dense layer fills a vector register well enough.
const FEWEST_EXAMPLES: usize = 8;

/// Properties of a layer that decide how it is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Convolution or dense.
    pub kind: Kind,
    /// Height and width of the kernel; 1 x 1 for a dense layer.
    pub window: [usize; 2],
    /// Share of weights that are connections.
    pub density: f64,
    /// Examples of a batch.
    pub batch: usize,
}

impl Layer {
    /// How many times as fast a training step of the layer is expected to be when computed from its connections alone; `None` where
    /// it cannot be.
    pub fn expected_gain(&self) -> Option<f64> {
        let time = match self.kind {
            Kind::Conv if !self.batch.is_multiple_of(LANES) => return None,
            Kind::Conv if self.window == [1, 1] => MATRIX_CONV,
            Kind::Conv => WINDOW_CONV,
            Kind::Dense if self.batch < FEWEST_EXAMPLES => return None,
            Kind::Dense => DENSE,
            Kind::Depthwise => return None,
        };
        Some(1.0 / (time.fixed + time.each * self.density))
    }

    /// Whether `auto` computes the layer from its connections alone. The one place that decides it.
    pub fn gains(&self) -> bool {
        self.expected_gain().is_some_and(|gain| gain >= LEAST_GAIN)
    }
}

/// Largest share of a network's multiply-adds at which its prediction is faster by the kernels of `cpu` at any size of images.
const PREDICTION_DENSITY: f64 = 0.4;

/// Least height and width of images from which prediction by the kernels of `cpu` is faster at any density. Measured at 224
/// pixels; at 32, a WideResNet takes 1.3 times as long for one image (`scripts/bench/results/sparse_predictions.md`).
const PREDICTION_PIXELS: usize = 224;

/// Whether prediction with a network is expected to be faster by the kernels of `cpu` than by a plugin. `density` is the share of
/// the dense network's multiply-adds, `input_dims` the dimensions of an example.
pub fn prediction_gains(density: f64, input_dims: &[usize]) -> bool {
    let large = matches!(input_dims, &[height, width, _] if height.min(width) >= PREDICTION_PIXELS);
    density <= PREDICTION_DENSITY || large
}

/// Layers that are computed from their connections alone, by the kernel's variable name.
pub type SparseLayers = BTreeSet<String>;

/// Number of connections of each layer whose values and slots are stored for the connections alone, by the kernel's variable
/// name.
pub type CondensedLayers = BTreeMap<String, usize>;

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
        let batch = self.part_batch();
        let convolves = self.layers.iter().any(|layer| layer.masked && layer.kind == Kind::Conv);
        if asked == Execution::Sparse && convolves && !batch.is_multiple_of(LANES) {
            let expected = format!("multiples of {LANES} per replica for convolutions, as device.execution is sparse");
            return Err(value("train.batch_size", batch, expected));
        }
        let sparse = self.layers.iter().filter(|layer| layer.masked).filter_map(|layer| {
            let facts = self.execution_of(layer)?;
            (asked == Execution::Sparse || facts.gains()).then(|| layer.kernel.clone())
        });
        Ok(sparse.collect())
    }

    /// The layers whose connections alone are stored: the sparse ones of a run that asks for it.
    ///
    /// # Errors
    /// A run that asks for it but does not compute layers sparsely, or whose updates change the number of connections or read
    /// weights that are not connections.
    pub fn condensed_layers(&self) -> Result<CondensedLayers, Error> {
        if self.run.device.condensed != Some(true) {
            return Ok(CondensedLayers::new());
        }
        match self.why_whole() {
            Some(reason) => Err(value("device.condensed", true, format!("false, {reason}"))),
            None => Ok(self.connections()),
        }
    }

    /// The layers for [`Plan::between_updates`]: the sparse ones of networks of dense layers, where the optimizer takes much of an
    /// iteration.
    pub fn condensed_between_updates(&self) -> CondensedLayers {
        let dense = self.accumulated() == 1 && self.layers.iter().all(|layer| layer.kind == Kind::Dense);
        let kept = self.condensed.is_empty() && self.run.init.is_none() && self.run.optimizer.rule.has_decay_steps();
        match dense && kept && self.why_whole().is_none() {
            true => self.connections(),
            false => CondensedLayers::new(),
        }
    }

    /// The numbers of connections of the sparse layers.
    fn connections(&self) -> CondensedLayers {
        let layers = self.layers.iter().filter(|layer| self.sparse.contains(&layer.kernel));
        let counted = layers.filter_map(|layer| {
            let budget = self.budgets.iter().find(|budget| budget.name == layer.name)?;
            (budget.nonzeros > 0).then(|| (layer.kernel.clone(), budget.nonzeros))
        });
        counted.collect()
    }

    /// Why weights that are not connections are needed, if they are.
    fn why_whole(&self) -> Option<String> {
        if self.run.device.execution == Some(Execution::Masked) {
            return Some("as device.execution is masked".into());
        }
        if let Some((key, found, expected)) = self.masked_only() {
            return Some(format!("as {key} is {found}, not {expected}"));
        }
        if !self.run.train.freeze.is_empty() {
            return Some("as train.freeze names what is not trained".into());
        }
        if let Some(decay) = self.run.optimizer.ema_decay {
            return Some(format!("as optimizer.ema_decay is {decay}"));
        }
        if let Some(limit) = self.run.optimizer.clip_norm {
            return Some(format!("as optimizer.clip_norm is {limit}"));
        }
        let init = self.run.init.as_ref();
        if init.is_some_and(|init| init.prune == Some(OneShot::Global)) {
            return Some("as init.prune is global, which moves connections between layers".into());
        }
        let method = &self.run.method;
        let averages = self.method.grow == GrowScore::Momentum || method.gradient_batches > 1;
        let constant = self.method.initial_mask == InitialMask::Random && self.method.keep == KeepCount::Connections;
        if averages || !constant {
            let why = match averages {
                true => "averages gradients of all weights",
                false => "changes the number of connections",
            };
            return Some(format!("as the method {} {why}", self.method.name));
        }
        if self.method.grow == GrowScore::InvertedGradient {
            return Some(format!(
                "as the method {} grows weights that stay 0, and inactive weights take their place",
                self.method.name
            ));
        }
        if let GrowInit::RandomNormal(_) | GrowInit::RandomUniform(_) = method.grow_init {
            return Some("as method.grow_init reads weights that are not connections".into());
        }
        None
    }

    /// Whether a batch is best taken out of the resident examples as sparse layers want it: the first layer is a sparse one, of
    /// vectors.
    pub fn takes_examples_by_lanes(&self) -> bool {
        let first = self.layers.first().filter(|layer| layer.kind == Kind::Dense);
        let sparse = first.is_some_and(|layer| self.sparse.contains(&layer.kernel));
        let bytes = self.pixels() == hlo::DType::U8;
        sparse && bytes && self.accumulated() == 1 && !self.streams() && !self.draws()
    }

    /// The properties of a layer that decide how it is computed; `None` without a budget.
    fn execution_of(&self, layer: &models::Layer) -> Option<Layer> {
        let budget = self.budgets.iter().find(|budget| budget.name == layer.name)?;
        if self.exported.is_some() {
            return None;
        }
        Some(Layer {
            kind: layer.kind,
            window: layer.window(),
            density: budget.nonzeros as f64 / layer.weights().max(1) as f64,
            batch: self.part_batch(),
        })
    }

    /// `Layer::expected_gain` of the layer of this name, where the run could compute layers from their connections alone.
    pub fn expected_gain(&self, layer: &str) -> Option<f64> {
        let layer = self.layers.iter().find(|known| known.name == layer)?;
        match self.masked_only() {
            Some(_) => None,
            None => self.execution_of(layer)?.expected_gain(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kind: Kind, window: usize, density: f64, batch: usize) -> Layer {
        Layer {
            kind,
            window: [window; 2],
            density,
            batch,
        }
    }

    #[test]
    fn layers_are_sparse_up_to_the_documented_densities() {
        for (kind, window, most) in [(Kind::Conv, 1, 0.31), (Kind::Conv, 3, 0.40), (Kind::Dense, 1, 0.18)] {
            assert!(layer(kind, window, most, 16).gains(), "{kind:?} {window}");
            assert!(!layer(kind, window, most + 0.01, 16).gains(), "{kind:?} {window}");
        }
        assert_eq!(layer(Kind::Conv, 3, 0.1, 100).expected_gain(), None);
        assert!(layer(Kind::Dense, 1, 0.1, 100).gains());
        assert_eq!(layer(Kind::Dense, 1, 0.1, 7).expected_gain(), None);
        assert_eq!(layer(Kind::Depthwise, 3, 0.1, 16).expected_gain(), None);
    }
}
