//! Data movement in the evaluator: each operator maps result indices to operand indices.

use super::{Data, Value, round_to, wrap};
use crate::shape::Shape;

/// Coordinates of flat index `i` in `dims`.
pub fn unflatten(mut i: usize, dims: &[usize]) -> Vec<usize> {
    let mut at = vec![0; dims.len()];
    for (axis, &d) in dims.iter().enumerate().rev() {
        at[axis] = i % d;
        i /= d;
    }
    at
}

/// Flat index of coordinates `at` in `dims`.
pub fn flatten(at: &[usize], dims: &[usize]) -> usize {
    assert_eq!(at.len(), dims.len());
    at.iter().zip(dims).fold(0, |flat, (&i, &d)| flat * d + i)
}

pub fn iota(shape: Shape, axis: usize) -> Value {
    let (n, dtype) = (shape.elements(), shape.dtype);
    let count = |i| unflatten(i, &shape.dims)[axis];
    let data = match dtype.is_float() {
        true => Data::Float((0..n).map(|i| round_to(dtype, count(i) as f64)).collect()),
        false => Data::Int((0..n).map(|i| wrap(dtype, count(i) as i128)).collect()),
    };
    Value { shape, data }
}

pub fn broadcast(x: &Value, shape: Shape, axes: &[usize]) -> Value {
    let dims = shape.dims.clone();
    x.picked(shape, None, |i| {
        let at = unflatten(i, &dims);
        let from: Vec<usize> = axes.iter().map(|&a| at[a]).collect();
        Some(flatten(&from, &x.shape.dims))
    })
}

pub fn transpose(x: &Value, shape: Shape, permutation: &[usize]) -> Value {
    let dims = shape.dims.clone();
    x.picked(shape, None, |i| {
        let at = unflatten(i, &dims);
        let mut from = vec![0; at.len()];
        for (to, &axis) in permutation.iter().enumerate() {
            from[axis] = at[to];
        }
        Some(flatten(&from, &x.shape.dims))
    })
}

pub fn slice(x: &Value, shape: Shape, start: &[usize], stride: &[usize]) -> Value {
    let dims = shape.dims.clone();
    x.picked(shape, None, |i| {
        let at = unflatten(i, &dims);
        let from: Vec<usize> = (0..at.len()).map(|a| start[a] + at[a] * stride[a]).collect();
        Some(flatten(&from, &x.shape.dims))
    })
}

pub fn pad(x: &Value, value: &Value, shape: Shape, low: &[i64], interior: &[usize]) -> Value {
    let dims = shape.dims.clone();
    x.picked(shape, Some(value), |i| {
        let at = unflatten(i, &dims);
        let mut from = vec![0; at.len()];
        for axis in 0..at.len() {
            let offset = at[axis] as i64 - low[axis];
            let step = interior[axis] as i64 + 1;
            if offset < 0 || offset % step != 0 || offset / step >= x.shape.dims[axis] as i64 {
                return None;
            }
            from[axis] = (offset / step) as usize;
        }
        Some(flatten(&from, &x.shape.dims))
    })
}

pub fn concatenate(parts: &[&Value], shape: Shape, axis: usize) -> Value {
    // Interleaves the contiguous rows of the parts, `outer` times.
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize) -> Vec<T> {
        let row = |o: usize| {
            parts
                .iter()
                .flat_map(move |&(v, run)| v[o * run..(o + 1) * run].iter().copied())
        };
        (0..outer).flat_map(row).collect()
    }
    let outer: usize = shape.dims[..axis].iter().product();
    let run = |p: &Value| p.shape.dims[axis..].iter().product::<usize>();
    let data = match parts[0].data {
        Data::Float(_) => {
            let floats = parts.iter().filter_map(|p| match &p.data {
                Data::Float(v) => Some((&v[..], run(p))),
                Data::Int(_) => None,
            });
            Data::Float(join(&floats.collect::<Vec<_>>(), outer))
        }
        Data::Int(_) => Data::Int(join(
            &parts.iter().map(|p| (p.ints(), run(p))).collect::<Vec<_>>(),
            outer,
        )),
    };
    Value { shape, data }
}

pub fn reverse(x: &Value, axes: &[usize]) -> Value {
    let dims = x.shape.dims.clone();
    x.picked(x.shape.clone(), None, |i| {
        let mut at = unflatten(i, &dims);
        for &axis in axes {
            at[axis] = dims[axis] - 1 - at[axis];
        }
        Some(flatten(&at, &dims))
    })
}

/// Transposes `x` to [batch, free, last]; returns the sizes of the three groups too.
pub fn grouped(x: &Value, batch: &[usize], last: &[usize]) -> (Value, [usize; 3]) {
    let free: Vec<usize> = (0..x.shape.rank())
        .filter(|a| !batch.contains(a) && !last.contains(a))
        .collect();
    let size = |axes: &[usize]| axes.iter().map(|&a| x.shape.dims[a]).product::<usize>();
    let permutation = [batch, &free, last].concat();
    let shape = x
        .shape
        .with_dims(permutation.iter().map(|&a| x.shape.dims[a]).collect::<Vec<_>>());
    (
        transpose(x, shape, &permutation),
        [size(batch), size(&free), size(last)],
    )
}
