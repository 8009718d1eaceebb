//! Windows in the evaluator: convolution, windowed reduction, select-and-scatter.

use super::moves::unflatten;
use super::{Data, Value, arith, index, round_to};
use crate::op::{ConvDims, Reducer, Update, WindowDim};
use crate::shape::Shape;

/// Pairs of flat offsets, in the window and in the operand, for the window at `position`. Row-major; holes and padding
/// are left out. `strides` are those of the window and of the operand.
fn covered(window: &[WindowDim], position: &[usize], dims: &[usize], strides: [&[usize]; 2]) -> Vec<(usize, usize)> {
    let mut offsets = vec![(0, 0)];
    for (axis, w) in window.iter().enumerate() {
        let step = |k| {
            Some((
                k * strides[0][axis],
                w.source(position[axis], k, dims[axis])? * strides[1][axis],
            ))
        };
        let steps: Vec<(usize, usize)> = (0..w.size).filter_map(step).collect();
        offsets = offsets
            .iter()
            .flat_map(|&(k, i)| steps.iter().map(move |&(dk, di)| (k + dk, i + di)))
            .collect();
    }
    offsets
}

fn take(values: &[usize], axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&a| values[a]).collect()
}

/// `groups` are the feature groups and the batch groups.
pub fn convolution(
    window: &[WindowDim],
    d: &ConvDims,
    groups: [usize; 2],
    [x, kernel]: [&Value; 2],
    shape: Shape,
) -> Value {
    let (Data::Float(xs), Data::Float(ks)) = (&x.data, &kernel.data) else {
        unreachable!("the shape rule requires floating-point numbers")
    };
    let [sx, sk, so] = [&x.shape, &kernel.shape, &shape].map(Shape::strides);
    let (kernel_strides, input_strides) = (take(&sk, &d.kernel_spatial), take(&sx, &d.input_spatial));
    let extents = take(&x.shape.dims, &d.input_spatial);
    let positions = take(&shape.dims, &d.output_spatial);
    let (examples, channels) = (shape.dims[d.output_batch], shape.dims[d.output_feature]);
    let depth = kernel.shape.dims[d.kernel_input];
    let mut out = vec![0.0; shape.elements()];
    for p in 0..positions.iter().product() {
        let position = unflatten(p, &positions);
        let taps = covered(window, &position, &extents, [&kernel_strides, &input_strides]);
        let offset: usize = d.output_spatial.iter().zip(&position).map(|(&a, at)| at * so[a]).sum();
        for (n, o) in (0..examples).flat_map(|n| (0..channels).map(move |o| (n, o))) {
            let [feature_group, batch_group] = groups.map(|groups| o * groups / channels);
            let example = batch_group * examples + n;
            let first = example * sx[d.input_batch] + feature_group * depth * sx[d.input_feature];
            let mut sum = 0.0;
            for &(k, i) in &taps {
                let (k, i) = (k + o * sk[d.kernel_output], i + first);
                for c in 0..depth {
                    sum += xs[i + c * sx[d.input_feature]] * ks[k + c * sk[d.kernel_input]];
                }
            }
            out[offset + n * so[d.output_batch] + o * so[d.output_feature]] = round_to(shape.dtype, sum);
        }
    }
    let data = Data::Float(out);
    Value { shape, data }
}

/// For each window position, the flat indices of the elements of `x` under the window, in row-major order.
fn windows<'a>(window: &'a [WindowDim], x: &'a Value, positions: &'a [usize]) -> impl Iterator<Item = Vec<usize>> + 'a {
    let strides = x.shape.strides();
    (0..positions.iter().product()).map(move |p| {
        let position = unflatten(p, positions);
        let pairs = covered(window, &position, &x.shape.dims, [&strides, &strides]);
        pairs.into_iter().map(|(_, i)| i).collect()
    })
}

pub fn reduce_window(window: &[WindowDim], reducer: Reducer, x: &Value, init: &Value, shape: Shape) -> Value {
    let data = arith::fold(reducer, x, init, windows(window, x, &shape.dims));
    Value { shape, data }
}

pub fn select_and_scatter(window: &[WindowDim], x: &Value, source: &Value, init: &Value) -> Value {
    let stays = |first: usize, second: usize| match &x.data {
        Data::Float(v) => v[first] >= v[second],
        Data::Int(v) => v[first] >= v[second],
    };
    let mut out = x.picked(x.shape.clone(), Some(init), |_| None);
    for (i, elements) in windows(window, x, &source.shape.dims).enumerate() {
        let largest = elements.into_iter().reduce(|a, b| if stays(a, b) { a } else { b });
        if let Some(target) = largest {
            index::combine(&mut out, target, source, i, Update::Add);
        }
    }
    out
}
