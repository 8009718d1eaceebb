//! Rewrites a computation so that its images are held in parts.

use super::borders::{Border, Rows};
use super::plan::{Convolution, Plan, Use};
use hlo::{Binary, Computation, Graph, Node, NodeId, Op, Result, Shape, Tensor, WindowDim};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rewrites a computation and those that it calls.
///
/// # Errors
///
/// [`hlo::Error::Shape`] if the parts do not fit together, which is a bug in this module.
pub(crate) fn in_parts(computation: &Computation) -> Result<Computation> {
    Called::default().computation(computation)
}

/// Computations that have been rewritten.
#[derive(Default)]
struct Called(BTreeMap<*const Computation, Arc<Computation>>);

impl Called {
    fn computation(&mut self, computation: &Computation) -> Result<Computation> {
        let ops: Result<Vec<Op>> = computation
            .nodes
            .iter()
            .map(|node| node.op.clone().try_map_called(|called| self.shared(called)))
            .collect();
        let mut computation = computation.clone();
        for (node, op) in computation.nodes.iter_mut().zip(ops?) {
            node.op = op;
        }
        match Plan::of(&computation) {
            Some(plan) => rewritten(&computation, &plan),
            None => Ok(computation),
        }
    }

    fn shared(&mut self, computation: &Arc<Computation>) -> Result<Arc<Computation>> {
        let key = Arc::as_ptr(computation);
        if let Some(done) = self.0.get(&key) {
            return Ok(done.clone());
        }
        let done = Arc::new(self.computation(computation)?);
        self.0.insert(key, done.clone());
        Ok(done)
    }
}

fn rewritten(computation: &Computation, plan: &Plan) -> Result<Computation> {
    let graph = Graph::new(computation.name.clone());
    let mut rewrite = Rewrite {
        graph: &graph,
        nodes: &computation.nodes,
        plan,
        summed: summed(&computation.nodes),
        whole: BTreeMap::new(),
        cut: BTreeMap::new(),
        edges: BTreeMap::new(),
    };
    for id in 0..computation.nodes.len() {
        rewrite.node(id);
    }
    let outputs: Vec<_> = computation
        .outputs
        .iter()
        .map(|&id| rewrite.whole(id).output())
        .collect();
    let done = graph.build(&outputs)?;
    Ok(done.with_matmul_precision(computation.matmul_precision))
}

/// Results that reductions read, beyond what they compute from them: compilers compute conversions, products and differences
/// again for each of their uses.
fn summed(nodes: &[Node]) -> Vec<bool> {
    let mut summed = vec![false; nodes.len()];
    let mut seen = vec![false; nodes.len()];
    let reduced = nodes.iter().filter(|node| matches!(node.op, Op::Reduce { .. }));
    let mut todo: Vec<NodeId> = reduced.map(|node| node.operands[0]).collect();
    while let Some(id) = todo.pop() {
        if std::mem::replace(&mut seen[id], true) {
            continue;
        }
        let op = &nodes[id].op;
        if matches!(op, Op::Convert(_) | Op::Binary(Binary::Multiply | Binary::Subtract)) {
            todo.extend(&nodes[id].operands);
        } else if is_rule(op) {
            todo.push(nodes[id].operands[0]);
        } else {
            summed[id] = true;
        }
    }
    summed
}

/// Rows at a border: the first of every part but the first one, or the last of every part but the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    First(usize),
    Last(usize),
}

struct Rewrite<'g, 'c> {
    graph: &'g Graph,
    nodes: &'c [Node],
    plan: &'c Plan,
    /// Nodes that a reduction reads, which exist in memory.
    summed: Vec<bool>,
    /// Results as they were.
    whole: BTreeMap<NodeId, Tensor<'g>>,
    /// Results in parts.
    cut: BTreeMap<NodeId, Tensor<'g>>,
    edges: BTreeMap<(NodeId, Edge), Tensor<'g>>,
}

