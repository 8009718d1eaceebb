//! What a model says of each of its layers with a kernel: enough to name its variables and to count its cost.

use crate::Param;
use hlo::Padding;

/// Variable names of a layer with scope `S`, four forms that the original's checkpoints have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `S/weights`, `S/mask`, `S/biases`.
    Masked,
    /// `S/weights`, `S/biases`: as [`Naming::Masked`], for a network without masks that the original gives masks of ones.
    Maskless,
    /// The last part of the scope twice: `S/S/weights`, `S/S/biases`. A layer without mask where others may have one.
    Doubled,
    /// `S/kernel`, `S/bias`. A layer of a library that knows no masks.
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

    /// Name of the mask, where there is one.
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

/// Kind of a layer with a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kernel `[height, width, in, out]`.
    Conv,
    /// Kernel `[height, width, channels, 1]`, one filter per channel.
    Depthwise,
    /// Kernel `[in, out]`.
    Dense,
}

/// A layer with a kernel, as the graph has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Scope, by which distributions and custom sparsities call it, e.g. `resnet_model/final_dense`.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Name of the kernel parameter.
    pub kernel: String,
    /// Dimensions of the kernel.
    pub dims: Vec<usize>,
    /// Whether it has a mask.
    pub masked: bool,
    /// Whether it has a bias.
    pub bias: bool,
    /// Scope of the batch normalisation that is the only user of the output, so that it can be folded into the kernel.
    pub norm: Option<String>,
    /// Steps of the window along height and width.
    pub strides: [usize; 2],
    /// How the window meets the edges.
    pub padding: Padding,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Height and width of the input without padding; 1 × 1 for a dense layer.
    pub input: [usize; 2],
    /// Height and width of the output; 1 × 1 for a dense layer.
    pub output: [usize; 2],
    /// Height and width of the input as the published counts see it: with a padding that was a layer of its own there.
    pub counted_input: [usize; 2],
}

impl Layer {
    /// A layer without bias whose window has one position, as a dense layer's.
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

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.dims.iter().product()
    }
}
