//! Arrays of torchvision and timm: names and layouts of the networks that they share with this crate.
//!
//! Both programs list a network's modules in the order in which a forward pass uses them, as this crate does, so names
//! are assigned in order.

use std::collections::BTreeSet;

use crate::vgg::POOLED;
use crate::{Declaration, FAMILIES, Kind, Layer, Options, Variant};

/// A module of PyTorch with a kernel, and the normalisation after it.
pub(crate) type Module = (String, Option<String>);

/// Names of the arrays of a file.
pub(crate) struct Names<'a>(pub BTreeSet<&'a str>);

impl Names<'_> {
    /// Whether there is an array of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// The network of this name, as its variant builds it.
pub(crate) fn network(name: impl Into<String>, variant: Variant) -> Options {
    Options {
        variant: Some(variant),
        ..Options::new(name, false)
    }
}

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
        let names = Names(names.into_iter().collect());
        let mut families = FAMILIES.into_iter().filter_map(|family| family.torch.as_ref());
        families.find_map(|torch| (torch.recognise)(&names))
    }

    /// Every array of a network, with its name and layout in PyTorch; the network is `options`, whose `declaration` is
    /// given. `None` if PyTorch has no such network under these names.
    pub fn arrays(self, options: &Options, declaration: &Declaration) -> Option<Vec<Renamed>> {
        let torch = crate::Family::from_name(&options.name)?.torch.as_ref()?;
        let modules = (torch.modules)(self, options, declaration)?;
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
