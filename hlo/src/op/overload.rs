//! Overloads of `+ - * / % & | ^ !` for tensors.

use super::Operand;
use crate::graph::Tensor;
use std::ops;

macro_rules! operators {
    ($($trait:ident :: $method:ident;)*) => {
        $(impl<'g, O: Operand<'g>> ops::$trait<O> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: O) -> Tensor<'g> {
                Tensor::$method(self, other)
            }
        })*
    };
}
operators! { Add::add; Sub::sub; Mul::mul; Div::div; Rem::rem; }

macro_rules! number_first {
    ($($trait:ident :: $method:ident;)*) => {
        $(impl<'g> ops::$trait<Tensor<'g>> for f64 {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Tensor<'g>) -> Tensor<'g> {
                self.tensor_like(other).$method(other)
            }
        })*
    };
}
number_first! { Add::add; Sub::sub; Mul::mul; Div::div; }

macro_rules! bit_operators {
    ($($trait:ident :: $method:ident => $call:ident;)*) => {
        $(impl<'g> ops::$trait<Tensor<'g>> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Tensor<'g>) -> Tensor<'g> {
                self.$call(other)
            }
        })*
    };
}
bit_operators! { BitAnd::bitand => and; BitOr::bitor => or; BitXor::bitxor => xor; }

impl<'g> ops::Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Tensor<'g> {
        self.negate()
    }
}

impl<'g> ops::Not for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn not(self) -> Tensor<'g> {
        self.logical_not()
    }
}
