//! Computations some of whose inputs stay the same over many launches, as the weights of a network that is not trained: what
//! depends on those alone is computed once.

use crate::emit::Alias;
use crate::error::Result;
use crate::graph::{Computation, Graph, Node, NodeId, Tensor};
use crate::op::{ConvPass, DIRECT_CONVOLUTION, DirectConvolution, Op, PACK_KERNEL};
use crate::shape::{DType, Shape};
use std::sync::Arc;

/// A computation in two.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// From the parameters that stay, what `rest` takes in their place.
    pub first: Computation,
    /// Outputs of `first` that are its parameters as they came.
    pub aliases: Vec<Alias>,
    /// From the outputs of `first` and the other parameters, what the whole computation computes.
    pub rest: Computation,
}

impl Computation {
    /// This computation with its first `fixed` parameters taken out. What depends on those alone moves into `first`, unless it
    /// is larger than they are or only another view of them; so do the kernels of convolutions that the host computes, in the
    /// order that it wants ([`PACK_KERNEL`]).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where a part does not fit its neighbours: a defect of this module.
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

    /// What the rest needs of what depends on the first `fixed` parameters alone.
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

    /// Per node the elements, at least 1, of the largest of the first `fixed` parameters that it depends on; 0 where it depends
    /// on no parameter, `None` where on another one.
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

    /// Adds what depends on the first `fixed` parameters alone to a graph; the new ids, where there is one.
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

    /// Adds some of the parameters to a graph, as its next ones.
    fn add_parameters(&self, graph: &Graph, parameters: &[NodeId], ids: &mut [NodeId]) {
        for &id in parameters {
            if let Op::Parameter { name, .. } = &self.nodes[id].op {
                ids[id] = graph.parameter(name.clone(), self.nodes[id].shape().clone()).id();
            }
        }
    }

    /// Adds the rest to a graph, on parameters that stand for the parts taken out and those that vary; its outputs.
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
            // What only the other part needs lacks operands here.
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

/// What is taken out of a computation.
struct Part {
    value: NodeId,
    /// The node for which it is packed, if it is, and the convolution that this is.
    packed_for: Option<(NodeId, DirectConvolution)>,
}

/// The kernel that the host can be given in an order of its own, and what it computes with that, if `node` is such a call.
fn packable(node: &Node) -> Option<(NodeId, DirectConvolution)> {
    let of = DirectConvolution::called(&node.op)?;
    let &[x, kernel] = &node.operands[..] else { return None };
    (of.pass == ConvPass::Forward && x != kernel).then_some((kernel, DirectConvolution { packed: true, ..of }))
}

fn packed_shape(of: &DirectConvolution) -> Shape {
    Shape::new(DType::F32, [of.room()])
}

/// A kernel as [`PACK_KERNEL`] makes it ready; for all but programs its elements as they are, with zeros after them.
fn packed<'g>(of: &DirectConvolution, kernel: Tensor<'g>) -> Tensor<'g> {
    let called = kernel.graph().host_call(of.host(PACK_KERNEL), &[kernel], |_, x| {
        let elements = of.kernel_elements();
        let after = of.room() - elements;
        vec![x[0].reshape(&[elements]).pad(0.0, &[0], &[after as i64], &[0])]
    });
    called[0]
}

/// A convolution with a kernel as [`packed`] gives it.
fn on_packed(of: &DirectConvolution, convolution: &Arc<Computation>) -> Result<Computation> {
    let mut parameters = convolution.parameter_specs();
    let own = std::mem::replace(&mut parameters[1].1, packed_shape(of));
    Graph::function(convolution.name.as_str(), &parameters, |g, x| {
        let kernel = x[1].slice(&[0], &[own.elements()]).reshape(&own.dims);
        g.call(convolution, &[x[0], kernel])
    })
}

/// Whether an operator only shows its operand in another shape, or repeats it.
fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Slice { .. } | Op::StopGradient | Op::WithVjp(_)
    )
}

/// The operands that a node's result depends on.
fn needs(node: &Node) -> &[NodeId] {
    match node.op {
        // The others are for its gradient.
        Op::WithVjp(_) => &node.operands[..1],
        _ => &node.operands,
    }
}

/// A copy of a node with its operands' new ids.
fn renumbered(node: &Node, ids: &[NodeId]) -> Node {
    let mut node = node.clone();
    node.operands = needs(&node).iter().map(|&operand| ids[operand]).collect();
    node
}
