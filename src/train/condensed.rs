//! Condensed state: of the layers in [`Plan::condensed`], the device keeps values and slots of the connections alone, in row-major
//! order of their positions. Checkpoints hold whole arrays, which are 0 outside the masks.

use std::collections::BTreeMap;

use hlo::{Computation, DType, Graph, Literal, Shape};
use models::Param;
use models::layers::sparse::expand as expand_connections;

use super::error::{Error, Result};
use super::state;
use crate::config::Plan;

/// [`state::specs`] with the shapes that the arrays have on the device.
pub fn specs(plan: &Plan) -> Vec<(String, Shape)> {
    let mut specs = state::specs(plan);
    let condensed: BTreeMap<String, usize> = layers(plan)
        .flat_map(|layer| layer.arrays.into_iter().map(move |name| (name, layer.connections)))
        .collect();
    for (name, shape) in &mut specs {
        if let Some(&connections) = condensed.get(name) {
            *shape = Shape::new(DType::F32, [connections]);
        }
    }
    specs
}

/// Makes whole arrays condensed, for the device.
///
/// # Errors
/// A mask with another number of connections than the plan's.
pub fn condense(plan: &Plan, arrays: &mut BTreeMap<String, Literal>) -> Result<()> {
    for layer in layers(plan) {
        let mask = layer.mask(arrays)?;
        for name in layer.arrays {
            let whole = floats(arrays, &name)?;
            let values: Vec<f32> = whole
                .iter()
                .zip(&mask)
                .filter(|(_, one)| **one)
                .map(|(v, _)| *v)
                .collect();
            arrays.insert(name, Literal::new(&[layer.connections], &values));
        }
    }
    Ok(())
}

/// Makes condensed arrays whole, for a checkpoint.
///
/// # Errors
/// A mask with another number of connections than the plan's.
pub fn expand(plan: &Plan, arrays: &mut BTreeMap<String, Literal>) -> Result<()> {
    for layer in layers(plan) {
        let mask = layer.mask(arrays)?;
        for name in layer.arrays {
            let mut values = floats(arrays, &name)?.into_iter();
            let mut next = |&one: &bool| if one { values.next().unwrap_or(0.0) } else { 0.0 };
            let whole: Vec<f32> = mask.iter().map(&mut next).collect();
            arrays.insert(name, Literal::new(&layer.param.dims, &whole));
        }
    }
    Ok(())
}

/// A program that makes condensed weights whole, if there are any: from the arrays [`expanded`], in pairs of weights and mask, the
/// whole weights.
///
/// # Errors
/// None for the plans of this crate.
pub fn expansion(plan: &Plan) -> hlo::Result<Option<Computation>> {
    let pair = |layer: Layer<'_>| {
        let weights = (layer.param.name.clone(), Shape::new(DType::F32, [layer.connections]));
        let mask = (layer.mask.to_owned(), Shape::new(DType::Pred, layer.param.dims.clone()));
        [weights, mask]
    };
    let parameters: Vec<_> = layers(plan).flat_map(pair).collect();
    if parameters.is_empty() {
        return Ok(None);
    }
    let built = Graph::function("expand", &parameters, |_, x| {
        let pairs = x.chunks(2);
        pairs.map(|pair| expand_connections(pair[0], pair[1])).collect()
    });
    built.map(Some)
}

/// Names of the weights that are condensed, each with that of its mask.
pub fn expanded(plan: &Plan) -> Vec<[&str; 2]> {
    layers(plan)
        .map(|layer| [layer.param.name.as_str(), layer.mask])
        .collect()
}

/// A layer with condensed state.
pub(super) struct Layer<'a> {
    param: &'a Param,
    /// Name of its mask.
    pub mask: &'a str,
    pub connections: usize,
    /// Names of its weights and slots.
    pub arrays: Vec<String>,
}

pub(super) fn layers(plan: &Plan) -> impl Iterator<Item = Layer<'_>> {
    plan.params.iter().filter_map(|param| {
        let slots = plan.run.optimizer.rule.slots_of(&param.name);
        Some(Layer {
            param,
            mask: param.mask.as_deref()?,
            connections: *plan.condensed.get(&param.name)?,
            arrays: [vec![param.name.clone()], slots].concat(),
        })
    })
}

impl Layer<'_> {
    fn mask(&self, arrays: &BTreeMap<String, Literal>) -> Result<Vec<bool>> {
        let mask = arrays
            .get(self.mask)
            .and_then(Literal::to_bools)
            .ok_or(Error::Output("mask"))?;
        let found = mask.iter().filter(|&&one| one).count();
        match found == self.connections {
            true => Ok(mask),
            false => Err(Error::Shape {
                what: format!("mask '{}'", self.mask),
                found: format!("{found} connections"),
                expected: format!("{}, as device.condensed is true", self.connections),
            }),
        }
    }
}

fn floats(arrays: &BTreeMap<String, Literal>, name: &str) -> Result<Vec<f32>> {
    arrays
        .get(name)
        .and_then(Literal::to_vec)
        .ok_or(Error::Output("weights"))
}
