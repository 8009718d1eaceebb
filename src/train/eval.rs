//! Evaluation and prediction as graphs.

use super::metrics::{metrics, sums};
use super::sparse::{kernels, mask_keys};
use super::state::{State, inference_specs};
use super::step::effective;
use crate::config::{Plan, SparseLayers};
use crate::data::pixels::Preprocessing;
use hlo::{Computation, DType, Graph, MatmulPrecision, Reducer, Shape, Tensor};
use models::layers::sparse::Wanted;
use models::{Declaration, Mode, Model, Net, Precision};

/// A network with its settings for inference.
#[derive(Clone, Copy)]
pub struct Inference<'a> {
    /// The network.
    pub model: &'a dyn Model,
    /// Preprocessing of pixels.
    pub preprocessing: Preprocessing,
    /// Element type of the images of an evaluation that keeps its examples on the device.
    pub pixels: DType,
    /// Precision of activations.
    pub precision: Precision,
    /// Precision of matrix products.
    pub matmul_precision: MatmulPrecision,
    /// Label smoothing of the additional loss; 0 for none.
    pub label_smoothing: f64,
    /// Replicas that share the examples of an evaluation.
    pub replicas: usize,
    /// Layers that are computed from their connections alone.
    pub sparse: &'a SparseLayers,
}

impl<'a> Inference<'a> {
    /// The settings of a run.
    pub fn new(plan: &'a Plan, model: &'a dyn Model) -> Self {
        Inference {
            model,
            preprocessing: plan.preprocessing,
            pixels: plan.pixels(),
            precision: plan.run.train.precision,
            matmul_precision: plan.run.train.matmul_precision,
            label_smoothing: plan.run.train.label_smoothing,
            replicas: plan.replicas(),
            sparse: &plan.sparse,
        }
    }

    fn precise(&self, graph: Computation) -> Computation {
        graph.with_matmul_precision(self.matmul_precision)
    }

    /// Sums over all replicas.
    fn over_replicas<'g>(&self, own: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let sum = |own: &Tensor<'g>| match self.replicas {
            1 => *own,
            _ => own.all_reduce(Reducer::Add),
        };
        own.iter().map(sum).collect()
    }
}

/// The part of one replica in a data set: rows `start..start + rows`, the first `seen` of which are another replica's.
/// All parts have the same number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of rows at the front that are not counted.
    pub seen: usize,
}

impl Part {
    /// The part of `replica` in `examples` (at least 1) examples shared by `replicas`.
    pub fn of(examples: usize, replicas: usize, replica: usize) -> Self {
        let rows = examples.div_ceil(replicas);
        let wanted = rows * replica;
        let start = wanted.min(examples - rows);
        Part {
            start,
            rows,
            seen: (wanted - start).min(rows),
        }
    }
}

/// Counts over a data set of `examples` on the device, in one launch, with `batch` examples at a time over all replicas.
///
/// Inputs: those of [`inference_specs`], `images` `[examples, ..]` of type [`Inference::pixels`], `labels` `s32[examples]`; with several replicas the rows
/// of this one's [`Part`] and how many of them are `seen` (s32). Each replica returns the counts of all.
///
/// # Errors
/// None for the models of this crate.
pub fn evaluation(network: Inference, examples: usize, batch: usize) -> hlo::Result<Computation> {
    let model = network.model;
    let needs = model.declaration();
    let specs = inference_specs(&needs);
    let several = network.replicas > 1;
    let examples = examples.div_ceil(network.replicas);
    let batch = batch.div_ceil(network.replicas).min(examples);
    let data = [
        (
            "images".to_string(),
            Shape::new(network.pixels, [vec![examples], model.input_dims()].concat()),
        ),
        ("labels".to_string(), Shape::new(DType::S32, [examples])),
    ];
    let seen = several.then(|| ("seen".to_string(), Shape::scalar(DType::S32)));
    let parameters: Vec<_> = specs.iter().cloned().chain(data).chain(seen).collect();
    let (n, batches) = (specs.len(), examples.div_ceil(batch));
    Graph::function("eval", &parameters, |g, inputs| {
        let start: Vec<_> = metrics(&network).iter().map(|metric| (metric.zero)(g)).collect();
        let counted = start.len();
        let mask_keys = mask_keys(&needs.params, network.sparse, &State::new(&specs, inputs));
        let (start, sparse) = ([&start, &mask_keys[..]].concat(), mask_keys.len());
        let result = g.repeat(g.scalar(batches as i32), &[&start, inputs].concat(), |g, i, s| {
            let (sums, rest) = s.split_at(counted);
            let (mask_keys, inputs) = rest.split_at(sparse);
            let state = State::new(&specs, inputs);
            let logits = |images| logits(g, network, &needs, &state, mask_keys, images);
            let counts = count_batch(g, network, logits, i, batch, &inputs[n..]);
            let sums: Vec<_> = sums.iter().zip(counts).map(|(&sum, count)| sum + count).collect();
            [&sums, rest].concat()
        });
        network.over_replicas(&result[..counted])
    })
    .map(|graph| network.precise(graph))
}

