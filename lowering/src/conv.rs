//! Builds one convolution in each of its forms.

use super::column_sums::column_sums;
use super::{ConvFacts, ConvForm, ConvLowering, Grouping};
use crate::direct::{DIRECT_CONVOLUTION, DirectConvolution, row_major};
use hlo::{ConvDims, DType, DotDims, Graph, Node, Op, Tensor, WindowDim};

/// A convolution with its operands in a graph.
#[derive(Clone)]
pub(super) struct Conv<'g> {
    pub(super) x: Tensor<'g>,
    pub(super) kernel: Tensor<'g>,
    pub(super) dims: ConvDims,
    pub(super) facts: ConvFacts,
    /// The library's description of it, if the library supports it.
    direct: Option<DirectConvolution>,
}

/// Positions of the example, channel and spatial axes in the result of a form.
pub(super) struct ResultAxes {
    pub(super) batch: usize,
    pub(super) feature: usize,
    pub(super) spatial: Vec<usize>,
}

impl ResultAxes {
    /// `[batch, positions…, channels]`.
    pub(super) fn batch_first(spatial: usize) -> Self {
        ResultAxes {
            batch: 0,
            feature: spatial + 1,
            spatial: (1..=spatial).collect(),
        }
    }

    /// `[positions…, batch, channels]`.
    fn positions_first(spatial: usize) -> Self {
        ResultAxes {
            batch: spatial,
            feature: spatial + 1,
            spatial: (0..spatial).collect(),
        }
    }
}

