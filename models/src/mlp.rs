//! The fully connected MNIST network, 784-300-100-10 with ReLU (reference 3.6).

use crate::{Init, Model, Param, Variables, layers};
use hlo::Tensor;

/// Units per layer, input first.
const SIZES: [usize; 4] = [784, 300, 100, 10];

/// LeNet-300-100 as the original's MNIST driver builds it.
pub struct MnistFc {
    /// Masked layers are named `layer{i}/{weights,mask,biases}`, those of the dense baseline `layer{i}/{kernel,bias}`.
    pub masked: bool,
}

impl MnistFc {
    fn names(&self, layer: usize) -> [String; 2] {
        let [kernel, bias] = if self.masked {
            ["weights", "biases"]
        } else {
            ["kernel", "bias"]
        };
        [kernel, bias].map(|name| format!("layer{layer}/{name}"))
    }
}

impl Model for MnistFc {
    fn name(&self) -> &'static str {
        "mnist-fc"
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![SIZES[0]]
    }

    fn classes(&self) -> usize {
        SIZES[3]
    }

    fn params(&self) -> Vec<Param> {
        let layer = |i: usize| {
            let [kernel, bias] = self.names(i);
            [
                Param {
                    name: kernel,
                    dims: vec![SIZES[i - 1], SIZES[i]],
                    init: Init::GlorotUniform,
                    mask: self.masked.then(|| format!("layer{i}/mask")),
                    decayed: true,
                },
                Param {
                    name: bias,
                    dims: vec![SIZES[i]],
                    init: Init::Zeros,
                    mask: None,
                    decayed: false,
                },
            ]
        };
        (1..SIZES.len()).flat_map(layer).collect()
    }

    fn apply<'g>(&self, variables: &Variables<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let mut x = images;
        for i in 1..SIZES.len() {
            let _scope = variables.graph().scope(format!("layer{i}"));
            let [kernel, bias] = self.names(i);
            x = layers::dense(variables, &kernel, &bias, x);
            if i + 1 < SIZES.len() {
                x = x.relu();
            }
        }
        x
    }
}
