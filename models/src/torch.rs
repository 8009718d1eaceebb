//! Arrays of torchvision and timm: names and layouts of the networks that they share with this crate.
//!
//! Both programs list a network's modules in the order in which a forward pass uses them, as this crate does, so names
//! are assigned in order.

use crate::mobilenet::V2;
use crate::vgg::POOLED;
use crate::{Declaration, Kind, Layer, Options, Variant};

/// The program that named the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// torchvision's.
    Torchvision,
    /// timm's. Those of its ResNets are torchvision's.
    Timm,
}

/// Layout of an array in PyTorch, beside that of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same.
    Same,
    /// `[out, in, height, width]` of our `[height, width, in, out]`.
    Conv,
    /// `[channels, 1, height, width]` of our `[height, width, channels, 1]`.
    Depthwise,
    /// `[out, in]` of our `[in, out]` or `[1, 1, in, out]`.
    Linear,
    /// `[out, channels · height · width]` of our `[height, width, channels, out]`: a dense layer of an image.
    Flattened,
}

/// An array by its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Name in this crate.
    pub ours: String,
    /// Dimensions in this crate.
    pub dims: Vec<usize>,
    /// Name in PyTorch.
    pub theirs: String,
    /// Layout in PyTorch.
    pub layout: Layout,
}

impl Layout {
    /// Dimensions in PyTorch of an array that has `dims` here.
    pub fn theirs(self, dims: &[usize]) -> Vec<usize> {
        match (self, dims) {
            (Layout::Conv, &[height, width, input, output]) => vec![output, input, height, width],
            (Layout::Depthwise, &[height, width, channels, one]) => vec![channels, one, height, width],
            (Layout::Linear, &[.., input, output]) => vec![output, input],
            (Layout::Flattened, &[height, width, channels, output]) => vec![output, channels * height * width],
            _ => dims.to_vec(),
        }
    }

    /// Dimensions here of an array that has dimensions `theirs` in PyTorch, of a rank here; `None` if they are of no
    /// array with this layout.
    pub fn ours(self, theirs: &[usize], rank: usize) -> Option<Vec<usize>> {
        let dims = match (self, theirs, rank) {
            (Layout::Same, _, _) => theirs.to_vec(),
            (Layout::Conv, &[output, input, height, width], 4) => vec![height, width, input, output],
            (Layout::Depthwise, &[channels, one, height, width], 4) => vec![height, width, channels, one],
            (Layout::Linear, &[output, input], 2) => vec![input, output],
            // timm writes some of them as convolutions.
            (Layout::Linear, &[output, input] | &[output, input, 1, 1], 4) => vec![1, 1, input, output],
            (Layout::Flattened, &[output, inputs], 4) if inputs % (POOLED * POOLED) == 0 => {
                vec![POOLED, POOLED, inputs / (POOLED * POOLED), output]
            }
            _ => return None,
        };
        (dims.len() == rank).then_some(dims)
    }

    /// The order of our axes in PyTorch.
    fn order(self, rank: usize) -> Vec<usize> {
        match (self, rank) {
            (Layout::Conv | Layout::Flattened | Layout::Linear, 4) => vec![3, 2, 0, 1],
            (Layout::Depthwise, 4) => vec![2, 3, 0, 1],
            (Layout::Linear, 2) => vec![1, 0],
            _ => (0..rank).collect(),
        }
    }

    /// The elements of an array in PyTorch's order as those of an array with `dims` here. Elements have `size` bytes.
    pub fn from_theirs(self, dims: &[usize], size: usize, bytes: &[u8]) -> Vec<u8> {
        let mut ours = vec![0; bytes.len()];
        self.each(dims, |at, there| {
            ours[at * size..][..size].copy_from_slice(&bytes[there * size..][..size]);
        });
        ours
    }

    /// The elements of an array with `dims` here in PyTorch's order. Elements have `size` bytes.
    pub fn to_theirs(self, dims: &[usize], size: usize, bytes: &[u8]) -> Vec<u8> {
        let mut theirs = vec![0; bytes.len()];
        self.each(dims, |at, there| {
            theirs[there * size..][..size].copy_from_slice(&bytes[at * size..][..size]);
        });
        theirs
    }

    /// Calls `visit` with the index here and the index in PyTorch of each element.
    fn each(self, dims: &[usize], mut visit: impl FnMut(usize, usize)) {
        let order = self.order(dims.len());
        let mut strides = vec![0; dims.len()];
        let mut stride = 1;
        for &axis in order.iter().rev() {
            (strides[axis], stride) = (stride, stride * dims[axis]);
        }
        let mut at = vec![0; dims.len()];
        let mut there = 0;
        for ours in 0..dims.iter().product() {
            visit(ours, there);
            for axis in (0..dims.len()).rev() {
                at[axis] += 1;
                there += strides[axis];
                if at[axis] < dims[axis] {
                    break;
                }
                there -= strides[axis] * dims[axis];
                at[axis] = 0;
            }
        }
    }
}