impl<'g> Conv<'g> {
    /// `node` as a convolution; `None` if it is another operator or has no other form.
    pub(super) fn from_node(graph: &'g Graph, node: &Node, training: bool) -> Option<Self> {
        let Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } = &node.op
        else {
            return None;
        };
        let [x, kernel] = [0, 1].map(|i| graph.tensor(node.operands[i]));
        let (input, own) = (x.dims(), kernel.dims());
        let (batch, channels) = (input[dims.input_batch], input[dims.input_feature]);
        let filters = own[dims.kernel_output];
        let grouping = match (*feature_groups, *batch_groups) {
            (1, 1) => Grouping::Dense,
            (groups, 1) if groups == channels && groups == filters => Grouping::PerChannel,
            (1, groups) if groups == batch && groups == filters => Grouping::PerExample,
            _ => return None,
        };
        let direct = DirectConvolution::from_op(&node.op, [&input, &own, &node.shape().dims]);
        let facts = ConvFacts {
            dtype: x.dtype(),
            grouping,
            batch,
            channels,
            filters,
            extents: dims.input_spatial.iter().map(|&axis| input[axis]).collect(),
            window: window.clone(),
            positions: dims
                .output_spatial
                .iter()
                .map(|&axis| node.shape().dims[axis])
                .collect(),
            transposed: dims.kernel_output < dims.kernel_input,
            pass: direct.as_ref().map(|direct| direct.pass),
            training,
        };
        let empty = node.shape().elements() == 0 || input.contains(&0) || own.contains(&0);
        (!empty).then(|| Conv {
            x,
            kernel,
            dims: dims.clone(),
            facts,
            direct,
        })
    }

    pub(super) fn facts(&self) -> &ConvFacts {
        &self.facts
    }

    /// The result in the operator's axis order. `None` if `by` keeps the operator, or if the form does not apply.
    pub(super) fn lower(&self, by: ConvLowering) -> Option<Tensor<'g>> {
        if by == ConvLowering::DIRECT {
            return self.direct();
        }
        let (result, roles) = match by.phases {
            true => self.by_phases(by.form)?,
            false => self.in_form(by.form)?,
        };
        Some(self.in_order(result, &roles))
    }

    /// The result of a form other than the operator, with its axis order.
    pub(super) fn in_form(&self, form: ConvForm) -> Option<(Tensor<'g>, ResultAxes)> {
        use {ConvForm::*, Grouping::*};
        let spatial = self.facts.window.len();
        let (result, roles) = match (form, self.facts.grouping) {
            (Ordered, Dense | PerChannel) if !self.is_ordered() => (self.ordered(), ResultAxes::batch_first(spatial)),
            (Taps, Dense | PerChannel) => (self.taps(), ResultAxes::batch_first(spatial)),
            (Patches, Dense) => (self.patches(), ResultAxes::batch_first(spatial)),
            (Positions, Dense) => (self.at_positions(), ResultAxes::positions_first(spatial)),
            (Columns, Dense) => (self.columns(), ResultAxes::positions_first(spatial)),
            (Positions, PerExample) => (self.reductions(), ResultAxes::positions_first(spatial)),
            (Convolution | Ordered | Direct, _) => return None,
            (Taps, PerExample) | (Positions, PerChannel) => return None,
            (Patches | Columns, PerChannel | PerExample) => return None,
        };
        Some((result, roles))
    }

    /// A host call, if the library supports the operator.
    fn direct(&self) -> Option<Tensor<'g>> {
        let convolution = self.direct.as_ref().filter(|_| self.facts.dtype == DType::F32)?;
        let [feature_groups, batch_groups] = self.groups();
        let operands = [self.x, self.kernel];
        let host = convolution.host_function(DIRECT_CONVOLUTION);
        let results = self.x.graph().host_call(host, &operands, |_, x| {
            let (window, dims) = (self.facts.window.clone(), self.dims.clone());
            vec![x[0].convolution(x[1], window, dims, feature_groups, batch_groups)]
        });
        results.first().copied()
    }

    /// The operator with its axes in order. A long sum over channels is split into several convolutions, which are
    /// added.
    pub(super) fn ordered(&self) -> Tensor<'g> {
        let dims = ConvDims::channels_last(self.facts.window.len());
        let order = [
            &[self.dims.input_batch],
            &self.dims.input_spatial[..],
            &[self.dims.input_feature],
        ]
        .concat();
        let [feature_groups, batch_groups] = self.groups();
        let parts = self.facts.channel_splits();
        let length = self.facts.channels / parts;
        let sums = (0..parts).map(|i| {
            let part = |whole: Tensor<'g>, axis: usize| match parts {
                1 => whole,
                _ => slice_axis(whole, axis, [i * length, (i + 1) * length]),
            };
            let x = transposed(part(self.x, self.dims.input_feature), &order);
            let mut split = self.clone();
            split.kernel = part(self.kernel, self.dims.kernel_input);
            let window = self.facts.window.clone();
            x.convolution(
                split.kernel_in_order(false),
                window,
                dims.clone(),
                feature_groups,
                batch_groups,
            )
        });
        // There is at least one part.
        sums.reduce(|sum, part| sum + part).unwrap_or(self.x)
    }

    fn is_ordered(&self) -> bool {
        self.dims == ConvDims::channels_last(self.facts.window.len())
    }

    /// Transposes a result to the operator's axis order.
    fn in_order(&self, result: Tensor<'g>, roles: &ResultAxes) -> Tensor<'g> {
        let mut order = vec![0; result.shape().rank()];
        order[self.dims.output_batch] = roles.batch;
        order[self.dims.output_feature] = roles.feature;
        assert_eq!(self.dims.output_spatial.len(), roles.spatial.len());
        for (&axis, &from) in self.dims.output_spatial.iter().zip(&roles.spatial) {
            order[axis] = from;
        }
        transposed(result, &order)
    }

    /// For each window element: the input under it at all positions, times that element of the kernel; then summed.
    fn taps(&self) -> Tensor<'g> {
        let facts = &self.facts;
        let input = self.padded([self.dims.input_batch, self.dims.input_feature]);
        let sizes = self.sizes();
        let terms = indices(&sizes).filter(|at| self.meets_input(at)).map(|at| {
            let under = self.under(input, &at);
            match facts.grouping {
                Grouping::Dense => {
                    let (matrix, contracted) = self.element(&at);
                    product(under, matrix, [under.shape().rank() - 1, contracted])
                }
                Grouping::PerChannel | Grouping::PerExample => {
                    let scales = self.kernel_at(&at).reshape(&[facts.filters]);
                    under * scales.broadcast_to(&under.dims())
                }
            }
        });
        let sum = terms.reduce(|sum, term| sum + term);
        sum.unwrap_or_else(|| {
            let dims = [&[facts.batch], &facts.positions[..], &[facts.filters]].concat();
            input.graph().number(facts.dtype, 0.0).broadcast_to(&dims)
        })
    }

    /// The input under all window elements, concatenated as channels (im2col), times the kernel as one matrix.
    fn patches(&self) -> Tensor<'g> {
        let facts = &self.facts;
        let input = self.padded([self.dims.input_batch, self.dims.input_feature]);
        let parts: Vec<_> = indices(&self.sizes()).map(|at| self.under(input, &at)).collect();
        let side_by_side = concatenate(&parts, facts.window.len() + 1);
        let kernel = self.kernel_in_order(false);
        let matrix = kernel.reshape(&[facts.window_elements() * facts.channels, facts.filters]);
        product(side_by_side, matrix, [facts.window.len() + 1, 0])
    }

    /// For each position: the input under the window, times the kernel as one matrix.
    fn at_positions(&self) -> Tensor<'g> {
        let facts = &self.facts;
        let input = self.padded([self.dims.input_feature, self.dims.input_batch]);
        let summed = facts.channels * facts.window_elements();
        let matrix = self.kernel_in_order(true).reshape(&[summed, facts.filters]);
        let parts: Vec<_> = indices(&facts.positions)
            .map(|at| {
                let window = self.window_at(input, &at).reshape(&[summed, facts.batch]);
                product(window, matrix, [0, 0]).reshape(&[1, facts.batch, facts.filters])
            })
            .collect();
        concatenate(&parts, 0).reshape(&[&facts.positions[..], &[facts.batch, facts.filters]].concat())
    }

    /// The input under the window at all positions, concatenated as examples, times the kernel as one matrix.
    fn columns(&self) -> Tensor<'g> {
        let facts = &self.facts;
        let input = self.padded([self.dims.input_feature, self.dims.input_batch]);
        let summed = facts.channels * facts.window_elements();
        let matrix = self.kernel_in_order(true).reshape(&[summed, facts.filters]);
        let parts: Vec<_> = indices(&facts.positions).map(|at| self.window_at(input, &at)).collect();
        let side_by_side = concatenate(&parts, facts.window.len() + 1);
        let side_by_side = side_by_side.reshape(&[summed, facts.positions_count() * facts.batch]);
        product(side_by_side, matrix, [0, 0]).reshape(&[&facts.positions[..], &[facts.batch, facts.filters]].concat())
    }

    /// For each position: the input under the window times the kernel, elementwise, then reduced.
    fn reductions(&self) -> Tensor<'g> {
        let facts = &self.facts;
        let input = self.padded([self.dims.input_feature, self.dims.input_batch]);
        let kernel = self.kernel_in_order(true);
        let sums: Vec<_> = indices(&facts.positions)
            .map(|at| column_sums(self.window_at(input, &at) * kernel).reshape(&[1, facts.filters]))
            .collect();
        concatenate(&sums, 0).reshape(&[&facts.positions[..], &[1, facts.filters]].concat())
    }

    /// Feature groups and batch groups of the operator.
    pub(super) fn groups(&self) -> [usize; 2] {
        match self.facts.grouping {
            Grouping::Dense => [1, 1],
            Grouping::PerChannel => [self.facts.channels, 1],
            Grouping::PerExample => [1, self.facts.batch],
        }
    }

    fn sizes(&self) -> Vec<usize> {
        self.facts.window.iter().map(|w| w.size).collect()
    }

    /// Whether this window element reads the input, not just padding and holes, at any position.
    fn meets_input(&self, at: &[usize]) -> bool {
        let facts = &self.facts;
        (0..at.len()).all(|axis| {
            let source = |position| facts.window[axis].source(position, at[axis], facts.extents[axis]);
            (0..facts.positions[axis]).any(|position| source(position).is_some())
        })
    }

    /// The input `[ends[0], spatial…, ends[1]]`, padded and dilated.
    fn padded(&self, ends: [usize; 2]) -> Tensor<'g> {
        let order = [&ends[..1], &self.dims.input_spatial, &ends[1..]].concat();
        let x = transposed(self.x, &order);
        let edge = |value: &dyn Fn(&WindowDim) -> i64| -> Vec<i64> {
            let inner = self.facts.window.iter().map(value);
            [0].into_iter().chain(inner).chain([0]).collect()
        };
        let low = edge(&|w| w.pad_low);
        let high = edge(&|w| w.pad_high);
        let holes: Vec<usize> = edge(&|w| w.base_dilation as i64 - 1)
            .iter()
            .map(|&n| n as usize)
            .collect();
        let nothing = low.iter().chain(&high).all(|&n| n == 0) && holes.iter().all(|&n| n == 0);
        if nothing { x } else { x.pad(0.0, &low, &high, &holes) }
    }

    /// The input under window element `at`, at all positions.
    fn under(&self, input: Tensor<'g>, at: &[usize]) -> Tensor<'g> {
        let window = &self.facts.window;
        let start = (0..at.len()).map(|a| at[a] * window[a].window_dilation);
        let step = window.iter().map(|w| w.stride);
        slice_spatial(input, start, &self.facts.positions, step)
    }

    /// The input under all window elements at position `at`.
    fn window_at(&self, input: Tensor<'g>, at: &[usize]) -> Tensor<'g> {
        let window = &self.facts.window;
        let start = (0..at.len()).map(|a| at[a] * window[a].stride);
        let step = window.iter().map(|w| w.window_dilation);
        slice_spatial(input, start, &self.sizes(), step)
    }

    /// The kernel at one window element; its spatial axes have size 1.
    fn kernel_at(&self, at: &[usize]) -> Tensor<'g> {
        let (mut start, mut limit) = (vec![0; self.kernel.shape().rank()], self.kernel.dims());
        for (&axis, &index) in self.dims.kernel_spatial.iter().zip(at) {
            (start[axis], limit[axis]) = (index, index + 1);
        }
        match self.facts.window_elements() {
            1 => self.kernel,
            _ => self.kernel.slice(&start, &limit),
        }
    }

    /// The kernel at one window element as a matrix, and the index of its input-channel axis.
    fn element(&self, at: &[usize]) -> (Tensor<'g>, usize) {
        let (channels, filters) = (self.facts.channels, self.facts.filters);
        let part = self.kernel_at(at);
        match self.dims.kernel_input < self.dims.kernel_output {
            true => (part.reshape(&[channels, filters]), 0),
            false => (part.reshape(&[filters, channels]), 1),
        }
    }

    /// The kernel as `[window…, in, out]`, or as `[in, window…, out]` if `inner_first`.
    fn kernel_in_order(&self, inner_first: bool) -> Tensor<'g> {
        let (inner, outer) = ([self.dims.kernel_input], [self.dims.kernel_output]);
        let within = &self.dims.kernel_spatial[..];
        transposed(
            self.kernel,
            &match inner_first {
                true => [&inner, within, &outer].concat(),
                false => [within, &inner, &outer].concat(),
            },
        )
    }
}

