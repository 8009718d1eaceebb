//! Layers that a program computes from their connections alone.

use super::rows::Scheduled;
use super::state::State;
use super::step::Trainer;
use crate::config::SparseLayers;
use hlo::Tensor;
use models::Param;
use models::layers::sparse::{SparseKernel, Wanted, mask_key};
use sparse::GrowScore;

/// The keys of the masks of the sparse layers, in the order of `params`.
pub(super) fn mask_keys<'g>(params: &[Param], sparse: &SparseLayers, state: &State<'g>) -> Vec<Tensor<'g>> {
    let layers = params.iter().filter(|p| sparse.contains(&p.name));
    let masks = layers.filter_map(|p| p.mask.as_deref());
    masks.map(|mask| mask_key(state.get(mask))).collect()
}

/// The kernels of the sparse layers, by variable name, with the keys that [`mask_keys`] lists.
pub(super) fn kernels<'g>(
    params: &[Param],
    sparse: &SparseLayers,
    state: &State<'g>,
    keys: &[Tensor<'g>],
    dense_gradient: impl Fn(&Param) -> Wanted<'g>,
) -> Vec<(String, SparseKernel<'g>)> {
    let layers = params.iter().filter(|p| sparse.contains(&p.name));
    let kernel = |(param, &key): (&Param, &Tensor<'g>)| {
        let kernel = SparseKernel {
            weights: state.get(&param.name),
            mask: state.get(param.mask.as_deref()?),
            key,
            dense_gradient: dense_gradient(param),
        };
        Some((param.name.clone(), kernel))
    };
    layers.zip(keys).filter_map(kernel).collect()
}

impl Trainer<'_> {
    /// [`mask_keys`] of the training state.
    pub(super) fn mask_keys<'g>(&self, state: &State<'g>) -> Vec<Tensor<'g>> {
        mask_keys(&self.plan.params, &self.plan.sparse, state)
    }

    /// [`kernels`] of an iteration by `scheduled`. `apart` has for each parameter the array that gets the gradient of all weights, if
    /// it is another than that of the connections.
    pub(super) fn sparse_kernels<'g>(
        &self,
        state: &State<'g>,
        keys: &[Tensor<'g>],
        scheduled: &Scheduled<'g>,
        apart: &[Option<Tensor<'g>>],
    ) -> Vec<(String, SparseKernel<'g>)> {
        let wanted = self.dense_gradients(scheduled);
        let all = |param: &Param| {
            let position = self.plan.params.iter().position(|p| p.name == param.name)?;
            apart.get(position).copied().flatten()
        };
        let wanted_of = |param: &Param| match (wanted, all(param)) {
            (Wanted::If(wanted), Some(all)) => Wanted::Apart { wanted, all },
            (Wanted::If(_), None) if self.plan.condensed.contains_key(&param.name) => Wanted::Never,
            (wanted, _) => wanted,
        };
        kernels(&self.plan.params, &self.plan.sparse, state, keys, wanted_of)
    }

    /// Whether this iteration's gradients are looked at outside of the masks.
    fn dense_gradients<'g>(&self, scheduled: &Scheduled<'g>) -> Wanted<'g> {
        match scheduled.average {
            Some([_, added]) => Wanted::If(added.gt(0.0)),
            None if self.plan.method.grow == GrowScore::Momentum => Wanted::Always,
            None if self.updates_need_gradients() => Wanted::If(scheduled.update.gt(0.0)),
            None => Wanted::Never,
        }
    }
}
