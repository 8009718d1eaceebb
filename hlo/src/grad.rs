//! Reverse-mode differentiation: one sweep from a scalar loss back to its inputs.

use crate::error::Error;
use crate::graph::{Node, NodeId, Tensor};
use crate::op::{Sweep, Vjp, ensure};
use std::collections::BTreeMap;
use std::panic::Location;

/// Gradients of the scalar `loss` with respect to each of `wrt` (zeros if the loss does not depend on it).
///
/// Only floating-point values carry a derivative; integers and `pred` count as constants.
///
/// `loss` must be a floating-point scalar of the same graph as `wrt`. If a path passes through an operator without a
/// gradient, [`crate::Graph::build`] reports an error with the operators on that path.
#[track_caller]
pub fn grad<'g>(loss: Tensor<'g>, wrt: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let graph = loss.graph();
    if loss.is_poison() || wrt.iter().any(Tensor::is_poison) {
        return vec![graph.poison(); wrt.len()];
    }
    if let Err(message) = check(loss, wrt) {
        graph.fail(Error::Shape {
            op: "gradient",
            operands: [&[loss], wrt].concat().iter().map(Tensor::shape).collect(),
            message,
            location: Location::caller(),
        });
        return vec![graph.poison(); wrt.len()];
    }
    let nodes: Vec<Node> = (0..=loss.id()).map(|id| graph.node(id)).collect();
    let active = depends_on(&nodes, wrt);
    let mut cotangents: BTreeMap<NodeId, Tensor<'g>> = BTreeMap::new();
    cotangents.insert(loss.id(), graph.full(&loss.shape(), 1.0));
    for id in (0..=loss.id()).rev().filter(|&id| active[id]) {
        let wanted = wrt.iter().any(|t| t.id() == id);
        let cotangent = match wanted {
            true => cotangents.get(&id).copied(),
            false => cotangents.remove(&id),
        };
        let Some(cotangent) = cotangent else { continue };
        let node = &nodes[id];
        if !node.operands.iter().any(|&o| active[o]) {
            continue;
        }
        let _scope = (!node.scope.is_empty()).then(|| graph.scope(format!("gradient/{}", node.scope)));
        let at = Sweep {
            operands: node.operands.iter().map(|&o| graph.tensor(o)).collect(),
            output: graph.tensor(id),
            cotangent,
        };
        match node.op.vjp(&at) {
            Vjp::Operands(gradients) => {
                assert_eq!(gradients.len(), node.operands.len(), "gradients of {}", node.op.name());
                for (&operand, gradient) in node.operands.iter().zip(gradients) {
                    if let (Some(gradient), true) = (gradient, active[operand]) {
                        let sum = cotangents.get(&operand).map_or(gradient, |&earlier| earlier + gradient);
                        cotangents.insert(operand, sum);
                    }
                }
            }
            Vjp::Stop(reason) => {
                graph.fail(Error::NoGradient {
                    op: node.op.name(),
                    reason: reason.into(),
                    path: path(&nodes, loss.id(), id),
                });
                return vec![graph.poison(); wrt.len()];
            }
        }
    }
    let gradient = |t: &Tensor<'g>| cotangents.get(&t.id()).copied().unwrap_or_else(|| t.zeros_like());
    wrt.iter().map(gradient).collect()
}

fn check(loss: Tensor<'_>, wrt: &[Tensor<'_>]) -> Result<(), String> {
    let shape = loss.shape();
    ensure(shape.rank() == 0 && shape.dtype.is_float(), || {
        format!("the loss must be a floating-point scalar, not {shape}")
    })?;
    ensure(wrt.iter().all(|t| std::ptr::eq(t.graph(), loss.graph())), || {
        "an operand belongs to another graph".into()
    })
}

/// For each node, whether it has a floating-point type and depends on one of `wrt`.
fn depends_on(nodes: &[Node], wrt: &[Tensor<'_>]) -> Vec<bool> {
    let mut active = vec![false; nodes.len()];
    for (id, node) in nodes.iter().enumerate() {
        let differentiable = node.shapes.iter().any(|s| s.dtype.is_float());
        let reached = wrt.iter().any(|t| t.id() == id) || node.operands.iter().any(|&o| active[o]);
        active[id] = differentiable && reached;
    }
    active
}

/// Operators from `from` down to `to`, following the first operand that leads there.
fn path(nodes: &[Node], from: NodeId, to: NodeId) -> String {
    let mut leads = vec![false; nodes.len()];
    leads[to] = true;
    for id in to + 1..=from {
        leads[id] = nodes[id].operands.iter().any(|&o| leads[o]);
    }
    let mut names = vec![];
    let mut at = from;
    loop {
        let node = &nodes[at];
        let scope = if node.scope.is_empty() {
            String::new()
        } else {
            format!("{}/", node.scope)
        };
        names.push(format!("{scope}{}", node.op.name()));
        match node.operands.iter().find(|&&o| leads[o]) {
            Some(&next) if at != to => at = next,
            _ => return names.join(" <- "),
        }
    }
}
