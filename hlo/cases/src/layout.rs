//! Inputs and the operators that move elements without computing.

use super::{Case, bools, case, v};
use hlo::{DType, Literal, Shape};

pub(super) fn cases() -> Vec<Case> {
    [sources(), shapes(), slices(), paddings(), joins()]
        .into_iter()
        .flatten()
        .collect()
}

/// 0, 1, … as an f32 array of `dims`.
fn count(dims: &[usize]) -> Literal {
    let n: usize = dims.iter().product();
    Literal::new(dims, &(0..n).map(|i| i as f32).collect::<Vec<_>>())
}

fn sources() -> Vec<Case> {
    vec![
        case(
            "parameter",
            "several types, swapped",
            [v([1.5f32]), bools([true]), v([7u8])],
            |_, x| vec![x[2], x[0], x[1]],
            [v([7u8]), v([1.5f32]), bools([true])],
        ),
        case(
            "parameter",
            "given out twice",
            [count(&[2, 2])],
            |_, x| vec![x[0], x[0]],
            [count(&[2, 2]), count(&[2, 2])],
        )
        .numeric(&[0]),
        case(
            "parameter",
            "unused",
            [v([1.0f32]), v([2.0f32])],
            |_, x| vec![x[1]],
            [v([2.0f32])],
        )
        .numeric(&[0, 1]),
        case(
            "constant",
            "every type",
            [],
            |g, _| every_type().into_iter().map(|c| g.constant(c)).collect(),
            every_type(),
        ),
        case(
            "constant",
            "times a parameter",
            [v([1.0f32, 2.0])],
            |g, x| vec![x[0] * g.constant(v([3.0f32, -4.0])).convert(x[0].dtype())],
            [v([3.0f32, -8.0])],
        )
        .numeric(&[0]),
        case(
            "constant",
            "more than a dump shows",
            [v([1i32; 12])],
            |g, x| vec![x[0] + g.constant(v([0i32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]))],
            [v([1i32, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])],
        ),
        case(
            "constant",
            "no elements",
            [],
            |g, _| vec![g.constant(Literal::new::<f32>(&[0, 3], &[]))],
            [Literal::new::<f32>(&[0, 3], &[])],
        ),
        case(
            "iota",
            "along either axis",
            [],
            |g, _| {
                vec![
                    g.iota(Shape::new(DType::S32, [2, 3]), 0),
                    g.iota(Shape::new(DType::S32, [2, 3]), 1),
                ]
            },
            [
                Literal::new(&[2, 3], &[0i32, 0, 0, 1, 1, 1]),
                Literal::new(&[2, 3], &[0i32, 1, 2, 0, 1, 2]),
            ],
        ),
        case(
            "iota",
            "times a parameter",
            [count(&[3])],
            |g, x| vec![x[0] * g.iota(x[0].shape(), 0)],
            [v([0.0f32, 1.0, 4.0])],
        )
        .numeric(&[0]),
        case(
            "iota",
            "u8 wraps",
            [],
            |g, _| vec![g.iota(Shape::new(DType::U8, [258]), 0).slice(&[254], &[258])],
            [v([254u8, 255, 0, 1])],
        ),
        case(
            "stop-gradient",
            "is its operand",
            [v([1.0f32, -2.0])],
            |_, x| vec![x[0].stop_gradient()],
            [v([1.0f32, -2.0])],
        )
        .zero(),
        case(
            "stop-gradient",
            "of one factor",
            [v([1.0f32, -2.0]), v([3.0f32, 4.0])],
            |_, x| vec![x[0] * x[1].stop_gradient()],
            [v([3.0f32, -8.0])],
        )
        .numeric(&[0]),
        case(
            "with-vjp",
            "the value of one form with the derivative of another",
            [v([1.0f32, -2.0])],
            |_, x| {
                let square = (x[0] * x[0]).stop_gradient();
                vec![square.with_vjp(&[x[0]], |x, cotangent| vec![Some(cotangent * x[0] * 2.0)])]
            },
            [v([1.0f32, 4.0])],
        )
        .numeric(&[0]),
    ]
}

