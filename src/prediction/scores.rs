//! Scores over a data set, from the logits of sparse kernels.

use std::sync::Arc;

use hlo::Literal;

use super::SparsePredictor;
use crate::data::pipeline::{Options, Order, Part, Source};
use crate::data::sets::Examples;
use crate::report::note;
use crate::train::eval::{Inference, counting};
use crate::train::inference::{Scores, check_set, rows};
use crate::train::metrics::{Sums, metrics};
use crate::train::{Error, Result};

/// What [`crate::train::inference::Evaluator`] computes on a device, here by `predictor`, `batch` examples at a time.
///
/// # Errors
/// Images that the model does not take; examples that cannot be read.
pub fn score(
    predictor: &SparsePredictor,
    network: Inference,
    examples: &Examples,
    batch: usize,
    stream: Options,
) -> Result<Scores> {
    check_set(network.model, examples)?;
    let mut sums = Sums::default();
    let (count, skipped) = match examples {
        Examples::Whole(set) => {
            for start in (0..set.len()).step_by(batch.max(1)) {
                let range = start..(start + batch).min(set.len());
                let part = |array| rows(array, range.clone()).ok_or(Error::Output("part of the data set"));
                let logits = predictor.logits(&part(&set.images)?)?;
                let present = vec![true; range.len()];
                add(&mut sums, network, [logits, part(&set.labels)?], &present)?;
            }
            (set.len(), 0)
        }
        Examples::Arrays(_) => return Err(crate::data::Error::OnlyExported.into()),
        Examples::Records(records) => {
            let (mut seen, process) = (0, Part { process: 0, count: 1 });
            let order = Order::in_turn(records.len(), batch, process);
            let mut pipeline = Arc::clone(records).pipeline(order, stream, 0)?;
            while let Some(batch) = pipeline.take()? {
                let logits = predictor.logits_of_pixels(&batch.images)?;
                let labels = Literal::new(&[batch.labels.len()], &batch.labels);
                add(&mut sums, network, [logits, labels], &batch.present)?;
                seen += batch.present.iter().filter(|&&present| present).count();
            }
            let skipped = pipeline.skipped();
            skipped.values().for_each(|fault| note!("left out: {fault}"));
            (seen, records.damaged() + skipped.len())
        }
    };
    Ok(Scores::of(&sums, count, skipped))
}

/// Adds the sums of [`metrics`] over a batch, by the graph that devices run.
fn add(sums: &mut Sums, network: Inference, [logits, labels]: [Literal; 2], present: &[bool]) -> Result<()> {
    let present = Literal::from_bools(&[present.len()], present);
    let graph = counting(network, present.shape().elements())?;
    let counts = graph.evaluate(&[logits, labels, present])?;
    for (metric, count) in metrics(&network).into_iter().zip(counts) {
        let sum = count.to_f64_vec().first().copied().ok_or(Error::Output(metric.name))?;
        sums.add(metric, sum);
    }
    Ok(())
}
