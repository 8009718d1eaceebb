//! Removes dead units, those without the connections they need, from sparse networks (reference 3.6).
//!
//! Networks are stacks of fully connected layers, as the MNIST network is: `x -> relu(x W1 + b1) -> … -> x Wn + bn`, every
//! `W` masked. Connections are between *levels*: level 0 is the input, level `i` the units of layer `i`.
//!
//! [`live_units`] is the original's rule, [`live_size`] the original's report. [`remove_dead_units`] returns the smaller
//! network, which computes the same function:
//!
//! ```
//! use sparse::dead_units::*;
//!
//! // Two inputs, three hidden units, one output. The second input has no outgoing connection. The second hidden unit has
//! // no incoming connection, so it is always relu(0.5).
//! let mask = |inputs, outputs, ones: &[u8]| Connections::new(inputs, outputs, ones.iter().map(|&one| one == 1).collect());
//! let layers = [
//!     MaskedLayer { connections: mask(2, 3, &[1, 0, 1, 0, 0, 0])?, weights: vec![2.0; 6], biases: vec![0.0, 0.5, -1.0] },
//!     MaskedLayer { connections: mask(3, 1, &[1, 1, 1])?, weights: vec![1.0, 4.0, 3.0], biases: vec![0.25] },
//! ];
//! let small = remove_dead_units(&layers, Passes::One)?;
//! assert_eq!(small.inputs, [0]);
//! assert_eq!(small.layers[0].biases, [0.0, -1.0]);
//! assert_eq!(small.layers[1].weights, [1.0, 3.0]);
//! assert_eq!(small.layers[1].biases, [0.25 + 0.5 * 4.0]);
//! # Ok::<(), sparse::Error>(())
//! ```

use super::Error;
use serde::Serialize;
use std::fmt;

/// Which weights of a fully connected layer are active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    inputs: usize,
    outputs: usize,
    mask: Vec<bool>,
}

impl Connections {
    /// From a mask `[inputs, outputs]`, row-major.
    ///
    /// # Errors
    /// [`Error::Length`] for a mask of another size.
    pub fn new(inputs: usize, outputs: usize, mask: Vec<bool>) -> Result<Self, Error> {
        check_length("mask", mask.len(), inputs * outputs)?;
        Ok(Connections { inputs, outputs, mask })
    }

    /// The mask, row-major.
    pub fn mask(&self) -> &[bool] {
        &self.mask
    }

    /// Dimensions of the mask: inputs, outputs.
    pub fn dims(&self) -> [usize; 2] {
        [self.inputs, self.outputs]
    }

    /// Number of active weights.
    pub fn nonzeros(&self) -> usize {
        self.mask.iter().filter(|&&active| active).count()
    }

    /// Share of zeros; 0 for a layer without weights.
    pub fn sparsity(&self) -> f64 {
        match self.mask.len() {
            0 => 0.0,
            n => (n - self.nonzeros()) as f64 / n as f64,
        }
    }

    /// Whether the weight from `input` to `output` is active.
    ///
    /// # Panics
    /// Beyond the dimensions.
    pub fn connects(&self, input: usize, output: usize) -> bool {
        self.mask[input * self.outputs + output]
    }

    /// Rows `inputs` and columns `outputs` of a matrix with this layer's dimensions.
    fn submatrix<T: Copy>(&self, matrix: &[T], inputs: &[usize], outputs: &[usize]) -> Vec<T> {
        let row = |&input: &usize| outputs.iter().map(move |&output| matrix[input * self.outputs + output]);
        inputs.iter().flat_map(row).collect()
    }

    fn between(&self, inputs: &[usize], outputs: &[usize]) -> Self {
        Connections {
            inputs: inputs.len(),
            outputs: outputs.len(),
            mask: self.submatrix(&self.mask, inputs, outputs),
        }
    }
}

/// A fully connected layer with its mask.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedLayer {
    /// Active weights.
    pub connections: Connections,
    /// `[inputs, outputs]`, row-major. Masked entries are ignored.
    pub weights: Vec<f32>,
    /// `[outputs]`.
    pub biases: Vec<f32>,
}

