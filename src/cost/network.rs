//! Cost of a trained network, counted from its masks.

use super::plain_bytes;
use models::cost::{Cost, Kept};
use models::{Declaration, Layer};

/// Cost of a network with its masks, by both conventions of [`models::cost`].
pub struct NetworkCost {
    /// Layers with a kernel, in the model's order.
    pub layers: Vec<Layer>,
    /// Sparsity and connections of each layer's mask, after rounding.
    pub kept: Vec<Kept>,
    /// With the masks.
    pub sparse: Cost,
    /// Without masks.
    pub dense: Cost,
    /// Bytes of the inference arrays by the plain convention, with and without masks.
    pub plain_bytes: [f64; 2],
}

impl NetworkCost {
    /// Counts the layers. `ones` returns the number of connections in the named mask. Layers without a mask are dense.
    pub fn of(needs: &Declaration, ones: impl Fn(&str) -> Option<usize>) -> Self {
        let kept = |layer: &Layer| {
            let nonzeros = ones(&format!("{}/mask", layer.name));
            nonzeros
                .filter(|_| layer.masked)
                .map_or(Kept::all(layer), |nonzeros| Kept {
                    sparsity: 1.0 - nonzeros as f64 / layer.weights() as f64,
                    nonzeros,
                })
        };
        let layers = needs.layers.clone();
        let all: Vec<Kept> = layers.iter().map(kept).collect();
        let elements = |dims: &[usize]| dims.iter().product::<usize>();
        let parameters: usize = needs.params.iter().map(|p| elements(&p.dims)).sum();
        let statistics: usize = needs.statistics.iter().map(|s| elements(&s.dims)).sum();
        NetworkCost {
            sparse: Cost::new(&layers, kept),
            dense: Cost::dense(&layers),
            plain_bytes: plain_bytes(&layers, &all, parameters + statistics),
            kept: all,
            layers,
        }
    }
}
