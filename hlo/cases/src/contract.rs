//! Contractions and reductions.

use super::{Case, bools, case, v};
use hlo::{DotDims, Literal, Reducer};

pub(super) fn cases() -> Vec<Case> {
    [dots(), sums(), extremes(), logic()].into_iter().flatten().collect()
}

/// `first`, `first + step`, … of `dims`.
fn ramp(dims: &[usize], first: f32, step: f32) -> Literal {
    let n: usize = dims.iter().product();
    Literal::new(dims, &(0..n).map(|i| first + i as f32 * step).collect::<Vec<_>>())
}

fn dots() -> Vec<Case> {
    vec![
        case(
            "dot",
            "matrix product",
            [ramp(&[2, 3], 1.0, 1.0), ramp(&[3, 2], 1.0, 1.0)],
            |_, x| vec![x[0].matmul(x[1])],
            [Literal::new(&[2, 2], &[22.0f32, 28.0, 49.0, 64.0])],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "dot",
            "inner product",
            [v([1.0f32, -2.0, 3.0]), v([4.0f32, 5.0, 6.0])],
            |_, x| vec![x[0].matmul(x[1])],
            [Literal::scalar(12.0f32)],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "dot",
            "outer product",
            [v([1.0f32, -2.0]), v([4.0f32, 5.0, 6.0])],
            |_, x| vec![x[0].dot_general(x[1], DotDims::default())],
            [Literal::new(&[2, 3], &[4.0f32, 5.0, 6.0, -8.0, -10.0, -12.0])],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        // einsum bikl,lbkj->bij: a batch axis, and two contracted axes in another order.
        case(
            "dot",
            "batch, contracted axes permuted",
            [ramp(&[2, 3, 2, 2], -3.0, 0.5), ramp(&[2, 2, 2, 4], -2.0, 0.25)],
            |_, x| {
                vec![x[0].dot_general(
                    x[1],
                    DotDims {
                        lhs_contract: vec![2, 3],
                        rhs_contract: vec![2, 0],
                        lhs_batch: vec![0],
                        rhs_batch: vec![1],
                    },
                )]
            },
            [Literal::new(
                &[2, 3, 4],
                &[
                    -1.5f32, -3.75, -6.0, -8.25, 2.5, 2.25, 2.0, 1.75, 6.5, 8.25, 10.0, 11.75, 40.5, 44.25, 48.0,
                    51.75, 60.5, 66.25, 72.0, 77.75, 80.5, 88.25, 96.0, 103.75,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        // einsum bij,jbi->b: nothing but the batch is left.
        case(
            "dot",
            "batch of inner products",
            [ramp(&[2, 3, 4], -3.0, 0.5), ramp(&[4, 2, 3], -2.0, 0.25)],
            |_, x| {
                vec![x[0].dot_general(
                    x[1],
                    DotDims {
                        lhs_contract: vec![2, 1],
                        rhs_contract: vec![0, 2],
                        lhs_batch: vec![0],
                        rhs_batch: vec![1],
                    },
                )]
            },
            [v([13.75f32, 101.5])],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "dot",
            "nothing to contract over is zero",
            [Literal::new::<f32>(&[2, 0], &[]), Literal::new::<f32>(&[0, 2], &[])],
            |_, x| vec![x[0].matmul(x[1])],
            [Literal::new(&[2, 2], &[0.0f32; 4])],
        ),
        case(
            "dot",
            "integers wrap",
            [v([i32::MAX, 1]), v([2i32, 5])],
            |_, x| vec![x[0].matmul(x[1])],
            [Literal::scalar(3i32)],
        ),
        case(
            "dot",
            "NaN spreads",
            [Literal::new(&[2, 2], &[0.0f32, 1.0, f32::NAN, 1.0]), v([0.0f32, 2.0])],
            |_, x| vec![x[0].matmul(x[1])],
            [v([2.0f32, f32::NAN])],
        ),
        case(
            "dot",
            "f64",
            [v([1.0f64, 1e-12]), v([1.0f64, 1.0])],
            |_, x| vec![x[0].matmul(x[1])],
            [Literal::scalar(1.000_000_000_001f64)],
        )
        .within(1e-15),
    ]
}

fn sums() -> Vec<Case> {
    vec![
        case(
            "reduce",
            "sum over each axis and all",
            [ramp(&[2, 3], 0.0, 1.0)],
            |_, x| vec![x[0].reduce_sum(&[0]), x[0].reduce_sum(&[1]), x[0].reduce_sum_all()],
            [v([3.0f32, 5.0, 7.0]), v([3.0f32, 12.0]), Literal::scalar(15.0f32)],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce",
            "sum over the outer axes of three",
            [ramp(&[2, 2, 2], 0.0, 1.0)],
            |_, x| vec![x[0].reduce_sum(&[0, 2]), x[0].reduce_sum(&[2, 0])],
            [v([10.0f32, 18.0]), v([10.0f32, 18.0])],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce",
            "sum over one, over no axes and over a scalar",
            [v([1.0f32, 2.0]), Literal::scalar(3.0f32)],
            |_, x| vec![x[0].reduce_sum(&[0]), x[0].reduce_sum(&[]), x[1].reduce_sum_all()],
            [Literal::scalar(3.0f32), v([1.0f32, 2.0]), Literal::scalar(3.0f32)],
        )
        .numeric(&[0, 1]),
        case(
            "reduce",
            "mean",
            [ramp(&[2, 4], 0.0, 1.0)],
            |_, x| vec![x[0].reduce_mean(&[1]), x[0].reduce_mean(&[0, 1])],
            [v([1.5f32, 5.5]), Literal::scalar(3.5f32)],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce",
            "sum of nothing",
            [Literal::new::<f32>(&[2, 0], &[])],
            |_, x| vec![x[0].reduce_sum(&[1]), x[0].reduce_max(&[1]), x[0].reduce_min(&[1])],
            [v([0.0f32, 0.0]), v([f32::NEG_INFINITY; 2]), v([f32::INFINITY; 2])],
        ),
        case(
            "reduce",
            "sum of integers wraps",
            [v([i32::MAX, 1, 1]), v([200u8, 100, 0])],
            |_, x| vec![x[0].reduce_sum(&[0]), x[1].reduce_sum(&[0])],
            [Literal::scalar(i32::MIN + 1), Literal::scalar(44u8)],
        ),
    ]
}

fn extremes() -> Vec<Case> {
    let tied = || Literal::new(&[3, 3], &[1.0f32, 5.0, 5.0, -1.0, -1.0, -7.0, 0.0, 2.0, 1.0]);
    vec![
        case(
            "reduce",
            "maximum",
            [ramp(&[2, 3], -2.0, 1.5)],
            |_, x| vec![x[0].reduce_max(&[1]), x[0].reduce_max(&[0])],
            [v([1.0f32, 5.5]), v([2.5f32, 4.0, 5.5])],
        )
        .numeric(&[0]),
        case(
            "reduce",
            "minimum",
            [ramp(&[2, 3], -2.0, 1.5)],
            |_, x| vec![x[0].reduce_min(&[1]), x[0].reduce_min(&[0])],
            [v([-2.0f32, 2.5]), v([-2.0f32, -0.5, 1.0])],
        )
        .numeric(&[0]),
        case(
            "reduce",
            "maximum and minimum with NaN and infinities",
            [Literal::new(
                &[2, 3],
                &[1.0f32, f32::NAN, 3.0, f32::NEG_INFINITY, 0.0, f32::INFINITY],
            )],
            |_, x| vec![x[0].reduce_max(&[1]), x[0].reduce_min(&[1])],
            [v([f32::NAN, f32::INFINITY]), v([f32::NAN, f32::NEG_INFINITY])],
        ),
        case(
            "reduce",
            "maximum of integers",
            [v([-5i64, i64::MIN, -3]), v([0u64, u64::MAX, 1])],
            |_, x| vec![x[0].reduce_max(&[0]), x[1].reduce_max(&[0])],
            [Literal::scalar(-3i64), Literal::scalar(u64::MAX)],
        ),
        case(
            "reduce",
            "minimum of integers",
            [v([-5i64, i64::MAX, -3]), v([4u64, u64::MAX, 9])],
            |_, x| vec![x[0].reduce_min(&[0]), x[1].reduce_min(&[0])],
            [Literal::scalar(-5i64), Literal::scalar(4u64)],
        ),
        case(
            "reduce",
            "argmax takes the lower index of a tie",
            [tied()],
            |_, x| vec![x[0].argmax(1), x[0].argmax(0)],
            [v([1i32, 0, 1]), v([0i32, 0, 0])],
        )
        .zero(),
    ]
}

fn logic() -> Vec<Case> {
    vec![
        case(
            "reduce",
            "and, or of pred",
            [
                Literal::from_bools(&[2, 2], &[true, true, true, false]),
                Literal::from_bools(&[2, 2], &[false, false, true, false]),
            ],
            |_, x| vec![x[0].reduce(&[1], Reducer::And), x[1].reduce(&[1], Reducer::Or)],
            [bools([true, false]), bools([false, true])],
        ),
        case(
            "reduce",
            "and, or of integers",
            [v([0b1101u32, 0b0111]), v([-1i64, 12])],
            |_, x| {
                vec![
                    x[0].reduce(&[0], Reducer::And),
                    x[0].reduce(&[0], Reducer::Or),
                    x[1].reduce(&[0], Reducer::And),
                    x[1].reduce(&[0], Reducer::Or),
                ]
            },
            [
                Literal::scalar(0b0101u32),
                Literal::scalar(0b1111u32),
                Literal::scalar(12i64),
                Literal::scalar(-1i64),
            ],
        ),
        case(
            "reduce",
            "and, or of nothing",
            [Literal::new::<u32>(&[0], &[]), Literal::from_bools(&[0], &[])],
            |_, x| {
                vec![
                    x[0].reduce(&[0], Reducer::And),
                    x[0].reduce(&[0], Reducer::Or),
                    x[1].reduce(&[0], Reducer::And),
                    x[1].reduce(&[0], Reducer::Or),
                ]
            },
            [
                Literal::scalar(u32::MAX),
                Literal::scalar(0u32),
                Literal::from_bools(&[], &[true]),
                Literal::from_bools(&[], &[false]),
            ],
        ),
    ]
}
