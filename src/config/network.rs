//! The network of a plan.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use hlo::Tensor;
use models::{Declaration, Model, Net};

/// A network that plans share.
#[derive(Clone)]
pub struct Network(Arc<dyn Model>);

impl Network {
    /// Wraps a network.
    pub fn new(model: impl Model + 'static) -> Self {
        Network(Arc::new(model))
    }

    /// The same network for dense training: none of its layers has a mask.
    #[must_use]
    pub fn without_masks(&self) -> Self {
        Network::new(Maskless(self.clone()))
    }
}

impl From<Box<dyn Model>> for Network {
    fn from(model: Box<dyn Model>) -> Self {
        Network(model.into())
    }
}

impl Deref for Network {
    type Target = dyn Model;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Network").field(&self.name()).finish()
    }
}

/// A network that declares no masks.
struct Maskless(Network);

impl Model for Maskless {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn input_dims(&self) -> Vec<usize> {
        self.0.input_dims()
    }

    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        self.0.forward(net, images)
    }

    fn declaration(&self) -> Declaration {
        let mut declaration = self.0.declaration();
        declaration.params.iter_mut().for_each(|param| param.mask = None);
        declaration.layers.iter_mut().for_each(|layer| layer.masked = false);
        declaration
    }
}