fn every_type() -> [Literal; 10] {
    [
        bools([true, false]),
        v([-1i32, i32::MIN]),
        v([-1i64, i64::MAX]),
        v([0u8, 255]),
        v([0u32, u32::MAX]),
        v([0u64, u64::MAX]),
        v([1.5, -0.0].map(half::f16::from_f32)),
        v([1.5, -0.0].map(half::bf16::from_f32)),
        v([f32::NAN, f32::NEG_INFINITY]),
        v([1e-300f64, -0.0]),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        case(
            "broadcast",
            "rows and columns",
            [v([1.0f32, 2.0])],
            |_, x| vec![x[0].broadcast(&[2, 3], &[0]), x[0].broadcast(&[3, 2], &[1])],
            [
                Literal::new(&[2, 3], &[1.0f32, 1.0, 1.0, 2.0, 2.0, 2.0]),
                Literal::new(&[3, 2], &[1.0f32, 2.0, 1.0, 2.0, 1.0, 2.0]),
            ],
        )
        .numeric(&[0]),
        case(
            "broadcast",
            "scalar to rank 3",
            [Literal::scalar(4.0f32)],
            |_, x| vec![x[0].broadcast_to(&[1, 2, 2])],
            [Literal::new(&[1, 2, 2], &[4.0f32; 4])],
        )
        .numeric(&[0]),
        case(
            "broadcast",
            "axes of one element stretch",
            [Literal::new(&[2, 1, 1], &[1.0f32, 2.0])],
            |_, x| vec![x[0].broadcast_to(&[2, 1, 2])],
            [Literal::new(&[2, 1, 2], &[1.0f32, 1.0, 2.0, 2.0])],
        )
        .numeric(&[0]),
        case(
            "broadcast",
            "to no elements",
            [Literal::scalar(true as u8)],
            |_, x| vec![x[0].broadcast_to(&[0, 2])],
            [Literal::new::<u8>(&[0, 2], &[])],
        ),
        case(
            "broadcast",
            "pred between axes",
            [Literal::from_bools(&[2, 2], &[true, false, false, true])],
            |_, x| vec![x[0].broadcast(&[2, 2, 2], &[0, 2])],
            [Literal::from_bools(
                &[2, 2, 2],
                &[true, false, true, false, false, true, false, true],
            )],
        ),
        case(
            "reshape",
            "rank 3 to rank 1 and back",
            [count(&[2, 3, 2])],
            |_, x| vec![x[0].reshape(&[12]), x[0].reshape(&[12]).reshape(&[4, 3])],
            [count(&[12]), count(&[4, 3])],
        )
        .numeric(&[0]),
        case(
            "reshape",
            "one element and scalar",
            [v([5.0f32])],
            |_, x| vec![x[0].reshape(&[]), x[0].reshape(&[]).reshape(&[1, 1])],
            [Literal::scalar(5.0f32), Literal::new(&[1, 1], &[5.0f32])],
        )
        .numeric(&[0]),
        case(
            "reshape",
            "no elements",
            [Literal::new::<f32>(&[0, 4], &[])],
            |_, x| vec![x[0].reshape(&[2, 0])],
            [Literal::new::<f32>(&[2, 0], &[])],
        ),
        case(
            "transpose",
            "matrix",
            [count(&[2, 3])],
            |_, x| vec![x[0].transpose(&[1, 0])],
            [Literal::new(&[3, 2], &[0.0f32, 3.0, 1.0, 4.0, 2.0, 5.0])],
        )
        .numeric(&[0]),
        case(
            "transpose",
            "a rotation of three axes",
            [count(&[2, 3, 2])],
            |_, x| vec![x[0].transpose(&[2, 0, 1])],
            [Literal::new(
                &[2, 2, 3],
                &[0.0f32, 2.0, 4.0, 6.0, 8.0, 10.0, 1.0, 3.0, 5.0, 7.0, 9.0, 11.0],
            )],
        )
        .numeric(&[0]),
        case(
            "reverse",
            "one axis and both",
            [count(&[2, 3])],
            |_, x| vec![x[0].reverse(&[1]), x[0].reverse(&[0, 1])],
            [
                Literal::new(&[2, 3], &[2.0f32, 1.0, 0.0, 5.0, 4.0, 3.0]),
                Literal::new(&[2, 3], &[5.0f32, 4.0, 3.0, 2.0, 1.0, 0.0]),
            ],
        )
        .numeric(&[0]),
    ]
}

