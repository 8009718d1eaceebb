//! Functions of logits: losses and counts.

use hlo::{DType, Tensor};

/// Log-softmax over the last axis of `[batch, classes]`.
#[track_caller]
pub fn log_softmax(logits: Tensor<'_>) -> Tensor<'_> {
    let dims = logits.dims();
    // The maximum only shifts the range; the result does not depend on it, so it needs no gradient.
    let shifted = logits - across(logits.reduce_max(&[1]).stop_gradient(), &dims);
    shifted - across(shifted.exp().reduce_sum(&[1]).log(), &dims)
}

/// Broadcasts one value per row along the row.
fn across<'g>(rows: Tensor<'g>, dims: &[usize]) -> Tensor<'g> {
    rows.broadcast(dims, &[0])
}

/// Cross entropy per example, `f32[batch]`. The targets are one-hot `labels` (integers, `[batch]`), smoothed to `y (1 -
/// smoothing) + smoothing / classes`.
#[track_caller]
pub fn cross_entropy<'g>(logits: Tensor<'g>, labels: Tensor<'g>, smoothing: f64) -> Tensor<'g> {
    let classes = logits.dims().last().copied().unwrap_or(1);
    let one_hot = labels.one_hot(classes, logits.dtype());
    let targets = match smoothing {
        0.0 => one_hot,
        s => one_hot * (1.0 - s) + s / classes as f64,
    };
    -(targets * log_softmax(logits)).reduce_sum(&[1])
}

/// Whether each example's label is among the `k` largest logits, `pred[batch]`. Ties count in favour of the label,
/// except for `k` = 1, which compares the label with the `argmax` (the first of the largest).
#[track_caller]
pub fn in_top_k<'g>(logits: Tensor<'g>, labels: Tensor<'g>, k: usize) -> Tensor<'g> {
    if k == 1 {
        return logits.argmax(1).eq(labels.convert(DType::S32));
    }
    let dims = logits.dims();
    let classes = dims.last().copied().unwrap_or(1);
    let own = (labels.one_hot(classes, logits.dtype()) * logits).reduce_sum(&[1]);
    let ahead = logits.gt(across(own, &dims)).convert(DType::S32).reduce_sum(&[1]);
    ahead.lt(k as f64)
}

/// `½ Σ w²`, the L2 term of one kernel.
#[track_caller]
pub fn l2(weights: Tensor<'_>) -> Tensor<'_> {
    (weights * weights).reduce_sum_all() * 0.5
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hlo::{Graph, Literal, Shape, grad};

    #[test]
    fn cross_entropy_and_its_gradient_match_the_closed_form() {
        let g = Graph::new("loss");
        let logits = g.parameter("logits", Shape::new(DType::F32, [2, 3]));
        let labels = g.constant(Literal::new(&[2], &[2i32, 0]));
        let loss = cross_entropy(logits, labels, 0.0).reduce_mean(&[0]);
        let outputs = [loss.output(), grad(loss, &[logits])[0].output()];
        let values = [1.0f32, 2.0, 3.0, 0.5, 0.5, -1000.0];
        let results = g
            .build(&outputs)
            .unwrap()
            .evaluate(&[Literal::new(&[2, 3], &values)])
            .unwrap();
        let z: f64 = (0..3).map(|i| f64::from(i).exp()).sum();
        let want = ((z.ln() - 2.0) + 2f64.ln()) / 2.0;
        assert!((f64::from(results[0].item::<f32>().unwrap()) - want).abs() < 1e-6);
        let gradient = results[1].to_vec::<f32>().unwrap();
        let softmax = [1.0 / z, 1f64.exp() / z, 2f64.exp() / z - 1.0, 0.5 - 1.0, 0.5, 0.0];
        for (got, want) in gradient.iter().zip(softmax) {
            assert!((f64::from(*got) - want / 2.0).abs() < 1e-6, "{gradient:?}");
        }
    }

    #[test]
    fn accuracy_counts_as_argmax_and_top_k_do() {
        let g = Graph::new("top");
        let logits = g.constant(Literal::new(&[3, 3], &[1.0f32, 3.0, 3.0, 1.0, 2.0, 3.0, 5.0, 1.0, 2.0]));
        let labels = g.constant(Literal::new(&[3], &[2i32, 1, 1]));
        let outputs = [1, 2].map(|k| in_top_k(logits, labels, k).output());
        let results = g.build(&outputs).unwrap().evaluate(&[]).unwrap();
        assert_eq!(results[0].to_bools().unwrap(), [false, false, false]);
        assert_eq!(results[1].to_bools().unwrap(), [true, true, false]);
    }
}
