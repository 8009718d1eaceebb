//! Evaluation and prediction on a device.

use super::error::{Error, Result};
use super::eval::{evaluation, prediction};
use super::state::inference_specs;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::device::Device;
use crate::pjrt::{Arg, Buffer, Executable};
use hlo::{DType, Literal, Shape};
use models::{INPUT_INDICES, MnistFc, Model, Naming};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Accuracies and loss over a data set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Share of examples whose label has the largest logit.
    pub top1: f64,
    /// Share of examples whose label is among the five largest logits.
    pub top5: f64,
    /// Mean cross entropy, without the L2 term.
    pub loss: f64,
}

/// A data set on a device, with the program that evaluates it.
pub struct Evaluator {
    program: Executable,
    inputs: Vec<String>,
    images: Buffer,
    labels: Buffer,
    examples: usize,
}

impl Evaluator {
    /// Puts `data` on the device; it is evaluated `batch` examples at a time.
    ///
    /// # Errors
    /// Images that the model does not take, or the device's.
    pub fn new(device: &Device, model: &dyn Model, data: &Dataset, batch: usize) -> Result<Self> {
        check_images(model, "the data set", data.images.dims())?;
        if data.classes > model.classes() {
            return Err(Error::Shape {
                what: "the data set".into(),
                found: format!("{} classes", data.classes),
                expected: format!("at most {} for {}", model.classes(), model.name()),
            });
        }
        let specs = inference_specs(&model.declaration());
        Ok(Evaluator {
            program: device.program(&evaluation(model, data.len(), batch)?, &[])?,
            inputs: specs.into_iter().map(|(name, _)| name).collect(),
            images: device.client.to_device(&data.images, 0)?,
            labels: device.client.to_device(&data.labels, 0)?,
            examples: data.len(),
        })
    }

    /// Names of the arrays that [`Evaluator::run`] takes, in order.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Evaluates weights, masks and whatever else [`inference_specs`] lists, in its order.
    ///
    /// # Errors
    /// The device's.
    pub fn run(&self, weights: &[&Buffer]) -> Result<Scores> {
        let data = [&self.images, &self.labels];
        let args = weights.iter().copied().chain(data).map(Arg::Keep).collect();
        let outputs = self.program.execute(args)?;
        let mean = |i: usize, what| -> Result<f64> { Ok(scalar(&outputs, i, what)? / self.examples as f64) };
        Ok(Scores {
            top1: mean(0, "top-1 count")?,
            top5: mean(1, "top-5 count")?,
            loss: mean(2, "loss")?,
        })
    }
}

/// Scalar output `i` as f64.
pub(super) fn scalar(outputs: &[Buffer], i: usize, what: &'static str) -> Result<f64> {
    let value = outputs.get(i).ok_or(Error::Output(what))?.to_literal()?;
    value.to_f64_vec().first().copied().ok_or(Error::Output(what))
}

fn check_images(model: &dyn Model, what: &str, dims: &[usize]) -> Result<()> {
    if dims.get(1..) == Some(&model.input_dims()[..]) {
        return Ok(());
    }
    Err(Error::Shape {
        what: what.into(),
        found: format!("images of dimensions {:?}", dims.get(1..).unwrap_or_default()),
        expected: format!("{:?} for {}", model.input_dims(), model.name()),
    })
}

/// Examples per launch of a prediction.
const PREDICT_BATCH: usize = 256;

/// A network on a device that takes batches of one size.
pub struct Predictor<'a> {
    device: &'a Device,
    program: Executable,
    weights: Vec<Buffer>,
    /// Shape of one batch of images.
    batch: Shape,
    classes: usize,
}

impl<'a> Predictor<'a> {
    /// For `batch` (at least 1) images at a time of `dtype`: `u8` pixels, or `f32` as the model takes them. The weights are
    /// in the order of [`inference_specs`].
    ///
    /// # Errors
    /// The device's.
    pub fn new(device: &'a Device, model: &dyn Model, weights: &[Literal], batch: usize, dtype: DType) -> Result<Self> {
        let to_device = |w: &Literal| device.client.to_device(w, 0);
        Ok(Predictor {
            device,
            program: device.program(&prediction(model, batch, dtype)?, &[])?,
            weights: weights
                .iter()
                .map(to_device)
                .collect::<std::result::Result<Vec<_>, _>>()?,
            batch: Shape::new(dtype, [vec![batch], model.input_dims()].concat()),
            classes: model.classes(),
        })
    }

