//! Evaluation and prediction as graphs.

use super::state::{State, inference_specs};
use super::step::{effective, to_model_input};
use hlo::{Computation, DType, Graph, Shape, Tensor};
use models::{Declaration, Mode, Model, Net, layers};

/// Names of the outputs of [`evaluation`]: correct predictions (s32), labels among the five largest logits (s32), sum of
/// cross entropies (f32).
pub const EVAL_OUTPUTS: [&str; 3] = ["top1", "top5", "cross_entropy_sum"];

/// Counts over a whole data set of `examples`, `batch` at a time, in one launch.
///
/// Inputs: those of [`inference_specs`], `images` `u8[examples, ..]`, `labels` `s32[examples]`.
///
/// # Errors
/// None for the models of this crate.
pub fn evaluation(model: &dyn Model, examples: usize, batch: usize) -> hlo::Result<Computation> {
    let needs = model.declaration();
    let specs = inference_specs(&needs);
    let batch = batch.min(examples);
    let data = [
        (
            "images".to_string(),
            Shape::new(DType::U8, [vec![examples], model.input_dims()].concat()),
        ),
        ("labels".to_string(), Shape::new(DType::S32, [examples])),
    ];
    let parameters: Vec<_> = specs.iter().cloned().chain(data).collect();
    let (n, batches) = (specs.len(), examples.div_ceil(batch));
    Graph::function("eval", &parameters, |g, inputs| {
        let start = [g.scalar(0i32), g.scalar(0i32), g.scalar(0f32)];
        let result = g.repeat(g.scalar(batches as i32), &[&start, inputs].concat(), |g, i, s| {
            let state = State::new(&specs, &s[3..]);
            let counts = count_batch(g, model, &needs, &state, i, batch, &s[3 + n..]);
            let sums: Vec<_> = s.iter().zip(counts).map(|(&sum, count)| sum + count).collect();
            [&sums, &s[3..]].concat()
        });
        result[..3].to_vec()
    })
}

/// Counts of batch `i`. The last batch may be short: its window then starts earlier, and rows seen before count nothing.
fn count_batch<'g>(
    g: &'g Graph,
    model: &dyn Model,
    needs: &Declaration,
    state: &State<'g>,
    i: Tensor<'g>,
    batch: usize,
    data: &[Tensor<'g>],
) -> [Tensor<'g>; 3] {
    let (images, labels) = (data[0], data[1]);
    let examples = labels.shape().elements();
    let wanted = i * g.scalar(batch as i32);
    let first = wanted.min((examples - batch) as f64);
    let mut starts = vec![g.scalar(0i32); images.shape().rank()];
    starts[0] = first;
    let mut window = images.dims();
    window[0] = batch;
    let logits = logits(
        g,
        model,
        needs,
        state,
        to_model_input(images.dynamic_slice(&starts, &window)),
    );
    let labels = labels.dynamic_slice(&[first], &[batch]);
    let unseen = (g.iota(Shape::new(DType::S32, [batch]), 0) + first).ge(wanted);
    let count = |k| {
        (layers::in_top_k(logits, labels, k) & unseen)
            .convert(DType::S32)
            .reduce_sum(&[0])
    };
    let losses = layers::cross_entropy(logits, labels, 0.0);
    [
        count(1),
        count(5),
        unseen.select(losses, losses.zeros_like()).reduce_sum(&[0]),
    ]
}

fn logits<'g>(
    g: &'g Graph,
    model: &dyn Model,
    needs: &Declaration,
    state: &State<'g>,
    images: Tensor<'g>,
) -> Tensor<'g> {
    let weights = needs.params.iter().map(|p| (p.name.clone(), effective(p, state)));
    let statistics = needs.statistics.iter().map(|s| &s.name);
    let fixed = needs.fixed.iter().map(|(name, _)| name);
    let as_they_are = statistics.chain(fixed).map(|name| (name.clone(), state.get(name)));
    model.apply(&Net::new(g, Mode::Eval, weights.chain(as_they_are)), images)
}

/// Logits `f32[batch, classes]` of one batch.
///
/// Inputs: those of [`inference_specs`], `images` of `dtype`: `u8` pixels, or `f32` as the model takes them.
///
/// # Errors
/// None for the models of this crate.
pub fn prediction(model: &dyn Model, batch: usize, dtype: DType) -> hlo::Result<Computation> {
    let needs = model.declaration();
    let specs = inference_specs(&needs);
    let images = Shape::new(dtype, [vec![batch], model.input_dims()].concat());
    let parameters: Vec<_> = specs.iter().cloned().chain([("images".to_string(), images)]).collect();
    Graph::function("predict", &parameters, |g, inputs| {
        let state = State::new(&specs, inputs);
        let images = inputs[specs.len()];
        let images = if dtype == DType::U8 {
            to_model_input(images)
        } else {
            images
        };
        vec![logits(g, model, &needs, &state, images)]
    })
}
