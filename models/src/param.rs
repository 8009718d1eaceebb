//! What a model says of each of its parameters.

/// How a parameter is filled before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Uniform in ±sqrt(6 / (fan_in + fan_out)); for kernels `[.., in, out]` the leading dims multiply both fans.
    GlorotUniform,
    /// Normal with this standard deviation.
    Normal(f64),
}

/// One named array of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Variable name in the original's checkpoints, e.g. `layer1/weights`.
    pub name: String,
    /// Dimensions, kernels as `[.., in, out]`.
    pub dims: Vec<usize>,
    /// Initialiser.
    pub init: Init,
    /// Name of the mask variable when the layer is maskable (`layer1/mask`).
    pub mask: Option<String>,
    /// Whether the L2 term covers it.
    pub decayed: bool,
}

impl Param {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}
