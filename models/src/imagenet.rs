//! What the networks of the original's ImageNet driver have in common.

use crate::layers::{BatchNorm, Conv, Dense, Window};
use crate::{Init, Naming, Net};
use hlo::Tensor;

/// Scope of their variables, whatever the network.
const SCOPE: &str = "resnet_model";

/// The initialiser of their convolutions.
pub(crate) const INIT: Init = Init::VarianceScaling(1.0);

/// Options of a network for ImageNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageNet {
    /// Whether the network has masks.
    pub masked: bool,
    /// Whether its first layer has one, if the network may have it.
    pub mask_first: bool,
    /// Whether its classifier has one.
    pub mask_last: bool,
    /// Factor of the numbers of channels.
    pub width: f64,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of an image.
    pub image_size: usize,
}

impl ImageNet {
    pub(crate) fn input_dims(&self) -> Vec<usize> {
        vec![self.image_size, self.image_size, 3]
    }

    /// `channels` times the width, truncated.
    pub(crate) fn filters(&self, channels: usize) -> usize {
        (channels as f64 * self.width) as usize
    }

    /// Names of a layer that has a mask if `has_mask`, in a network that has masks.
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

    #[track_caller]
    pub(crate) fn batch_norm<'g>(&self, net: &Net<'g>, x: Tensor<'g>, gamma: Init) -> Tensor<'g> {
        let norm = BatchNorm {
            scope: SCOPE,
            gamma,
            unbiased: true,
        };
        net.batch_norm(x, &norm)
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
