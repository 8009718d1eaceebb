//! Neural networks as functions over [`hlo`] graphs.
//!
//! A model is one function, [`Model::forward`], written against a [`Net`] that provides its arrays. The requests of
//! that function define the table of parameters (checkpoint name, shape, initialiser and role) and of layers, whose
//! cost [`cost`] counts. No I/O, like `hlo`. Models do not apply masks: the caller passes masked weights and
//! differentiates with respect to them.
#![forbid(unsafe_code)]

pub mod cost;
mod error;
mod family;
mod imagenet;
mod infer;
mod layer;
pub mod layers;
mod mlp;
mod mobilenet;
mod net;
mod options;
mod param;
pub mod presets;
mod resnet;
mod torch;
mod variant;
mod vgg;
mod wide_resnet;

use hlo::{DType, Shape, Tensor};

pub use error::Error;
pub use family::{Driver, FAMILIES, Family, Recipe, names};
pub use imagenet::ImageNet;
pub use infer::{infer_model, infer_variant, naming_scheme};
pub use layer::{Kind, Layer, Naming};
pub use mlp::{INPUT_INDICES, MnistFc, column_gather};
pub use mobilenet::{MobileNet, Version};
pub use net::{Declaration, Mode, Net, Precision};
pub use options::{Options, find};
pub use param::{Draw, Init, Param, Statistic};
pub use resnet::ResNet;
pub use torch::{Layout, Renamed, Scheme};
pub use variant::Variant;
pub use vgg::Vgg;
pub use wide_resnet::{WideResNet, WideResNetConfig};

/// A network.
pub trait Model: Send + Sync {
    /// Name in configurations and checkpoints.
    fn name(&self) -> &str;

    /// Dimensions of one example, without the batch, e.g. `[784]`.
    fn input_dims(&self) -> Vec<usize>;

    /// Number of classes: the last axis of the logits.
    fn classes(&self) -> usize;

    /// Logits `[batch, classes]` of `images` `f32[batch, input_dims..]`, in the precision of `net`.
    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g>;

    /// Logits `f32[batch, classes]` of `images` `f32[batch, input_dims..]`.
    fn apply<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        self.forward(net, images).convert(DType::F32)
    }

    /// The arrays and layers of the network.
    fn declaration(&self) -> Declaration {
        Declaration::from_model(self)
    }

    /// Trainable parameters in creation order, which is also the order in which masks are drawn.
    fn params(&self) -> Vec<Param> {
        self.declaration().params
    }

    /// Moving means and variances of batch normalisation, in creation order.
    fn statistics(&self) -> Vec<Statistic> {
        self.declaration().statistics
    }

    /// Arrays that neither training nor batches change, in creation order: [`INPUT_INDICES`].
    fn fixed(&self) -> Vec<(String, Shape)> {
        self.declaration().fixed
    }

    /// Layers with a kernel, in creation order.
    fn layers(&self) -> Vec<Layer> {
        self.declaration().layers
    }
}
