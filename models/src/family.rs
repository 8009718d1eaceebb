//! Families of networks.

use crate::infer::Variables;
use crate::options::Spelling;
use crate::torch::{Module, Names};
use crate::{Declaration, Error, Model, Options, Scheme, mlp, mobilenet, resnet, vgg, wide_resnet};

/// A family of networks, built by one piece of code and trained by one driver of the original. Its file defines it; it is
/// one of [`FAMILIES`].
pub struct Family {
    /// Names of its networks. `_` and `-` are equivalent.
    pub names: &'static [&'static str],
    /// Settings of the original's driver for its networks.
    pub recipe: Recipe,
    /// Whether it has a network of this name.
    pub(crate) has: fn(&Spelling) -> bool,
    /// Builds the network of this name.
    pub(crate) build: Build,
    /// Infers a network from the variables of a checkpoint; `None` where they belong to no network of the family.
    pub(crate) infer: fn(&Variables) -> Option<Options>,
    /// Its networks in PyTorch, if there are any.
    pub(crate) torch: Option<Torch>,
}

/// Builds the network of a name.
type Build = fn(&Options, &Spelling) -> Result<Box<dyn Model>, Error>;

/// Networks of a family in torchvision and timm.
pub(crate) struct Torch {
    /// The network whose arrays have these names.
    pub recognise: fn(&Names) -> Option<(Scheme, Options)>,
    /// Modules with a kernel, in order; `None` if PyTorch has no such network.
    pub modules: fn(Scheme, &Options, &Declaration) -> Option<Vec<Module>>,
}

/// Settings of the original's driver for a family (reference 4).
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The driver.
    pub driver: Driver,
    /// Beginning of the names of the presets for the network of a name.
    pub preset: fn(&str) -> &'static str,
    /// Label smoothing.
    pub label_smoothing: f64,
    /// L2 coefficient.
    pub weight_decay: f64,
    /// Whether the first layer has a mask under an Erdős–Rényi distribution (reference 1.8).
    pub erdos_renyi_masks_first: bool,
    /// Whether the networks have pooling layers by maximum.
    pub max_pooling: bool,
}

/// The original's drivers. Each prepares its images in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// MNIST.
    Mnist,
    /// CIFAR-10.
    Cifar,
    /// ImageNet. Masks layers for every method, dense training included.
    ImageNet,
}

/// Every family.
pub static FAMILIES: [&Family; 5] = [
    &mlp::FAMILY,
    &resnet::FAMILY,
    &mobilenet::FAMILY,
    &wide_resnet::FAMILY,
    &vgg::FAMILY,
];

impl Family {
    /// The family of the network `name`; `None` if the name is unknown.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        let name = Spelling::new(name);
        FAMILIES.into_iter().find(|family| (family.has)(&name))
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.names[0])
    }
}

/// Names of networks. `_` and `-` are equivalent. `resnet50` may be written `resnet-50`, or `resnet` with a depth. Wide
/// residual networks have many names of the form `wrn-22-2`, which is `wide-resnet` with a depth and a width.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().flat_map(|family| family.names.iter().copied())
}
