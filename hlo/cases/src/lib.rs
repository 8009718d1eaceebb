//! The conformance table: inputs and expected outputs for every operator, edge cases included.
//!
//! One table serves every executor and every kind of test: the evaluator and each device run the same cases, gradients
//! are checked on them, and their dumps are the snapshots. Expected values come from NumPy or were computed by hand,
//! never by the evaluator.
//!
//! The table leaves open where platforms differ: the sign of a zero when the maximum or minimum of −0 and +0 is taken;
//! denormal numbers; integer powers with exponents above 31; and the order of updates that set the same element of a
//! scatter. Conversions to `bf16` use only values that round the same way directly and through `f32`.
#![allow(
    clippy::approx_constant,
    clippy::excessive_precision,
    reason = "expected values stand as they were computed"
)]

mod choices;
mod collective;
mod contract;
mod control;
mod conv;
mod conv_gradients;
mod elementwise;
mod index;
mod integers;
mod layout;
mod order;
mod types;
mod window;

use hlo::{Computation, Element, Graph, Literal, Result, Tensor, WindowDim, grad};

/// Builds the graph of a case on its inputs.
pub type Build = for<'a> fn(&'a Graph, &[Tensor<'a>]) -> Vec<Tensor<'a>>;

/// The expected derivative of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// Not checked: the inputs lie on a kink, or another case covers the derivative.
    Unchecked,
    /// Smooth at these inputs: the gradient with respect to each equals the difference quotient.
    Numeric(&'static [usize]),
    /// Piecewise constant: the gradient with respect to every input is exactly zero.
    Zero,
    /// Differentiation fails with an error that names the operator.
    Stop,
}

/// A graph with its inputs and expected outputs.
pub struct Case {
    /// The operator under test, as in [`hlo::Op::all_names`].
    pub op: &'static str,
    /// Describes the case.
    pub name: &'static str,
    /// Arguments, one per parameter.
    pub inputs: Vec<Literal>,
    /// The graph.
    pub build: Build,
    /// Expected outputs.
    pub want: Vec<Literal>,
    /// Largest allowed |got − want| / max(1, |want|). 0 requires equality, including the sign of zero.
    pub tolerance: f64,
    /// Expected derivative.
    pub gradient: Gradient,
}

/// Every case, grouped by operator.
pub fn all() -> Vec<Case> {
    [
        elementwise::cases(),
        choices::cases(),
        integers::cases(),
        types::cases(),
        layout::cases(),
        index::cases(),
        contract::cases(),
        conv::cases(),
        conv_gradients::cases(),
        window::cases(),
        collective::cases(),
        order::cases(),
        control::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn case<const I: usize, const W: usize>(
    op: &'static str,
    name: &'static str,
    inputs: [Literal; I],
    build: Build,
    want: [Literal; W],
) -> Case {
    Case {
        op,
        name,
        inputs: inputs.into(),
        build,
        want: want.into(),
        tolerance: 0.0,
        gradient: Gradient::Unchecked,
    }
}

/// A literal of rank 1.
fn v<T: Element, const N: usize>(values: [T; N]) -> Literal {
    Literal::new(&[N], &values)
}

/// Multiples of 0.25 from −3.75 to 3.75; any 31 consecutive values differ. Products and short sums are exact in `f32`.
fn mixed(dims: &[usize], step: usize) -> Literal {
    let value = |i: usize| ((i * step % 31) as f32 - 15.0) / 4.0;
    Literal::new(dims, &(0..dims.iter().product()).map(value).collect::<Vec<_>>())
}

/// A window of `size` neighbours with stride 1.
fn window(size: usize) -> WindowDim {
    WindowDim {
        size,
        ..WindowDim::unit()
    }
}

/// Gradients of `y` with respect to all inputs but the last, which is the cotangent of `y`.
fn gradients<'g>(y: Tensor<'g>, inputs: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let (cotangent, wrt) = (inputs[inputs.len() - 1], &inputs[..inputs.len() - 1]);
    grad((y * cotangent).reduce_sum_all(), wrt)
}

/// A rank-1 `pred` literal.
fn bools<const N: usize>(values: [bool; N]) -> Literal {
    Literal::from_bools(&[N], &values)
}

impl Case {
    fn within(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    fn numeric(mut self, inputs: &'static [usize]) -> Self {
        self.gradient = Gradient::Numeric(inputs);
        self
    }

    fn zero(mut self) -> Self {
        self.gradient = Gradient::Zero;
        self
    }

    fn stop(mut self) -> Self {
        self.gradient = Gradient::Stop;
        self
    }

    /// Operator and case name, unique in the table.
    pub fn title(&self) -> String {
        format!("{}: {}", self.op, self.name)
    }

    /// Builds the case as a computation with one parameter per input.
    ///
    /// # Errors
    ///
    /// The graph's error if the case itself is wrong.
    pub fn computation(&self) -> Result<Computation> {
        let name = |(i, input): (usize, &Literal)| (format!("x{i}"), input.shape().clone());
        let parameters: Vec<_> = self.inputs.iter().enumerate().map(name).collect();
        Graph::function(self.title(), &parameters, self.build)
    }

    /// Compares an executor's outputs with the expected ones.
    ///
    /// # Errors
    ///
    /// A sentence that describes the first difference.
    pub fn check(&self, got: &[Literal]) -> std::result::Result<(), String> {
        let shapes = |literals: &[Literal]| literals.iter().map(|l| l.shape().to_string()).collect::<Vec<_>>();
        if shapes(got) != shapes(&self.want) {
            let (got, want) = (shapes(got), shapes(&self.want));
            return Err(format!("{}: yields {got:?}, not {want:?}", self.title()));
        }
        for (output, (got, want)) in got.iter().zip(&self.want).enumerate() {
            if self.tolerance == 0.0 && got == want {
                continue;
            }
            let (got, want) = (got.to_f64_vec(), want.to_f64_vec());
            if let Some(at) = (0..want.len()).find(|&i| !self.agrees(got[i], want[i])) {
                return Err(format!(
                    "{}: element {at} of output {output} is {:?}, not {:?}; got {got:?}, want {want:?}",
                    self.title(),
                    got[at],
                    want[at]
                ));
            }
        }
        Ok(())
    }

    fn agrees(&self, got: f64, want: f64) -> bool {
        match want {
            _ if want.is_nan() => got.is_nan(),
            _ if want.is_infinite() || self.tolerance == 0.0 => {
                got == want && got.is_sign_negative() == want.is_sign_negative()
            }
            _ => (got - want).abs() <= self.tolerance * want.abs().max(1.0),
        }
    }
}
