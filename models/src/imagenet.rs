//! Common parts of the networks in the original's ImageNet driver.

use crate::layers::{BatchNorm, Conv, Dense, Window};
use crate::{Init, Naming, Net, Variant};
use hlo::Tensor;

/// Variable scope of all these networks.
const SCOPE: &str = "resnet_model";

/// Initialiser of their convolutions.
pub(crate) const INIT: Init = Init::VarianceScaling(1.0);

/// Options of a network for ImageNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageNet {
    /// Whether the network has masks.
    pub masked: bool,
    /// Whether its first layer has a mask, in networks where it can.
    pub mask_first: bool,
    /// Whether its classifier has a mask.
    pub mask_last: bool,
    /// Multiplier of the channel counts.
    pub width: f64,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of an image.
    pub image_size: usize,
    /// The variant of the network.
    pub variant: Variant,
}

impl ImageNet {
    pub(crate) fn input_dims(&self) -> Vec<usize> {
        vec![self.image_size, self.image_size, 3]
    }

    /// `channels` times the width, truncated.
    pub(crate) fn filters(&self, channels: usize) -> usize {
        (channels as f64 * self.width) as usize
    }

    /// Naming of a layer, with a mask if `has_mask` and the network is masked.
    pub(crate) fn naming(&self, has_mask: bool) -> Naming {
        match (has_mask, self.masked) {
            (false, _) => Naming::Doubled,
            (true, true) => Naming::Masked,
            (true, false) => Naming::Maskless,
        }
    }

    /// Scope of the variables of a layer.
    pub(crate) fn scope(&self, layer: &str) -> String {
        format!("{SCOPE}/{layer}")
    }

    /// A convolution with a mask, without bias.
    pub(crate) fn conv(&self, layer: &str, [size, filters, stride]: [usize; 3]) -> Conv {
        Conv {
            scope: self.scope(layer),
            naming: self.naming(true),
            window: Window::fixed(size, stride),
            filters,
            bias: false,
            init: INIT,
        }
    }

    /// Normalisation with scales that start as `gamma`.
    pub(crate) fn norm(&self, gamma: Init) -> BatchNorm<'static> {
        BatchNorm {
            scope: SCOPE,
            gamma,
            unbiased: true,
        }
    }

    #[track_caller]
    pub(crate) fn batch_norm<'g>(&self, net: &Net<'g>, x: Tensor<'g>, gamma: Init) -> Tensor<'g> {
        net.batch_norm(x, &self.norm(gamma))
    }

    /// Logits of `[batch, channels]`.
    #[track_caller]
    pub(crate) fn classifier<'g>(&self, net: &Net<'g>, x: Tensor<'g>, naming: Naming, init: Init) -> Tensor<'g> {
        let _scope = net.graph().scope("final_dense");
        let dense = Dense {
            scope: self.scope("final_dense"),
            naming,
            units: self.classes,
            init,
        };
        net.dense(x, &dense)
    }
}