fn slices() -> Vec<Case> {
    vec![
        case(
            "slice",
            "window",
            [count(&[3, 4])],
            |_, x| vec![x[0].slice(&[1, 1], &[3, 3])],
            [Literal::new(&[2, 2], &[5.0f32, 6.0, 9.0, 10.0])],
        )
        .numeric(&[0]),
        case(
            "slice",
            "strides that leave a rest",
            [count(&[3, 5])],
            |_, x| vec![x[0].slice_strided(&[0, 1], &[3, 5], &[2, 3])],
            [Literal::new(&[2, 2], &[1.0f32, 4.0, 11.0, 14.0])],
        )
        .numeric(&[0]),
        case(
            "slice",
            "stride over the end",
            [count(&[7])],
            |_, x| vec![x[0].slice_strided(&[1], &[6], &[4])],
            [v([1.0f32, 5.0])],
        )
        .numeric(&[0]),
        case(
            "slice",
            "nothing",
            [count(&[3])],
            |_, x| vec![x[0].slice(&[2], &[2])],
            [Literal::new::<f32>(&[0], &[])],
        )
        .numeric(&[0]),
    ]
}

fn paddings() -> Vec<Case> {
    vec![
        case(
            "pad",
            "edges with a tensor",
            [count(&[2]), Literal::scalar(9.0f32)],
            |_, x| vec![x[0].pad_with(x[1], &[1], &[2], &[0])],
            [v([9.0f32, 0.0, 1.0, 9.0, 9.0])],
        )
        .numeric(&[0, 1]),
        case(
            "pad",
            "interior, rank 2",
            [count(&[2, 2])],
            |_, x| vec![x[0].pad(-1.0, &[0, 1], &[1, 0], &[1, 2])],
            [Literal::new(
                &[4, 5],
                &[
                    -1.0f32, 0.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 2.0, -1.0, -1.0, 3.0, -1.0,
                    -1.0, -1.0, -1.0, -1.0,
                ],
            )],
        )
        .numeric(&[0]),
        case(
            "pad",
            "negative edges cut",
            [count(&[5]), Literal::scalar(9.0f32)],
            |_, x| {
                vec![
                    x[0].pad_with(x[1], &[-1], &[-2], &[0]),
                    x[0].pad_with(x[1], &[-2], &[1], &[0]),
                ]
            },
            [v([1.0f32, 2.0]), v([2.0f32, 3.0, 4.0, 9.0])],
        )
        .numeric(&[0, 1]),
        case(
            "pad",
            "negative edges cut interior padding",
            [count(&[3]), Literal::scalar(9.0f32)],
            |_, x| vec![x[0].pad_with(x[1], &[-1], &[-2], &[1])],
            [v([9.0f32, 1.0])],
        )
        .numeric(&[0, 1]),
        case(
            "pad",
            "no elements",
            [Literal::new::<f32>(&[0], &[]), Literal::scalar(9.0f32)],
            |_, x| vec![x[0].pad_with(x[1], &[1], &[1], &[3])],
            [v([9.0f32, 9.0])],
        )
        .numeric(&[1]),
        case(
            "pad",
            "pred and integers",
            [bools([true]), v([7i64])],
            |_, x| vec![x[0].pad(0.0, &[1], &[0], &[0]), x[1].pad(-3.0, &[0], &[1], &[0])],
            [bools([false, true]), v([7i64, -3])],
        ),
    ]
}

fn joins() -> Vec<Case> {
    vec![
        case(
            "concatenate",
            "three along axis 0",
            [count(&[1, 2]), count(&[2, 2]), count(&[0, 2])],
            |g, x| vec![g.concatenate(x, 0)],
            [Literal::new(&[3, 2], &[0.0f32, 1.0, 0.0, 1.0, 2.0, 3.0])],
        )
        .numeric(&[0, 1]),
        case(
            "concatenate",
            "along axis 1",
            [count(&[2, 1]), count(&[2, 2])],
            |g, x| vec![g.concatenate(x, 1)],
            [Literal::new(&[2, 3], &[0.0f32, 0.0, 1.0, 1.0, 2.0, 3.0])],
        )
        .numeric(&[0, 1]),
        case(
            "concatenate",
            "one, and the same twice",
            [v([1u8, 2])],
            |g, x| vec![g.concatenate(x, 0), g.concatenate(&[x[0], x[0]], 0)],
            [v([1u8, 2]), v([1u8, 2, 1, 2])],
        ),
    ]
}
