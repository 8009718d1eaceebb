//! Rewriting of a finished graph for one kind of device: what a compiler computes slowly in the form in which models and
//! gradients are written, said in a form that it computes fast.
//!
//! Convolutions are rewritten, sums over all but the channels, and maxima under a window with their gradients. Forward passes
//! and both gradients of a convolution arrive here as the one operator [`Op::Convolution`], so [`choose`](choose::choose)
//! decides by shape alone and knows nothing of training. Every form is the same sum in another order, so results agree within
//! rounding.

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

/// What a graph is rewritten for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device whose compiler has fast convolutions of every kind (GPU, TPU): nothing is rewritten.
    Any,
    /// XLA on a CPU.
    Cpu,
    /// XLA on a CPU, in a host that offers the functions [`DIRECT_CONVOLUTION`], [`COLUMN_SUMS`], [`MAXIMA`] and
    /// [`MAXIMA_GRADIENT`].
    CpuWithLibrary,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As the operator itself.
    Convolution,
    /// As the operator, with the axes of its operands and result in the order of [`ConvDims::channels_last`]. Of any other
    /// order XLA's CPU compiler makes that one at the top of a program only: within loops and conditionals it falls back to
    /// plain loops over all elements, tens of times as slow.
    Ordered,
    /// A sum over the window's elements: what lies under one element at all positions, times that element of the kernel.
    /// A matrix product each, or a multiplication where channels do not mix.
    Taps,
    /// One matrix product: what lies under all elements, side by side as channels, times the whole kernel.
    Patches,
    /// A product per position of the window: all that lies under it, times the whole kernel. For windows of many elements
    /// with few positions, as in gradients of kernels.
    Positions,
    /// One matrix product: what lies under the window at all positions, side by side as examples, times the whole kernel.
    Columns,
    /// A call of the host's [`DIRECT_CONVOLUTION`].
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

/// The form of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lowering {
    /// How it is computed, or how each phase is.
    pub form: Form,
    /// Whether a dilated input (as in the gradient of a strided convolution's input) is taken apart: positions that meet
    /// the same elements of the window form a phase, which is a convolution of the input without its holes.
    pub phases: bool,
}

impl Lowering {
    /// The operator itself.
    pub const KEEP: Lowering = Lowering {
        form: Form::Convolution,
        phases: false,
    };

    /// A call of the host's.
    pub const DIRECT: Lowering = Lowering {
        form: Form::Direct,
        phases: false,
    };

    /// The operator with its axes in order.
    pub const ORDERED: Lowering = Lowering {
        form: Form::Ordered,
        phases: false,
    };
}

impl Computation {
    /// This computation with its convolutions, sums and maxima, also those of the computations that it calls, in the forms that
    /// measure best on `target`. Parameters, outputs and scopes stay.
    ///
    /// # Errors
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

    /// This computation with its convolutions alone rewritten, in forms of the caller's choice. Where a form does not
    /// exist (patches of channels that do not mix, phases without dilation) the operator stays.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where a form does not fit its neighbours: a defect of this module.
    pub fn lowered_by(&self, choose: &dyn Fn(&ConvFacts) -> Lowering) -> Result<Computation> {
        Pass::new(choose, None).computation(self)
    }
}

/// Whether a computation has the gradient of any convolution's kernel.
fn trains(of: &Computation) -> bool {
    of.nodes.iter().filter(|node| node.operands.len() == 2).any(|node| {
        let [lhs, rhs] = [0, 1].map(|i| &of.nodes[node.operands[i]].shape().dims[..]);
        let direct = node.op.direct_convolution([lhs, rhs, &node.shape().dims]);
        direct.is_some_and(|direct| direct.pass == ConvPass::Kernel)
    })
}

/// One run of the rewriting. Called computations are rewritten once, however often they are called.
struct Pass<'c> {
    choose: &'c dyn Fn(&ConvFacts) -> Lowering,
    /// What operators that are no convolutions are rewritten for, if they are.
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

    /// What stands for `node`, whose operands are those of `graph`; `None` where it stays.
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

    /// `op` with the computations that it calls rewritten.
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
