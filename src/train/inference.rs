//! Evaluation and prediction on a device.

use super::error::{Error, Result};
use super::eval::{EVAL_OUTPUTS, Inference, Part, evaluation, prediction};
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
    /// Mean cross entropy, without the L2 term and label smoothing.
    pub loss: f64,
    /// Mean cross entropy with smoothed labels, which is the original's for ImageNet; absent without smoothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothed_loss: Option<f64>,
}

/// A data set on a device, or shared among the devices of replicas, with the program that evaluates it.
pub struct Evaluator {
    program: Executable,
    inputs: Vec<String>,
    /// Each replica's inputs after its weights.
    data: Vec<Vec<Buffer>>,
    examples: usize,
    smoothed: bool,
}

impl Evaluator {
    /// Puts `data` on the device, or each replica's part on its own; it is evaluated `batch` examples at a time, over all
    /// replicas together.
    ///
    /// # Errors
    /// Images that the model does not take, or the device's.
    pub fn new(device: &Device, network: Inference, data: &Dataset, batch: usize) -> Result<Self> {
        let model = network.model;
        check_set(model, data)?;
        let specs = inference_specs(&model.declaration());
        let network = Inference {
            replicas: device.replicas,
            ..network
        };
        let upload = |replica| -> Result<Vec<Buffer>> {
            let to = |l: &Literal| Ok(device.client.to_device(l, replica)?);
            if device.replicas == 1 {
                return [&data.images, &data.labels].map(to).into_iter().collect();
            }
            let part = Part::of(data.len(), device.replicas, replica);
            let rows = |l: &Literal| rows(l, part).ok_or(Error::Output("part of the data set"));
            let inputs = [
                rows(&data.images)?,
                rows(&data.labels)?,
                Literal::scalar(part.seen as i32),
            ];
            inputs.iter().map(to).collect()
        };
        Ok(Evaluator {
            program: device.replicated(&evaluation(network, data.len(), batch)?, &[])?,
            inputs: specs.into_iter().map(|(name, _)| name).collect(),
            data: (0..device.replicas).map(upload).collect::<Result<_>>()?,
            examples: data.len(),
            smoothed: network.label_smoothing > 0.0,
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
        self.run_replicas(&[weights.to_vec()])
    }

    /// [`Evaluator::run`] on all replicas, with the weights on the device of each.
    ///
    /// # Errors
    /// The device's.
    pub fn run_replicas(&self, weights: &[Vec<&Buffer>]) -> Result<Scores> {
        let each = weights.iter().zip(&self.data);
        let args = each.map(|(weights, data)| weights.iter().copied().chain(data).map(Arg::Keep).collect());
        let outputs = self.program.execute_replicated(args.collect())?;
        let outputs = outputs.into_iter().next().unwrap_or_default();
        let mean = |i: usize| -> Result<f64> { Ok(scalar(&outputs, i, EVAL_OUTPUTS[i])? / self.examples as f64) };
        Ok(Scores {
            top1: mean(0)?,
            top5: mean(1)?,
            loss: mean(2)?,
            smoothed_loss: self.smoothed.then(|| mean(3)).transpose()?,
        })
    }
}

/// The rows of one replica.
fn rows(of: &Literal, part: Part) -> Option<Literal> {
    let mut shape = of.shape().clone();
    let row = shape.bytes() / shape.dims.first().copied().unwrap_or(1).max(1);
    *shape.dims.first_mut()? = part.rows;
    let bytes = of.bytes().get(row * part.start..row * (part.start + part.rows))?;
    Literal::from_bytes(shape, bytes.to_vec())
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

/// Refuses examples of another form, or of more classes, than `model` has.
pub(super) fn check_set(model: &dyn Model, data: &Dataset) -> Result<()> {
    check_images(model, "the data set", data.images.dims())?;
    match data.classes > model.classes() {
        true => Err(Error::Shape {
            what: "the data set".into(),
            found: format!("{} classes", data.classes),
            expected: format!("at most {} for {}", model.classes(), model.name()),
        }),
        false => Ok(()),
    }
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
    pub fn new(
        device: &'a Device,
        network: Inference,
        weights: &[Literal],
        batch: usize,
        dtype: DType,
    ) -> Result<Self> {
        let model = network.model;
        let to_device = |w: &Literal| device.client.to_device(w, 0);
        Ok(Predictor {
            device,
            program: device.program(&prediction(network, batch, dtype)?, &[])?,
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
pub fn predict(device: &Device, network: Inference, weights: &[Literal], images: &Literal) -> Result<Literal> {
    let model = network.model;
    let pixels: usize = model.input_dims().iter().product();
    let &[n, ref rest @ ..] = images.dims() else {
        return Err(wrong_input(model, images));
    };
    if rest.iter().product::<usize>() != pixels || !matches!(images.dtype(), DType::U8 | DType::F32) {
        return Err(wrong_input(model, images));
    }
    let batch = n.clamp(1, PREDICT_BATCH);
    Predictor::new(device, network, weights, batch, images.dtype())?.logits(images)
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
