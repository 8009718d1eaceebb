//! How far a run comes with a budget of training FLOPs.

use super::PlanCost;
use crate::config::{Flops, Plan};

/// The iteration at which a run has used up its budget (`stop.flops`), by the published convention; `None` without a
/// budget, or if the run ends within it. At least 1.
pub fn budget_iterations(plan: &Plan) -> Option<u64> {
    let budget = plan.run.stop.flops?;
    let cost = PlanCost::of(plan);
    let per_step = cost.training[0] * plan.run.train.batch_size as f64;
    let steps = match budget {
        Flops::Total(flops) => flops / per_step,
        Flops::OfDense(times) => times / cost.training_ratio(plan)[0] * plan.gradient_steps() as f64,
    };
    if steps >= plan.gradient_steps() as f64 {
        return None;
    }
    // Gradient steps grow with iterations; updates may replace some.
    let (mut low, mut high) = (1, plan.iterations);
    while low < high {
        let middle = low + (high - low) / 2;
        match plan.gradient_steps_within(middle) as f64 >= steps {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Some(low)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn iterations(preset: &str, flops: &str) -> Option<u64> {
        let layers = Layers::preset(preset).unwrap();
        let layers = layers.set("--set", &["stop", "flops"], flops).unwrap();
        budget_iterations(&layers.plan().unwrap())
    }

    #[test]
    fn a_budget_ends_at_the_step_that_uses_it_up() {
        // Of 120000 dense iterations; of RigL's 119499 gradient steps at 0.0377 of the dense ones.
        assert_eq!(iterations("mnist-dense", "0.25x dense"), Some(30_000));
        assert_eq!(iterations("mnist-dense", "1.0x dense"), None);
        assert_eq!(iterations("mnist-rigl", "1.0x dense"), None);
        let plan = Layers::preset("mnist-rigl").unwrap().plan().unwrap();
        let ratio = PlanCost::of(&plan).training_ratio(&plan)[0];
        let half = iterations("mnist-rigl", &format!("{}x dense", ratio / 2.0)).unwrap();
        assert_eq!(plan.gradient_steps_within(half), plan.gradient_steps().div_ceil(2));
        let total = PlanCost::of(&plan).training_total(&plan)[0];
        assert_eq!(iterations("mnist-rigl", &(total / 2.0).to_string()), Some(half));
        // The first iteration updates masks, without a gradient step.
        assert_eq!(iterations("mnist-rigl", "1"), Some(2));
    }
}