/// How often [`live_units`] applies its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// Once, as the original does. A unit whose only outgoing connections lead to dead units stays.
    One,
    /// Until nothing changes. Every remaining unit lies on a path from an input to an output.
    Fixpoint,
}

/// Size of a network without its dead units: the original's report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveSize {
    /// Number of live inputs, then of live units of each layer.
    pub sizes: Vec<usize>,
    /// Share of zeros between live units, per layer; 0 for a layer without any.
    pub sparsities: Vec<f64>,
}

impl fmt::Display for LiveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sparsities: Vec<_> = self.sparsities.iter().map(|s| format!("{s:.4}")).collect();
        write!(
            f,
            "without unused units {}, sparsities {}",
            format_sizes(&self.sizes),
            sparsities.join(", ")
        )
    }
}

/// Sizes of a network's levels as `784-300-100-10`.
pub fn format_sizes(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
}

/// A network without dead units.
#[derive(Clone, Debug, PartialEq)]
pub struct SmallerNetwork {
    /// Indices of the inputs that it reads, ascending.
    pub inputs: Vec<usize>,
    /// Layers. Masked weights are 0.
    pub layers: Vec<MaskedLayer>,
}

impl SmallerNetwork {
    /// Number of inputs, then of units of each layer.
    pub fn sizes(&self) -> Vec<usize> {
        let units = self.layers.iter().map(|layer| layer.biases.len());
        std::iter::once(self.inputs.len()).chain(units).collect()
    }
}

/// Indices of the live units of every level, ascending.
///
/// A pass goes forward. An input is live if it has an outgoing connection. A unit is live if it has an incoming connection
/// from a live unit and, except in the last layer, an outgoing one. In the first pass an outgoing connection may lead to any
/// unit, in later passes only to units that the previous pass found live. The rule also removes outputs without incoming
/// connections.
///
/// # Errors
/// [`Error::Length`] if the number of inputs of a layer is not the number of units of the previous one.
pub fn live_units(layers: &[Connections], passes: Passes) -> Result<Vec<Vec<usize>>, Error> {
    check_chain(layers)?;
    let outputs = layers.iter().map(|layer| layer.outputs);
    let mut live: Vec<Vec<bool>> = layers
        .first()
        .map(|first| first.inputs)
        .into_iter()
        .chain(outputs)
        .map(|units| vec![true; units])
        .collect();
    while pass(layers, &mut live) && passes == Passes::Fixpoint {}
    let indices = |level: &Vec<bool>| (0..level.len()).filter(|&unit| level[unit]).collect();
    Ok(live.iter().map(indices).collect())
}

/// One pass of the rule. Returns whether it removed anything.
fn pass(layers: &[Connections], live: &mut [Vec<bool>]) -> bool {
    let mut removed = false;
    for level in 0..live.len() {
        for unit in 0..live[level].len() {
            let incoming = |layer: &Connections| {
                let before = &live[level - 1];
                (0..layer.inputs).any(|input| before[input] && layer.connects(input, unit))
            };
            let outgoing = |layer: &Connections| {
                let after = &live[level + 1];
                (0..layer.outputs).any(|output| after[output] && layer.connects(unit, output))
            };
            let stays = (level == 0 || incoming(&layers[level - 1])) && layers.get(level).is_none_or(outgoing);
            if live[level][unit] && !stays {
                live[level][unit] = false;
                removed = true;
            }
        }
    }
    removed
}

/// Sizes and sparsities of the network of [`live_units`]: the original's "compressed" report.
///
/// # Errors
/// As [`live_units`].
pub fn live_size(layers: &[Connections], passes: Passes) -> Result<LiveSize, Error> {
    let live = live_units(layers, passes)?;
    let left = layers.iter().zip(live.windows(2));
    Ok(LiveSize {
        sizes: live.iter().map(Vec::len).collect(),
        sparsities: left
            .map(|(layer, units)| layer.between(&units[0], &units[1]).sparsity())
            .collect(),
    })
}

