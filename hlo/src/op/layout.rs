//! Operators that move elements without computing: broadcast, reshape, transpose, slice, pad, concatenate, reverse, and
//! iota.

use super::{Op, Sweep, Vjp, ensure, ensure_axes};
use crate::graph::{Graph, Tensor};
use crate::proto;
use crate::shape::{DType, Shape};

pub(super) fn infer_iota(shape: &Shape, axis: usize) -> Result<Shape, String> {
    ensure_axes(&[axis], shape)?;
    ensure(shape.dtype != DType::Pred, || "counts in numbers, not pred".into())?;
    Ok(shape.clone())
}

pub(super) fn infer_broadcast(dims: &[usize], axes: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let x = operands[0];
    let out = x.with_dims(dims);
    ensure(axes.len() == x.rank(), || {
        format!("{} axes given for an operand of rank {}", axes.len(), x.rank())
    })?;
    ensure_axes(axes, &out)?;
    ensure(axes.is_sorted(), || format!("axes {axes:?} are not ascending"))?;
    for (i, &axis) in axes.iter().enumerate() {
        ensure(x.dims[i] == dims[axis], || {
            format!(
                "operand axis {i} has {} elements, result axis {axis} has {}",
                x.dims[i], dims[axis]
            )
        })?;
    }
    Ok(out)
}

pub(super) fn infer_reshape(dims: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let out = operands[0].with_dims(dims);
    ensure(out.elements() == operands[0].elements(), || {
        format!("{} elements do not fill {out}", operands[0].elements())
    })?;
    Ok(out)
}

pub(super) fn infer_transpose(permutation: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let x = operands[0];
    ensure(permutation.len() == x.rank(), || {
        format!("permutation {permutation:?} of rank {}", x.rank())
    })?;
    ensure_axes(permutation, x)?;
    Ok(x.with_dims(permutation.iter().map(|&p| x.dims[p]).collect::<Vec<_>>()))
}

pub(super) fn infer_slice(
    start: &[usize],
    limit: &[usize],
    stride: &[usize],
    operands: &[&Shape],
) -> Result<Shape, String> {
    let x = operands[0];
    let given = [start.len(), limit.len(), stride.len()];
    ensure(given == [x.rank(); 3], || {
        format!("{given:?} bounds for rank {}", x.rank())
    })?;
    let mut dims = Vec::new();
    for axis in 0..x.rank() {
        let (from, to, step) = (start[axis], limit[axis], stride[axis]);
        ensure(from <= to && to <= x.dims[axis] && step > 0, || {
            format!("{from}..{to} by {step} of {} elements on axis {axis}", x.dims[axis])
        })?;
        dims.push((to - from).div_ceil(step));
    }
    Ok(x.with_dims(dims))
}

pub(super) fn infer_pad(low: &[i64], high: &[i64], interior: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let (x, value) = (operands[0], operands[1]);
    ensure(*value == Shape::scalar(x.dtype), || {
        format!("the padding value must be {}[]", x.dtype)
    })?;
    let given = [low.len(), high.len(), interior.len()];
    ensure(given == [x.rank(); 3], || {
        format!("{given:?} paddings for rank {}", x.rank())
    })?;
    let mut dims = Vec::new();
    for axis in 0..x.rank() {
        let inner = x.dims[axis] + x.dims[axis].saturating_sub(1) * interior[axis];
        let padded = inner as i64 + low[axis] + high[axis];
        ensure(padded >= 0, || format!("axis {axis} would have {padded} elements"))?;
        dims.push(padded as usize);
    }
    Ok(x.with_dims(dims))
}

pub(super) fn infer_concatenate(axis: usize, operands: &[&Shape]) -> Result<Shape, String> {
    let first = operands.first().ok_or("needs at least one operand")?;
    ensure_axes(&[axis], first)?;
    let mut out = (*first).clone();
    out.dims[axis] = 0;
    for shape in operands {
        let mut aligned = (*shape).clone();
        if axis < aligned.rank() {
            out.dims[axis] += aligned.dims[axis];
            aligned.dims[axis] = first.dims[axis];
        }
        ensure(aligned == **first, || {
            format!("{shape} does not join {first} on axis {axis}")
        })?;
    }
    Ok(out)
}