impl Scheme {
    /// The network whose arrays have these names, with the scheme: name, variant and depth, but neither width nor
    /// classes. `None` if they belong to no network of torchvision or timm that this crate has.
    pub fn recognise<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<(Scheme, Options)> {
        let names: std::collections::BTreeSet<&str> = names.into_iter().collect();
        let has = |name: &str| names.contains(name);
        let options = |name: String, variant| Options {
            variant: Some(variant),
            ..Options::new(name, false)
        };
        if has("layer1.0.conv1.weight") && has("conv1.weight") {
            let blocks = [1, 2, 3, 4].map(|group| {
                let exists = |i: &usize| has(&format!("layer{group}.{i}.conv1.weight"));
                (0..).take_while(exists).count()
            });
            let depth = crate::ResNet::depth(blocks, has("layer1.0.conv3.weight"))?;
            return Some((
                Scheme::Torchvision,
                options(format!("resnet{depth}"), Variant::Torchvision),
            ));
        }
        let mobile_net = || options("mobilenet-v2".into(), Variant::Torchvision);
        if has("features.18.0.weight") && has("features.1.conv.0.0.weight") {
            return Some((Scheme::Torchvision, mobile_net()));
        }
        if has("conv_stem.weight") && has("blocks.6.0.conv_pwl.weight") && has("conv_head.weight") {
            return Some((Scheme::Timm, mobile_net()));
        }
        let scheme = match (has("classifier.6.weight"), has("head.fc.weight")) {
            (true, _) => Scheme::Torchvision,
            (_, true) => Scheme::Timm,
            _ => return None,
        };
        // Normalisations are the only features with a mean.
        let variant = match names.iter().any(|name| name.ends_with(".running_mean")) {
            true => Variant::TorchvisionBn,
            false => Variant::Torchvision,
        };
        let kernels = names.iter().filter(|name| name.starts_with("features.")).count();
        let arrays = if variant == Variant::TorchvisionBn { 7 } else { 2 };
        // Batch counters may be missing.
        let arrays =
            arrays - usize::from(arrays == 7 && !names.iter().any(|name| name.ends_with("num_batches_tracked")));
        let name = match kernels / arrays {
            8 => "vgg-a",
            10 => "vgg-13",
            13 => "vgg-16",
            16 => "vgg-19",
            _ => return None,
        };
        Some((scheme, options(name.into(), variant)))
    }

    /// Every array of a network, with its name and layout in PyTorch; the network is `options`, whose `declaration` is
    /// given. `None` if PyTorch has no such network under these names.
    pub fn arrays(self, options: &Options, declaration: &Declaration) -> Option<Vec<Renamed>> {
        let modules = self.modules(options, declaration)?;
        let norms: Vec<&str> = declaration
            .statistics
            .iter()
            .filter_map(|statistic| statistic.name.strip_suffix("/moving_mean"))
            .collect();
        let wanted = modules.iter().filter(|(_, norm)| norm.is_some()).count();
        if modules.len() != declaration.layers.len() || wanted != norms.len() {
            return None;
        }
        let mut norms = norms.into_iter();
        let mut arrays = vec![];
        for (layer, (module, norm)) in declaration.layers.iter().zip(modules) {
            arrays.push(self.kernel(layer, &module));
            arrays.extend(bias(layer, &module));
            let Some(norm) = norm else { continue };
            let ours = norms.next()?;
            let parts = [
                ("gamma", "weight"),
                ("beta", "bias"),
                ("moving_mean", "running_mean"),
                ("moving_variance", "running_var"),
            ];
            arrays.extend(parts.map(|(part, theirs)| Renamed {
                ours: format!("{ours}/{part}"),
                dims: layer.dims[layer.dims.len() - 1..].to_vec(),
                theirs: format!("{norm}.{theirs}"),
                layout: Layout::Same,
            }));
        }
        // The last axis of a depthwise kernel is not its channels.
        for array in &mut arrays {
            let found = declaration.params.iter().map(|param| (&param.name, &param.dims));
            let statistics = declaration.statistics.iter().map(|s| (&s.name, &s.dims));
            let (_, dims) = found.chain(statistics).find(|(name, _)| **name == array.ours)?;
            array.dims.clone_from(dims);
        }
        Some(arrays)
    }

    fn kernel(self, layer: &Layer, module: &str) -> Renamed {
        let layout = match (layer.kind, self) {
            (Kind::Depthwise, _) => Layout::Depthwise,
            (Kind::Dense, _) => Layout::Linear,
            (Kind::Conv, _) if module == "classifier.0" => Layout::Flattened,
            (Kind::Conv, _) if module.starts_with("classifier.") || module == "head.fc" => Layout::Linear,
            (Kind::Conv, _) => Layout::Conv,
        };
        Renamed {
            ours: layer.kernel.clone(),
            dims: layer.dims.clone(),
            theirs: format!("{module}.weight"),
            layout,
        }
    }

