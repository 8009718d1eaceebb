//! Differences between networks of the same name, by who builds them.

/// The program whose network is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The networks of the RigL paper.
    #[default]
    Original,
    /// torchvision's and timm's. ResNet: max pooling pads by 1 on each side, and the first group of networks without
    /// bottlenecks has no projection. MobileNet-v2: ReLU6. VGG: biases, five poolings and three dense layers.
    Torchvision,
    /// torchvision's VGG with batch normalisation.
    TorchvisionBn,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 3] = [Variant::Original, Variant::Torchvision, Variant::TorchvisionBn];

    /// Name in presets and files.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Original => "original",
            Variant::Torchvision => "torchvision",
            Variant::TorchvisionBn => "torchvision-bn",
        }
    }

    /// The variant with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Variant::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// Whether the network is built as in torchvision.
    pub fn is_torchvision(self) -> bool {
        self != Variant::Original
    }
}