pub(super) fn infer_reverse(axes: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    ensure_axes(axes, operands[0])?;
    Ok(operands[0].clone())
}

pub(super) fn emit_slice(start: &[usize], limit: &[usize], stride: &[usize], out: &mut proto::Instruction) {
    out.slice_dimensions = (0..start.len())
        .map(|axis| proto::SliceDimensions {
            start: start[axis] as i64,
            limit: limit[axis] as i64,
            stride: stride[axis] as i64,
        })
        .collect();
}

pub(super) fn emit_pad(low: &[i64], high: &[i64], interior: &[usize], out: &mut proto::Instruction) {
    let dimensions = (0..low.len())
        .map(|axis| proto::PaddingDimension {
            edge_padding_low: low[axis],
            edge_padding_high: high[axis],
            interior_padding: interior[axis] as i64,
        })
        .collect();
    out.padding_config = Some(proto::PaddingConfig { dimensions });
}

fn signed(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&v| v as i64).collect()
}

pub(super) fn vjp_broadcast<'g>(axes: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    let repeated: Vec<usize> = (0..at.cotangent.shape().rank()).filter(|a| !axes.contains(a)).collect();
    Vjp::Operands(vec![Some(at.cotangent.reduce_sum(&repeated))])
}

pub(super) fn vjp_reshape<'g>(at: &Sweep<'g>) -> Vjp<'g> {
    Vjp::Operands(vec![Some(at.cotangent.reshape(&at.operands[0].dims()))])
}

pub(super) fn vjp_transpose<'g>(permutation: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    let mut inverse = vec![0; permutation.len()];
    for (i, &p) in permutation.iter().enumerate() {
        inverse[p] = i;
    }
    Vjp::Operands(vec![Some(at.cotangent.transpose(&inverse))])
}

pub(super) fn vjp_slice<'g>(start: &[usize], stride: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    let (from, to) = (at.operands[0].dims(), at.cotangent.dims());
    let interior: Vec<usize> = stride.iter().map(|s| s - 1).collect();
    let high: Vec<i64> = (0..from.len())
        .map(|i| {
            let covered = start[i] + to[i] + to[i].saturating_sub(1) * interior[i];
            from[i] as i64 - covered as i64
        })
        .collect();
    Vjp::Operands(vec![Some(at.cotangent.pad(0.0, &signed(start), &high, &interior))])
}

pub(super) fn vjp_pad<'g>(low: &[i64], high: &[i64], interior: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    let ct = at.cotangent;
    let back = |edges: &[i64]| edges.iter().map(|e| -e).collect::<Vec<_>>();
    // Undo the edge padding (negative padding becomes zeros), then pick the original elements between the interior
    // padding.
    let edgeless = ct.pad(0.0, &back(low), &back(high), &vec![0; low.len()]);
    let stride: Vec<usize> = interior.iter().map(|i| i + 1).collect();
    let gx = edgeless.slice_strided(&vec![0; low.len()], &edgeless.dims(), &stride);
    // The remaining cotangent belongs to the padding value. Cut edges do not count.
    let gv = ct.reduce_sum_all() - gx.reduce_sum_all();
    Vjp::Operands(vec![Some(gx), Some(gv)])
}

pub(super) fn vjp_concatenate<'g>(axis: usize, at: &Sweep<'g>) -> Vjp<'g> {
    let mut offset = 0;
    let part = |operand: &Tensor<'g>| {
        let mut start = vec![0; operand.shape().rank()];
        let mut limit = at.cotangent.dims();
        start[axis] = offset;
        offset += operand.dims()[axis];
        limit[axis] = offset;
        Some(at.cotangent.slice(&start, &limit))
    };
    Vjp::Operands(at.operands.iter().map(part).collect())
}

pub(super) fn vjp_reverse<'g>(axes: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    Vjp::Operands(vec![Some(at.cotangent.reverse(axes))])
}

