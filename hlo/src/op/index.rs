//! Operators with run-time indices: dynamic slices, gather, scatter.

use super::{Op, Reducer, Sweep, Vjp, ensure, ensure_axes};
use crate::emit::Emitter;
use crate::graph::Tensor;
use crate::proto;
use crate::shape::{DType, Shape};

/// Axis roles of [`Op::Gather`]. [`Op::Scatter`] uses them in reverse, with the updates in place of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherDims {
    /// Axes of the result that index within a window.
    pub offset: Vec<usize>,
    /// Operand axes with window size 1 that the result drops.
    pub collapsed: Vec<usize>,
    /// Operand axis of each index component.
    pub start_index_map: Vec<usize>,
    /// Axis of the indices that holds the components. If it equals the rank of the indices, each index is a scalar.
    pub index_vector_axis: usize,
}

/// How [`Op::Scatter`] combines an update with the existing element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Replaces the element.
    Set,
    /// Adds to the element.
    Add,
}

impl GatherDims {
    /// Dimensions of the indices without the component axis: the result's axes outside the windows.
    fn batch_dims(&self, indices: &Shape) -> Vec<usize> {
        let mut dims = indices.dims.clone();
        if self.index_vector_axis < dims.len() {
            dims.remove(self.index_vector_axis);
        }
        dims
    }

    fn check(&self, operand: &Shape, indices: &Shape) -> Result<(), String> {
        ensure(indices.dtype.is_integer(), || format!("indices are {}", indices.dtype))?;
        ensure(self.index_vector_axis <= indices.rank(), || {
            format!(
                "index axis {} of indices of rank {}",
                self.index_vector_axis,
                indices.rank()
            )
        })?;
        ensure_axes(&self.collapsed, operand)?;
        ensure(self.collapsed.is_sorted(), || {
            format!("collapsed axes {:?} are not ascending", self.collapsed)
        })?;
        ensure_axes(&self.start_index_map, operand)?;
        let components = indices.dims.get(self.index_vector_axis).copied().unwrap_or(1);
        ensure(components == self.start_index_map.len(), || {
            format!("{components} index components for {} axes", self.start_index_map.len())
        })
    }

    /// Operand axes that a window keeps.
    fn window_axes(&self, rank: usize) -> Vec<usize> {
        (0..rank).filter(|a| !self.collapsed.contains(a)).collect()
    }
}

fn check_starts(rank: usize, starts: &[&Shape]) -> Result<(), String> {
    ensure(starts.len() == rank, || {
        format!("{} start indices for rank {rank}", starts.len())
    })?;
    let scalar = |s: &&Shape| s.rank() == 0 && s.dtype.is_integer() && s.dtype == starts[0].dtype;
    ensure(starts.iter().all(scalar), || {
        "start indices must be integer scalars of one type".into()
    })
}

pub(super) fn infer_dynamic_slice(sizes: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let x = operands[0];
    check_starts(x.rank(), &operands[1..])?;
    ensure(
        sizes.len() == x.rank() && sizes.iter().zip(&x.dims).all(|(s, d)| s <= d),
        || format!("window {sizes:?} of {x}"),
    )?;
    Ok(x.with_dims(sizes))
}

pub(super) fn infer_dynamic_update_slice(operands: &[&Shape]) -> Result<Shape, String> {
    let (x, update) = (operands[0], operands[1]);
    check_starts(x.rank(), &operands[2..])?;
    let fits =
        update.dtype == x.dtype && update.rank() == x.rank() && update.dims.iter().zip(&x.dims).all(|(u, d)| u <= d);
    ensure(fits, || format!("update {update} does not fit {x}"))?;
    Ok(x.clone())
}

pub(super) fn infer_gather(d: &GatherDims, sizes: &[usize], operands: &[&Shape]) -> Result<Shape, String> {
    let (x, indices) = (operands[0], operands[1]);
    d.check(x, indices)?;
    ensure(
        sizes.len() == x.rank() && sizes.iter().zip(&x.dims).all(|(s, n)| s <= n),
        || format!("window {sizes:?} of {x}"),
    )?;
    ensure(d.collapsed.iter().all(|&a| sizes[a] == 1), || {
        "a collapsed axis has a window over 1".into()
    })?;
    let mut window = d.window_axes(x.rank()).into_iter().map(|a| sizes[a]);
    let mut batch = d.batch_dims(indices).into_iter();
    let rank = window.len() + batch.len();
    let ascending = d.offset.is_sorted_by(|a, b| a < b);
    ensure(d.offset.len() == window.len() && ascending, || {
        format!("offset axes {:?}", d.offset)
    })?;
    ensure(d.offset.iter().all(|&a| a < rank), || {
        format!("offset axes {:?} of rank {rank}", d.offset)
    })?;
    let dims = (0..rank).filter_map(|a| {
        if d.offset.contains(&a) {
            window.next()
        } else {
            batch.next()
        }
    });
    Ok(x.with_dims(dims.collect::<Vec<_>>()))
}

