//! The metrics of evaluation: one row each.

use super::eval::Inference;
use hlo::{DType, Graph, Tensor};
use models::layers;
use std::collections::BTreeMap;

/// A metric of evaluation: a mean over examples, whose sum is computed on the device.
pub struct Metric {
    /// Name of the sum among the outputs of an evaluation.
    pub name: &'static str,
    /// Whether an evaluation of this network has it.
    applies: fn(&Inference) -> bool,
    /// The sum of no examples.
    pub(super) zero: for<'g> fn(&'g Graph) -> Tensor<'g>,
    /// The sum over a batch.
    sum: for<'g> fn(&Batch<'g>) -> Tensor<'g>,
}

/// Every metric, in the order of the outputs of an evaluation.
pub static METRICS: [&Metric; 4] = [&TOP1, &TOP5, &LOSS, &SMOOTHED_LOSS];

/// Whether the label has the largest logit.
pub static TOP1: Metric = Metric {
    name: "top1",
    applies: |_| true,
    zero: |g| g.scalar(0i32),
    sum: |batch| batch.correct(1),
};

/// Whether the label is among the five largest logits.
pub static TOP5: Metric = Metric {
    name: "top5",
    applies: |_| true,
    zero: |g| g.scalar(0i32),
    sum: |batch| batch.correct(5),
};

/// Cross entropy, without the L2 term and label smoothing.
pub static LOSS: Metric = Metric {
    name: "cross_entropy_sum",
    applies: |_| true,
    zero: |g| g.scalar(0f32),
    sum: |batch| batch.total(batch.loss),
};

/// Cross entropy with smoothed labels.
pub static SMOOTHED_LOSS: Metric = Metric {
    name: "smoothed_cross_entropy_sum",
    applies: |network| network.label_smoothing > 0.0,
    zero: |g| g.scalar(0f32),
    sum: |batch| batch.total(batch.smoothed_loss),
};

/// The metrics of a network.
pub fn metrics(network: &Inference) -> Vec<&'static Metric> {
    METRICS.into_iter().filter(|metric| (metric.applies)(network)).collect()
}

/// Results of one batch.
struct Batch<'g> {
    logits: Tensor<'g>,
    labels: Tensor<'g>,
    /// Whether an example counts.
    counted: Tensor<'g>,
    loss: Tensor<'g>,
    /// The same as `loss` without label smoothing.
    smoothed_loss: Tensor<'g>,
}

impl<'g> Batch<'g> {
    /// Number of examples whose label is among the `k` largest logits.
    fn correct(&self, k: usize) -> Tensor<'g> {
        (layers::in_top_k(self.logits, self.labels, k) & self.counted)
            .convert(DType::S32)
            .reduce_sum(&[0])
    }

    fn total(&self, values: Tensor<'g>) -> Tensor<'g> {
        self.counted.select(values, values.zeros_like()).reduce_sum(&[0])
    }
}

/// The sums of the network's [`metrics`] over the counted examples of a batch.
pub(super) fn sums<'g>(
    network: Inference,
    logits: Tensor<'g>,
    labels: Tensor<'g>,
    counted: Tensor<'g>,
) -> Vec<Tensor<'g>> {
    let smoothing = network.label_smoothing;
    let loss = layers::cross_entropy(logits, labels, 0.0);
    let smoothed_loss = match smoothing > 0.0 {
        true => layers::cross_entropy(logits, labels, smoothing),
        false => loss,
    };
    let batch = Batch {
        logits,
        labels,
        counted,
        loss,
        smoothed_loss,
    };
    metrics(&network)
        .into_iter()
        .map(|metric| (metric.sum)(&batch))
        .collect()
}

/// Sums of metrics over examples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums(BTreeMap<&'static str, f64>);

impl Sums {
    /// Adds the sum over more examples.
    pub fn add(&mut self, metric: &'static Metric, sum: f64) {
        *self.0.entry(metric.name).or_default() += sum;
    }

    /// The mean over `examples`; `None` for a metric that was not computed.
    pub fn mean(&self, metric: &Metric, examples: usize) -> Option<f64> {
        Some(self.0.get(metric.name)? / examples as f64)
    }
}