    /// Logits `f32[n, classes]` of `n` images, row-major in `images`.
    ///
    /// # Errors
    /// The device's.
    pub fn logits(&self, images: &Literal) -> Result<Literal> {
        let n = images.dims().first().copied().unwrap_or(0);
        let mut logits: Vec<f32> = Vec::with_capacity(n * self.classes);
        for images in images.bytes().chunks(self.batch.bytes()) {
            logits.extend(self.run(&self.upload(images)?)?);
        }
        logits.truncate(n * self.classes);
        Ok(Literal::new(&[n, self.classes], &logits))
    }

    /// The first batch of images, row-major, on the device; where there are fewer, zeros fill it up.
    ///
    /// # Errors
    /// The device's.
    pub fn upload(&self, images: &[u8]) -> Result<Buffer> {
        let n = self.batch.bytes();
        let mut bytes = images.get(..n).unwrap_or(images).to_vec();
        bytes.resize(n, 0);
        let images = Literal::from_bytes(self.batch.clone(), bytes).ok_or(Error::Output("batch"))?;
        Ok(self.device.client.to_device(&images, 0)?)
    }

    /// Logits of one batch, row-major.
    ///
    /// # Errors
    /// The device's.
    pub fn run(&self, images: &Buffer) -> Result<Vec<f32>> {
        let args = self.weights.iter().chain([images]).map(Arg::Keep).collect();
        let outputs = self.program.execute(args)?;
        let logits = outputs.first().ok_or(Error::Output("logits"))?.to_literal()?;
        logits.to_vec().ok_or(Error::Output("f32 logits"))
    }
}

/// Logits `f32[n, classes]` of `n` images: `u8` pixels, or `f32` as the model takes them; their dimensions after the
/// first may be grouped in any way (`[n, 28, 28]` for `[n, 784]`).
///
/// # Errors
/// Images that the model does not take, or the device's.
pub fn predict(device: &Device, model: &dyn Model, weights: &[Literal], images: &Literal) -> Result<Literal> {
    let pixels: usize = model.input_dims().iter().product();
    let &[n, ref rest @ ..] = images.dims() else {
        return Err(wrong_input(model, images));
    };
    if rest.iter().product::<usize>() != pixels || !matches!(images.dtype(), DType::U8 | DType::F32) {
        return Err(wrong_input(model, images));
    }
    let batch = n.clamp(1, PREDICT_BATCH);
    Predictor::new(device, model, weights, batch, images.dtype())?.logits(images)
}

fn wrong_input(model: &dyn Model, images: &Literal) -> Error {
    Error::Shape {
        what: "the input".into(),
        found: images.shape().to_string(),
        expected: format!(
            "u8 or f32 images with {:?} elements each for {}",
            model.input_dims(),
            model.name()
        ),
    }
}

/// The model that a checkpoint's arrays fit, with the arrays that inference needs, in order.
///
/// # Errors
/// A checkpoint that fits no model: the error lists what is wrong with the one it names, or with the first.
pub fn recognise(mut checkpoint: Checkpoint) -> Result<(Box<dyn Model>, Vec<Literal>)> {
    let masked = checkpoint.tensors.keys().any(|name| name.ends_with("/mask"));
    let told = checkpoint.metadata.as_ref().map(|m| m.model.clone());
    let named = told.as_deref().and_then(|name| models::find(name, masked));
    // A network's name may be spelt in several ways: as found is as expected.
    let name = told.filter(|_| named.is_some());
    let published = named.or_else(|| models::find(models::NAMES[0], masked));
    let published = published.ok_or(Error::Output("model"))?;
    let model = match sized(&checkpoint.tensors, masked) {
        Some(sized) if sized.name() == published.name() => Box::new(sized),
        _ => published,
    };
    let specs = inference_specs(&model.declaration());
    let mut arrays = checkpoint.take(name.as_deref().unwrap_or(model.name()), &specs)?;
    check_pixels(&checkpoint.path, &*model, arrays.get(INPUT_INDICES))?;
    let weights = specs.iter().filter_map(|(name, _)| arrays.remove(name)).collect();
    Ok((model, weights))
}

/// Bound on the units of a layer: an array without elements may claim any number.
const MAX_UNITS: usize = 1 << 16;

/// `mnist-fc` in the sizes of these arrays; `None` where a layer is missing, for the published sizes make a better message.
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

/// A graph would take the nearest pixel for one that there is not.
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
