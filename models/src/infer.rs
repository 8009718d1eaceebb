//! Infers a network from the variables of a checkpoint.

use crate::{FAMILIES, Naming, Options, Variant};
use std::collections::BTreeMap;

/// Variable scope of all convolutional networks except VGG.
pub(crate) const SCOPE: &str = "resnet_model";

/// Infers the convolutional network whose variables have these names and dimensions, from names and channel counts
/// alone; `None` if no network matches. Properties that no variable determines (image size, dropout) get the network's
/// default. Other variables are ignored.
///
/// The caller checks the variables against the network: one with a missing or misshapen variable may still be inferred.
pub fn infer_model<'a>(variables: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Option<Options> {
    infer_variant(variables, None)
}

/// Like [`infer_model`], for a network whose variant may be known.
pub fn infer_variant<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    variant: Option<Variant>,
) -> Option<Options> {
    let variables = Variables {
        dims: variables.into_iter().collect(),
        variant,
    };
    FAMILIES.into_iter().find_map(|family| (family.infer)(&variables))
}

/// The known naming scheme of another program, if the variables follow one that no network here uses.
pub fn naming_scheme<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let names: Vec<&str> = names.into_iter().collect();
    let found = |parts: &[&str]| parts.iter().all(|part| names.iter().any(|name| name.contains(part)));
    SCHEMES
        .iter()
        .find(|(_, parts)| found(parts))
        .map(|(scheme, _)| *scheme)
}

/// Scheme, and parts of names that must all occur. The first match counts.
const SCHEMES: &[(&str, &[&str])] = &[
    ("torchvision's, of a ResNet", &["layer1.0.conv1.weight", "fc.weight"]),
    (
        "torchvision's, of a MobileNet",
        &["features.0.0.weight", "classifier.1.weight"],
    ),
    ("torchvision's, of a VGG", &["features.0.weight", "classifier.0.weight"]),
    ("timm's, of a vision transformer", &["blocks.0.attn.qkv.weight"]),
    ("timm's", &["conv_stem.weight"]),
    ("those of Hugging Face transformers", &["encoder.layer.0."]),
    ("those of Hugging Face transformers", &["model.layers.0."]),
    ("PyTorch's", &[".weight"]),
    ("those of TensorFlow 2's objects", &["/.ATTRIBUTES/VARIABLE_VALUE"]),
    ("Flax's", &["params/"]),
    ("Flax's", &["Conv_0/kernel"]),
];

/// The variables of a network.
pub(crate) struct Variables<'a> {
    /// Dimensions by name.
    dims: BTreeMap<&'a str, &'a [usize]>,
    /// The variant, if it is known.
    pub variant: Option<Variant>,
}

impl Variables<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.dims.contains_key(name)
    }

    /// Dimensions of the kernel of the layer with this scope, under any of its names.
    pub(crate) fn kernel(&self, scope: &str) -> Option<&[usize]> {
        let namings = [Naming::Masked, Naming::Doubled, Naming::Plain];
        let named = |naming: Naming| self.dims.get(naming.kernel(scope).as_str()).copied();
        namings.into_iter().find_map(named)
    }

    pub(crate) fn outputs(&self, scope: &str) -> Option<usize> {
        self.kernel(scope)?.last().copied()
    }

    /// Number of consecutive layers `name(first)`, `name(first + 1)`, … that exist.
    pub(crate) fn count(&self, first: usize, name: impl Fn(usize) -> String) -> usize {
        let exists = |i: &usize| self.kernel(&format!("{SCOPE}/{}", name(*i))).is_some();
        (first..).take_while(exists).count()
    }

    /// Options that the scopes of the first layer and the classifier determine. A maskable layer calls its kernel
    /// `weights`, even in a network without masks.
    pub(crate) fn options(&self, name: &str, [first, classifier]: [&str; 2]) -> Option<Options> {
        let masked = self.dims.keys().any(|name| name.ends_with("/mask"));
        let may_have_mask = |scope: &str| self.has(&Naming::Masked.kernel(scope));
        Some(Options {
            mask_first: Some(may_have_mask(first)),
            mask_last: Some(may_have_mask(classifier)),
            classes: Some(self.outputs(classifier)?),
            variant: self.variant,
            ..Options::new(name, masked)
        })
    }

    /// Whether the existing variables have the network's dimensions.
    pub(crate) fn fit(&self, options: &Options) -> bool {
        let Ok(network) = options.build() else { return false };
        let fits = |name: &str, dims: &[usize]| self.dims.get(name).is_none_or(|found| *found == dims);
        network.params().iter().all(|param| fits(&param.name, &param.dims))
    }
}
