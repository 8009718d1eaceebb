//! The graph builder: nodes, handles, scopes, and errors deferred to [`Graph::build`].

use crate::error::{Error, Result};
use crate::literal::{Element, Literal};
use crate::op::Op;
use crate::precision::MatmulPrecision;
use crate::shape::{DType, Shape};
use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

/// Index of a node in its computation. Operands come before their users.
pub type NodeId = usize;

/// One operator application.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator with its attributes.
    pub op: Op,
    /// Operand nodes.
    pub operands: Vec<NodeId>,
    /// Result shapes: one per element if the operator yields a tuple, otherwise one.
    pub shapes: Vec<Shape>,
    /// Scope path of the node, e.g. `train/layer1`.
    pub scope: String,
}

impl Node {
    /// Shape of a node that yields an array.
    pub fn shape(&self) -> &Shape {
        &self.shapes[0]
    }
}

/// A finished function from arrays to arrays.
#[derive(Clone, Debug)]
pub struct Computation {
    /// Name in dumps and in the emitted module.
    pub name: String,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Parameter nodes, by parameter index.
    pub parameters: Vec<NodeId>,
    /// Output nodes.
    pub outputs: Vec<NodeId>,
    /// Precision of matrix products and convolutions, also in called computations, whose own is not looked at.
    pub matmul_precision: MatmulPrecision,
}

impl Computation {
    /// The same computation with this precision of matrix products and convolutions.
    #[must_use]
    pub fn with_matmul_precision(self, matmul_precision: MatmulPrecision) -> Self {
        Computation {
            matmul_precision,
            ..self
        }
    }

    /// Name and shape of each parameter.
    pub fn parameter_specs(&self) -> Vec<(String, Shape)> {
        self.parameters
            .iter()
            .map(|&id| {
                let Op::Parameter { name, .. } = &self.nodes[id].op else {
                    unreachable!("parameters are parameter nodes")
                };
                (name.clone(), self.nodes[id].shape().clone())
            })
            .collect()
    }

    /// Shapes of the outputs.
    pub fn output_shapes(&self) -> Vec<Shape> {
        self.outputs.iter().map(|&id| self.nodes[id].shape().clone()).collect()
    }

    /// Whether this computation, or one that it calls, calls a host function.
    pub fn calls_host(&self) -> bool {
        self.nodes.iter().any(|node| {
            let host = matches!(node.op, Op::Call { host: Some(_), .. });
            host || node.op.called().iter().any(|called| called.calls_host())
        })
    }

    /// Number of nodes, including those of called computations.
    pub fn instruction_count(&self) -> usize {
        let called = |node: &Node| match &node.op {
            Op::Module(module) => module.instruction_count(),
            op => op.called().iter().map(|c| c.instruction_count()).sum(),
        };
        self.nodes.len() + self.nodes.iter().map(called).sum::<usize>()
    }
}

/// A graph under construction. Handles ([`Tensor`]) borrow it; [`Graph::build`] finishes it.
pub struct Graph {
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    name: String,
    nodes: Vec<Node>,
    parameters: Vec<NodeId>,
    scope: Vec<String>,
    error: Option<Error>,
}

/// Handle of a failed call. Operators propagate it without a further error.
const POISON: NodeId = NodeId::MAX;

/// Handle of an array in a [`Graph`]. Cheap to copy; operators are methods and Rust's arithmetic operators.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    graph: &'g Graph,
    id: NodeId,
}

