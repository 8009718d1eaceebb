//! Custom gradient rules.

use super::{Op, Sweep, Vjp};
use crate::error::Error;
use crate::graph::Tensor;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

type Formula = dyn for<'a> Fn(&[Tensor<'a>], Tensor<'a>) -> Vec<Option<Tensor<'a>>> + Send + Sync;

/// A gradient rule: maps the operands and the cotangent to a cotangent for each operand.
#[derive(Clone)]
pub struct Rule {
    formula: Arc<Formula>,
    at: &'static Location<'static>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.at)
    }
}

impl Rule {
    pub(super) fn vjp<'g>(&self, at: &Sweep<'g>) -> Vjp<'g> {
        let (operands, graph) = (&at.operands[1..], at.cotangent.graph());
        let gradients = (self.formula)(operands, at.cotangent);
        let fits = |(operand, gradient): (&Tensor<'g>, &Option<Tensor<'g>>)| {
            gradient.is_none_or(|gradient| gradient.is_poison() || gradient.shape() == operand.shape())
        };
        if gradients.len() != operands.len() || !operands.iter().zip(&gradients).all(fits) {
            graph.fail(Error::Shape {
                op: "with-vjp",
                operands: operands.iter().map(Tensor::shape).collect(),
                message: "the rule's gradients have other shapes than its operands".into(),
                location: self.at,
            });
            return Vjp::Operands(vec![None; at.operands.len()]);
        }
        Vjp::Operands([vec![None], gradients].concat())
    }
}

impl<'g> Tensor<'g> {
    /// This array with a custom gradient `rule`, which maps `operands` and the cotangent of this array to a cotangent
    /// for each operand, of its shape (`None`: no dependence). No other gradient flows to the inputs of this array.
    ///
    /// For values whose derivative has a better form than automatic differentiation finds. Second derivatives
    /// differentiate the rule's formula.
    #[track_caller]
    #[must_use]
    pub fn with_vjp(
        self,
        operands: &[Tensor<'g>],
        rule: impl for<'a> Fn(&[Tensor<'a>], Tensor<'a>) -> Vec<Option<Tensor<'a>>> + Send + Sync + 'static,
    ) -> Tensor<'g> {
        let rule = Rule {
            formula: Arc::new(rule),
            at: Location::caller(),
        };
        self.graph().apply(Op::WithVjp(rule), &[&[self], operands].concat())
    }
}
