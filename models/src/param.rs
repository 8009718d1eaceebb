//! Descriptions of a model's arrays.

use hlo::DType;

/// Initialiser of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Uniform in ±sqrt(6 / (fan_in + fan_out)). For kernels `[.., in, out]` the leading dims multiply both fans.
    GlorotUniform,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal, truncated at two standard deviations, with variance `scale / fan_in` after truncation. For kernels `[..,
    /// in, out]` the leading dims multiply the fan. Scale 1 is TensorFlow's variance scaling, 2 is He's.
    VarianceScaling(f64),
}

/// A distribution from which the elements of an array are drawn independently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Always this value.
    Constant(f64),
    /// Uniform in ± this limit.
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Normal with mean 0 and this standard deviation, redrawn outside two standard deviations.
    TruncatedNormal(f64),
}

/// Standard deviation of a standard normal variable truncated to ±2.
const TRUNCATED_STD: f64 = 0.879_625_661_034_239_8;

impl Init {
    /// The distribution of the elements of an array of `dims`.
    pub fn draw(self, dims: &[usize]) -> Draw {
        let [fan_in, fan_out] = fans(dims);
        match self {
            Init::Zeros => Draw::Constant(0.0),
            Init::Ones => Draw::Constant(1.0),
            Init::GlorotUniform => Draw::Uniform((6.0 / (fan_in + fan_out)).sqrt()),
            Init::Normal(std) => Draw::Normal(std),
            Init::VarianceScaling(scale) => Draw::TruncatedNormal((scale / fan_in).sqrt() / TRUNCATED_STD),
        }
    }
}

/// Fan-in and fan-out of a kernel `[.., in, out]`.
fn fans(dims: &[usize]) -> [f64; 2] {
    let [window @ .., fan_in, fan_out] = dims else {
        return [1.0; 2];
    };
    let window: usize = window.iter().product();
    [fan_in, fan_out].map(|&fan| (window * fan) as f64)
}

/// One trainable array of a model, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Variable name in the original's checkpoints, e.g. `layer1/weights`.
    pub name: String,
    /// Dimensions; kernels are `[.., in, out]`.
    pub dims: Vec<usize>,
    /// Initialiser.
    pub init: Init,
    /// Name of the mask variable, if the layer is maskable (`layer1/mask`).
    pub mask: Option<String>,
    /// Whether weight decay applies.
    pub decayed: bool,
}

impl Param {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// One array that training updates without a gradient, such as a moving mean or variance.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistic {
    /// Variable name in the original's checkpoints, e.g. `resnet_model/batch_normalization/moving_mean`.
    pub name: String,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Initialiser.
    pub init: Init,
    /// Element type; f32 for the networks of this crate.
    pub dtype: DType,
}
