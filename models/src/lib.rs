//! Neural networks as functions over [`hlo`] graphs.
//!
//! A model is one function, [`Model::forward`], written against a [`Net`] that hands out its arrays. What the function asks
//! for is its table of parameters, each with checkpoint name, shape, initialiser and role, and of layers, whose cost
//! [`cost`] counts. Pure, like `hlo`. Masks are not the models' business: the caller passes the weights that the layers
//! are to use, already masked, and differentiates with respect to those.
#![forbid(unsafe_code)]

pub mod cost;
mod error;
mod imagenet;
mod layer;
pub mod layers;
mod mlp;
mod mobilenet;
mod net;
mod options;
mod param;
mod recognise;
mod resnet;
mod vgg;
mod wide_resnet;

use hlo::{DType, Shape, Tensor};

pub use error::Error;
pub use imagenet::ImageNet;
pub use layer::{Kind, Layer, Naming};
pub use mlp::{INPUT_INDICES, MnistFc, column_gather};
pub use mobilenet::{MobileNet, Version};
pub use net::{Declaration, Mode, Net, Precision};
pub use options::{Family, NAMES, Options, find};
pub use param::{Draw, Init, Param, Statistic};
pub use recognise::{recognise, scheme};
pub use resnet::ResNet;
pub use vgg::Vgg;
pub use wide_resnet::{WideResNet, WideResNetConfig};

/// A network.
pub trait Model {
    /// Name in presets and on the command line.
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

    /// What the network needs and has.
    fn declaration(&self) -> Declaration {
        Declaration::of(self)
    }

    /// Trainable parameters in creation order, which is also the order in which masks are drawn.
    fn params(&self) -> Vec<Param> {
        self.declaration().params
    }

    /// Moving means and variances of batch normalisation, in creation order.
    fn statistics(&self) -> Vec<Statistic> {
        self.declaration().statistics
    }

    /// Arrays that neither gradients nor batches change, in creation order: [`INPUT_INDICES`].
    fn fixed(&self) -> Vec<(String, Shape)> {
        self.declaration().fixed
    }

    /// Layers with a kernel, in creation order.
    fn layers(&self) -> Vec<Layer> {
        self.declaration().layers
    }
}
