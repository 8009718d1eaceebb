//! Partial evaluation: splits a computation into a part that depends only on inputs that stay the same over many
//! launches, such as the weights in inference, and the rest. The first part runs once.

use crate::emit::Alias;
use crate::error::Result;
use crate::graph::{Computation, Graph, Node, NodeId, Tensor};
use crate::op::{ConvPass, DIRECT_CONVOLUTION, DirectConvolution, Op, PACK_KERNEL};
use crate::shape::{DType, Shape};
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

impl Computation {
    /// Splits off the first `fixed` parameters. Nodes that depend on them alone move into `first`, unless the result is
    /// larger than those parameters or a mere view of them. Kernels of convolutions that run as host calls are packed
    /// there too ([`PACK_KERNEL`]).
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if the parts do not fit together, which is a bug in this module.
    pub fn prepared(&self, fixed: usize) -> Result<Prepared> {
        let reach = self.reach(fixed);
        let taken = self.taken(&reach);
        let (first, rest) = (
            Graph::new(format!("{}_first", self.name)),
            Graph::new(self.name.clone()),
        );

        let ids = self.first_nodes(&first, fixed, &reach);
        let outputs = taken.iter().map(|part| {
            let value = first.tensor(ids[part.value]);
            match &part.packed_for {
                Some((_, of)) => packed(of, value),
                None => value,
            }
        });
        let outputs: Vec<_> = outputs.map(|tensor| tensor.output()).collect();
        let unchanged = |(output, part): (usize, &Part)| match (&self.nodes[part.value].op, &part.packed_for) {
            (Op::Parameter { index, .. }, None) => Some(Alias {
                output,
                parameter: *index,
            }),
            _ => None,
        };

        let results = self.rest_nodes(&rest, fixed, &taken)?;
        let results: Vec<_> = results.iter().map(Tensor::output).collect();
        Ok(Prepared {
            aliases: taken.iter().enumerate().filter_map(unchanged).collect(),
            first: first.build(&outputs)?,
            rest: rest.build(&results)?,
        })
    }

    /// Nodes that depend only on the first `fixed` parameters and that the rest needs.
    fn taken(&self, reach: &[Option<usize>]) -> Vec<Part> {
        let depends = |id: NodeId| reach[id].filter(|&largest| largest > 0);
        let mut needed = vec![false; self.nodes.len()];
        let mut taken = vec![];
        for &id in &self.outputs {
            needed[id] = true;
        }
        for (id, node) in self.nodes.iter().enumerate().rev() {
            if !needed[id] {
                continue;
            }
            let whole = !node.op.yields_tuple() && !is_view(&node.op);
            if whole && depends(id).is_some_and(|largest| node.shape().elements() <= largest) {
                taken.push(Part {
                    value: id,
                    packed_for: None,
                });
                continue;
            }
            let packed = packable(node).filter(|&(kernel, _)| depends(kernel).is_some());
            let kernel = packed.as_ref().map(|&(kernel, _)| kernel);
            taken.extend(packed.map(|(value, of)| Part {
                value,
                packed_for: Some((id, of)),
            }));
            for &operand in needs(node).iter().filter(|&&operand| Some(operand) != kernel) {
                needed[operand] = true;
            }
        }
        taken.reverse();
        taken
    }

