//! Lowering: rewrites a finished graph for one kind of device, replacing operators that its compiler executes slowly by
//! equivalent ones that it executes fast.
//!
//! ```
//! use hlo::{DType, Graph, Padding, Shape};
//! use lowering::{Target, lower};
//!
//! let g = Graph::new("depthwise");
//! let images = g.parameter("images", Shape::new(DType::F32, [2, 8, 8, 4]));
//! let kernel = g.parameter("kernel", Shape::new(DType::F32, [3, 3, 1, 4]));
//! let y = images.conv2d(kernel, [1, 1], Padding::Same, 4);
//! let outputs = [y.output()];
//! let lowered = lower(&g.build(&outputs)?, Target::Cpu)?;
//! assert!(lowered.nodes.iter().all(|node| node.op.name() != "convolution"));
//! # Ok::<(), hlo::Error>(())
//! ```
//!
//! For CPUs, convolutions, reductions over all axes but the channels, and max pooling with its gradient are rewritten. The
//! forward pass and both gradients of a convolution arrive here as [`hlo::Op::Convolution`], so `choose` decides by
//! shape alone, independently of training. Every form computes the same sum in another order, so results agree up to
//! rounding.
//!
//! For TPUs, images that would fill half of the lanes are cut into parts that lie side by side in the batch.
//!
//! [`prepare`] splits off the part of a program that depends only on the weights.
//!
//! The names, attributes and layouts of host functions that programs call are defined here; whoever runs the programs
//! provides the functions.
#![forbid(unsafe_code)]

mod choose;
mod column_sums;
mod conv;
mod direct;
mod max_pool;
mod parts;
mod phases;
mod prepare;

use hlo::{Computation, Graph, Node, NodeId, Op, Result, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use choose::{ConvFacts, Grouping};
pub use column_sums::COLUMN_SUMS;
use column_sums::HostSums;
use conv::Conv;
pub use direct::{ConvPass, DIRECT_CONVOLUTION, DirectConvolution, PACK_KERNEL, StridedLayout};
pub use max_pool::{MAX_POOL, MAX_POOL_GRADIENT};
pub use prepare::{Prepared, prepare};

/// Target of a lowering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device whose compiler has fast convolutions of every kind: rewrites nothing.
    Any,
    /// A TPU: images that would fill half of its lanes are cut into parts.
    Tpu,
    /// XLA on a CPU.
    Cpu,
    /// XLA on a CPU, in a host that provides the functions [`DIRECT_CONVOLUTION`], [`COLUMN_SUMS`], [`MAX_POOL`] and
    /// [`MAX_POOL_GRADIENT`].
    CpuWithHostFunctions,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConvForm {
    /// The operator itself.
    Convolution,
    /// The operator, with the axes of operands and result in the order of [`hlo::ConvDims::channels_last`]. XLA's CPU
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

impl ConvForm {
    /// Every form, the operator itself first.
    pub const ALL: [ConvForm; 7] = [
        ConvForm::Convolution,
        ConvForm::Ordered,
        ConvForm::Taps,
        ConvForm::Patches,
        ConvForm::Positions,
        ConvForm::Columns,
        ConvForm::Direct,
    ];
}

/// ConvLowering of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConvLowering {
    /// ConvForm of the convolution, or of each phase.
    pub form: ConvForm,
    /// Whether a dilated input (the input gradient of a strided convolution) is split into phases. A phase holds the
    /// positions that read the same window elements; it is a convolution of the input without holes.
    pub phases: bool,
}

impl ConvLowering {
    /// Keeps the operator.
    pub const KEEP: ConvLowering = ConvLowering {
        form: ConvForm::Convolution,
        phases: false,
    };

    /// Calls the host's library.
    pub const DIRECT: ConvLowering = ConvLowering {
        form: ConvForm::Direct,
        phases: false,
    };

    /// Keeps the operator but puts its axes in order.
    pub const ORDERED: ConvLowering = ConvLowering {
        form: ConvForm::Ordered,
        phases: false,
    };
}

/// Rewrites the convolutions, reductions and max poolings of a computation, and of those it calls, into the forms that
/// measured best on `target`. Parameters, outputs and scopes are unchanged.
///
/// # Errors
///
/// As [`lower_convolutions`].
pub fn lower(computation: &Computation, target: Target) -> Result<Computation> {
    match target {
        Target::Any if !computation.calls_host() => Ok(computation.clone()),
        Target::Any => Pass::new(&|_| ConvLowering::KEEP, Some(target)).computation(computation),
        Target::Tpu => parts::in_parts(&lower(computation, Target::Any)?),
        Target::Cpu => Pass::new(&choose::choose, Some(target)).computation(computation),
        Target::CpuWithHostFunctions => Pass::new(&choose::choose_with_library, Some(target)).computation(computation),
    }
}

/// Rewrites only convolutions, into forms that the caller chooses. The operator stays if the form does not apply
/// (patches of a depthwise convolution, phases without dilation).
///
/// # Errors
///
/// [`hlo::Error::Shape`] if a form does not match the surrounding graph, which is a bug in this crate.
pub fn lower_convolutions(
    computation: &Computation,
    choose: &dyn Fn(&ConvFacts) -> ConvLowering,
) -> Result<Computation> {
    Pass::new(choose, None).computation(computation)
}

/// Whether a computation computes the kernel gradient of any convolution.
fn has_kernel_gradient(computation: &Computation) -> bool {
    let nodes = &computation.nodes;
    nodes.iter().filter(|node| node.operands.len() == 2).any(|node| {
        let [lhs, rhs] = [0, 1].map(|i| &nodes[node.operands[i]].shape().dims[..]);
        let direct = DirectConvolution::from_op(&node.op, [lhs, rhs, &node.shape().dims]);
        direct.is_some_and(|direct| direct.pass == ConvPass::Kernel)
    })
}

/// One rewriting pass. A called computation is rewritten once, however often it is called.
struct Pass<'c> {
    choose: &'c dyn Fn(&ConvFacts) -> ConvLowering,
    /// Target for operators other than convolutions; `None` keeps them.
    target: Option<Target>,
    done: BTreeMap<*const Computation, Arc<Computation>>,
}

