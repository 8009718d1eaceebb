//! A network's prediction as StableHLO text.

use hlo::{Computation, DType, Graph, Literal, Op, Shape};
use models::{Mode, Net};

use super::{Error, Exported, Input};

/// The module of a prediction of `batch` examples: a function `main` that returns logits `f32[batch, classes]`. With
/// `baked` weights it takes the examples alone, otherwise the arrays of [`Exported::arrays`] in their order before them.
///
/// # Errors
/// [`Error::Graph`].
pub fn module(exported: &Exported<'_>, batch: usize, baked: bool) -> Result<String, Error> {
    let mut graph = prediction(exported, batch)?;
    if baked {
        graph = bake(graph, exported.arrays());
    }
    let description = exported.description().to_string();
    Ok(format!("// rigl-xla {description}\n{}", graph.to_stablehlo(&[])))
}

fn prediction(exported: &Exported<'_>, batch: usize) -> hlo::Result<Computation> {
    let network = exported.network;
    let examples = Shape::new(
        exported.input.dtype(),
        [vec![batch], network.model.input_dims()].concat(),
    );
    let arrays = exported
        .arrays()
        .iter()
        .map(|(name, array)| (name.clone(), array.shape().clone()));
    let parameters: Vec<_> = arrays.chain([(exported.input.name().to_owned(), examples)]).collect();
    let count = parameters.len() - 1;
    Graph::function("predict", &parameters, |g, inputs| {
        let images = match exported.input {
            Input::Pixels => network.preprocessing.apply(inputs[count]),
            Input::Images => inputs[count],
        };
        let names = parameters.iter().map(|(name, _)| name.clone());
        let net = Net::new(g, Mode::Eval, names.zip(inputs.iter().copied()).take(count));
        let net = net.with_precision(network.precision);
        vec![network.model.apply(&net, images).convert(DType::F32)]
    })
    .map(|graph| graph.with_matmul_precision(network.matmul_precision))
}

/// Replaces the first parameters by constants.
fn bake(mut graph: Computation, arrays: &[(String, Literal)]) -> Computation {
    for node in &mut graph.nodes {
        if let Op::Parameter { index, .. } = &mut node.op {
            match arrays.get(*index) {
                Some((_, array)) => node.op = Op::Constant(array.clone()),
                None => *index -= arrays.len(),
            }
        }
    }
    graph.parameters.drain(..arrays.len());
    graph
}
