//! Evaluation and prediction on a device.

use super::error::{Error, Result};
use super::eval::{Inference, Part, batch_evaluation, evaluation, prediction};
use super::feed::share;
use super::metrics::{LOSS, Metric, SMOOTHED_LOSS, Sums, TOP1, TOP5, metrics};
use super::programs::digest;
use super::state::inference_specs;
use crate::data::Dataset;
use crate::data::pipeline::{Batch, Options, Order, Source};
use crate::data::records::Records;
use crate::data::sets::Examples;
use crate::device::{Device, Prepared};
use crate::engine::{self, Arg, Buffer, Program};
use crate::report::note;
use hlo::{DType, Literal, Shape};
use models::Model;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Accuracies and loss over a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Number of examples.
    pub examples: usize,
    /// Share of examples whose label has the largest logit; absent for an exported model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Share of examples whose label is among the five largest logits; absent for an exported model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// Other measures of an exported model, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// Mean cross entropy, without the L2 term and label smoothing.
    pub loss: f64,
    /// Mean cross entropy with smoothed labels, as the original reports for ImageNet; absent without smoothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothed_loss: Option<f64>,
    /// Number of skipped corrupt examples and damaged files; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
}

impl Scores {
    /// From sums over `examples`.
    pub(crate) fn of(sums: &Sums, examples: usize, skipped: usize) -> Self {
        let mean = |metric| sums.mean(metric, examples);
        Scores {
            top1: mean(&TOP1),
            top5: mean(&TOP5),
            loss: mean(&LOSS).unwrap_or(f64::NAN),
            smoothed_loss: mean(&SMOOTHED_LOSS),
            skipped: Some(skipped).filter(|&n| n > 0),
            ..Scores::none(examples)
        }
    }

    /// No score of `examples` examples.
    pub(super) fn none(examples: usize) -> Self {
        Scores {
            examples,
            top1: None,
            top5: None,
            metrics: BTreeMap::new(),
            loss: f64::NAN,
            smoothed_loss: None,
            skipped: None,
        }
    }

    /// The scores for people: name and text.
    pub fn shown(&self) -> Vec<(String, String)> {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let tops = [("top-1", self.top1), ("top-5", self.top5)];
        let tops = tops
            .into_iter()
            .filter_map(|(name, share)| Some((name.to_owned(), percent(share?))));
        let metrics = self
            .metrics
            .iter()
            .map(|(name, value)| (name.clone(), format!("{value:.4}")));
        tops.chain([("loss".to_owned(), format!("{:.4}", self.loss))])
            .chain(metrics)
            .collect()
    }
}

/// Evaluates a data set that the replicas of a run share.
pub struct Evaluator {
    program: Box<dyn Program>,
    digest: String,
    inputs: Vec<String>,
    data: TestData,
    metrics: Vec<&'static Metric>,
}

/// Storage of the examples.
enum TestData {
    /// On the devices: the inputs of each local replica after its weights.
    Resident { inputs: Vec<Vec<Buffer>>, examples: usize },
    /// In files: every evaluation reads and sends them batch by batch.
    Stream(Stream),
}

struct Stream {
    records: Arc<Records>,
    options: Options,
    device: Device,
    /// Rows of a batch that each replica evaluates.
    rows: usize,
}

impl Evaluator {
    /// Evaluates `examples`, `batch` at a time over all replicas. Examples in memory are uploaded; `stream` configures reading of
    /// others.
    ///
    /// # Errors
    /// Images that do not fit the model, and errors of the device.
    pub fn new(
        device: &Device,
        network: Inference,
        examples: &Examples,
        batch: usize,
        stream: Options,
    ) -> Result<Self> {
        let model = network.model;
        check_set(model, examples)?;
        let replicas = device.replicas;
        let network = Inference { replicas, ..network };
        let (graph, data) = match examples {
            Examples::Whole(set) => {
                let inputs = device.each(|replica, at| resident(device, set, replica, at))?;
                let examples = set.len();
                let graph = evaluation(network, examples, batch)?;
                (graph, TestData::Resident { inputs, examples })
            }
            Examples::Arrays(_) => return Err(crate::data::Error::OnlyExported.into()),
            Examples::Records(records) => {
                let rows = batch.min(examples.len()).div_ceil(replicas);
                let stream = Stream {
                    records: Arc::clone(records),
                    options: stream,
                    device: device.clone(),
                    rows,
                };
                (batch_evaluation(network, rows)?, TestData::Stream(stream))
            }
        };
        let specs = inference_specs(&model.declaration());
        Ok(Evaluator {
            program: device.replicated(&graph, &[])?,
            digest: digest(&graph, &[]),
            inputs: specs.into_iter().map(|(name, _)| name).collect(),
            data,
            metrics: metrics(&network),
        })
    }

    /// Digest of its program as a graph.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Memory that the program needs on a device ([`Program::memory`]).
    ///
    /// # Errors
    /// If the engine fails to answer.
    pub fn memory(&self) -> Result<Option<pjrt::MemoryStats>> {
        Ok(self.program.memory()?)
    }

