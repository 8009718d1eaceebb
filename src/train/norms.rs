//! Norms of weights and gradients, layer by layer, as metrics of a launch.

use super::error::{Error, Result};
use super::state::State;
use super::step::{Trainer, effective};
use crate::config::{Plan, layer_name};
use crate::engine::Buffer;
use hlo::{DType, Graph, Tensor};
use models::Param;
use models::layers::sparse::is_condensed;

/// The layers whose norms are measured, each with its kernel: those with masks, or every layer of a network without masks.
pub fn layers(plan: &Plan) -> Vec<(&str, &Param)> {
    let masked: Vec<_> = plan
        .params
        .iter()
        .filter_map(|param| Some((layer_name(param)?, param)))
        .collect();
    if !masked.is_empty() {
        return masked;
    }
    let kernels = plan.params.iter().filter(|param| param.dims.len() > 1);
    kernels
        .map(|param| {
            let scope = param.name.rsplit_once('/').map_or(&*param.name, |(scope, _)| scope);
            (scope, param)
        })
        .collect()
}

impl Trainer<'_> {
    /// Norms of the gradients of `layers`, `f32[layers]`, if `measured` (a scalar), else `before`. Gradients are those of the
    /// loss, without weight decay and clipping; of masked layers those of the connections.
    pub(super) fn gradient_norms<'g>(
        &self,
        g: &'g Graph,
        measured: Tensor<'g>,
        before: Tensor<'g>,
        gradients: &[Tensor<'g>],
        state: &State<'g>,
    ) -> Tensor<'g> {
        let layers = layers(self.plan);
        if layers.is_empty() {
            return before;
        }
        let _scope = g.scope("norms");
        let of_layers: Vec<Tensor<'g>> = layers
            .iter()
            .filter_map(|(_, kernel)| {
                let at = self.plan.params.iter().position(|param| param.name == kernel.name)?;
                gradients.get(at).copied()
            })
            .collect();
        let masks: Vec<Option<Tensor<'g>>> = layers
            .iter()
            .zip(&of_layers)
            .map(|((_, kernel), &gradient)| {
                let mask = state.get(kernel.mask.as_deref().filter(|_| !self.plan.method.straight_through)?);
                (!is_condensed(gradient, mask)).then_some(mask)
            })
            .collect();
        let masked: Vec<bool> = masks.iter().map(Option::is_some).collect();
        let operands = [vec![before], of_layers, masks.into_iter().flatten().collect()].concat();
        let norms = g.conditional(
            measured,
            &operands,
            |_, operands| {
                let (gradients, masks) = operands[1..].split_at(masked.len());
                let mut masks = masks.iter();
                let connected = gradients.iter().zip(&masked).map(|(&gradient, &masked)| {
                    let mask = if masked { masks.next() } else { None };
                    mask.map_or(gradient, |mask| mask.select(gradient, gradient.zeros_like()))
                });
                vec![norms(&connected.collect::<Vec<_>>())]
            },
            |_, operands| vec![operands[0]],
        );
        norms[0]
    }

    /// Norms of the weights of `layers`, of masked ones those of the connections, `f32[layers]`.
    pub(super) fn weight_norms<'g>(&self, g: &'g Graph, state: &State<'g>) -> Tensor<'g> {
        let _scope = g.scope("norms");
        let weights: Vec<_> = layers(self.plan)
            .iter()
            .map(|(_, kernel)| effective(kernel, state))
            .collect();
        match weights.is_empty() {
            true => no_norms(g, self.plan),
            false => norms(&weights),
        }
    }
}

/// Zeros in place of norms, `f32[layers]`.
pub(super) fn no_norms<'g>(g: &'g Graph, plan: &Plan) -> Tensor<'g> {
    g.full(&hlo::Shape::new(DType::F32, [layers(plan).len()]), 0.0)
}

/// Euclidean norms of arrays, `f32[arrays]`.
fn norms<'g>(arrays: &[Tensor<'g>]) -> Tensor<'g> {
    let norm = |array: &Tensor<'g>| {
        let array = array.convert(DType::F32);
        (array * array).reduce_sum_all().sqrt().reshape(&[1])
    };
    let norms: Vec<_> = arrays.iter().map(norm).collect();
    norms[0].graph().concatenate(&norms, 0)
}

/// Norms that a launch computed, by layer; a norm that is not finite is `null`.
///
/// # Errors
/// An output of another shape.
pub(super) fn by_layer(plan: &Plan, found: Option<&Buffer>, name: &'static str) -> Result<serde_json::Value> {
    let norms = found.ok_or(Error::Output(name))?.to_literal()?;
    let norms: Vec<f32> = norms.to_vec().ok_or(Error::Output(name))?;
    let layers = layers(plan);
    if norms.len() != layers.len() {
        return Err(Error::Output(name));
    }
    let named = layers
        .iter()
        .zip(norms)
        .map(|((layer, _), norm)| (layer.to_string(), norm.into()));
    Ok(serde_json::Value::Object(named.collect()))
}
