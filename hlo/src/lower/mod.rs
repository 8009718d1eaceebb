//! Lowering: rewrites a finished graph for one kind of device, replacing operators that its compiler executes slowly by
//! equivalent ones that it executes fast.
//!
//! Convolutions, reductions over all axes but the channels, and max pooling with its gradient are rewritten. The
//! forward pass and both gradients of a convolution arrive here as [`Op::Convolution`], so [`choose`](choose::choose)
//! decides by shape alone, independently of training. Every form computes the same sum in another order, so results
//! agree up to rounding.

mod choose;
mod conv;
mod phases;
mod pool;
mod sums;

use crate::error::Result;
use crate::graph::{Computation, Graph, Node, NodeId, Tensor};
#[allow(unused_imports)] // for the documentation
use crate::op::{ConvDims, DIRECT_CONVOLUTION};
use crate::op::{ConvPass, Op};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use choose::{ConvFacts, Grouping};
use conv::Conv;
pub use pool::{MAXIMA, MAXIMA_GRADIENT};
pub use sums::COLUMN_SUMS;
use sums::HostSums;

/// Target of a lowering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device whose compiler has fast convolutions of every kind (GPU, TPU): rewrites nothing.
    Any,
    /// XLA on a CPU.
    Cpu,
    /// XLA on a CPU, in a host that provides the functions [`DIRECT_CONVOLUTION`], [`COLUMN_SUMS`], [`MAXIMA`] and
    /// [`MAXIMA_GRADIENT`].
    CpuWithLibrary,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The operator itself.
    Convolution,
    /// The operator, with the axes of operands and result in the order of [`ConvDims::channels_last`]. XLA's CPU
    /// compiler establishes this order only at the top level of a program: in loops and conditionals it falls back to
    /// naive loops over all elements, which are tens of times slower.
    Ordered,
    /// A sum over window elements: the input under one element at all positions, times that element of the kernel. Each
    /// term is a matrix product, or a multiplication if the convolution is depthwise.
    Taps,
    /// One matrix product (im2col): the input under all window elements, concatenated as channels, times the whole
    /// kernel.
    Patches,
    /// One product per window position: the input under the window, times the whole kernel. For large windows with few
    /// positions, as in kernel gradients.
    Positions,
    /// One matrix product: the input under the window at all positions, concatenated as examples, times the whole
    /// kernel.
    Columns,
    /// A call of the host function [`DIRECT_CONVOLUTION`].
    Direct,
}

impl Form {
    /// Every form, the operator itself first.
    pub const ALL: [Form; 7] = [
        Form::Convolution,
        Form::Ordered,
        Form::Taps,
        Form::Patches,
        Form::Positions,
        Form::Columns,
        Form::Direct,
    ];
}

/// Lowering of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lowering {
    /// Form of the convolution, or of each phase.
    pub form: Form,
    /// Whether a dilated input (the input gradient of a strided convolution) is split into phases. A phase holds the
    /// positions that read the same window elements; it is a convolution of the input without holes.
    pub phases: bool,
}

impl Lowering {
    /// Keeps the operator.
    pub const KEEP: Lowering = Lowering {
        form: Form::Convolution,
        phases: false,
    };

    /// Calls the host's library.
    pub const DIRECT: Lowering = Lowering {
        form: Form::Direct,
        phases: false,
    };

    /// Keeps the operator but puts its axes in order.
    pub const ORDERED: Lowering = Lowering {
        form: Form::Ordered,
        phases: false,
    };
}

impl Computation {
    /// Rewrites the convolutions, reductions and max poolings of this computation, and of those it calls, into the
    /// forms that measured best on `target`. Parameters, outputs and scopes are unchanged.
    ///
    /// # Errors
    ///
    /// As [`Computation::lowered_by`].
    pub fn lowered(&self, target: Target) -> Result<Computation> {
        match target {
            Target::Any if !self.calls_host() => Ok(self.clone()),
            Target::Any => Pass::new(&|_| Lowering::KEEP, Some(target)).computation(self),
            Target::Cpu => Pass::new(&choose::choose, Some(target)).computation(self),
            Target::CpuWithLibrary => Pass::new(&choose::choose_with_library, Some(target)).computation(self),
        }
    }

    /// Whether this computation, or one that it calls, calls a host function.
    pub fn calls_host(&self) -> bool {
        self.nodes.iter().any(|node| {
            let host = matches!(node.op, Op::Call { host: Some(_), .. });
            host || node.op.called().iter().any(|called| called.calls_host())
        })
    }