/// Removes dead inputs and hidden units. All outputs stay.
///
/// A removed unit without incoming connections has a constant activation, the ReLU of its bias. Its contribution is added to
/// the biases of the next layer, so the outputs are the same for every finite input, except for rounding.
///
/// # Errors
/// [`Error::Length`] if the arrays of a layer, or two consecutive layers, do not fit each other.
pub fn remove_dead_units(layers: &[MaskedLayer], passes: Passes) -> Result<SmallerNetwork, Error> {
    for MaskedLayer {
        connections,
        weights,
        biases,
    } in layers
    {
        check_length("array of weights", weights.len(), connections.mask.len())?;
        check_length("array of biases", biases.len(), connections.outputs)?;
    }
    let masks: Vec<Connections> = layers.iter().map(|layer| layer.connections.clone()).collect();
    let mut live = live_units(&masks, passes)?;
    // Keep outputs without connections: the logits must keep their shape.
    if let (Some(last), Some(units)) = (masks.last(), live.last_mut()) {
        *units = (0..last.outputs).collect();
    }
    // Activations of the previous level's constant units.
    let mut constants = vec![None; masks.first().map_or(0, |first| first.inputs)];
    let mut small = Vec::with_capacity(layers.len());
    for (layer, units) in layers.iter().zip(live.windows(2)) {
        let biases = fold_constants(layer, &constants);
        constants = constant_activations(layer, &constants, &biases);
        small.push(sublayer(layer, &biases, &units[0], &units[1]));
    }
    let inputs = live.into_iter().next().unwrap_or_default();
    Ok(SmallerNetwork { inputs, layers: small })
}

/// Biases plus the contributions of constant units.
fn fold_constants(layer: &MaskedLayer, constants: &[Option<f64>]) -> Vec<f64> {
    let mut biases: Vec<f64> = layer.biases.iter().map(|&bias| bias.into()).collect();
    for (input, &constant) in constants.iter().enumerate() {
        let Some(activation) = constant else { continue };
        for (output, bias) in biases.iter_mut().enumerate() {
            if layer.connections.connects(input, output) {
                *bias += activation * f64::from(layer.weights[input * layer.connections.outputs + output]);
            }
        }
    }
    biases
}

/// Activation of each unit without incoming connections from varying units: the ReLU of its bias.
fn constant_activations(layer: &MaskedLayer, constants: &[Option<f64>], biases: &[f64]) -> Vec<Option<f64>> {
    let varies = |output| {
        let mut inputs = constants.iter().enumerate();
        inputs.any(|(input, constant)| constant.is_none() && layer.connections.connects(input, output))
    };
    // `max` would turn NaN into 0.
    let relu = |x: f64| if x < 0.0 { 0.0 } else { x };
    let activation = |(output, &bias)| (!varies(output)).then_some(relu(bias));
    biases.iter().enumerate().map(activation).collect()
}

/// The layer between these `inputs` and `outputs`.
fn sublayer(layer: &MaskedLayer, biases: &[f64], inputs: &[usize], outputs: &[usize]) -> MaskedLayer {
    let connections = layer.connections.between(inputs, outputs);
    let mut weights = layer.connections.submatrix(&layer.weights, inputs, outputs);
    for (weight, active) in weights.iter_mut().zip(&connections.mask) {
        if !active {
            *weight = 0.0;
        }
    }
    MaskedLayer {
        connections,
        weights,
        biases: outputs.iter().map(|&output| biases[output] as f32).collect(),
    }
}