pub(super) fn infer_scatter(d: &GatherDims, operands: &[&Shape]) -> Result<Shape, String> {
    let (x, indices, updates) = (operands[0], operands[1], operands[2]);
    d.check(x, indices)?;
    ensure(updates.dtype == x.dtype, || {
        format!("updates are {}, the operand {}", updates.dtype, x.dtype)
    })?;
    let sizes = window_sizes(d, x.rank(), updates);
    ensure(sizes.is_some(), || {
        format!("updates {updates} have no axes {:?}", d.offset)
    })?;
    let expected = infer_gather(d, &sizes.unwrap_or_default(), &[x, indices])?;
    ensure(expected == *updates, || {
        format!("updates are {updates}, the windows {expected}")
    })?;
    Ok(x.clone())
}

/// Window size per operand axis, taken from the updates; `None` if they lack a window axis.
pub(crate) fn window_sizes(d: &GatherDims, rank: usize, updates: &Shape) -> Option<Vec<usize>> {
    let mut sizes = vec![1; rank];
    for (&axis, &offset) in d.window_axes(rank).iter().zip(&d.offset) {
        sizes[axis] = *updates.dims.get(offset)?;
    }
    Some(sizes)
}

fn signed(axes: &[usize]) -> Vec<i64> {
    axes.iter().map(|&a| a as i64).collect()
}

pub(super) fn emit_gather(d: &GatherDims, sizes: &[usize], out: &mut proto::Instruction) {
    out.gather_slice_sizes = signed(sizes);
    out.gather_dimension_numbers = Some(proto::GatherDimensionNumbers {
        offset_dims: signed(&d.offset),
        collapsed_slice_dims: signed(&d.collapsed),
        start_index_map: signed(&d.start_index_map),
        index_vector_dim: d.index_vector_axis as i64,
    });
}

pub(super) fn emit_scatter(
    d: &GatherDims,
    update: Update,
    unique: bool,
    operands: &[&Shape],
    emitter: &mut Emitter,
    out: &mut proto::Instruction,
) {
    out.unique_indices = unique;
    out.scatter_dimension_numbers = Some(proto::ScatterDimensionNumbers {
        update_window_dims: signed(&d.offset),
        inserted_window_dims: signed(&d.collapsed),
        scatter_dims_to_operand_dims: signed(&d.start_index_map),
        index_vector_dim: d.index_vector_axis as i64,
    });
    let combine = match update {
        Update::Set => None,
        Update::Add => Some(Reducer::Add),
    };
    out.called_computation_ids = vec![emitter.reducer(combine, operands[0].dtype)];
}

pub(super) fn vjp_dynamic_slice<'g>(at: &Sweep<'g>) -> Vjp<'g> {
    let (x, starts) = (at.operands[0], &at.operands[1..]);
    let mut gradients = vec![Some(x.zeros_like().dynamic_update_slice(at.cotangent, starts))];
    gradients.resize(at.operands.len(), None);
    Vjp::Operands(gradients)
}

pub(super) fn vjp_dynamic_update_slice<'g>(at: &Sweep<'g>) -> Vjp<'g> {
    let (update, starts, ct) = (at.operands[1], &at.operands[2..], at.cotangent);
    let mut gradients = vec![
        Some(ct.dynamic_update_slice(update.zeros_like(), starts)),
        Some(ct.dynamic_slice(starts, &update.dims())),
    ];
    gradients.resize(at.operands.len(), None);
    Vjp::Operands(gradients)
}

pub(super) fn vjp_gather<'g>(d: &GatherDims, sizes: &[usize], at: &Sweep<'g>) -> Vjp<'g> {
    let (x, indices) = (at.operands[0], at.operands[1]);
    // A gather clamps a window where a scatter would drop it.
    let inside = indices.clamp(0.0, last_starts(d, sizes, x, indices));
    let gx = x
        .zeros_like()
        .scatter(inside, at.cotangent, d.clone(), Update::Add, false);
    Vjp::Operands(vec![Some(gx), None])
}