    /// Names of the inputs of [`Evaluator::run`], in order.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Evaluates a network with the arrays of [`inference_specs`], in its order.
    ///
    /// # Errors
    /// Errors of the device, and examples that cannot be read.
    pub fn run(&self, weights: &[&Buffer]) -> Result<Scores> {
        self.run_replicas(&[weights.to_vec()])
    }

    /// [`Evaluator::run`] on all replicas, with weights on each device.
    ///
    /// # Errors
    /// As [`Evaluator::run`].
    pub fn run_replicas(&self, weights: &[Vec<&Buffer>]) -> Result<Scores> {
        let (sums, examples, skipped) = match &self.data {
            TestData::Resident { inputs, examples } => {
                let outputs = self.launch(weights, inputs)?;
                let mut sums = Sums::default();
                self.add(&outputs, &mut sums)?;
                (sums, *examples, 0)
            }
            TestData::Stream(stream) => self.run_stream(weights, stream)?,
        };
        Ok(Scores::of(&sums, examples, skipped))
    }

    /// Sums over all batches, and the numbers of counted and skipped examples. Sends a batch while the device evaluates the
    /// previous one. All processes launch equally often, even without a share of the last batch.
    fn run_stream(&self, weights: &[Vec<&Buffer>], stream: &Stream) -> Result<(Sums, usize, usize)> {
        let records = &stream.records;
        let batch = stream.rows * stream.device.replicas;
        let order = Order::in_turn(records.len(), batch, share(&stream.device));
        let mut pipeline = Arc::clone(records).pipeline(order, stream.options, 0)?;
        let nothing =
            || Batch::empty(&records.image(), stream.rows * stream.device.own.len()).ok_or(Error::Output("batch"));
        let (mut sums, mut examples) = (Sums::default(), 0);
        let mut pending: Option<Vec<Buffer>> = None;
        for _ in 0..records.len().div_ceil(batch) {
            let batch = pipeline.take()?.map_or_else(nothing, Ok)?;
            examples += batch.present.iter().filter(|&&p| p).count();
            let sent = stream.send(batch)?;
            if let Some(outputs) = pending.take() {
                self.add(&outputs, &mut sums)?;
            }
            pending = Some(self.launch(weights, &sent)?);
        }
        let skipped = pipeline.skipped();
        skipped.values().for_each(|fault| note!("left out: {fault}"));
        pending.map_or(Ok(()), |outputs| self.add(&outputs, &mut sums))?;
        let counts = stream.device.sums(&[examples, skipped.len()])?;
        Ok((sums, counts[0], records.damaged() + counts[1]))
    }

    /// The outputs of the first replica; all replicas have the same.
    fn launch(&self, weights: &[Vec<&Buffer>], data: &[Vec<Buffer>]) -> Result<Vec<Buffer>> {
        let each = weights.iter().zip(data);
        let args = each.map(|(weights, data)| weights.iter().copied().chain(data).map(Arg::Keep).collect());
        let outputs = self.program.execute_replicated(args.collect())?;
        Ok(outputs.into_iter().next().unwrap_or_default())
    }

    /// Adds the outputs of an evaluation.
    fn add(&self, outputs: &[Buffer], sums: &mut Sums) -> Result<()> {
        for (i, metric) in self.metrics.iter().enumerate() {
            sums.add(metric, scalar(outputs, i, metric.name)?);
        }
        Ok(())
    }
}

impl Stream {
    /// Sends each local replica the images, labels and presence of its rows.
    fn send(&self, batch: Batch) -> Result<Vec<Vec<Buffer>>> {
        let n = batch.labels.len();
        let whole = [
            batch.images,
            Literal::new(&[n], &batch.labels),
            Literal::from_bools(&[n], &batch.present),
        ];
        let here = self.device.own.len();
        if here == 1 {
            let sent = whole.into_iter().map(|array| self.device.send(array, 0));
            return Ok(vec![sent.collect::<engine::Result<_>>()?]);
        }
        let send = |at: usize| {
            let start = self.rows * at;
            let own = |array| rows(array, start..start + self.rows).ok_or(Error::Output("part of a batch"));
            let send = |array| Ok(self.device.send(own(array)?, at)?);
            whole.iter().map(send).collect()
        };
        (0..here).map(send).collect()
    }
}

/// Uploads a replica's part of a data set to its device, `at`.
fn resident(device: &Device, set: &Dataset, replica: usize, at: usize) -> Result<Vec<Buffer>> {
    let to = |l: &Literal| Ok(device.upload(l, at)?);
    if device.replicas == 1 {
        return [&set.images, &set.labels].map(to).into_iter().collect();
    }
    let part = Part::of(set.len(), device.replicas, replica);
    let rows = |l: &Literal| rows(l, part.start..part.start + part.rows).ok_or(Error::Output("part of the data set"));
    let inputs = [
        rows(&set.images)?,
        rows(&set.labels)?,
        Literal::scalar(part.seen as i32),
    ];
    inputs.iter().map(to).collect()
}

