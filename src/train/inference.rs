//! Evaluation and prediction on a device.

use super::error::{Error, Result};
use super::eval::{evaluation, prediction};
use super::state::inference_specs;
use crate::data::Dataset;
use crate::device::Device;
use crate::pjrt::{Arg, Buffer, Executable};
use hlo::{DType, Literal, Shape};
use models::Model;
use serde::Serialize;

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
        Ok(Evaluator {
            program: device.program(&evaluation(model, data.len(), batch)?, &[])?,
            images: device.client.to_device(&data.images, 0)?,
            labels: device.client.to_device(&data.labels, 0)?,
            examples: data.len(),
        })
    }

    /// Evaluates weights and masks in the order of [`inference_specs`].
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
    let program = device.program(&prediction(model, batch, images.dtype())?, &[])?;
    let to_device = |w: &Literal| device.client.to_device(w, 0);
    let weights = weights
        .iter()
        .map(to_device)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let example_bytes = pixels * images.dtype().size();
    let shape = Shape::new(images.dtype(), [vec![batch], model.input_dims()].concat());
    let mut logits: Vec<f32> = Vec::with_capacity(n * model.classes());
    for window in images.bytes().chunks(batch * example_bytes) {
        let mut bytes = window.to_vec();
        bytes.resize(batch * example_bytes, 0); // the last batch is filled up; its surplus rows are cut below
        let window = Literal::from_bytes(shape.clone(), bytes).ok_or(Error::Output("batch"))?;
        let window = device.client.to_device(&window, 0)?;
        let args = weights.iter().chain([&window]).map(Arg::Keep).collect();
        let outputs = program.execute(args)?;
        let batch_logits = outputs.first().ok_or(Error::Output("logits"))?.to_literal()?;
        logits.extend(batch_logits.to_vec::<f32>().ok_or(Error::Output("f32 logits"))?);
    }
    logits.truncate(n * model.classes());
    Ok(Literal::new(&[n, model.classes()], &logits))
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
pub fn recognise(mut checkpoint: crate::checkpoint::Checkpoint) -> Result<(Box<dyn Model>, Vec<Literal>)> {
    let masked = checkpoint.tensors.keys().any(|k| k.ends_with("/mask"));
    let named = checkpoint
        .metadata
        .as_ref()
        .and_then(|m| models::find(&m.model, masked));
    let model = named
        .or_else(|| models::find(models::NAMES[0], masked))
        .ok_or(Error::Output("model"))?;
    let declared = model.declaration();
    let specs = inference_specs(&declared.params, &declared.statistics, &declared.fixed);
    let mut arrays = checkpoint.take(model.name(), &specs)?;
    let weights = specs.iter().filter_map(|(name, _)| arrays.remove(name)).collect();
    Ok((model, weights))
}