    /// For each node, the number of elements (at least 1) of the largest of the first `fixed` parameters that it
    /// depends on; 0 if it depends on no parameter, `None` if it depends on another one.
    fn reach(&self, fixed: usize) -> Vec<Option<usize>> {
        let mut reach: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            reach.push(match &node.op {
                Op::Parameter { index, .. } => (*index < fixed).then(|| node.shape().elements().max(1)),
                // The first part runs on one device.
                Op::AllReduce { .. } => None,
                _ => needs(node)
                    .iter()
                    .try_fold(0, |most, &operand| Some(most.max(reach[operand]?))),
            });
        }
        reach
    }

    /// Adds the nodes that depend only on the first `fixed` parameters to a graph. Returns their new ids.
    fn first_nodes(&self, graph: &Graph, fixed: usize, reach: &[Option<usize>]) -> Vec<NodeId> {
        let mut ids = vec![NodeId::MAX; self.nodes.len()];
        self.add_parameters(graph, &self.parameters[..fixed], &mut ids);
        for (id, node) in self.nodes.iter().enumerate() {
            if reach[id].is_some() && ids[id] == NodeId::MAX {
                ids[id] = graph.copy(renumbered(node, &ids));
            }
        }
        ids
    }

    /// Adds some of the parameters to a graph, as its next parameters.
    fn add_parameters(&self, graph: &Graph, parameters: &[NodeId], ids: &mut [NodeId]) {
        for &id in parameters {
            if let Op::Parameter { name, .. } = &self.nodes[id].op {
                ids[id] = graph.parameter(name.clone(), self.nodes[id].shape().clone()).id();
            }
        }
    }

    /// Adds the rest to a graph, on parameters for the parts split off and for the inputs that vary. Returns its
    /// outputs.
    fn rest_nodes<'g>(&self, graph: &'g Graph, fixed: usize, taken: &[Part]) -> Result<Vec<Tensor<'g>>> {
        let mut ids = vec![NodeId::MAX; self.nodes.len()];
        let mut kernels = vec![None; self.nodes.len()];
        for (i, part) in taken.iter().enumerate() {
            let parameter = |shape: Shape| graph.parameter(format!("prepared.{i}"), shape).id();
            match &part.packed_for {
                Some((by, of)) => kernels[*by] = Some((of, parameter(packed_shape(of)))),
                None => ids[part.value] = parameter(self.nodes[part.value].shape().clone()),
            }
        }
        self.add_parameters(graph, &self.parameters[fixed..], &mut ids);
        for (id, node) in self.nodes.iter().enumerate() {
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
            if let (Some((of, kernel)), Op::Call { body, .. }) = (kernels[id], &node.op) {
                copy.operands[1] = kernel;
                copy.op = Op::Call {
                    body: Arc::new(on_packed(of, body)?),
                    host: Some(of.host(DIRECT_CONVOLUTION)),
                };
            }
            ids[id] = graph.copy(copy);
        }
        Ok(self.outputs.iter().map(|&id| graph.tensor(ids[id])).collect())
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
    let of = DirectConvolution::called(&node.op)?;
    let &[x, kernel] = &node.operands[..] else { return None };
    (of.pass == ConvPass::Forward && x != kernel).then_some((kernel, DirectConvolution { packed: true, ..of }))
}

fn packed_shape(of: &DirectConvolution) -> Shape {
    Shape::new(DType::F32, [of.room()])
}

/// A kernel packed by [`PACK_KERNEL`]. Its reference semantics: the same elements, followed by zeros.
fn packed<'g>(of: &DirectConvolution, kernel: Tensor<'g>) -> Tensor<'g> {
    let called = kernel.graph().host_call(of.host(PACK_KERNEL), &[kernel], |_, x| {
        let elements = of.kernel_elements();
        let after = of.room() - elements;
        vec![x[0].reshape(&[elements]).pad(0.0, &[0], &[after as i64], &[0])]
    });
    called[0]
}

/// A convolution whose kernel comes from [`packed`].
fn on_packed(of: &DirectConvolution, convolution: &Arc<Computation>) -> Result<Computation> {
    let mut parameters = convolution.parameter_specs();
    let own = std::mem::replace(&mut parameters[1].1, packed_shape(of));
    Graph::function(convolution.name.as_str(), &parameters, |g, x| {
        let kernel = x[1].slice(&[0], &[own.elements()]).reshape(&own.dims);
        g.call(convolution, &[x[0], kernel])
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
    match node.op {
        // The others are inputs of its gradient.
        Op::WithVjp(_) => &node.operands[..1],
        _ => &node.operands,
    }
}

/// Copies a node with the new ids of its operands.
fn renumbered(node: &Node, ids: &[NodeId]) -> Node {
    let mut node = node.clone();
    node.operands = needs(&node).iter().map(|&operand| ids[operand]).collect();
    node
}