/// A range of rows of an array.
pub(crate) fn rows(of: &Literal, range: Range<usize>) -> Option<Literal> {
    let mut shape = of.shape().clone();
    let row = shape.bytes() / shape.dims.first().copied().unwrap_or(1).max(1);
    *shape.dims.first_mut()? = range.len();
    let bytes = of.bytes().get(row * range.start..row * range.end)?;
    Literal::from_bytes(shape, bytes.to_vec())
}

/// Scalar output `i` as f64.
pub(super) fn scalar(outputs: &[Buffer], i: usize, what: &'static str) -> Result<f64> {
    let value = outputs.get(i).ok_or(Error::Output(what))?.to_literal()?;
    value.to_f64_vec().first().copied().ok_or(Error::Output(what))
}

fn check_images(model: &dyn Model, what: &str, dims: &[usize]) -> Result<()> {
    if dims == model.input_dims() {
        return Ok(());
    }
    Err(Error::Shape {
        what: what.into(),
        found: format!("images of dimensions {dims:?}"),
        expected: format!("{:?} for {}", model.input_dims(), model.name()),
    })
}

/// Checks that the examples have the shape and the number of classes of the model.
pub(crate) fn check_set(model: &dyn Model, data: &Examples) -> Result<()> {
    check_images(model, "the data set", &data.image().dims)?;
    match data.classes() == model.classes() {
        true => Ok(()),
        false => Err(Error::Classes {
            network: model.name().into(),
            of_network: model.classes(),
            of_data: data.classes(),
        }),
    }
}

/// Maximum number of examples per launch of a prediction.
const PREDICT_BATCH: usize = 256;

/// A network on a device, compiled for a batch size.
pub struct Predictor<'a> {
    device: &'a Device,
    program: Prepared,
    /// Shape of one batch of images.
    batch: Shape,
    classes: usize,
}

impl<'a> Predictor<'a> {
    /// Compiles for `batch` (at least 1) images of `dtype`: `u8` pixels, or preprocessed `f32`. The weights are in the order of
    /// [`inference_specs`].
    ///
    /// # Errors
    /// Errors of the device.
    pub fn new(
        device: &'a Device,
        network: Inference,
        weights: &[Literal],
        batch: usize,
        dtype: DType,
    ) -> Result<Self> {
        let model = network.model;
        Ok(Predictor {
            device,
            program: device.prepared(&prediction(network, batch, dtype)?, weights)?,
            batch: Shape::new(dtype, [vec![batch], model.input_dims()].concat()),
            classes: model.classes(),
        })
    }

    /// Logits `f32[n, classes]` of `n` images, row-major in `images`.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn logits(&self, images: &Literal) -> Result<Literal> {
        let n = images.dims().first().copied().unwrap_or(0);
        let mut logits: Vec<f32> = Vec::with_capacity(n * self.classes);
        for images in images.bytes().chunks(self.batch.bytes()) {
            logits.extend(self.run(&self.upload(images)?)?);
        }
        logits.truncate(n * self.classes);
        Ok(Literal::new(&[n, self.classes], &logits))
    }

    /// Uploads the first batch of images, row-major, padded with zeros.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn upload(&self, images: &[u8]) -> Result<Buffer> {
        let n = self.batch.bytes();
        let mut bytes = images.get(..n).unwrap_or(images).to_vec();
        bytes.resize(n, 0);
        let images = Literal::from_bytes(self.batch.clone(), bytes).ok_or(Error::Output("batch"))?;
        Ok(self.device.upload(&images, 0)?)
    }

    /// Logits of one batch, row-major.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn run(&self, images: &Buffer) -> Result<Vec<f32>> {
        let outputs = self.program.execute(&[images])?;
        let logits = outputs.first().ok_or(Error::Output("logits"))?.to_literal()?;
        logits.to_vec().ok_or(Error::Output("f32 logits"))
    }
}

/// Logits `f32[n, classes]` of `n` images: `u8` pixels, or preprocessed `f32`. Dimensions after the first may be grouped in any
/// way (`[n, 28, 28]` for `[n, 784]`).
///
/// # Errors
/// Images that do not fit the model, and errors of the device.
pub fn predict(device: &Device, network: Inference, weights: &[Literal], images: &Literal) -> Result<Literal> {
    let model = network.model;
    let n = check_input(model.name(), &model.input_dims(), images)?;
    let batch = n.clamp(1, PREDICT_BATCH);
    Predictor::new(device, network, weights, batch, images.dtype())?.logits(images)
}

/// Checks images against the input dimensions of network `name` and returns their number.
pub(crate) fn check_input(name: &str, dims: &[usize], images: &Literal) -> Result<usize> {
    let elements: usize = dims.iter().product();
    match images.dims() {
        &[n, ref rest @ ..]
            if rest.iter().product::<usize>() == elements && matches!(images.dtype(), DType::U8 | DType::F32) =>
        {
            Ok(n)
        }
        _ => Err(wrong_input(name, dims, images)),
    }
}

pub(crate) fn wrong_input(name: &str, dims: &[usize], images: &Literal) -> Error {
    Error::Shape {
        what: "the input".into(),
        found: images.shape().to_string(),
        expected: format!("u8 or f32 images with {dims:?} elements each for {name}"),
    }
}
