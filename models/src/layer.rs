//! Descriptions of layers with a kernel: enough to name their variables and to count their cost.

use crate::Param;
use hlo::Padding;

/// Variable names of a layer with scope `S`: the four forms in the original's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `S/weights`, `S/mask`, `S/biases`.
    Masked,
    /// `S/weights`, `S/biases`: like [`Naming::Masked`], for a network without masks whose masks are all ones in the
    /// original.
    Maskless,
    /// The last scope component twice: `S/S/weights`, `S/S/biases`. A layer without a mask where others may have one.
    Doubled,
    /// `S/kernel`, `S/bias`: a standard layer without masks.
    Plain,
}

impl Naming {
    /// Name of the kernel.
    pub fn kernel(self, scope: &str) -> String {
        self.variable(scope, ["weights", "kernel"])
    }

    /// Name of the bias.
    pub fn bias(self, scope: &str) -> String {
        self.variable(scope, ["biases", "bias"])
    }

    /// Name of the mask, if the form has one.
    pub fn mask(self, scope: &str) -> Option<String> {
        (self == Naming::Masked).then(|| format!("{scope}/mask"))
    }

    fn variable(self, scope: &str, [ours, plain]: [&str; 2]) -> String {
        match self {
            Naming::Masked | Naming::Maskless => format!("{scope}/{ours}"),
            Naming::Doubled => {
                let own = scope.rsplit('/').next().unwrap_or(scope);
                format!("{scope}/{own}/{ours}")
            }
            Naming::Plain => format!("{scope}/{plain}"),
        }
    }
}

/// Kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kernel `[height, width, in, out]`.
    Conv,
    /// Kernel `[height, width, channels, 1]`, one filter per channel.
    Depthwise,
    /// Kernel `[in, out]`.
    Dense,
}

/// A layer with a kernel, as it appears in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Scope, which distributions and custom sparsities refer to, e.g. `resnet_model/final_dense`.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Name of the kernel parameter.
    pub kernel: String,
    /// Dimensions of the kernel.
    pub dims: Vec<usize>,
    /// Whether the kernel has a mask.
    pub masked: bool,
    /// Whether the layer has a bias.
    pub bias: bool,
    /// Scope of the batch normalisation that is the only user of the output, so that it can be folded into the kernel.
    pub norm: Option<String>,
    /// Strides along height and width.
    pub strides: [usize; 2],
    /// Padding.
    pub padding: Padding,
    /// Number of channel groups.
    pub groups: usize,
    /// Height and width of the input without padding; 1 × 1 for a dense layer.
    pub input: [usize; 2],
    /// Height and width of the output; 1 × 1 for a dense layer.
    pub output: [usize; 2],
    /// Height and width of the input in the published counts, which include padding that was a separate layer there.
    pub counted_input: [usize; 2],
}

impl Layer {
    /// A layer without bias and with a single window position, like a dense layer.
    pub(crate) fn new(scope: &str, kind: Kind, kernel: &Param) -> Self {
        Layer {
            name: scope.to_string(),
            kind,
            kernel: kernel.name.clone(),
            dims: kernel.dims.clone(),
            masked: kernel.mask.is_some(),
            bias: false,
            norm: None,
            strides: [1; 2],
            padding: Padding::Valid,
            groups: 1,
            input: [1; 2],
            output: [1; 2],
            counted_input: [1; 2],
        }
    }

    /// A dense layer whose kernel each example multiplies at `positions` places, such as the tokens of a sentence.
    pub fn at_positions(kernel: &Param, positions: usize) -> Self {
        Layer {
            output: [positions, 1],
            ..Layer::new(&kernel.name, Kind::Dense, kernel)
        }
    }

    /// Height and width of the kernel; 1 × 1 for a dense layer.
    pub fn window(&self) -> [usize; 2] {
        match self.dims[..] {
            [height, width, _, _] => [height, width],
            _ => [1, 1],
        }
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.dims.iter().product()
    }
}