/// Guard of a scope; dropping it leaves the scope.
pub struct Scope<'g>(&'g Graph);

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().scope.pop();
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph {
            inner: RefCell::new(Inner {
                name: name.into(),
                ..Inner::default()
            }),
        }
    }

    /// Adds the next parameter, by position.
    pub fn parameter(&self, name: impl Into<String>, shape: Shape) -> Tensor<'_> {
        let index = self.inner.borrow().parameters.len();
        let name = name.into();
        let tensor = self.push(Op::Parameter { index, name }, vec![], vec![shape]);
        self.inner.borrow_mut().parameters.push(tensor.id);
        tensor
    }

    /// A constant array.
    pub fn constant(&self, value: Literal) -> Tensor<'_> {
        let shape = value.shape().clone();
        self.push(Op::Constant(value), vec![], vec![shape])
    }

    /// A constant scalar of a Rust type.
    pub fn scalar<T: Element>(&self, value: T) -> Tensor<'_> {
        self.constant(Literal::scalar(value))
    }

    /// A constant scalar of `dtype`; `value` is rounded to it.
    pub fn number(&self, dtype: DType, value: f64) -> Tensor<'_> {
        self.constant(crate::eval::Value::filled(Shape::scalar(dtype), value).to_literal())
    }

    /// A constant array of `dtype`; `values` are rounded to it.
    pub(crate) fn numbers(&self, dtype: DType, dims: &[usize], values: &[f64]) -> Tensor<'_> {
        self.constant(crate::eval::Value::rounded(Shape::new(dtype, dims), values).to_literal())
    }

    /// An array of `shape` filled with `value`, rounded to the element type.
    pub fn full(&self, shape: &Shape, value: f64) -> Tensor<'_> {
        self.number(shape.dtype, value).broadcast_to(&shape.dims)
    }

    /// Names everything built until the returned guard is dropped under the scope `name`.
    #[must_use]
    pub fn scope(&self, name: impl Into<String>) -> Scope<'_> {
        self.inner.borrow_mut().scope.push(name.into());
        Scope(self)
    }

    /// Finishes the graph: removes nodes that no output needs (parameters stay), or reports the first wrong call.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] or [`Error::NoGradient`] of the first call that failed.
    #[track_caller]
    pub fn build(self, outputs: &[Output]) -> Result<Computation> {
        let mut inner = self.inner.into_inner();
        if inner.error.is_none() && outputs.iter().any(|o| o.0 >= inner.nodes.len()) {
            inner.error = Some(Error::Shape {
                op: "build",
                operands: vec![],
                message: "an output belongs to another graph".into(),
                location: Location::caller(),
            });
        }
        match inner.error {
            Some(error) => Err(error),
            None => Ok(prune(inner.name, inner.nodes, inner.parameters, outputs)),
        }
    }

    /// Builds a computation in one call: `f` receives the graph and its parameters and returns the outputs.
    ///
    /// # Errors
    ///
    /// As [`Graph::build`].
    pub fn function(
        name: impl Into<String>,
        parameters: &[(String, Shape)],
        f: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Result<Computation> {
        let graph = Graph::new(name);
        let outputs = graph.trace(parameters, f);
        graph.build(&outputs)
    }

    fn trace(
        &self,
        parameters: &[(String, Shape)],
        f: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Vec<Output> {
        let add = |(name, shape): &(String, Shape)| self.parameter(name.clone(), shape.clone());
        let arguments: Vec<_> = parameters.iter().map(add).collect();
        f(self, &arguments).iter().map(Tensor::output).collect()
    }

    /// Adds a checked node for `op`. On failure, records the error and returns a poisoned handle.
    #[track_caller]
    pub(crate) fn apply(&self, op: Op, operands: &[Tensor<'_>]) -> Tensor<'_> {
        match self.checked(&op, operands, Location::caller()) {
            Some(shapes) => self.push(op, operands.iter().map(|t| t.id).collect(), shapes),
            None => self.poison(),
        }
    }

    /// [`Graph::apply`] for an operator that yields a tuple: one handle per element.
    #[track_caller]
    pub(crate) fn apply_tuple(&self, op: Op, operands: &[Tensor<'_>], elements: usize) -> Vec<Tensor<'_>> {
        let Some(shapes) = self.checked(&op, operands, Location::caller()) else {
            return vec![self.poison(); elements];
        };
        debug_assert_eq!(shapes.len(), elements);
        let tuple = self.push(op, operands.iter().map(|t| t.id).collect(), shapes.clone());
        let element = |(index, shape)| self.push(Op::GetTupleElement { index }, vec![tuple.id], vec![shape]);
        shapes.into_iter().enumerate().map(element).collect()
    }

    fn checked(&self, op: &Op, operands: &[Tensor<'_>], at: &'static Location<'static>) -> Option<Vec<Shape>> {
        if operands.iter().any(|t| std::ptr::eq(t.graph, self) && t.id == POISON) {
            return None;
        }
        let foreign = operands.iter().any(|t| !std::ptr::eq(t.graph, self));
        let shapes: Vec<Shape> = operands.iter().map(Tensor::shape).collect();
        let inferred = if foreign {
            Err("an operand belongs to another graph".to_string())
        } else {
            op.infer(&shapes.iter().collect::<Vec<_>>())
        };
        inferred
            .map_err(|message| {
                self.fail(Error::Shape {
                    op: op.name(),
                    operands: shapes,
                    message,
                    location: at,
                });
            })
            .ok()
    }

    fn push(&self, op: Op, operands: Vec<NodeId>, shapes: Vec<Shape>) -> Tensor<'_> {
        let mut inner = self.inner.borrow_mut();
        let scope = inner.scope.join("/");
        let id = inner.nodes.len();
        inner.nodes.push(Node {
            op,
            operands,
            shapes,
            scope,
        });
        Tensor { graph: self, id }
    }

    /// Adds a node as it is, without checks: for rewriting a finished graph. Its operands must be ids of this graph.
    pub fn add_node(&self, node: Node) -> NodeId {
        let mut inner = self.inner.borrow_mut();
        let id = inner.nodes.len();
        if let Op::Parameter { .. } = node.op {
            inner.parameters.push(id);
        }
        inner.nodes.push(node);
        id
    }

    /// Records `error` unless an earlier one is recorded.
    pub(crate) fn fail(&self, error: Error) {
        self.inner.borrow_mut().error.get_or_insert(error);
    }

    pub(crate) fn poison(&self) -> Tensor<'_> {
        Tensor {
            graph: self,
            id: POISON,
        }
    }

    /// A copy of a node of this graph.
    pub fn node(&self, id: NodeId) -> Node {
        self.inner.borrow().nodes[id].clone()
    }

    /// The handle of a node of this graph.
    pub fn tensor(&self, id: NodeId) -> Tensor<'_> {
        Tensor { graph: self, id }
    }

    /// Builds a sub-computation on parameters of `shapes`. On failure, this graph records the error, and `Err` holds
    /// the number of outputs, so that the caller can continue with poisoned handles.
    pub(crate) fn subgraph(
        &self,
        name: &str,
        shapes: &[Shape],
        f: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> std::result::Result<Arc<Computation>, usize> {
        let named = |(i, s): (usize, &Shape)| (format!("arg{i}"), s.clone());
        let parameters: Vec<_> = shapes.iter().enumerate().map(named).collect();
        let graph = Graph::new(name);
        graph.inner.borrow_mut().scope = self.inner.borrow().scope.clone();
        let outputs = graph.trace(&parameters, f);
        graph.build(&outputs).map(Arc::new).map_err(|error| {
            self.fail(error);
            outputs.len()
        })
    }
}

/// An output of a graph, without the borrow. See [`Tensor::output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output(NodeId);

impl<'g> Tensor<'g> {
    /// The graph of this array.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Shape. After a failed call, a scalar; [`Graph::build`] then reports the failure.
    pub fn shape(&self) -> Shape {
        match self.id {
            POISON => Shape::scalar(DType::F32),
            id => self.graph.inner.borrow().nodes[id].shape().clone(),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.shape().dtype
    }

    /// Dimensions.
    pub fn dims(&self) -> Vec<usize> {
        self.shape().dims
    }

    /// This array as an argument of [`Graph::build`].
    pub fn output(&self) -> Output {
        Output(self.id)
    }

    /// Number of operand slots in the graph so far that use this array.
    pub fn uses(&self) -> usize {
        let inner = self.graph.inner.borrow();
        let operands = inner.nodes.iter().flat_map(|node| &node.operands);
        operands.filter(|&&id| id == self.id).count()
    }

    /// The node in its graph.
    pub fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn is_poison(&self) -> bool {
        self.id == POISON
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}: {}", self.id, self.shape())
    }
}

/// Keeps the parameters and the nodes that `outputs` need, and renumbers them.
fn prune(name: String, nodes: Vec<Node>, parameters: Vec<NodeId>, outputs: &[Output]) -> Computation {
    let mut live = vec![false; nodes.len()];
    for &id in &parameters {
        live[id] = true;
    }
    for output in outputs {
        live[output.0] = true;
    }
    for id in (0..nodes.len()).rev() {
        if live[id] {
            for &operand in &nodes[id].operands {
                live[operand] = true;
            }
        }
    }
    let mut renumbered = vec![0; nodes.len()];
    let mut kept = Vec::new();
    for (id, mut node) in nodes.into_iter().enumerate().filter(|(id, _)| live[*id]) {
        renumbered[id] = kept.len();
        for operand in &mut node.operands {
            *operand = renumbered[*operand];
        }
        kept.push(node);
    }
    Computation {
        name,
        nodes: kept,
        parameters: parameters.into_iter().map(|id| renumbered[id]).collect(),
        outputs: outputs.iter().map(|o| renumbered[o.0]).collect(),
        matmul_precision: MatmulPrecision::default(),
    }
}