pub(super) fn vjp_scatter<'g>(d: &GatherDims, update: Update, unique: bool, at: &Sweep<'g>) -> Vjp<'g> {
    let (x, indices, updates, ct) = (at.operands[0], at.operands[1], at.operands[2], at.cotangent);
    let gx = match (update, unique) {
        (Update::Add, _) => ct,
        (Update::Set, true) => ct.scatter(indices, updates.zeros_like(), d.clone(), Update::Set, true),
        (Update::Set, false) => return Vjp::Stop("where windows overlap, which update won is not known"),
    };
    // A scatter drops a window where a gather would clamp it.
    let dims = updates.dims();
    let sizes = window_sizes(d, x.shape().rank(), &updates.shape()).unwrap_or_default();
    let kept = indices.ge(0.0) & indices.le(last_starts(d, &sizes, x, indices));
    let components: Vec<usize> = (d.index_vector_axis..indices.shape().rank()).take(1).collect();
    let outside: Vec<usize> = (0..dims.len()).filter(|a| !d.offset.contains(a)).collect();
    let kept = kept.reduce(&components, Reducer::And).broadcast(&dims, &outside);
    let gathered = ct.gather(indices, d.clone(), &sizes);
    Vjp::Operands(vec![Some(gx), None, Some(kept.select(gathered, gathered.zeros_like()))])
}

/// The last valid start of a window of `sizes` in `x`, for each component of `indices`.
fn last_starts<'g>(d: &GatherDims, sizes: &[usize], x: Tensor<'g>, indices: Tensor<'g>) -> Tensor<'g> {
    let (g, dims, shape) = (x.graph(), x.dims(), indices.shape());
    let last = |&axis: &usize| g.number(shape.dtype, (dims[axis] - sizes[axis]) as f64).reshape(&[1]);
    let each: Vec<_> = d.start_index_map.iter().map(last).collect();
    match d.index_vector_axis < shape.rank() {
        true => g.concatenate(&each, 0).broadcast(&shape.dims, &[d.index_vector_axis]),
        false => each[0].broadcast_to(&shape.dims),
    }
}

impl<'g> Tensor<'g> {
    /// The window of `sizes` at scalar `starts`, clamped into the array.
    #[track_caller]
    #[must_use]
    pub fn dynamic_slice(self, starts: &[Tensor<'g>], sizes: &[usize]) -> Tensor<'g> {
        let operands = [&[self], starts].concat();
        self.graph()
            .apply(Op::DynamicSlice { sizes: sizes.to_vec() }, &operands)
    }

    /// This array with `update` written at scalar `starts`, clamped into the array.
    #[track_caller]
    #[must_use]
    pub fn dynamic_update_slice(self, update: Tensor<'g>, starts: &[Tensor<'g>]) -> Tensor<'g> {
        let operands = [&[self, update], starts].concat();
        self.graph().apply(Op::DynamicUpdateSlice, &operands)
    }

    /// Windows of `sizes` at `indices`.
    #[track_caller]
    #[must_use]
    pub fn gather(self, indices: Tensor<'g>, dims: GatherDims, sizes: &[usize]) -> Tensor<'g> {
        let sizes = sizes.to_vec();
        self.graph().apply(Op::Gather { dims, sizes }, &[self, indices])
    }

    /// Rows `indices` (rank 1) of this array. Out-of-range indices are clamped.
    #[track_caller]
    #[must_use]
    pub fn take_rows(self, indices: Tensor<'g>) -> Tensor<'g> {
        let rank = self.shape().rank();
        let mut sizes = self.dims();
        if let Some(rows) = sizes.first_mut() {
            *rows = 1;
        }
        let dims = GatherDims {
            offset: (1..rank).collect(),
            collapsed: vec![0],
            start_index_map: vec![0],
            index_vector_axis: 1,
        };
        self.gather(indices, dims, &sizes)
    }

    /// This array with windows `updates` combined in at `indices`. Drops a window that is not entirely inside.
    #[track_caller]
    #[must_use]
    pub fn scatter(
        self,
        indices: Tensor<'g>,
        updates: Tensor<'g>,
        dims: GatherDims,
        update: Update,
        unique: bool,
    ) -> Tensor<'g> {
        self.graph()
            .apply(Op::Scatter { dims, update, unique }, &[self, indices, updates])
    }

    /// One-hot encoding of `classes` (rank 1, integers): `[n] -> [n, depth]`.
    #[track_caller]
    #[must_use]
    pub fn one_hot(self, depth: usize, dtype: DType) -> Tensor<'g> {
        if self.is_poison() {
            return self;
        }
        let shape = Shape::new(self.dtype(), [self.shape().elements(), depth]);
        let rows = self.broadcast(&shape.dims, &[0]);
        self.graph().iota(shape, 1).eq(rows).convert(dtype)
    }
}
