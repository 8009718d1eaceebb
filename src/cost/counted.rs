//! Counts networks as the published notebooks do (reference 5.1, 5.3, 5.4): every kernel may be sparse, the first and
//! the depthwise ones too, and a width scales only shapes, with the sparsities of the unscaled network.

use super::{PlanCost, published};
use crate::config::{Error, Layers, Plan};
use models::Kind;
use sparse::Layer;

/// Returns plan and cost of the run that `layers` configures. Its width, and its first and last layer sparsities, apply
/// to the counter's layers; depthwise kernels have sparsity `depthwise`, if given. Ratios refer to the network of width
/// 1.
///
/// # Errors
/// As [`Layers::plan`]; a sparsity outside `[0, 1)`, or one of a layer that the network does not have.
pub fn counted(layers: &Layers, depthwise: Option<f64>) -> Result<(Plan, PlanCost), Error> {
    let mut run = layers.run()?;
    let width = run.model.width.take().unwrap_or(1.0);
    let ends = [run.sparsity.first_layer.take(), run.sparsity.last_layer.take()];
    let own = std::mem::take(&mut run.sparsity.layers);
    let mut plan = Plan::new(run)?;
    published::as_counted(&plan.run.model.name, &mut plan.layers);
    let name = |layer: Option<&models::Layer>| layer.map(|layer| layer.name.clone()).unwrap_or_default();
    let [first, last] = [name(plan.layers.first()), name(plan.layers.last())];
    let target = plan.run.sparsity.target;
    let mut options = plan.run.sparsity.options();
    if let Some(sparsity) = depthwise {
        let kernels = plan.layers.iter().filter(|layer| layer.kind == Kind::Depthwise);
        options
            .custom
            .extend(kernels.map(|layer| (layer.name.clone(), sparsity)));
    }
    // A negative sparsity means "by the distribution".
    let by_place = [first, last]
        .into_iter()
        .zip(ends.map(|sparsity| sparsity.filter(|&s| s >= 0.0)));
    options
        .custom
        .extend(by_place.filter_map(|(name, sparsity)| Some((name, sparsity?))));
    options
        .custom
        .extend(own.iter().map(|(name, sparsity)| (name.clone(), sparsity.at(target))));
    let shapes: Vec<Layer> = plan
        .layers
        .iter()
        .map(|l| Layer::new(&l.name, l.dims.clone()))
        .collect();
    plan.budgets = sparse::budgets(&shapes, &options).map_err(|source| Error::Sparse {
        origin: "--as-published".into(),
        source,
    })?;
    layers.check_ends(&plan)?;
    plan.reached = plan.budgets.clone();
    let cost = PlanCost::widened(&plan, Some(width));
    Ok((plan, cost))
}