/// Transposes `x`: result axis `i` is axis `order[i]`.
fn transposed<'g>(x: Tensor<'g>, order: &[usize]) -> Tensor<'g> {
    if order.is_sorted() { x } else { x.transpose(order) }
}

/// Slices `from..to` along `axis`.
fn slice_axis<'g>(x: Tensor<'g>, axis: usize, [from, to]: [usize; 2]) -> Tensor<'g> {
    let (mut start, mut limit) = (vec![0; x.shape().rank()], x.dims());
    (start[axis], limit[axis]) = (from, to);
    x.slice(&start, &limit)
}

/// Concatenates parts along `axis`.
fn concatenate<'g>(parts: &[Tensor<'g>], axis: usize) -> Tensor<'g> {
    match parts {
        [part] => *part,
        parts => parts[0].graph().concatenate(parts, axis),
    }
}

/// Strided slice of the spatial axes of `[first, spatial…, last]`: for each axis, `count` elements from `start` with
/// stride `step`.
fn slice_spatial<'g>(
    x: Tensor<'g>,
    start: impl Iterator<Item = usize>,
    count: &[usize],
    step: impl Iterator<Item = usize>,
) -> Tensor<'g> {
    let dims = x.dims();
    let (mut from, mut to, mut by) = (vec![0; dims.len()], dims.clone(), vec![1; dims.len()]);
    for (i, (start, step)) in start.zip(step).enumerate() {
        from[i + 1] = start;
        to[i + 1] = start + (count[i] - 1) * step + 1;
        by[i + 1] = step;
    }
    match to == dims && from.iter().all(|&i| i == 0) && by.iter().all(|&s| s == 1) {
        true => x,
        false => x.slice_strided(&from, &to, &by),
    }
}

/// `[a…, k] · [k, b]`, or with another pair of axes contracted. The other axes are merged first because compilers
/// handle products of two matrices best.
fn product<'g>(a: Tensor<'g>, matrix: Tensor<'g>, [left, right]: [usize; 2]) -> Tensor<'g> {
    let dims = a.dims();
    let contract = |left| DotDims {
        lhs_contract: vec![left],
        rhs_contract: vec![right],
        ..DotDims::default()
    };
    if dims.len() == 2 {
        return a.dot_general(matrix, contract(left));
    }
    let (rows, inner) = (&dims[..left], dims[left]);
    let flat = a.reshape(&[rows.iter().product(), inner]);
    let result = flat.dot_general(matrix, contract(1));
    let columns = matrix.dims()[1 - right];
    result.reshape(&[rows, &[columns]].concat())
}

/// All indices into `dims`, in row-major order.
pub(super) fn indices(dims: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<'_> {
    let total: usize = dims.iter().product();
    let strides = row_major(dims);
    let index = move |flat: usize| {
        strides
            .iter()
            .zip(dims)
            .map(|(stride, dim)| flat / stride % dim)
            .collect()
    };
    (0..total).map(index)
}