impl<'c> Pass<'c> {
    fn new(choose: &'c dyn Fn(&ConvFacts) -> ConvLowering, target: Option<Target>) -> Self {
        Pass {
            choose,
            target,
            done: BTreeMap::new(),
        }
    }

    fn computation(&mut self, computation: &Computation) -> Result<Computation> {
        let graph = Graph::new(computation.name.clone());
        let mut ids: Vec<NodeId> = Vec::with_capacity(computation.nodes.len());
        let training = has_kernel_gradient(computation);
        let mut sums = HostSums::default();
        for node in &computation.nodes {
            let mut node = node.clone();
            for operand in &mut node.operands {
                *operand = ids[*operand];
            }
            if let (Op::Call { body, .. }, false) = (&node.op, node.op.yields_tuple())
                && !self.has_host_functions()
            {
                // A host function with one result yields an array, a computation yields a tuple.
                let operands: Vec<_> = node.operands.iter().map(|&id| graph.tensor(id)).collect();
                ids.push(graph.call(&self.shared(body)?, &operands)[0].id());
                continue;
            }
            node.op = self.with_lowered_calls(node.op)?;
            let lowered = self.node(&graph, &node, training, &mut sums).map(|tensor| tensor.id());
            ids.push(lowered.unwrap_or_else(|| graph.add_node(node)));
        }
        let outputs: Vec<_> = computation
            .outputs
            .iter()
            .map(|&id| graph.tensor(ids[id]).output())
            .collect();
        let lowered = graph.build(&outputs)?;
        Ok(lowered.with_matmul_precision(computation.matmul_precision))
    }

    /// Whether programs for the target may call host functions.
    fn has_host_functions(&self) -> bool {
        match self.target {
            Some(Target::CpuWithHostFunctions) | None => true,
            Some(Target::Cpu | Target::Any | Target::Tpu) => false,
        }
    }

    /// The replacement of `node`, whose operands are in `graph`; `None` keeps it.
    fn node<'g>(&self, graph: &'g Graph, node: &Node, training: bool, sums: &mut HostSums<'g>) -> Option<Tensor<'g>> {
        let _scope = (!node.scope.is_empty()).then(|| graph.scope(node.scope.as_str()));
        let host = self.target == Some(Target::CpuWithHostFunctions);
        let cpu = host || self.target == Some(Target::Cpu);
        if let Op::Convolution { .. } = node.op {
            let conv = Conv::from_node(graph, node, training)?;
            conv.lower((self.choose)(conv.facts()))
        } else if cpu && matches!(node.op, Op::Reduce { .. }) {
            column_sums::lower(graph, node, host.then_some(sums))
        } else if host && matches!(node.op, Op::ReduceWindow { .. } | Op::SelectAndScatter { .. }) {
            max_pool::lower(graph, node)
        } else {
            None
        }
    }

    /// `op` with its called computations rewritten. Host functions stay if programs for the target may call them.
    fn with_lowered_calls(&mut self, mut op: Op) -> Result<Op> {
        if let Op::Call { host, .. } = &mut op
            && host.is_some()
        {
            if self.has_host_functions() {
                return Ok(op);
            }
            *host = None;
        }
        op.try_map_called(|computation| self.shared(computation))
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
