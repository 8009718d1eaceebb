//! Partial evaluation: splits a computation into a part that depends only on inputs that stay the same over many
//! launches, such as the weights in inference, and the rest. The first part runs once.

use crate::direct::{ConvPass, DIRECT_CONVOLUTION, DirectConvolution, PACK_KERNEL};
use hlo::{Alias, Computation, DType, Graph, Node, NodeId, Op, Result, Shape, Tensor};
use std::sync::Arc;

/// A computation split in two.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Maps the fixed parameters to inputs of `rest`.
    pub first: Computation,
    /// Outputs of `first` that are unchanged parameters.
    pub aliases: Vec<Alias>,
    /// Maps the outputs of `first` and the other parameters to the outputs of the whole computation.
    pub rest: Computation,
}

/// Splits off the first `fixed` parameters of a computation. Nodes that depend on them alone move into
/// [`Prepared::first`], unless the result is larger than those parameters or a mere view of them. Kernels of
/// convolutions that run as host calls are packed there too ([`PACK_KERNEL`]).
///
/// # Errors
///
/// [`hlo::Error::Shape`] if the parts do not fit together, which is a bug in this module.
pub fn prepare(computation: &Computation, fixed: usize) -> Result<Prepared> {
    let split = Split {
        whole: computation,
        fixed,
        reach: reach(computation, fixed),
    };
    let parts = split.parts();
    let first = Graph::new(format!("{}_first", computation.name));
    let ids = split.first_nodes(&first);
    let outputs = parts.iter().map(|part| {
        let value = first.tensor(ids[part.value]);
        match &part.packed_for {
            Some((_, convolution)) => packed(convolution, value),
            None => value,
        }
    });
    let outputs: Vec<_> = outputs.map(|tensor| tensor.output()).collect();

    let rest = Graph::new(computation.name.clone());
    let results = split.rest_nodes(&rest, &parts)?;
    let results: Vec<_> = results.iter().map(Tensor::output).collect();
    Ok(Prepared {
        aliases: split.aliases(&parts),
        first: first
            .build(&outputs)?
            .with_matmul_precision(computation.matmul_precision),
        rest: rest
            .build(&results)?
            .with_matmul_precision(computation.matmul_precision),
    })
}

/// For each node, the number of elements (at least 1) of the largest of the first `fixed` parameters that it depends
/// on; 0 if it depends on no parameter, `None` if it depends on another one.
fn reach(computation: &Computation, fixed: usize) -> Vec<Option<usize>> {
    let mut reach: Vec<Option<usize>> = Vec::with_capacity(computation.nodes.len());
    for node in &computation.nodes {
        reach.push(if let Op::Parameter { index, .. } = node.op {
            (index < fixed).then(|| node.shape().elements().max(1))
        } else if let Op::AllReduce { .. } = node.op {
            // The first part runs on one device.
            None
        } else {
            let mut operands = needs(node).iter();
            operands.try_fold(0, |most, &operand| Some(most.max(reach[operand]?)))
        });
    }
    reach
}

/// A computation to split, and what its nodes depend on.
struct Split<'c> {
    whole: &'c Computation,
    fixed: usize,
    reach: Vec<Option<usize>>,
}