/// Counts over one batch that is sent to the device.
///
/// Inputs: those of [`inference_specs`], `images` `f32[batch, ..]` from 0 to 255, `labels` `s32[batch]`, `present`
/// `pred[batch]`, which is false for padding. With several replicas each has a batch of its own. Outputs: the sums
/// of [`metrics`] over all replicas.
///
/// # Errors
/// None for the models of this crate.
pub fn batch_evaluation(network: Inference, batch: usize) -> hlo::Result<Computation> {
    let needs = network.model.declaration();
    let specs = inference_specs(&needs);
    let images = Shape::new(DType::F32, [vec![batch], network.model.input_dims()].concat());
    let data = [
        ("images", images),
        ("labels", Shape::new(DType::S32, [batch])),
        ("present", Shape::new(DType::Pred, [batch])),
    ];
    let data = data.map(|(name, shape)| (name.to_string(), shape));
    let parameters: Vec<_> = specs.iter().cloned().chain(data).collect();
    Graph::function("eval_batch", &parameters, |g, inputs| {
        let (state, data) = inputs.split_at(specs.len());
        let images = network.preprocessing.apply(data[0]);
        let state = State::new(&specs, state);
        let mask_keys = mask_keys(&needs.params, network.sparse, &state);
        let logits = logits(g, network, &needs, &state, &mask_keys, images);
        network.over_replicas(&sums(network, logits, data[1], data[2]))
    })
    .map(|graph| network.precise(graph))
}

/// Counts of batch `i`. If the last batch is short, its window starts earlier, and rows of the previous batch are not counted.
fn count_batch<'g>(
    g: &'g Graph,
    network: Inference,
    logits: impl FnOnce(Tensor<'g>) -> Tensor<'g>,
    i: Tensor<'g>,
    batch: usize,
    data: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let (images, labels) = (data[0], data[1]);
    let examples = labels.shape().elements();
    let wanted = i * g.scalar(batch as i32);
    let first = wanted.min((examples - batch) as f64);
    let mut starts = vec![g.scalar(0i32); images.shape().rank()];
    starts[0] = first;
    let mut window = images.dims();
    window[0] = batch;
    let images = network.preprocessing.apply(images.dynamic_slice(&starts, &window));
    let logits = logits(images);
    let labels = labels.dynamic_slice(&[first], &[batch]);
    let rows = g.iota(Shape::new(DType::S32, [batch]), 0) + first;
    let unseen = rows.ge(wanted);
    let unseen = data.get(2).map_or(unseen, |&seen| unseen & rows.ge(seen));
    sums(network, logits, labels, unseen)
}

/// The sums of [`metrics`] over one batch, from its logits.
///
/// Inputs: `logits` `f32[batch, classes]`, `labels` `s32[batch]`, `present` `pred[batch]`, as in [`batch_evaluation`].
///
/// # Errors
/// None for the models of this crate.
pub fn counting(network: Inference, batch: usize) -> hlo::Result<Computation> {
    let logits = Shape::new(DType::F32, [batch, network.model.classes()]);
    let parameters = [
        ("logits", logits),
        ("labels", Shape::new(DType::S32, [batch])),
        ("present", Shape::new(DType::Pred, [batch])),
    ];
    let parameters = parameters.map(|(name, shape)| (name.to_string(), shape));
    Graph::function("counts", &parameters, |_, inputs| {
        sums(network, inputs[0], inputs[1], inputs[2])
    })
}

fn logits<'g>(
    g: &'g Graph,
    network: Inference,
    needs: &Declaration,
    state: &State<'g>,
    mask_keys: &[Tensor<'g>],
    images: Tensor<'g>,
) -> Tensor<'g> {
    let weights = needs.params.iter().map(|p| (p.name.clone(), effective(p, state)));
    let statistics = needs.statistics.iter().map(|s| &s.name);
    let fixed = needs.fixed.iter().map(|(name, _)| name);
    let as_they_are = statistics.chain(fixed).map(|name| (name.clone(), state.get(name)));
    let sparse = kernels(&needs.params, network.sparse, state, mask_keys, |_| Wanted::Never);
    let net = Net::new(g, Mode::Eval, weights.chain(as_they_are)).with_sparse(sparse);
    let _scope = g.scope("forward");
    network.model.apply(&net.with_precision(network.precision), images)
}

/// Logits `f32[batch, classes]` of one batch.
///
/// Inputs: those of [`inference_specs`], and `images` of `dtype`: `u8` pixels, or preprocessed `f32`. Compile it with
/// [`crate::device::Device::prepared`], which masks kernels once: masking takes a third of the time of ResNet-50's pass over one
/// picture.
///
/// # Errors
/// None for the models of this crate.
pub fn prediction(network: Inference, batch: usize, dtype: DType) -> hlo::Result<Computation> {
    let model = network.model;
    let needs = model.declaration();
    let specs = inference_specs(&needs);
    let images = Shape::new(dtype, [vec![batch], model.input_dims()].concat());
    let parameters: Vec<_> = specs.iter().cloned().chain([("images".to_string(), images)]).collect();
    Graph::function("predict", &parameters, |g, inputs| {
        let state = State::new(&specs, inputs);
        let images = inputs[specs.len()];
        let images = if dtype == DType::U8 {
            network.preprocessing.apply(images)
        } else {
            images
        };
        let mask_keys = mask_keys(&needs.params, network.sparse, &state);
        vec![logits(g, network, &needs, &state, &mask_keys, images)]
    })
    .map(|graph| network.precise(graph))
}
