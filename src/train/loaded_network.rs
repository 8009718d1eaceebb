//! Loads a network from a checkpoint.

use super::error::{Error, Result};
use super::eval::Inference;
use super::state::{GLOBAL_STEP, inference_specs};
use crate::checkpoint::{Checkpoint, torch};
use crate::config::{self, Run, SparseLayers};
use crate::cost::NetworkCost;
use crate::data::imagenet::Kind;
use crate::data::pixels::Preprocessing;
use crate::named::Named;
use crate::report::note;
use hlo::{DType, Literal, MatmulPrecision, Shape};
use models::{FAMILIES, Family, INPUT_INDICES, MnistFc, Model, Naming, Options, Precision, Variant};
use std::collections::BTreeMap;
use std::path::Path;

/// A network loaded from a checkpoint.
pub struct LoadedNetwork {
    /// The network.
    pub model: Box<dyn Model>,
    /// The options that build it; of `mnist-fc` without the units.
    pub options: Options,
    /// The arrays that inference needs, in the order of [`inference_specs`].
    pub weights: Vec<Literal>,
    /// Precision of activations, that of the run.
    pub precision: Precision,
    /// Precision of matrix products, that of the run.
    pub matmul_precision: MatmulPrecision,
    /// Preprocessing of the run, else the default of the family.
    pub preprocessing: Preprocessing,
    /// Preparation of pictures of the run or of the program that the weights come from.
    pub pictures: Kind,
    /// Label smoothing of the run, else the default of the family.
    pub label_smoothing: f64,
    /// L2 coefficient of the run, else the default of the family.
    pub weight_decay: f64,
    /// Global step of the checkpoint, if it has one.
    pub global_step: Option<i64>,
    /// Configuration of the run that saved the checkpoint, if known.
    pub run: Option<Run>,
    /// Layers that are computed from their connections alone.
    pub sparse: SparseLayers,
}

impl LoadedNetwork {
    /// The network with its settings for inference.
    pub fn inference(&self) -> Inference<'_> {
        Inference {
            model: &*self.model,
            preprocessing: self.preprocessing,
            pixels: DType::U8,
            precision: self.precision,
            matmul_precision: self.matmul_precision,
            label_smoothing: self.label_smoothing,
            replicas: 1,
            sparse: &self.sparse,
        }
    }

    /// The L2 term of the loss over the raw weights, masked ones included (reference 0).
    pub fn l2_term(&self) -> f64 {
        let needs = self.model.declaration();
        let weights = needs.params.iter().zip(&self.weights);
        let decayed = weights.filter(|(param, _)| param.decayed);
        let squares = decayed.map(|(_, raw)| raw.to_f64_vec().iter().map(|weight| weight * weight).sum::<f64>());
        self.weight_decay / 2.0 * squares.sum::<f64>()
    }

    /// Cost of the network with its masks.
    pub fn cost(&self) -> NetworkCost {
        let needs = self.model.declaration();
        let specs = inference_specs(&needs);
        NetworkCost::of(&needs, |mask| {
            let position = specs.iter().position(|(name, _)| name == mask)?;
            let mask = self.weights.get(position)?.to_bools()?;
            Some(mask.into_iter().filter(|&one| one).count())
        })
    }
}

/// Loads the network that the names and dimensions of a checkpoint's arrays belong to, or the network `asked` for by name. The
/// image size is `image_size`, else that of the run, else the default of the network.
///
/// # Errors
/// A checkpoint that fits no network. The error lists the differences to the network asked for, else to the one that the
/// checkpoint names.
pub fn infer_network(checkpoint: Checkpoint, asked: Option<&str>, image_size: Option<usize>) -> Result<LoadedNetwork> {
    let mut checkpoint = torch::recognised(checkpoint)?;
    checkpoint.use_averages();
    let run = checkpoint.metadata.as_ref();
    let run = run.and_then(|m| Run::from_toml(&m.config, &checkpoint.path.display().to_string()).ok());
    let image_size = image_size.or(run.as_ref().and_then(|run| run.model.image_size));
    let variant = variant(&checkpoint, run.as_ref());
    let options = options(&checkpoint, asked, image_size, variant);
    let model = network(&checkpoint, asked, &options)?;
    let specs = inference_specs(&model.declaration());
    check_names(&checkpoint, &specs)?;
    // A network may have several names; accept the one in the checkpoint.
    let named = checkpoint.metadata.as_ref().map(|m| m.model.clone());
    let named = named.filter(|name| Family::from_name(name).is_some());
    if let Some(conversions) = checkpoint.conversions(&specs) {
        note!("note: {conversions}");
    }
    let global_step = checkpoint.tensors.get(GLOBAL_STEP).and_then(Literal::item::<i64>);
    let mut arrays = checkpoint.take(named.as_deref().unwrap_or(model.name()), &specs)?;
    check_pixels(&checkpoint.path, &*model, arrays.get(INPUT_INDICES))?;
    let family = Family::from_name(model.name()).unwrap_or(FAMILIES[0]);
    let metadata = checkpoint.metadata.as_ref();
    Ok(LoadedNetwork {
        weights: specs.iter().filter_map(|(name, _)| arrays.remove(name)).collect(),
        precision: run.as_ref().map(|run| run.train.precision).unwrap_or_default(),
        matmul_precision: run.as_ref().map(|run| run.train.matmul_precision).unwrap_or_default(),
        preprocessing: match &run {
            Some(run) => run.data.preprocessing_for(family),
            None => recorded(metadata, torch::PREPROCESSING).unwrap_or(Preprocessing::of(family)),
        },
        pictures: match &run {
            Some(run) => run.data.pictures.unwrap_or_default(),
            None => recorded(metadata, torch::PICTURES).unwrap_or_default(),
        },
        options,
        label_smoothing: match &run {
            Some(run) => run.train.label_smoothing,
            None => family.recipe.label_smoothing,
        },
        weight_decay: match &run {
            Some(run) => run.optimizer.l2(),
            None => family.recipe.weight_decay,
        },
        global_step,
        model,
        run,
        sparse: SparseLayers::new(),
    })
}