impl Graph {
    /// 0, 1, … along `axis` of `shape`.
    #[track_caller]
    pub fn iota(&self, shape: Shape, axis: usize) -> Tensor<'_> {
        self.apply(Op::Iota { shape, axis }, &[])
    }

    /// Concatenates operands along `axis`.
    #[track_caller]
    pub fn concatenate(&self, parts: &[Tensor<'_>], axis: usize) -> Tensor<'_> {
        self.apply(Op::Concatenate { axis }, parts)
    }
}

impl<'g> Tensor<'g> {
    /// Operand axis `i` becomes axis `axes[i]` of `dims`.
    #[track_caller]
    #[must_use]
    pub fn broadcast(self, dims: &[usize], axes: &[usize]) -> Tensor<'g> {
        let (dims, axes) = (dims.to_vec(), axes.to_vec());
        self.graph().apply(Op::Broadcast { dims, axes }, &[self])
    }

    /// NumPy broadcasting to `dims`: axes align at the right, axes of size 1 stretch.
    #[track_caller]
    #[must_use]
    pub fn broadcast_to(self, dims: &[usize]) -> Tensor<'g> {
        let own = self.dims();
        if self.is_poison() || own == dims {
            return self;
        }
        let offset = dims.len().saturating_sub(own.len());
        let stretched = |axis: &usize| own[*axis] == 1 && dims.get(axis + offset).is_some_and(|&d| d != 1);
        let kept: Vec<usize> = (0..own.len()).filter(|axis| !stretched(axis)).collect();
        let squeezed = self.reshape(&kept.iter().map(|&axis| own[axis]).collect::<Vec<_>>());
        squeezed.broadcast(dims, &kept.iter().map(|axis| axis + offset).collect::<Vec<_>>())
    }

    /// The same elements with dimensions `dims`.
    #[track_caller]
    #[must_use]
    pub fn reshape(self, dims: &[usize]) -> Tensor<'g> {
        if !self.is_poison() && self.dims() == dims {
            return self;
        }
        self.graph().apply(Op::Reshape { dims: dims.to_vec() }, &[self])
    }

    /// Result axis `i` is operand axis `permutation[i]`.
    #[track_caller]
    #[must_use]
    pub fn transpose(self, permutation: &[usize]) -> Tensor<'g> {
        let permutation = permutation.to_vec();
        self.graph().apply(Op::Transpose { permutation }, &[self])
    }

    /// The window `start..limit`.
    #[track_caller]
    #[must_use]
    pub fn slice(self, start: &[usize], limit: &[usize]) -> Tensor<'g> {
        self.slice_strided(start, limit, &vec![1; start.len()])
    }

    /// Every `stride`-th element of the window `start..limit`.
    #[track_caller]
    #[must_use]
    pub fn slice_strided(self, start: &[usize], limit: &[usize], stride: &[usize]) -> Tensor<'g> {
        let (start, limit, stride) = (start.to_vec(), limit.to_vec(), stride.to_vec());
        self.graph().apply(Op::Slice { start, limit, stride }, &[self])
    }

    /// Pads each axis with `value`: `low` elements before, `high` after and `interior` between neighbours.
    #[track_caller]
    #[must_use]
    pub fn pad(self, value: f64, low: &[i64], high: &[i64], interior: &[usize]) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        self.pad_with(self.graph().number(self.dtype(), value), low, high, interior)
    }

    /// [`Tensor::pad`] with a scalar tensor as the value.
    #[track_caller]
    #[must_use]
    pub fn pad_with(self, value: Tensor<'g>, low: &[i64], high: &[i64], interior: &[usize]) -> Tensor<'g> {
        let (low, high, interior) = (low.to_vec(), high.to_vec(), interior.to_vec());
        self.graph().apply(Op::Pad { low, high, interior }, &[self, value])
    }

    /// Reversed along `axes`.
    #[track_caller]
    #[must_use]
    pub fn reverse(self, axes: &[usize]) -> Tensor<'g> {
        self.graph().apply(Op::Reverse { axes: axes.to_vec() }, &[self])
    }
}