impl Split<'_> {
    /// The size that limits a value that the first part may compute; `None` if it depends on other inputs or on none.
    fn size_limit(&self, id: NodeId) -> Option<usize> {
        self.reach[id].filter(|&largest| largest > 0)
    }

    /// The values that the first part computes and the rest needs.
    fn parts(&self) -> Vec<Part> {
        let nodes = &self.whole.nodes;
        let mut needed = vec![false; nodes.len()];
        let mut parts = vec![];
        for &id in &self.whole.outputs {
            needed[id] = true;
        }
        for (id, node) in nodes.iter().enumerate().rev() {
            if !needed[id] {
                continue;
            }
            let whole = !node.op.yields_tuple() && !is_view(&node.op);
            if whole
                && self
                    .size_limit(id)
                    .is_some_and(|limit| node.shape().elements() <= limit)
            {
                parts.push(Part {
                    value: id,
                    packed_for: None,
                });
                continue;
            }
            let packed = packable(node).filter(|&(kernel, _)| self.size_limit(kernel).is_some());
            let kernel = packed.as_ref().map(|&(kernel, _)| kernel);
            parts.extend(packed.map(|(value, convolution)| Part {
                value,
                packed_for: Some((id, convolution)),
            }));
            for &operand in needs(node).iter().filter(|&&operand| Some(operand) != kernel) {
                needed[operand] = true;
            }
        }
        parts.reverse();
        parts
    }

    /// Outputs of the first part that are unchanged parameters.
    fn aliases(&self, parts: &[Part]) -> Vec<Alias> {
        let unchanged = |(output, part): (usize, &Part)| {
            let parameter = self.whole.parameters.iter().position(|&id| id == part.value)?;
            part.packed_for.is_none().then_some(Alias { output, parameter })
        };
        parts.iter().enumerate().filter_map(unchanged).collect()
    }

    /// Adds the nodes that depend only on the fixed parameters to a graph. Returns their new ids.
    fn first_nodes(&self, graph: &Graph) -> Vec<NodeId> {
        let mut ids = vec![NodeId::MAX; self.whole.nodes.len()];
        self.add_parameters(graph, &self.whole.parameters[..self.fixed], &mut ids);
        for (id, node) in self.whole.nodes.iter().enumerate() {
            if self.reach[id].is_some() && ids[id] == NodeId::MAX {
                ids[id] = graph.add_node(renumbered(node, &ids));
            }
        }
        ids
    }

    /// Adds some of the parameters to a graph, as its next parameters.
    fn add_parameters(&self, graph: &Graph, parameters: &[NodeId], ids: &mut [NodeId]) {
        let nodes = &self.whole.nodes;
        for &id in parameters {
            if let Op::Parameter { name, .. } = &nodes[id].op {
                ids[id] = graph.parameter(name.clone(), nodes[id].shape().clone()).id();
            }
        }
    }

    /// Adds the rest to a graph, on parameters for the parts split off and for the inputs that vary. Returns its
    /// outputs.
    fn rest_nodes<'g>(&self, graph: &'g Graph, parts: &[Part]) -> Result<Vec<Tensor<'g>>> {
        let nodes = &self.whole.nodes;
        let mut ids = vec![NodeId::MAX; nodes.len()];
        let mut kernels = vec![None; nodes.len()];
        for (i, part) in parts.iter().enumerate() {
            let parameter = |shape: Shape| graph.parameter(format!("prepared.{i}"), shape).id();
            match &part.packed_for {
                Some((id, convolution)) => {
                    kernels[*id] = Some((convolution, parameter(packed_shape(convolution))));
                }
                None => ids[part.value] = parameter(nodes[part.value].shape().clone()),
            }
        }
        self.add_parameters(graph, &self.whole.parameters[self.fixed..], &mut ids);
        for (id, node) in nodes.iter().enumerate() {
            // Nodes that only the first part needs lack operands here.
            let has = |operand: &NodeId| ids[*operand] != NodeId::MAX;
            let complete = match kernels[id] {
                Some(_) => has(&node.operands[0]),
                None => needs(node).iter().all(has),
            };
            if ids[id] != NodeId::MAX || !complete || matches!(node.op, Op::Parameter { .. }) {
                continue;
            }
            let mut copy = renumbered(node, &ids);
            if let (Some((convolution, kernel)), Op::Call { body, .. }) = (kernels[id], &node.op) {
                copy.operands[1] = kernel;
                copy.op = Op::Call {
                    body: Arc::new(with_packed_kernel(convolution, body)?),
                    host: Some(convolution.host_function(DIRECT_CONVOLUTION)),
                };
            }
            ids[id] = graph.add_node(copy);
        }
        Ok(self.whole.outputs.iter().map(|&id| graph.tensor(ids[id])).collect())
    }
}

/// A value that the first part computes for the rest.
struct Part {
    value: NodeId,
    /// If it is a packed kernel: the convolution node, and its description.
    packed_for: Option<(NodeId, DirectConvolution)>,
}

/// The kernel operand that the host can pack and the convolution that uses it, if `node` is such a call.
fn packable(node: &Node) -> Option<(NodeId, DirectConvolution)> {
    let convolution = DirectConvolution::from_call(&node.op)?;
    let &[x, kernel] = &node.operands[..] else { return None };
    let packed = DirectConvolution {
        packed: true,
        ..convolution
    };
    (packed.pass == ConvPass::Forward && x != kernel).then_some((kernel, packed))
}

fn packed_shape(convolution: &DirectConvolution) -> Shape {
    Shape::new(DType::F32, [convolution.packed_len()])
}

/// A kernel packed by [`PACK_KERNEL`]. Its reference semantics: the same elements, followed by zeros.
fn packed<'g>(convolution: &DirectConvolution, kernel: Tensor<'g>) -> Tensor<'g> {
    let host = convolution.host_function(PACK_KERNEL);
    let results = kernel.graph().host_call(host, &[kernel], |_, x| {
        let elements = convolution.kernel_elements();
        let after = convolution.packed_len() - elements;
        vec![x[0].reshape(&[elements]).pad(0.0, &[0], &[after as i64], &[0])]
    });
    results[0]
}

/// A convolution whose kernel comes from [`packed`].
fn with_packed_kernel(convolution: &DirectConvolution, body: &Arc<Computation>) -> Result<Computation> {
    let mut parameters = body.parameter_specs();
    let kernel = std::mem::replace(&mut parameters[1].1, packed_shape(convolution));
    Graph::function(body.name.as_str(), &parameters, |g, x| {
        let kernel = x[1].slice(&[0], &[kernel.elements()]).reshape(&kernel.dims);
        g.call(body, &[x[0], kernel])
    })
}

/// Whether an operator only reshapes or repeats its operand.
fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Slice { .. } | Op::StopGradient | Op::WithVjp(_)
    )
}

/// The operands that a node's result depends on.
fn needs(node: &Node) -> &[NodeId] {
    // The other operands are inputs of the gradient.
    let first_only = matches!(node.op, Op::WithVjp(_));
    if first_only {
        &node.operands[..1]
    } else {
        &node.operands
    }
}

/// Copies a node with the new ids of its operands.
fn renumbered(node: &Node, ids: &[NodeId]) -> Node {
    let mut node = node.clone();
    node.operands = needs(&node).iter().map(|&operand| ids[operand]).collect();
    node
}
