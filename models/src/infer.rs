//! Infers a network from the variables of a checkpoint.

use crate::{Naming, Options, ResNet, Variant};
use std::collections::BTreeMap;

/// Variable scope of all convolutional networks except VGG.
const SCOPE: &str = "resnet_model";

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
    let families = [
        Variables::mobile_net,
        Variables::res_net,
        Variables::wide_res_net,
        Variables::vgg,
    ];
    families.into_iter().find_map(|family| family(&variables))
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
struct Variables<'a> {
    /// Dimensions by name.
    dims: BTreeMap<&'a str, &'a [usize]>,
    /// The variant, if it is known.
    variant: Option<Variant>,
}

impl Variables<'_> {
    fn has(&self, name: &str) -> bool {
        self.dims.contains_key(name)
    }

    /// Dimensions of the kernel of the layer with this scope, under any of its names.
    fn kernel(&self, scope: &str) -> Option<&[usize]> {
        let namings = [Naming::Masked, Naming::Doubled, Naming::Plain];
        let named = |naming: Naming| self.dims.get(naming.kernel(scope).as_str()).copied();
        namings.into_iter().find_map(named)
    }

    fn outputs(&self, scope: &str) -> Option<usize> {
        self.kernel(scope)?.last().copied()
    }

    /// Number of consecutive layers `name(first)`, `name(first + 1)`, … that exist.
    fn count(&self, first: usize, name: impl Fn(usize) -> String) -> usize {
        let exists = |i: &usize| self.kernel(&format!("{SCOPE}/{}", name(*i))).is_some();
        (first..).take_while(exists).count()
    }

    /// Options that the scopes of the first layer and the classifier determine. A maskable layer calls its kernel
    /// `weights`, even in a network without masks.
    fn options(&self, name: &str, [first, classifier]: [&str; 2]) -> Option<Options> {
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

    fn res_net(&self) -> Option<Options> {
        let depth_and_width = |(kind, bottleneck)| {
            let first = |group| format!("{kind}_1_block_group_projection_block_group{group}");
            // Channels double from group to group, so the truncated count of the largest group determines the others.
            let channels = self.outputs(&format!("{SCOPE}/{}", first(4)))?;
            let later = |group| self.count(1, |i| format!("{kind}_1_block_group{group}_{i}_1"));
            let blocks = [1, 2, 3, 4].map(|group| 1 + later(group));
            Some((ResNet::depth(blocks, bottleneck)?, channels as f64 / 512.0))
        };
        let (depth, width) = [("bottleneck", true), ("residual", false)]
            .into_iter()
            .find_map(depth_and_width)?;
        let first_block = |part: &str| format!("{SCOPE}/residual_{part}_block_group_projection_block_group1");
        let torchvision = self.kernel(&first_block("1")).is_some() && self.kernel(&first_block("projection")).is_none();
        Some(Options {
            variant: self.variant.or(torchvision.then_some(Variant::Torchvision)),
            width: Some(width),
            ..self.options(
                &format!("resnet{depth}"),
                ["resnet_model/initial_conv", "resnet_model/final_dense"],
            )?
        })
    }

    fn wide_res_net(&self) -> Option<Options> {
        let blocks = self.count(0, |i| format!("conv_2_{i}_1"));
        let channels = self.outputs("resnet_model/conv_4_0_1")?;
        Some(Options {
            depth: Some(6 * blocks + 4),
            width: Some(channels as f64 / 64.0),
            ..self.options("wide-resnet", ["resnet_model/conv_1", "resnet_model/logits"])?
        })
    }

    fn vgg(&self) -> Option<Options> {
        let scope = ["vgg_a", "vgg_13", "vgg_16", "vgg_19"]
            .into_iter()
            .find(|scope| self.kernel(&format!("{scope}/fc8")).is_some())?;
        let [first, last, classifier] = ["conv1/conv1_1", "conv5/conv5_1", "fc8"].map(|name| format!("{scope}/{name}"));
        let variant = match (
            self.kernel(&format!("{scope}/fc6")),
            self.has(&format!("{scope}/batch_normalization/beta")),
        ) {
            (None, _) => None,
            (Some(_), false) => Some(Variant::Torchvision),
            (Some(_), true) => Some(Variant::TorchvisionBn),
        };
        Some(Options {
            variant: self.variant.or(variant),
            width: Some(self.outputs(&last)? as f64 / 512.0),
            mask_first: None,
            ..self.options(scope, [&first, &classifier])?
        })
    }

    fn mobile_net(&self) -> Option<Options> {
        let expansion = self.expansion();
        // Finer steps of the width give the same channels, because channels are truncated multiples.
        let (name, last, channels, steps) = match expansion {
            None => ("mobilenet-v1", 12, 1024, 1024),
            Some(_) => ("mobilenet-v2", 16, 320, 960),
        };
        let outputs = self.outputs(&format!("{SCOPE}/contraction_1x1_{last}"))?;
        let options = self.options(name, ["resnet_model/initial_conv", "resnet_model/final_dense"])?;
        let with_width = |width: f64| Options {
            width: Some(width),
            expansion,
            mask_first: None,
            ..options.clone()
        };
        // Channels are rounded to multiples of 8, so the last ones determine the width only approximately.
        let around = 2 * 8 * steps / channels;
        let nominal = outputs as f64 / channels as f64;
        let candidates = (0..=2 * around).map(|i: usize| {
            let away = i.div_ceil(2) as f64 * if i.is_multiple_of(2) { -1.0 } else { 1.0 };
            with_width(nominal + away * 0.5 / steps as f64)
        });
        let fitting = candidates.into_iter().find(|options| self.fit(options));
        Some(fitting.unwrap_or_else(|| with_width(nominal)))
    }

    /// Expansion of MobileNet-v2's blocks: the smallest factor that yields all their channels.
    fn expansion(&self) -> Option<f64> {
        let block = |i: usize| match self.kernel(&format!("{SCOPE}/expand_1x1_{i}"))? {
            &[_, _, input, inside] if input > 0 => Some((input as f64, inside)),
            _ => None,
        };
        let ratio = |(input, inside)| inside as f64 / input;
        let (input, inside) = (1..).map_while(block).max_by(|&a, &b| ratio(a).total_cmp(&ratio(b)))?;
        let factor = ratio((input, inside));
        // Truncation must not lose what the division rounded down.
        let truncated = (factor * input) as usize;
        Some(if truncated == inside { factor } else { factor.next_up() })
    }

    /// Whether the existing variables have the network's dimensions.
    fn fit(&self, options: &Options) -> bool {
        let Ok(network) = options.build() else { return false };
        let fits = |name: &str, dims: &[usize]| self.dims.get(name).is_none_or(|found| *found == dims);
        network.params().iter().all(|param| fits(&param.name, &param.dims))
    }
}
