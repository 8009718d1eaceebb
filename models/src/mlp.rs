//! The fully connected MNIST network, 784-300-100-10 with ReLU (reference 3.6).

use crate::layers::Dense;
use crate::options::{MAX_EXTENT, Spelling};
use crate::{Driver, Error, Family, Init, Model, Naming, Net, Options, Recipe};
use hlo::{DType, GatherDims, Shape, Tensor};

/// The network of the original's MNIST driver.
pub(crate) static FAMILY: Family = Family {
    names: &["mnist-fc"],
    recipe: Recipe {
        driver: Driver::Mnist,
        preset: |_| "mnist",
        label_smoothing: 0.0,
        weight_decay: 1e-4,
        erdos_renyi_masks_first: false,
        max_pooling: false,
    },
    has: |name| name.plain == "mnistfc",
    build,
    // Its variables do not tell it from other dense networks.
    infer: |_| None,
    torch: None,
};

/// Name of the variable with the indices of the kept input pixels.
pub const INPUT_INDICES: &str = "layer1/input_indices";

/// A network of dense layers with ReLU between them, as the original's MNIST driver builds it.
#[derive(Clone, Debug, PartialEq)]
pub struct MnistFc {
    /// Masked layers are named `layer{i}/{weights,mask,biases}`, those of the dense baseline `layer{i}/{kernel,bias}`.
    pub masked: bool,
    /// Pixels of an image.
    pub pixels: usize,
    /// Number of pixels that the first layer reads, if not all. The s32 variable [`INPUT_INDICES`] holds their indices.
    pub kept_pixels: Option<usize>,
    /// Units of the hidden layers.
    pub hidden: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
}

impl MnistFc {
    /// LeNet-300-100.
    pub fn new(masked: bool) -> Self {
        MnistFc {
            masked,
            pixels: 784,
            kept_pixels: None,
            hidden: vec![300, 100],
            classes: 10,
        }
    }
}

impl Model for MnistFc {
    fn name(&self) -> &str {
        "mnist-fc"
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![self.pixels]
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let mut x = images;
        if let Some(kept) = self.kept_pixels {
            x = take_columns(x, net.fixed(INPUT_INDICES, Shape::new(DType::S32, [kept])));
        }
        let widths = self.hidden.iter().chain([&self.classes]);
        for (i, &units) in (1..).zip(widths) {
            let name = format!("layer{i}");
            let _scope = net.graph().scope(name.clone());
            let layer = Dense {
                scope: name,
                naming: if self.masked { Naming::Masked } else { Naming::Plain },
                units,
                init: Init::GlorotUniform,
            };
            x = net.dense(x, &layer);
            if i <= self.hidden.len() {
                x = x.relu();
            }
        }
        x
    }
}

/// Gathers columns `indices` (rank 1) of `x` `[rows, columns]`. Out-of-range indices are clamped.
fn take_columns<'g>(x: Tensor<'g>, indices: Tensor<'g>) -> Tensor<'g> {
    let rows = x.dims().first().copied().unwrap_or(1);
    x.gather(indices, column_gather(), &[rows, 1])
}

/// Axis roles of the gather that takes columns of a matrix.
pub fn column_gather() -> GatherDims {
    GatherDims {
        offset: vec![0],
        collapsed: vec![1],
        start_index_map: vec![1],
        index_vector_axis: 1,
    }
}

fn build(options: &Options, _: &Spelling) -> Result<Box<dyn Model>, Error> {
    options.only(&["hidden", "kept_pixels"])?;
    let default = MnistFc::new(options.masked);
    let hidden = options.hidden.clone().unwrap_or(default.hidden);
    if let Some(units) = hidden.iter().find(|units| !(1..=MAX_EXTENT).contains(*units)) {
        return Err(options.wrong("hidden", units, format!("units from 1 to {MAX_EXTENT}")));
    }
    let kept = |kept| options.within("kept_pixels", kept, 1..=default.pixels);
    Ok(Box::new(MnistFc {
        kept_pixels: options.kept_pixels.map(kept).transpose()?,
        hidden,
        classes: options.within("classes", options.classes.unwrap_or(default.classes), 1..=MAX_EXTENT)?,
        ..default
    }))
}