fn check_chain(layers: &[Connections]) -> Result<(), Error> {
    let mut pairs = layers.windows(2);
    pairs.try_for_each(|pair| check_length("input side of a layer", pair[1].inputs, pair[0].outputs))
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Length { what, found, expected }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::random_mask;
    use crate::rng::stream;

    fn connections(inputs: usize, outputs: usize, ones: &[[usize; 2]]) -> Connections {
        let mut mask = vec![false; inputs * outputs];
        ones.iter().for_each(|&[from, to]| mask[from * outputs + to] = true);
        Connections::new(inputs, outputs, mask).unwrap()
    }

    /// Unit 1 of the first hidden layer leads only to unit 1 of the second, which is dead. One pass keeps the former.
    #[test]
    fn first_pass_ignores_later_removals() {
        let layers = [
            connections(3, 2, &[[0, 0], [1, 1]]),
            connections(2, 2, &[[0, 0], [1, 1]]),
            connections(2, 2, &[[0, 1]]),
        ];
        let [one, all] = [Passes::One, Passes::Fixpoint].map(|passes| live_units(&layers, passes).unwrap());
        assert_eq!(one, [vec![0, 1], vec![0, 1], vec![0], vec![1]]);
        assert_eq!(all, [vec![0], vec![0], vec![0], vec![1]]);
        let report = live_size(&layers, Passes::One).unwrap();
        assert_eq!(
            (report.sizes, report.sparsities),
            (vec![2, 2, 1, 1], vec![0.5, 0.5, 0.0])
        );
    }

    /// Units whose incoming connections all come from removed units are removed in the same pass.
    #[test]
    fn first_pass_follows_removals_forward() {
        let layers = [
            connections(1, 2, &[[0, 0]]),
            connections(2, 2, &[[0, 0], [1, 1]]),
            connections(2, 1, &[[0, 0], [1, 0]]),
        ];
        let live = live_units(&layers, Passes::One).unwrap();
        assert_eq!(live, [vec![0], vec![0], vec![0], vec![0]]);
    }

    #[test]
    fn fixpoint_units_lie_on_a_path_from_input_to_output() {
        let mut rng = stream(0, "test", "paths", 0);
        for sparsity in [0.5, 0.8, 0.9, 0.95] {
            let layers = [[20, 12], [12, 8], [8, 5]].map(|[inputs, outputs]| {
                let n = inputs * outputs;
                let mask = random_mask(n, (n as f64 * sparsity) as usize, &mut rng);
                Connections::new(inputs, outputs, mask).unwrap()
            });
            let mut ahead = vec![vec![true; 20]];
            for layer in &layers {
                let before = &ahead[ahead.len() - 1];
                let led_to = |to| (0..layer.inputs).any(|from| before[from] && layer.connects(from, to));
                ahead.push((0..layer.outputs).map(led_to).collect());
            }
            let mut back = vec![vec![true; 5]];
            for layer in layers.iter().rev() {
                let after = &back[back.len() - 1];
                let leads = |from| (0..layer.outputs).any(|to| after[to] && layer.connects(from, to));
                back.push((0..layer.inputs).map(leads).collect());
            }
            let both = |(level, units): (usize, &Vec<bool>)| -> Vec<usize> {
                let back = &back[layers.len() - level];
                (0..units.len()).filter(|&unit| units[unit] && back[unit]).collect()
            };
            let expected: Vec<_> = ahead.iter().enumerate().map(both).collect();
            assert_eq!(live_units(&layers, Passes::Fixpoint).unwrap(), expected);
        }
    }

    #[test]
    fn rejects_arrays_of_wrong_length() {
        let message = |error: Error| error.to_string();
        let wrong = Connections::new(2, 3, vec![true; 5]).unwrap_err();
        assert_eq!(message(wrong), "mask has 5 elements, expected 6");
        let layers = [connections(2, 3, &[]), connections(4, 1, &[])];
        let wrong = live_units(&layers, Passes::One).unwrap_err();
        assert_eq!(message(wrong), "input side of a layer has 4 elements, expected 3");
        let good = MaskedLayer {
            connections: connections(2, 3, &[]),
            weights: vec![0.0; 6],
            biases: vec![0.0; 3],
        };
        let short = MaskedLayer {
            biases: vec![0.0; 2],
            ..good.clone()
        };
        let wrong = remove_dead_units(&[short], Passes::One).unwrap_err();
        assert_eq!(message(wrong), "array of biases has 2 elements, expected 3");
        let short = MaskedLayer {
            weights: vec![0.0; 5],
            ..good
        };
        let wrong = remove_dead_units(&[short], Passes::One).unwrap_err();
        assert_eq!(message(wrong), "array of weights has 5 elements, expected 6");
    }
}
