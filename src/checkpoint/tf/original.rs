//! Variables of the original's checkpoints that ours lack or name differently (reference 3). The original's restore
//! fails on missing variables and ignores additional ones.

use std::collections::BTreeMap;

use models::{Driver, Family, Options};

/// Dimensions of all arrays of a checkpoint, by name.
pub type Arrays<'a> = BTreeMap<&'a str, &'a [usize]>;

/// A float32 variable to add, with one value for all elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// Name in the original.
    pub name: String,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Value of every element.
    pub value: f32,
}

/// Variables of the original that a checkpoint with these arrays lacks: masks of ones for networks that the original
/// always masks, and a threshold of gradual pruning for every mask.
pub fn missing(arrays: &Arrays) -> Vec<Missing> {
    let mut all = baseline_masks(arrays);
    let masks = arrays.keys().copied().chain(all.iter().map(|mask| mask.name.as_str()));
    let layers = masks.filter_map(|name| name.strip_suffix("/mask"));
    let thresholds = layers.map(|layer| format!("{layer}/threshold"));
    let thresholds = thresholds.filter(|name| !arrays.contains_key(name.as_str()));
    let thresholds: Vec<_> = thresholds
        .map(|name| Missing {
            name,
            dims: vec![],
            value: 0.0,
        })
        .collect();
    all.extend(thresholds);
    all
}

/// Adds masks of ones: the ImageNet driver masks layers for every method, the CIFAR-10 and MNIST drivers do not.
fn baseline_masks(arrays: &Arrays) -> Vec<Missing> {
    let found = models::infer_model(arrays.iter().map(|(&name, &dims)| (name, dims)));
    let Some(network) = found.filter(|network| !network.masked) else {
        return vec![];
    };
    let family = Family::from_name(&network.name);
    if family.is_none_or(|family| family.recipe.driver != Driver::ImageNet) {
        return vec![];
    }
    let masked = Options {
        masked: true,
        ..network
    };
    let Ok(model) = masked.build() else { return vec![] };
    let params = model.params().into_iter();
    let there = params.filter(|param| arrays.get(param.name.as_str()) == Some(&param.dims.as_slice()));
    let mask = |param: models::Param| {
        Some(Missing {
            name: param.mask?,
            dims: param.dims,
            value: 1.0,
        })
    };
    there.filter_map(mask).collect()
}

const AVERAGE: &str = "/ExponentialMovingAverage";

/// The original's name of one of our arrays. Names agree, except that the original names SNFS's average gradients after
/// the graph operation that computes the gradient.
pub fn name_of(ours: &str, dims: &[usize]) -> String {
    let kernel = ours.strip_suffix(AVERAGE);
    let layer = kernel.and_then(|kernel| kernel.strip_suffix("/weights"));
    layer.map_or_else(|| ours.to_owned(), |layer| average(layer, dims))
}

/// Name of the average dense gradient: the driver's scope, the layer's scope within the network, and its operation.
fn average(layer: &str, dims: &[usize]) -> String {
    let (network, own) = layer.rsplit_once('/').unwrap_or(("", layer));
    let within = if network.is_empty() {
        String::new()
    } else {
        format!("{network}/")
    };
    let blocks = blocks(own);
    let wide_resnet = own == "logits" || blocks.starts_with("conv_") || own == "conv_1";
    let driver = if network.is_empty() || wide_resnet {
        ""
    } else {
        "train/"
    };
    let operation = if dims.len() == 2 { "MatMul" } else { "convolution" };
    format!("{driver}gradients_1/{within}{blocks}{own}/{operation}_grad/tuple/control_dependency_1{AVERAGE}")
}

/// Block scopes that occur in operation names but not in variable names.
fn blocks(layer: &str) -> String {
    let numbers = |text: &str| text.split('_').map(str::to_owned).collect::<Vec<_>>();
    if let Some((_, group)) = layer.rsplit_once("_block_group_projection_") {
        return format!("{group}/");
    }
    if let Some((_, rest)) = layer.split_once("_block_group") {
        return match &numbers(rest)[..] {
            [group, block, _] => format!("block_group{group}/block_group_{block}/"),
            _ => String::new(),
        };
    }
    if let Some(group) = layer.strip_prefix("skip_conv_") {
        return format!("conv_{group}/res_0/");
    }
    match layer.strip_prefix("conv_").map(numbers).as_deref() {
        Some([group, block, _]) => format!("conv_{group}/res_{block}/"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names from graphs built by the original.
    #[test]
    fn averages_have_the_names_of_the_original() {
        let tail = "_grad/tuple/control_dependency_1/ExponentialMovingAverage";
        for (layer, rank, operation) in [
            ("layer2", 2, "gradients_1/layer2/MatMul"),
            (
                "resnet_model/initial_conv",
                4,
                "train/gradients_1/resnet_model/initial_conv/convolution",
            ),
            (
                "resnet_model/residual_2_block_group_projection_block_group3",
                4,
                "train/gradients_1/resnet_model/block_group3/residual_2_block_group_projection_block_group3/convolution",
            ),
            (
                "resnet_model/bottleneck_1_block_group4_2_1",
                4,
                "train/gradients_1/resnet_model/block_group4/block_group_2/bottleneck_1_block_group4_2_1/convolution",
            ),
            (
                "resnet_model/expand_1x1_7",
                4,
                "train/gradients_1/resnet_model/expand_1x1_7/convolution",
            ),
            (
                "resnet_model/final_dense",
                2,
                "train/gradients_1/resnet_model/final_dense/MatMul",
            ),
            (
                "vgg_16/conv3/conv3_2",
                4,
                "train/gradients_1/vgg_16/conv3/conv3_2/convolution",
            ),
            (
                "resnet_model/skip_conv_3",
                4,
                "gradients_1/resnet_model/conv_3/res_0/skip_conv_3/convolution",
            ),
            (
                "resnet_model/conv_4_1_2",
                4,
                "gradients_1/resnet_model/conv_4/res_1/conv_4_1_2/convolution",
            ),
            ("resnet_model/logits", 2, "gradients_1/resnet_model/logits/MatMul"),
        ] {
            let ours = format!("{layer}/weights/ExponentialMovingAverage");
            assert_eq!(name_of(&ours, &vec![1; rank]), format!("{operation}{tail}"));
        }
        assert_eq!(name_of("layer1/weights/Momentum", &[3, 2]), "layer1/weights/Momentum");
    }
}