/// A named value that a converted checkpoint records.
fn recorded<T: Named>(metadata: Option<&crate::checkpoint::Metadata>, key: &str) -> Option<T> {
    T::find(metadata?.extra.get(key)?).ok()
}

/// The network variant of a checkpoint, if it or its run records one.
fn variant(checkpoint: &Checkpoint, run: Option<&Run>) -> Option<Variant> {
    match run {
        Some(run) => Some(run.model.variant.unwrap_or_default()),
        None => recorded(checkpoint.metadata.as_ref(), torch::VARIANT),
    }
}

/// The name that a checkpoint gives its network, if there is such a network.
fn named(checkpoint: &Checkpoint) -> Option<&str> {
    let named = checkpoint.metadata.as_ref().map(|m| m.model.as_str());
    named.filter(|name| Family::from_name(name).is_some())
}

fn is_masked(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensors.keys().any(|name| name.ends_with("/mask"))
}

fn options(
    checkpoint: &Checkpoint,
    asked: Option<&str>,
    image_size: Option<usize>,
    variant: Option<Variant>,
) -> Options {
    let name = asked.or(named(checkpoint));
    let arrays = checkpoint.tensors.iter();
    let found = models::infer_variant(arrays.map(|(name, array)| (name.as_str(), array.dims())), variant);
    let options = match (asked, found) {
        (None, Some(found)) => found,
        (Some(name), Some(found)) if Family::from_name(name) == Family::from_name(&found.name) => Options {
            name: name.into(),
            ..found
        },
        // Continue for an error that lists the missing arrays.
        _ => Options::new(name.unwrap_or(FAMILIES[0].names[0]), is_masked(checkpoint)),
    };
    Options { image_size, ..options }
}

fn network(checkpoint: &Checkpoint, asked: Option<&str>, options: &Options) -> Result<Box<dyn Model>> {
    let name = asked.or(named(checkpoint));
    if options.image_size.is_none()
        && name.is_none_or(|name| Family::from_name(name) == Some(FAMILIES[0]))
        && let Some(sized) = sized(&checkpoint.tensors, is_masked(checkpoint))
    {
        return Ok(Box::new(sized));
    }
    options.build().map_err(|error| {
        let origin = match asked {
            Some(_) => "--model".to_owned(),
            None => checkpoint.path.display().to_string(),
        };
        Error::Config(config::Error::from(error).with_origin(origin))
    })
}

/// Rejects a checkpoint without any array of the network; a list of missing arrays would contain all of them.
fn check_names(checkpoint: &Checkpoint, specs: &[(String, Shape)]) -> Result<()> {
    const SHOWN: usize = 3;
    let names = || {
        checkpoint
            .tensors
            .keys()
            .chain(checkpoint.unread.keys())
            .map(String::as_str)
    };
    if names().any(|name| specs.iter().any(|(wanted, _)| wanted == name)) {
        return Ok(());
    }
    let first: Vec<_> = names()
        .take(SHOWN)
        .map(|name| format!("'{}'", name.escape_debug()))
        .collect();
    let more = names().count().saturating_sub(SHOWN);
    let first = match more {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    };
    let found = match (first.is_empty(), models::naming_scheme(names())) {
        (true, _) => "holds no arrays".to_owned(),
        (false, Some(scheme)) => format!("names are {scheme} ({first})"),
        (false, None) => format!("holds {first}"),
    };
    let path = checkpoint.path.clone();
    Err(Error::Unrecognised { path, found })
}

/// Maximum number of units of a layer, because an array without elements may have any dimension.
const MAX_UNITS: usize = 1 << 16;

/// `mnist-fc` with the sizes of these arrays; `None` if a layer is missing, because the published sizes give a better message.
fn sized(arrays: &BTreeMap<String, Literal>, masked: bool) -> Option<MnistFc> {
    let naming = if masked { Naming::Masked } else { Naming::Plain };
    let columns = |i: usize| match arrays.get(&naming.kernel(&format!("layer{i}")))?.dims() {
        &[_, units] if units <= MAX_UNITS => Some(units),
        _ => None,
    };
    let mut units: Vec<usize> = (1..).map_while(columns).collect();
    let layer = |name: &String| name.strip_prefix("layer")?.split('/').next()?.parse().ok();
    if arrays.keys().filter_map(layer).any(|layer: usize| layer > units.len()) {
        return None;
    }
    Some(MnistFc {
        classes: units.pop().filter(|&classes| classes > 0)?,
        hidden: units,
        kept_pixels: arrays.get(INPUT_INDICES).map(|indices| indices.shape().elements()),
        ..MnistFc::new(masked)
    })
}

/// Checks that the indices of pixels are in range. A graph would clamp them.
fn check_pixels(path: &Path, model: &dyn Model, indices: Option<&Literal>) -> Result<()> {
    let pixels: usize = model.input_dims().iter().product();
    let taken: Vec<i32> = indices.and_then(Literal::to_vec).unwrap_or_default();
    match taken
        .iter()
        .find(|&&pixel| !usize::try_from(pixel).is_ok_and(|pixel| pixel < pixels))
    {
        None => Ok(()),
        Some(pixel) => Err(Error::Shape {
            what: format!("{}: '{INPUT_INDICES}'", path.display()),
            found: format!("pixel {pixel}"),
            expected: format!("pixels from 0 to {}", pixels - 1),
        }),
    }
}