    /// Rewrites only convolutions, into forms that the caller chooses. The operator stays if the form does not apply
    /// (patches of a depthwise convolution, phases without dilation).
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if a form does not match the surrounding graph, which is a bug in this module.
    pub fn lowered_by(&self, choose: &dyn Fn(&ConvFacts) -> Lowering) -> Result<Computation> {
        Pass::new(choose, None).computation(self)
    }
}

/// Whether a computation computes the kernel gradient of any convolution.
fn trains(of: &Computation) -> bool {
    of.nodes.iter().filter(|node| node.operands.len() == 2).any(|node| {
        let [lhs, rhs] = [0, 1].map(|i| &of.nodes[node.operands[i]].shape().dims[..]);
        let direct = node.op.direct_convolution([lhs, rhs, &node.shape().dims]);
        direct.is_some_and(|direct| direct.pass == ConvPass::Kernel)
    })
}

/// One rewriting pass. A called computation is rewritten once, however often it is called.
struct Pass<'c> {
    choose: &'c dyn Fn(&ConvFacts) -> Lowering,
    /// Target for operators other than convolutions; `None` keeps them.
    target: Option<Target>,
    done: BTreeMap<*const Computation, Arc<Computation>>,
}

impl<'c> Pass<'c> {
    fn new(choose: &'c dyn Fn(&ConvFacts) -> Lowering, target: Option<Target>) -> Self {
        Pass {
            choose,
            target,
            done: BTreeMap::new(),
        }
    }

    fn computation(&mut self, of: &Computation) -> Result<Computation> {
        let graph = Graph::new(of.name.clone());
        let mut ids: Vec<NodeId> = Vec::with_capacity(of.nodes.len());
        let training = trains(of);
        let mut sums = HostSums::default();
        for node in &of.nodes {
            let mut node = node.clone();
            for operand in &mut node.operands {
                *operand = ids[*operand];
            }
            if let (Op::Call { body, .. }, false) = (&node.op, node.op.yields_tuple())
                && !self.offers_functions()
            {
                // The only result of a host function is an array, that of a computation a tuple's element.
                let operands: Vec<_> = node.operands.iter().map(|&id| graph.tensor(id)).collect();
                ids.push(graph.call(&self.shared(body)?, &operands)[0].id());
                continue;
            }
            node.op = self.called(node.op)?;
            let lowered = self.node(&graph, &node, training, &mut sums).map(|tensor| tensor.id());
            ids.push(lowered.unwrap_or_else(|| graph.copy(node)));
        }
        let outputs: Vec<_> = of.outputs.iter().map(|&id| graph.tensor(ids[id]).output()).collect();
        graph.build(&outputs)
    }

    /// Whether programs for the target may call host functions.
    fn offers_functions(&self) -> bool {
        match self.target {
            Some(Target::CpuWithLibrary) | None => true,
            Some(Target::Cpu | Target::Any) => false,
        }
    }

    /// The replacement of `node`, whose operands are in `graph`; `None` keeps it.
    fn node<'g>(&self, graph: &'g Graph, node: &Node, training: bool, sums: &mut HostSums<'g>) -> Option<Tensor<'g>> {
        let _scope = (!node.scope.is_empty()).then(|| graph.scope(node.scope.as_str()));
        let host = self.target == Some(Target::CpuWithLibrary);
        let cpu = host || self.target == Some(Target::Cpu);
        match node.op {
            Op::Convolution { .. } => {
                let conv = Conv::of(graph, node, training)?;
                conv.lowered((self.choose)(conv.facts()))
            }
            Op::Reduce { .. } if cpu => sums::lowered(graph, node, host.then_some(sums)),
            Op::ReduceWindow { .. } | Op::SelectAndScatter { .. } if host => pool::lowered(graph, node),
            _ => None,
        }
    }

    /// `op` with its called computations rewritten.
    fn called(&mut self, op: Op) -> Result<Op> {
        Ok(match op {
            Op::While { condition, body } => Op::While {
                condition: self.shared(&condition)?,
                body: self.shared(&body)?,
            },
            Op::Conditional { on_true, on_false } => Op::Conditional {
                on_true: self.shared(&on_true)?,
                on_false: self.shared(&on_false)?,
            },
            Op::Call { body, host } if host.is_none() || !self.offers_functions() => Op::Call {
                body: self.shared(&body)?,
                host: None,
            },
            op => op,
        })
    }

    fn shared(&mut self, computation: &Arc<Computation>) -> Result<Arc<Computation>> {
        let key = Arc::as_ptr(computation);
        if let Some(done) = self.done.get(&key) {
            return Ok(done.clone());
        }
        let done = Arc::new(self.computation(computation)?);
        self.done.insert(key, done.clone());
        Ok(done)
    }
}
