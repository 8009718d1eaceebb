//! Run-time indices and ordering in the evaluator.

use super::moves::{flatten, unflatten};
use super::{Data, Value, round_to, wrap};
use crate::op::index::window_sizes;
use crate::op::{GatherDims, Update};
use crate::shape::Shape;
use std::cmp::Ordering;

/// Clamps the start of a window of `size` so that it lies inside `dim` elements.
fn clamp_start(start: i128, size: usize, dim: usize) -> usize {
    start.clamp(0, (dim - size) as i128) as usize
}

fn starts(scalars: &[&Value], window: &[usize], dims: &[usize]) -> Vec<usize> {
    (0..dims.len())
        .map(|a| clamp_start(scalars[a].ints()[0], window[a], dims[a]))
        .collect()
}

fn shifted(at: &[usize], by: &[usize]) -> Vec<usize> {
    assert_eq!(at.len(), by.len());
    at.iter().zip(by).map(|(a, b)| a + b).collect()
}

pub fn dynamic_slice(x: &Value, scalars: &[&Value], shape: Shape) -> Value {
    let window = shape.dims.clone();
    let start = starts(scalars, &window, &x.shape.dims);
    x.picked(shape, None, |i| {
        Some(flatten(&shifted(&unflatten(i, &window), &start), &x.shape.dims))
    })
}

pub fn dynamic_update_slice(x: &Value, update: &Value, scalars: &[&Value]) -> Value {
    let window = &update.shape.dims;
    let start = starts(scalars, window, &x.shape.dims);
    let mut out = x.clone();
    for i in 0..update.shape.elements() {
        let target = flatten(&shifted(&unflatten(i, window), &start), &x.shape.dims);
        combine(&mut out, target, update, i, Update::Set);
    }
    out
}

/// Combines element `i` of `update` into flat index `target`.
pub fn combine(out: &mut Value, target: usize, update: &Value, i: usize, how: Update) {
    let dtype = out.shape.dtype;
    match (&mut out.data, &update.data, how) {
        (Data::Float(o), Data::Float(u), Update::Set) => o[target] = u[i],
        (Data::Int(o), Data::Int(u), Update::Set) => o[target] = u[i],
        (Data::Float(o), Data::Float(u), Update::Add) => o[target] = round_to(dtype, o[target] + u[i]),
        (Data::Int(o), Data::Int(u), Update::Add) => o[target] = wrap(dtype, o[target] + u[i]),
        (Data::Float(_), Data::Int(_), _) | (Data::Int(_), Data::Float(_), _) => {
            unreachable!("the shape rule requires one element type")
        }
    }
}

/// Window start (unclamped) and offset in the window for element `i` of a gather's result or a scatter's updates.
fn window_of(d: &GatherDims, rank: usize, indices: &Value, result: &[usize], i: usize) -> (Vec<i128>, Vec<usize>) {
    let at = unflatten(i, result);
    let batch: Vec<usize> = (0..at.len()).filter(|a| !d.offset.contains(a)).map(|a| at[a]).collect();
    let mut start = vec![0; rank];
    for (component, &axis) in d.start_index_map.iter().enumerate() {
        let mut index = batch.clone();
        if d.index_vector_axis < indices.shape.rank() {
            index.insert(d.index_vector_axis, component);
        }
        start[axis] = indices.ints()[flatten(&index, &indices.shape.dims)];
    }
    let mut inside = vec![0; rank];
    let window_axes = (0..rank).filter(|a| !d.collapsed.contains(a));
    for (axis, &offset) in window_axes.zip(&d.offset) {
        inside[axis] = at[offset];
    }
    (start, inside)
}

pub fn gather(d: &GatherDims, sizes: &[usize], x: &Value, indices: &Value, shape: Shape) -> Value {
    let (dims, result) = (&x.shape.dims, shape.dims.clone());
    x.picked(shape, None, |i| {
        let (start, inside) = window_of(d, dims.len(), indices, &result, i);
        let clamped: Vec<usize> = (0..dims.len())
            .map(|a| clamp_start(start[a], sizes[a], dims[a]))
            .collect();
        Some(flatten(&shifted(&clamped, &inside), dims))
    })
}

pub fn scatter(d: &GatherDims, update: Update, x: &Value, indices: &Value, updates: &Value) -> Value {
    let dims = &x.shape.dims;
    let sizes = window_sizes(d, dims.len(), &updates.shape).unwrap_or_default();
    let mut out = x.clone();
    for i in 0..updates.shape.elements() {
        let (start, offset) = window_of(d, dims.len(), indices, &updates.shape.dims, i);
        let fits = |a: usize| (0..=(dims[a] - sizes[a]) as i128).contains(&start[a]);
        if (0..dims.len()).all(fits) {
            let at: Vec<usize> = (0..dims.len()).map(|a| start[a] as usize + offset[a]).collect();
            combine(&mut out, flatten(&at, dims), updates, i, update);
        }
    }
    out
}

/// Compares two elements; floating-point numbers in IEEE's total order.
fn order(x: &Value, i: usize, j: usize) -> Ordering {
    match &x.data {
        Data::Float(v) => v[i].total_cmp(&v[j]),
        Data::Int(v) => v[i].cmp(&v[j]),
    }
}

/// Flat indices of `x` after a stable sort of each line along `axis`.
fn sorted_indices(x: &Value, axis: usize, descending: bool) -> Vec<usize> {
    let stride: usize = x.shape.dims[axis + 1..].iter().product();
    let length = x.shape.dims[axis];
    let mut result: Vec<usize> = (0..x.shape.elements()).collect();
    for line in 0..x.shape.elements() / length.max(1) {
        let first = line / stride * stride * length + line % stride;
        let mut members: Vec<usize> = (0..length).map(|i| first + i * stride).collect();
        members.sort_by(|&i, &j| if descending { order(x, j, i) } else { order(x, i, j) });
        for (i, member) in members.into_iter().enumerate() {
            result[first + i * stride] = member;
        }
    }
    result
}

pub fn sort(axis: usize, descending: bool, operands: &[&Value]) -> Vec<Value> {
    let from = sorted_indices(operands[0], axis, descending);
    operands
        .iter()
        .map(|x| x.picked(x.shape.clone(), None, |i| Some(from[i])))
        .collect()
}

pub fn top_k(k: usize, x: &Value, shapes: &[Shape]) -> Vec<Value> {
    let length = x.shape.dims[x.shape.rank() - 1];
    let from = sorted_indices(x, x.shape.rank() - 1, true);
    let source = |i: usize| from[i / k * length + i % k];
    let values = x.picked(shapes[0].clone(), None, |i| Some(source(i)));
    let indices = (0..shapes[1].elements())
        .map(|i| (source(i) % length) as i128)
        .collect();
    vec![
        values,
        Value {
            shape: shapes[1].clone(),
            data: Data::Int(indices),
        },
    ]
}