impl<'g> Rewrite<'g, '_> {
    fn shape(&self, id: NodeId) -> &Shape {
        self.nodes[id].shape()
    }

    fn node(&mut self, id: NodeId) {
        let nodes = self.nodes;
        let node = &nodes[id];
        let _scope = (!node.scope.is_empty()).then(|| self.graph.scope(node.scope.as_str()));
        let op = &node.op;
        if is_rule(op) {
            self.alias(id, node.operands[0]);
        } else if self.convolves_in_parts(id) {
            self.convolution(id);
        } else if let Op::Reduce { axes, .. } = op
            && axes.contains(&1)
            && self.cut.contains_key(&node.operands[0])
        {
            self.reduction(id, axes);
        } else if self.plan.cuts(node.shape()) && is_elementwise(op) && self.has_cut_operand(node) {
            let dims = self.plan.dims(&node.shape().dims);
            let operands: Vec<_> = node.operands.iter().map(|&operand| self.operand(operand)).collect();
            let result = self.with_dims(node, &operands, dims);
            self.cut.insert(id, result);
        } else {
            if let Op::Broadcast { axes, .. } = op
                && self.plan.cuts(node.shape())
                && !axes.contains(&1)
            {
                // Broadcasts cost nothing, so both forms exist.
                self.broadcast(id, axes);
            }
            let whole = self.kept(node);
            self.whole.insert(id, whole);
        }
    }

    /// Broadcasts to images in parts.
    fn broadcast(&mut self, id: NodeId, axes: &[usize]) {
        let node = &self.nodes[id];
        let dims = self.plan.dims(&node.shape().dims);
        let mut operand = self.whole(node.operands[0]);
        if axes.contains(&0) {
            operand = self.graph.concatenate(&vec![operand; self.plan.parts], 0);
        }
        self.cut.insert(id, operand.broadcast(&dims, axes));
    }

    /// Gives `id` the results of `of`.
    fn alias(&mut self, id: NodeId, of: NodeId) {
        if let Some(&cut) = self.cut.get(&of) {
            self.cut.insert(id, cut);
        }
        if let Some(&whole) = self.whole.get(&of) {
            self.whole.insert(id, whole);
        }
    }

    /// The node as it was.
    fn kept(&mut self, node: &Node) -> Tensor<'g> {
        let operands: Vec<_> = node.operands.iter().map(|&operand| self.whole(operand)).collect();
        let mut node = node.clone();
        node.operands = operands.iter().map(Tensor::id).collect();
        self.graph.tensor(self.graph.add_node(node))
    }

    /// An elementwise operator on other operands, with another shape of the result.
    fn with_dims(&self, node: &Node, operands: &[Tensor<'g>], dims: Vec<usize>) -> Tensor<'g> {
        let mut node = node.clone();
        node.shapes = vec![node.shape().with_dims(dims)];
        node.operands = operands.iter().map(Tensor::id).collect();
        self.graph.tensor(self.graph.add_node(node))
    }

    fn has_cut_operand(&self, node: &Node) -> bool {
        let image = |&operand: &NodeId| self.cut.contains_key(&operand) && !self.is_broadcast(operand);
        node.operands.iter().any(image)
    }

    fn is_broadcast(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].op, Op::Broadcast { .. })
    }

    /// An operand of an elementwise operator on images: another image in parts, or a scalar.
    fn operand(&mut self, id: NodeId) -> Tensor<'g> {
        match self.plan.cuts(self.shape(id)) {
            true => self.cut(id),
            false => self.whole(id),
        }
    }

    /// The result of a node as it was, joined if it is held in parts.
    fn whole(&mut self, id: NodeId) -> Tensor<'g> {
        if let Some(&whole) = self.whole.get(&id) {
            return whole;
        }
        let cut = self.cut[&id];
        let parts: Vec<_> = (0..self.plan.parts).map(|part| self.part(cut, part)).collect();
        let whole = self.graph.concatenate(&parts, 1);
        self.whole.insert(id, whole);
        whole
    }

    /// The result of a node in parts, cut if it is held whole.
    fn cut(&mut self, id: NodeId) -> Tensor<'g> {
        if let Some(&cut) = self.cut.get(&id) {
            return cut;
        }
        let whole = self.whole[&id];
        let dims = whole.dims();
        let rows = dims[1] / self.plan.parts;
        let part = |part: usize| {
            let (mut start, mut limit) = (vec![0; dims.len()], dims.clone());
            (start[1], limit[1]) = (part * rows, (part + 1) * rows);
            whole.slice(&start, &limit)
        };
        let parts: Vec<_> = (0..self.plan.parts).map(part).collect();
        let cut = self.graph.concatenate(&parts, 0);
        self.cut.insert(id, cut);
        cut
    }

    /// One part of an array in parts.
    fn part(&self, cut: Tensor<'g>, part: usize) -> Tensor<'g> {
        let mut limit = cut.dims();
        let mut start = vec![0; limit.len()];
        let batch = limit[0] / self.plan.parts;
        (start[0], limit[0]) = (part * batch, (part + 1) * batch);
        cut.slice(&start, &limit)
    }

    fn reduction(&mut self, id: NodeId, axes: &[usize]) {
        let node = &self.nodes[id];
        let Op::Reduce { reducer, .. } = node.op else { return };
        let (images, initial) = (self.cut[&node.operands[0]], self.whole(node.operands[1]));
        let reduce = |images: Tensor<'g>, axes: &[usize], mut shape: Shape| {
            shape.dims = kept_dims(&images.dims(), axes);
            let op = Op::Reduce {
                axes: axes.to_vec(),
                reducer,
            };
            self.graph.tensor(self.graph.add_node(Node {
                op,
                operands: vec![images.id(), initial.id()],
                shapes: vec![shape],
                scope: node.scope.clone(),
            }))
        };
        let mut reduced = reduce(images, axes, node.shape().clone());
        if !axes.contains(&0) {
            // The parts of an image lie `batch` apart.
            let dims = [&[self.plan.parts], &node.shape().dims[..]].concat();
            reduced = reduce(reduced.reshape(&dims), &[0], node.shape().clone());
        }
        self.whole.insert(id, reduced);
    }

    /// Whether a convolution is computed in parts: if both of its images are held so, or the larger one.
    fn convolves_in_parts(&self, id: NodeId) -> bool {
        let Some(conv) = Convolution::of(self.nodes, id).filter(|conv| conv.fits(self.plan.parts)) else {
            return false;
        };
        let [input, other] = conv.images;
        if input.dims[0] != self.plan.batch {
            return false;
        }
        match conv.images.map(|image| self.plan.cuts(image)) {
            [true, true] => true,
            [false, false] => false,
            [true, false] => other.elements() <= input.elements(),
            [false, true] => input.elements() <= other.elements(),
        }
    }

    fn convolution(&mut self, id: NodeId) {
        let nodes = self.nodes;
        let Some(conv) = Convolution::of(nodes, id) else { return };
        let [inputs, outputs] = conv.images.map(|image| image.dims[1] / self.plan.parts);
        let operands = [0, 1].map(|i| nodes[id].operands[i]);
        let main = Border {
            inputs,
            outputs,
            before: conv.rows.before,
        };
        let input = self.cut(operands[0]);
        let borders = [
            conv.rows.previous().map(|border| (border, true)),
            conv.rows.next(inputs, outputs).map(|border| (border, false)),
        ];
        match conv.using {
            Use::Images => {
                let kernel = self.whole(operands[1]);
                let mut y = self.convolve(id, conv.rows, [input, kernel], &main);
                for (border, previous) in borders.into_iter().flatten() {
                    let rows = self.edge(operands[0], Edge::of_input(&border, previous));
                    let added = self.convolve(id, conv.rows, [rows, kernel], &border);
                    y = y + self.at_edge(added, outputs, previous);
                }
                self.cut.insert(id, y);
            }
            Use::Kernel => {
                let cotangent = self.cut(operands[1]);
                let mut sum = self.convolve(id, conv.rows, [input, cotangent], &main);
                for (border, previous) in borders.into_iter().flatten() {
                    let rows = self.edge(operands[0], Edge::of_input(&border, previous));
                    let cotangent = self.edge(operands[1], Edge::of_output(&border, previous));
                    sum = sum + self.convolve(id, conv.rows, [rows, cotangent], &border);
                }
                self.whole.insert(id, sum);
            }
        }
    }

    /// The convolution `id` of other rows.
    fn convolve(&self, id: NodeId, rows: Rows, [x, kernel]: [Tensor<'g>; 2], border: &Border) -> Tensor<'g> {
        let Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } = &self.nodes[id].op
        else {
            return x;
        };
        let size = kernel.dims()[dims.kernel_spatial[0]];
        let over_rows = WindowDim {
            size,
            pad_low: border.before,
            pad_high: rows.after(border.before, border.inputs, border.outputs),
            ..window[0]
        };
        let window = vec![over_rows, window[1]];
        x.convolution(kernel, window, dims.clone(), *feature_groups, *batch_groups)
    }

    /// Results for the outputs at a border, surrounded by zeros to all outputs.
    fn at_edge(&self, results: Tensor<'g>, outputs: usize, first: bool) -> Tensor<'g> {
        let (batch, rest) = (self.plan.batch as i64, (outputs - results.dims()[1]) as i64);
        let [low, high] = match first {
            true => [[batch, 0, 0, 0], [0, rest, 0, 0]],
            false => [[0, rest, 0, 0], [batch, 0, 0, 0]],
        };
        results.pad(0.0, &low, &high, &[0; 4])
    }

    /// The rows of an image at borders.
    ///
    /// A slice of a result that the compiler would otherwise compute where it is read makes it store the whole result. So this
    /// computes elementwise operators again on slices of their operands, down to results that are stored anyway.
    fn edge(&mut self, id: NodeId, edge: Edge) -> Tensor<'g> {
        if let Some(&rows) = self.edges.get(&(id, edge)) {
            return rows;
        }
        let nodes = self.nodes;
        let node = &nodes[id];
        let rows = if is_rule(&node.op) {
            self.edge(node.operands[0], edge)
        } else if let Op::Broadcast { axes, .. } = &node.op
            && !axes.iter().any(|&axis| axis < 2)
        {
            let dims = self.edge_dims(&node.shape().dims, edge);
            self.whole(node.operands[0]).broadcast(&dims, axes)
        } else if self.plan.cuts(node.shape()) && is_elementwise(&node.op) && !self.is_stored(id) {
            let dims = self.edge_dims(&node.shape().dims, edge);
            let operand = |operand: &NodeId| match self.plan.cuts(self.shape(*operand)) {
                true => self.edge(*operand, edge),
                false => self.whole(*operand),
            };
            let operands: Vec<_> = node.operands.iter().map(operand).collect();
            self.with_dims(node, &operands, dims)
        } else {
            self.slice(id, edge)
        };
        self.edges.insert((id, edge), rows);
        rows
    }

    fn slice(&mut self, id: NodeId, edge: Edge) -> Tensor<'g> {
        let cut = self.cut(id);
        let (dims, size) = (cut.dims(), self.plan.batch);
        let (mut start, mut limit) = (vec![0; dims.len()], dims.clone());
        match edge {
            Edge::First(rows) => (start[0], limit[1]) = (size, rows),
            Edge::Last(rows) => (limit[0], start[1]) = (dims[0] - size, dims[1] - rows),
        }
        cut.slice(&start, &limit)
    }

    fn edge_dims(&self, dims: &[usize], edge: Edge) -> Vec<usize> {
        let mut dims = dims.to_vec();
        dims[0] *= self.plan.parts - 1;
        dims[1] = match edge {
            Edge::First(rows) | Edge::Last(rows) => rows,
        };
        dims
    }

    /// Whether the compiler stores this result: reductions read it, or it is a sum of two images, as in residual networks.
    fn is_stored(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        let images = || {
            let own = |&&operand: &&NodeId| self.plan.cuts(self.shape(operand)) && !self.is_broadcast(operand);
            node.operands.iter().filter(own).count()
        };
        let sum = matches!(node.op, Op::Binary(Binary::Add)) && images() == 2;
        self.summed[id] || sum
    }
}

impl Edge {
    /// The input rows of a border.
    fn of_input(border: &Border, previous: bool) -> Self {
        match previous {
            true => Edge::Last(border.inputs),
            false => Edge::First(border.inputs),
        }
    }

    /// The outputs that read them.
    fn of_output(border: &Border, previous: bool) -> Self {
        match previous {
            true => Edge::First(border.outputs),
            false => Edge::Last(border.outputs),
        }
    }
}

/// Whether only differentiation needs this operator, which otherwise is its first operand.
fn is_rule(op: &Op) -> bool {
    matches!(op, Op::WithVjp(_) | Op::StopGradient)
}

/// Whether every element of the result depends only on the elements of the operands at its place, or on scalars.
fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Clamp | Op::Convert(_)
    )
}

fn kept_dims(dims: &[usize], axes: &[usize]) -> Vec<usize> {
    let kept = dims.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
    kept.map(|(_, &size)| size).collect()
}
