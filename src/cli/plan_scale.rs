//! What `plan --topology` adds: the all-reduce over the links of the chips, and what their hosts must feed.

use std::fmt;

use serde::Serialize;

use super::error::Usage;
use crate::aot::chips::Grid;
use crate::aot::scale::Input;
use crate::config::Plan;
use crate::cost::{PlanCost, both};

/// The run on many chips, from peak rates alone; `compile` knows more.
#[derive(Serialize)]
pub(super) struct Scale {
    topology: String,
    chips: usize,
    hosts: usize,
    /// Lower bound of the seconds of an iteration's all-reduce.
    all_reduce_s: f64,
    /// Lower bound of the seconds of an iteration's arithmetic, as dense operators compute it.
    compute_s: f64,
    /// The input that each host must supply at most, if the examples are sent to the chips.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Input>,
}

impl Scale {
    /// # Errors
    /// Fewer replicas than chips, or replicas that the chips do not share equally.
    pub(super) fn new(plan: &Plan, grid: &Grid) -> Result<Self, Usage> {
        let (replicas, chips) = (plan.replicas(), grid.chips());
        if replicas % chips != 0 {
            let why = format!("--replicas {replicas}: expected a multiple of the {chips} chips of {grid}");
            return Err(Usage(why));
        }
        let batch = plan.run.train.batch_size as f64;
        // A forward pass, and the gradients of its inputs and weights.
        let flops = 3.0 * both(&PlanCost::of(plan).dense.total)[1] * batch / chips as f64;
        let compute_s = flops / grid.generation.flops;
        let all_reduce_s = grid.all_reduce_s(plan.all_reduced_bytes() as f64);
        let rate = batch / compute_s.max(all_reduce_s).max(f64::MIN_POSITIVE);
        Ok(Scale {
            topology: grid.to_string(),
            chips,
            hosts: grid.hosts(),
            all_reduce_s,
            compute_s,
            input: Input::new(plan, grid, rate),
        })
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scale {
            topology, chips, hosts, ..
        } = self;
        writeln!(f, "topology        {topology}: {chips} chips, {hosts} hosts")?;
        let [reduce, compute] = [self.all_reduce_s, self.compute_s].map(|seconds| 1e3 * seconds);
        writeln!(
            f,
            "per iteration   all-reduce {reduce:.3} ms at least, arithmetic {compute:.3} ms at least (`compile` counts memory too)"
        )?;
        match &self.input {
            Some(input) => writeln!(f, "input           at most {input}"),
            None => Ok(()),
        }
    }
}
