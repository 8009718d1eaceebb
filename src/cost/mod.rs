//! Cost of a run's network and of its training, by both conventions of [`models::cost`] (reference 5).

mod budget;
mod counted;
mod network;
pub mod published;

pub use budget::budget_iterations;
pub use counted::counted;
pub use network::NetworkCost;

use crate::config::Plan;
use models::Layer;
use models::cost::{Cost, Counts, Kept, Training, widened};
use sparse::{KeepCount, UpdateTiming};

/// Cost of a plan's network.
pub struct PlanCost {
    /// Layers with a kernel, in the model's order.
    pub layers: Vec<Layer>,
    /// Sparsity and connections of each layer.
    pub kept: Vec<Kept>,
    /// With the plan's sparsities.
    pub sparse: Cost,
    /// Without masks.
    pub dense: Cost,
    /// Operations per example of a training iteration, averaged over the run, by the published and the plain
    /// convention.
    pub training: [f64; 2],
}

impl PlanCost {
    /// Counts the plan's layers, each with the budget of its name. Layers without a mask are dense.
    pub fn of(plan: &Plan) -> Self {
        Self::widened(plan, None)
    }

    /// As [`PlanCost::of`], with layers scaled by `width` like the published counter; dense counts are those of width
    /// 1.
    fn widened(plan: &Plan, width: Option<f64>) -> Self {
        let kept = |layer: &Layer| {
            let budget = plan.reached.iter().find(|b| b.name == layer.name);
            budget.map_or(Kept::all(layer), |b| match width {
                Some(_) => Kept::with_sparsity(layer, b.sparsity),
                None => Kept {
                    sparsity: b.sparsity,
                    nonzeros: b.nonzeros,
                },
            })
        };
        let layers = width.map_or_else(|| plan.layers.clone(), |width| widened(&plan.layers, width));
        let sparse = Cost::new(&layers, kept);
        let dense = Cost::dense(&plan.layers);
        PlanCost {
            training: training(plan, &layers, &sparse.total, &dense.total),
            kept: layers.iter().map(kept).collect(),
            layers,
            sparse,
            dense,
        }
    }

    /// Ratio of the whole run's cost to the dense network's training, by the published and the plain convention: 1 for
    /// a dense run of multiplier 1.
    pub fn training_ratio(&self, plan: &Plan) -> [f64; 2] {
        let dense = both(&self.dense.total).map(|flops| 3.0 * flops);
        [0, 1].map(|i| plan.run.train.multiplier * self.training[i] / dense[i])
    }

    /// Bytes of the inference arrays, with and without masks: connections and all other arrays in f32, and one bit per
    /// weight of each layer with zeros.
    pub fn plain_bytes(&self, plan: &Plan) -> [f64; 2] {
        let statistics: usize = plan.statistics.iter().map(|s| s.dims.iter().product::<usize>()).sum();
        let (weights, dense) = (self.sparse.total.weights, self.dense.total.weights);
        let others = plan.parameters() + statistics - dense;
        let [sparse, _] = plain_bytes(&self.layers, &self.kept, weights + others);
        [sparse, 4.0 * (dense + others) as f64]
    }

    /// Operations of the whole run, by the published and the plain convention. As in the paper, the
    /// total covers the gradient steps; iterations that only update masks are part of their average cost.
    pub fn training_total(&self, plan: &Plan) -> [f64; 2] {
        let examples = plan.gradient_steps() as f64 * plan.run.train.batch_size as f64;
        self.training.map(|flops| flops * examples)
    }
}

/// Bytes with and without masks of a network with `elements` elements in all inference arrays.
fn plain_bytes(layers: &[Layer], kept: &[Kept], elements: usize) -> [f64; 2] {
    let with_zeros = layers.iter().zip(kept).filter(|(l, k)| k.nonzeros < l.weights());
    let (zeros, mask_bytes) = with_zeros.fold((0, 0), |(zeros, bytes), (layer, kept)| {
        let n = layer.weights();
        (zeros + n - kept.nonzeros, bytes + n.div_ceil(8))
    });
    [4 * (elements - zeros) + mask_bytes, 4 * elements].map(|bytes| bytes as f64)
}

/// Operations of a forward pass, by the published and the plain convention.
pub fn both(counts: &Counts) -> [f64; 2] {
    [counts.published_flops, counts.plain_flops]
}

fn training(plan: &Plan, layers: &[Layer], sparse: &Counts, dense: &Counts) -> [f64; 2] {
    if plan.gradual.is_some() {
        return pruning(plan, layers);
    }
    let rule = rule(plan);
    let [sparse, dense] = [both(sparse), both(dense)];
    [0, 1].map(|i| rule.flops(sparse[i], dense[i]))
}

/// Training operations of the plan's method. The one dense iteration of one-shot pruning is ignored, as in the paper.
fn rule(plan: &Plan) -> Training {
    let method = plan.method;
    if !method.masked {
        // All connections of a network that may be narrower than the dense one in the ratio.
        Training::Sparse
    } else if method.straight_through || method.grow == sparse::GrowScore::Momentum {
        Training::DenseGradient
    } else if method.grows_by_gradient() {
        Training::DenseGradientEvery {
            frequency_steps: plan.schedule.frequency_steps.unsigned_abs(),
            batches: plan.run.method.gradient_batches,
        }
    } else {
        debug_assert!(method.keep != KeepCount::Gradual && method.timing != UpdateTiming::AfterInterval);
        Training::Sparse
    }
}

/// Gradual pruning: sparse passes at the sparsity after each mask update, averaged over the run's iterations.
fn pruning(plan: &Plan, layers: &[Layer]) -> [f64; 2] {
    let forward = |step: Option<i64>| {
        let kept = |layer: &Layer| match (step, plan.gradual, plan.budgets.iter().find(|b| b.name == layer.name)) {
            (Some(step), Some(gradual), Some(budget)) => {
                let sparsity = 1.0 - f64::from(gradual.density_at(step, budget.sparsity));
                Kept::with_sparsity(layer, sparsity.max(0.0))
            }
            _ => Kept::all(layer),
        };
        both(&Cost::new(layers, kept).total)
    };
    // Intervals between updates. An update at step s comes after gradient step s.
    let steps: Vec<i64> = plan.update_steps().collect();
    let starts = std::iter::once(None).chain(steps.iter().copied().map(Some));
    let total = plan.iterations as i64;
    let ends = steps.iter().copied().chain([total]);
    let mut sums = [0.0; 2];
    for (start, end) in starts.zip(ends) {
        let length = (end.min(total) - start.unwrap_or(0)).max(0) as f64;
        let flops = forward(start);
        [0, 1].into_iter().for_each(|i| sums[i] += 3.0 * flops[i] * length);
    }
    sums.map(|sum| sum / plan.iterations.max(1) as f64)
}