    /// Modules of PyTorch with a kernel, in order, each with the normalisation after it.
    fn modules(self, options: &Options, declaration: &Declaration) -> Option<Vec<(String, Option<String>)>> {
        let name: String = options.name.to_lowercase().replace(['-', '_'], "");
        let variant = options.variant.unwrap_or_default();
        match (crate::Family::from_name(&options.name)?, variant) {
            (crate::Family::ResNet, Variant::Original | Variant::Torchvision) => Some(res_net(declaration)),
            (crate::Family::MobileNet, Variant::Torchvision) if name == "mobilenetv2" => Some(match self {
                Scheme::Torchvision => mobile_net(),
                Scheme::Timm => mobile_net_of_timm(),
            }),
            (crate::Family::Vgg, Variant::Torchvision | Variant::TorchvisionBn) => {
                Some(self.vgg(declaration, variant == Variant::TorchvisionBn))
            }
            _ => None,
        }
    }

    /// Kernels of convolutions are numbered by the modules between them: activations, poolings and normalisations.
    fn vgg(self, declaration: &Declaration, normalised: bool) -> Vec<(String, Option<String>)> {
        let (mut modules, mut at, mut group) = (vec![], 0, "conv1");
        for layer in &declaration.layers {
            let mut parts = layer.name.split('/').skip(1);
            let (scope, Some(_)) = (parts.next().unwrap_or_default(), parts.next()) else {
                continue;
            };
            if scope != group {
                (group, at) = (scope, at + 1);
            }
            let norm = normalised.then(|| format!("features.{}", at + 1));
            modules.push((format!("features.{at}"), norm));
            at += if normalised { 3 } else { 2 };
        }
        let dense = match self {
            Scheme::Torchvision => ["classifier.0", "classifier.3", "classifier.6"],
            Scheme::Timm => ["pre_logits.fc1", "pre_logits.fc2", "head.fc"],
        };
        modules.extend(dense.map(|module| (module.to_owned(), None)));
        modules
    }
}

fn bias(layer: &Layer, module: &str) -> Option<Renamed> {
    let kernel = &layer.kernel;
    let ours = match kernel.strip_suffix("/kernel") {
        Some(scope) => format!("{scope}/bias"),
        None => format!("{}/biases", kernel.strip_suffix("/weights")?),
    };
    layer.bias.then(|| Renamed {
        ours,
        dims: vec![],
        theirs: format!("{module}.bias"),
        layout: Layout::Same,
    })
}

/// The shortcut's convolution comes first, as in a forward pass of this crate.
fn res_net(declaration: &Declaration) -> Vec<(String, Option<String>)> {
    let mut modules = vec![("conv1".to_owned(), Some("bn1".to_owned()))];
    for layer in &declaration.layers {
        let Some((_, block)) = layer.name.split_once("_block_group") else {
            continue;
        };
        let part = layer.name.split('_').nth(2).unwrap_or_default();
        let (group, index) = match block.strip_prefix("_projection_block_group") {
            Some(group) => (group, "0"),
            // As in `2_1_1`: group, block, and the end of every such name.
            None => block.split_once('_').map_or((block, "0"), |(group, rest)| {
                (group, rest.strip_suffix("_1").unwrap_or(rest))
            }),
        };
        let block = format!("layer{group}.{index}");
        modules.push(match part {
            "projection" => (format!("{block}.downsample.0"), Some(format!("{block}.downsample.1"))),
            part => (format!("{block}.conv{part}"), Some(format!("{block}.bn{part}"))),
        });
    }
    modules.push(("fc".to_owned(), None));
    modules
}

fn mobile_net() -> Vec<(String, Option<String>)> {
    let layer = |conv: String, norm: String| (conv, Some(norm));
    let mut modules = vec![layer("features.0.0".into(), "features.0.1".into())];
    let blocks: usize = V2.iter().map(|(_, _, blocks)| blocks).sum();
    for block in 1..=blocks {
        let of = |part: &str| format!("features.{block}.conv.{part}");
        // The first block does not expand.
        let parts: &[_] = match block {
            1 => &[("0.0", "0.1"), ("1", "2")],
            _ => &[("0.0", "0.1"), ("1.0", "1.1"), ("2", "3")],
        };
        modules.extend(parts.iter().map(|(conv, norm)| layer(of(conv), of(norm))));
    }
    let last = blocks + 1;
    modules.push(layer(format!("features.{last}.0"), format!("features.{last}.1")));
    modules.push(("classifier.1".to_owned(), None));
    modules
}

fn mobile_net_of_timm() -> Vec<(String, Option<String>)> {
    let layer = |conv: String, norm: String| (conv, Some(norm));
    let mut modules = vec![layer("conv_stem".into(), "bn1".into())];
    for (group, (_, _, blocks)) in V2.into_iter().enumerate() {
        for block in 0..blocks {
            let of = |part: &str| format!("blocks.{group}.{block}.{part}");
            let parts: &[_] = match group {
                0 => &[("conv_dw", "bn1"), ("conv_pw", "bn2")],
                _ => &[("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")],
            };
            modules.extend(parts.iter().map(|(conv, norm)| layer(of(conv), of(norm))));
        }
    }
    modules.push(layer("conv_head".into(), "bn2".into()));
    modules.push(("classifier".to_owned(), None));
    modules
}
