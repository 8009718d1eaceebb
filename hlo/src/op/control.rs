//! Control flow: while, conditional, call.

use super::{HostFunction, Op, ensure};
use crate::graph::{Computation, Graph, Tensor};
use crate::shape::{DType, Shape};
use std::sync::Arc;

fn check_parameters(what: &str, computation: &Computation, operands: &[&Shape]) -> Result<(), String> {
    let parameters: Vec<Shape> = computation.parameter_specs().into_iter().map(|(_, s)| s).collect();
    let given: Vec<Shape> = operands.iter().map(|s| (*s).clone()).collect();
    ensure(parameters == given, || {
        format!("{what} takes {}, is given {}", list(&parameters), list(&given))
    })
}

fn list(shapes: &[Shape]) -> String {
    let names: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    format!("({})", names.join(", "))
}

pub(super) fn infer_while(
    condition: &Computation,
    body: &Computation,
    operands: &[&Shape],
) -> Result<Vec<Shape>, String> {
    check_parameters("the condition", condition, operands)?;
    check_parameters("the body", body, operands)?;
    let decides = condition.output_shapes();
    ensure(decides == [Shape::scalar(DType::Pred)], || {
        format!("the condition yields {}", list(&decides))
    })?;
    let state = body.output_shapes();
    ensure(state.iter().eq(operands.iter().copied()), || {
        format!(
            "the body turns {} into {}",
            list(&operands.iter().map(|s| (*s).clone()).collect::<Vec<_>>()),
            list(&state)
        )
    })?;
    Ok(state)
}

pub(super) fn infer_conditional(
    on_true: &Computation,
    on_false: &Computation,
    operands: &[&Shape],
) -> Result<Vec<Shape>, String> {
    let predicate = operands[0];
    ensure(*predicate == Shape::scalar(DType::Pred), || {
        format!("the predicate is {predicate}")
    })?;
    check_parameters("the true branch", on_true, &operands[1..])?;
    check_parameters("the false branch", on_false, &operands[1..])?;
    let (a, b) = (on_true.output_shapes(), on_false.output_shapes());
    ensure(a == b, || format!("the branches yield {} and {}", list(&a), list(&b)))?;
    Ok(a)
}

pub(super) fn infer_call(body: &Computation, operands: &[&Shape]) -> Result<Vec<Shape>, String> {
    check_parameters(&body.name, body, operands)?;
    Ok(body.output_shapes())
}

fn shapes(tensors: &[Tensor<'_>]) -> Vec<Shape> {
    tensors.iter().map(Tensor::shape).collect()
}

impl Graph {
    /// Repeats `body` while `condition` holds, on a state that starts as `init`.
    ///
    /// The closures build separate graphs: they can use only the state they receive, no tensors from outside.
    #[track_caller]
    pub fn while_loop<'g>(
        &'g self,
        init: &[Tensor<'g>],
        condition: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Tensor<'a>,
        body: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Vec<Tensor<'g>> {
        let state = shapes(init);
        let condition = self.subgraph("condition", &state, |g, s| vec![condition(g, s)]);
        let body = self.subgraph("body", &state, body);
        match (condition, body) {
            (Ok(condition), Ok(body)) => self.apply_tuple(Op::While { condition, body }, init, init.len()),
            _ => vec![self.poison(); init.len()],
        }
    }

    /// Runs `body` `times` times (an s32 scalar). `body` receives the iteration number 0, 1, … and the state.
    #[track_caller]
    pub fn repeat<'g>(
        &'g self,
        times: Tensor<'g>,
        init: &[Tensor<'g>],
        body: impl for<'a> FnOnce(&'a Graph, Tensor<'a>, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Vec<Tensor<'g>> {
        let counters = [self.scalar(0i32), times];
        let state = self.while_loop(
            &[&counters, init].concat(),
            |_, s| s[0].lt(s[1]),
            |g, s| [vec![s[0] + g.scalar(1i32), s[1]], body(g, s[0], &s[2..])].concat(),
        );
        state[2..].to_vec()
    }

    /// `on_true(operands)` if the scalar `predicate` is true, else `on_false(operands)`. Only one branch runs.
    #[track_caller]
    pub fn conditional<'g>(
        &'g self,
        predicate: Tensor<'g>,
        operands: &[Tensor<'g>],
        on_true: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
        on_false: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Vec<Tensor<'g>> {
        let parameters = shapes(operands);
        let on_true = self.subgraph("on_true", &parameters, on_true);
        let on_false = self.subgraph("on_false", &parameters, on_false);
        match (on_true, on_false) {
            (Ok(on_true), Ok(on_false)) => {
                let results = on_true.outputs.len();
                let operands = [&[predicate], operands].concat();
                self.apply_tuple(Op::Conditional { on_true, on_false }, &operands, results)
            }
            (Err(results), _) | (_, Err(results)) => vec![self.poison(); results],
        }
    }

    /// Calls a finished computation.
    #[track_caller]
    pub fn call<'g>(&'g self, body: &Arc<Computation>, operands: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let body = body.clone();
        let results = body.outputs.len();
        self.apply_tuple(Op::Call { body, host: None }, operands, results)
    }

    /// The results of `body` on the operands. Emitted programs call the host function instead.
    #[track_caller]
    pub fn host_call<'g>(
        &'g self,
        host: HostFunction,
        operands: &[Tensor<'g>],
        body: impl for<'a> FnOnce(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>,
    ) -> Vec<Tensor<'g>> {
        let body = match self.subgraph(host.name, &shapes(operands), body) {
            Ok(body) => body,
            Err(results) => return vec![self.poison(); results],
        };
        let results = body.outputs.len();
        let op = Op::Call { body, host: Some(host) };
        match op.yields_tuple() {
            true => self.apply_tuple(op, operands, results),
            false => vec![self.apply(op, operands)],
        }
    }
}
