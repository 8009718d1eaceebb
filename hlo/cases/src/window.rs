//! Windows: pooling, reductions, and select-and-scatter.

use super::{Case, bools, case, gradients, mixed, v, window};
use hlo::{Literal, Padding, Reducer, WindowDim};

pub(super) fn cases() -> Vec<Case> {
    [extremes(), sums(), types(), selections()]
        .into_iter()
        .flatten()
        .collect()
}

/// A window over height and width.
fn over(height: usize, width: usize) -> Vec<WindowDim> {
    vec![WindowDim::unit(), window(height), window(width), WindowDim::unit()]
}

fn uneven() -> Vec<WindowDim> {
    let rows = WindowDim {
        stride: 2,
        pad_high: 2,
        window_dilation: 2,
        ..window(2)
    };
    let columns = WindowDim {
        pad_low: -1,
        pad_high: 1,
        base_dilation: 2,
        ..window(2)
    };
    vec![rows, columns]
}

fn extremes() -> Vec<Case> {
    vec![
        case(
            "reduce-window",
            "maximum, 3x3, stride 2, SAME on an even side",
            [mixed(&[1, 4, 4, 2], 5)],
            |_, x| vec![x[0].max_pool([3, 3], [2, 2], Padding::Same)],
            [Literal::new(
                &[1, 2, 2, 2],
                &[3.5f32, 2.5, 3.75, 2.5, 3.25, 2.0, 2.75, 1.75],
            )],
        )
        .numeric(&[0]),
        case(
            "reduce-window",
            "maximum, 3x3, stride 2, SAME on an odd side",
            [mixed(&[1, 5, 5, 1], 7)],
            |_, x| vec![x[0].max_pool([3, 3], [2, 2], Padding::Same)],
            [Literal::new(
                &[1, 3, 3, 1],
                &[-1.0f32, 2.5, 3.25, 1.0, 3.5, 3.5, 2.0, 3.75, -0.5],
            )],
        )
        .numeric(&[0]),
        case(
            "reduce-window",
            "padding never is the maximum",
            [mixed(&[1, 3, 3, 1], 7)],
            |_, x| vec![(x[0] - 5.0).max_pool([2, 2], [2, 2], Padding::Explicit([(1, 1); 2]))],
            [Literal::new(&[1, 2, 2, 1], &[-8.75f32, -5.25, -3.5, -1.75])],
        )
        .numeric(&[0]),
        case(
            "reduce-window",
            "minimum, 2x1, stride 1",
            [mixed(&[1, 3, 2, 1], 7)],
            |_, x| vec![x[0].reduce_window(over(2, 1), Reducer::Min)],
            [Literal::new(&[1, 2, 2, 1], &[-3.75f32, -2.0, -0.25, -2.75])],
        )
        .numeric(&[0]),
    ]
}

fn sums() -> Vec<Case> {
    vec![
        case(
            "reduce-window",
            "mean, 2x2, VALID",
            [mixed(&[1, 4, 4, 1], 7)],
            |_, x| vec![x[0].avg_pool([2, 2], [2, 2], Padding::Valid)],
            [Literal::new(&[1, 2, 2, 1], &[-1.3125f32, 0.25, 1.0625, -1.25])],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce-window",
            "mean, 8x8 over the whole",
            [mixed(&[1, 8, 8, 1], 7)],
            |_, x| vec![x[0].avg_pool([8, 8], [8, 8], Padding::Valid)],
            [Literal::new(&[1, 1, 1, 1], &[-0.08984375f32])],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce-window",
            "mean, 3x3, stride 2, SAME: padding does not count",
            [mixed(&[1, 4, 5, 1], 7)],
            |_, x| vec![x[0].avg_pool([3, 3], [2, 2], Padding::Same)],
            [Literal::new(
                &[1, 2, 3, 1],
                &[-1.875f32, 0.75, 0.791666667, -0.375, 0.958333333, -0.9375],
            )],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce-window",
            "mean, overlapping, padding 1+2",
            [mixed(&[1, 3, 3, 1], 7)],
            |_, x| vec![x[0].avg_pool([2, 2], [1, 1], Padding::Explicit([(1, 2); 2]))],
            [Literal::new(
                &[1, 5, 5, 1],
                &[
                    -3.75f32,
                    -2.875,
                    -1.125,
                    -0.25,
                    f32::NAN,
                    -1.125,
                    -0.25,
                    -0.4375,
                    -1.5,
                    f32::NAN,
                    0.25,
                    1.125,
                    0.9375,
                    -0.125,
                    f32::NAN,
                    -1.0,
                    -0.125,
                    1.625,
                    2.5,
                    f32::NAN,
                    f32::NAN,
                    f32::NAN,
                    f32::NAN,
                    f32::NAN,
                    f32::NAN,
                ],
            )],
        )
        .within(1e-6),
        case(
            "reduce-window",
            "sum, dilated, unequal and negative padding",
            [mixed(&[3, 4], 7)],
            |_, x| vec![x[0].reduce_window(uneven(), Reducer::Add)],
            [Literal::new(
                &[2, 6],
                &[-5.5f32, -5.5, -2.0, -2.0, 1.5, 1.5, -3.5, -3.5, -1.75, -1.75, 0.0, 0.0],
            )],
        )
        .within(1e-6)
        .numeric(&[0]),
        case(
            "reduce-window",
            "a dilated maximum",
            [mixed(&[5], 7)],
            |_, x| {
                vec![x[0].reduce_window(
                    vec![WindowDim {
                        window_dilation: 2,
                        ..window(2)
                    }],
                    Reducer::Max,
                )]
            },
            [Literal::new(&[3], &[-0.25f32, 1.5, 3.25])],
        )
        .stop(),
    ]
}

fn types() -> Vec<Case> {
    vec![
        case(
            "reduce-window",
            "maximum and minimum with NaN and infinities",
            [v([1.0f32, f32::NAN, 3.0, f32::NEG_INFINITY, f32::INFINITY])],
            |_, x| {
                let pairs = |reducer| x[0].reduce_window(vec![window(2)], reducer);
                vec![pairs(Reducer::Max), pairs(Reducer::Min)]
            },
            [
                v([f32::NAN, f32::NAN, 3.0, f32::INFINITY]),
                v([f32::NAN, f32::NAN, f32::NEG_INFINITY, f32::NEG_INFINITY]),
            ],
        ),
        case(
            "reduce-window",
            "integers",
            [v([i32::MAX, 1, -7]), v([200u8, 100, 3])],
            |_, x| {
                let pairs = |i: usize, reducer| x[i].reduce_window(vec![window(2)], reducer);
                vec![
                    pairs(0, Reducer::Add),
                    pairs(0, Reducer::Max),
                    pairs(1, Reducer::Min),
                    pairs(1, Reducer::And),
                    pairs(1, Reducer::Or),
                ]
            },
            [
                v([i32::MIN, -6]),
                v([i32::MAX, 1]),
                v([100u8, 3]),
                v([64u8, 0]),
                v([236u8, 103]),
            ],
        ),
        case(
            "reduce-window",
            "and, or of pred, with padding",
            [bools([true, false, true])],
            |_, x| {
                let pairs = |reducer| {
                    x[0].reduce_window(
                        vec![WindowDim {
                            pad_low: 1,
                            ..window(2)
                        }],
                        reducer,
                    )
                };
                vec![pairs(Reducer::And), pairs(Reducer::Or)]
            },
            [bools([true, false, false]), bools([true, true, true])],
        ),
        case(
            "reduce-window",
            "nothing but padding, and no position at all",
            [v([1.0f32, 2.0])],
            |_, x| {
                let outside = WindowDim {
                    pad_low: 1,
                    pad_high: 1,
                    stride: 3,
                    ..window(1)
                };
                vec![
                    x[0].reduce_window(vec![outside], Reducer::Add),
                    x[0].reduce_window(vec![outside], Reducer::Max),
                    x[0].reduce_window(vec![window(3)], Reducer::Add),
                ]
            },
            [v([0.0f32, 0.0]), v([f32::NEG_INFINITY; 2]), v::<f32, 0>([])],
        )
        .zero(),
    ]
}

/// Values with a tie in every window of two.
fn tied() -> Literal {
    let values = [
        2.0f32, 2.0, 1.0, 2.0, 2.0, 1.0, 3.0, 3.0, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 1.0, 1.0,
    ];
    Literal::new(&[1, 4, 4, 1], &values)
}

fn selections() -> Vec<Case> {
    vec![
        case(
            "select-and-scatter",
            "the first of tied maxima gets the gradient: 3x3, stride 2, SAME",
            [tied(), mixed(&[1, 2, 2, 1], 5)],
            |_, x| gradients(x[0].max_pool([3, 3], [2, 2], Padding::Same), x),
            [Literal::new(
                &[1, 4, 4, 1],
                &[
                    0.0f32, 0.0, 0.0, 0.0, 0.0, 0.0, -6.25, 0.0, 0.0, 0.0, -1.25, 0.0, 0.0, 0.0, 0.0, 0.0,
                ],
            )],
        )
        .within(1e-6),
        case(
            "select-and-scatter",
            "the first of tied maxima gets the gradient: 2x2, stride 1",
            [tied(), mixed(&[1, 3, 3, 1], 5)],
            |_, x| gradients(x[0].max_pool([2, 2], [1, 1], Padding::Valid), x),
            [Literal::new(
                &[1, 4, 4, 1],
                &[
                    -3.75f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.75, 0.0, -4.25, 0.0, 0.0, 0.0, 0.0, 0.0,
                ],
            )],
        )
        .within(1e-6),
        case(
            "select-and-scatter",
            "the first of tied maxima gets the gradient: 3x3, stride 2, padding 1+1",
            [tied(), mixed(&[1, 2, 2, 1], 5)],
            |_, x| gradients(x[0].max_pool([3, 3], [2, 2], Padding::Explicit([(1, 1); 2])), x),
            [Literal::new(
                &[1, 4, 4, 1],
                &[
                    -3.75f32, 0.0, 0.0, 0.0, -1.25, 0.0, -2.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
                ],
            )],
        )
        .within(1e-6),
        case(
            "select-and-scatter",
            "rows with padding before",
            [mixed(&[2, 4], 7), mixed(&[2, 4], 5)],
            |_, x| {
                vec![x[0].select_and_scatter(
                    x[1],
                    vec![
                        WindowDim::unit(),
                        WindowDim {
                            pad_low: 1,
                            ..window(2)
                        },
                    ],
                )]
            },
            [Literal::new(
                &[2, 4],
                &[-3.75f32, -2.5, -1.25, 0.0, 3.75, 0.0, 3.75, -2.75],
            )],
        )
        .within(1e-6)
        .stop(),
        case(
            "select-and-scatter",
            "a window over padding alone scatters nowhere",
            [v([1.0f32, 2.0]), v([10.0f32, 20.0, 30.0])],
            |_, x| {
                let outside = WindowDim {
                    pad_low: 2,
                    stride: 1,
                    ..window(2)
                };
                gradients(x[0].reduce_window(vec![outside], Reducer::Max), x)
            },
            [v([20.0f32, 30.0])],
        ),
        case(
            "select-and-scatter",
            "a NaN gives way to what follows, and what precedes it to the NaN",
            [v([f32::NAN, 1.0, 2.0, 3.0, f32::NAN, 1.0]), v([10.0f32, 20.0])],
            |_, x| {
                let thirds = WindowDim { stride: 3, ..window(3) };
                vec![x[0].select_and_scatter(x[1], vec![thirds])]
            },
            [v([0.0f32, 0.0, 10.0, 0.0, 0.0, 20.0])],
        ),
        case(
            "select-and-scatter",
            "integers",
            [v([3i32, 3, -5]), v([i32::MAX, 1])],
            |_, x| vec![x[0].select_and_scatter(x[1], vec![window(2)])],
            [v([i32::MAX, 1, 0])],
        ),
        case(
            "select-and-scatter",
            "gradient of a minimum",
            [mixed(&[1, 3, 2, 1], 7), mixed(&[1, 2, 2, 1], 5)],
            |_, x| gradients(x[0].reduce_window(over(2, 1), Reducer::Min), x),
            [Literal::new(&[1, 3, 2, 1], &[-3.75f32, -2.5, -1.25, 0.0, 0.0, 0.0])],
        )
        .within(1e-6),
        case(
            "reduce-window",
            "gradient of a mean, 3x3, stride 2, SAME",
            [mixed(&[1, 4, 5, 1], 7), mixed(&[1, 2, 3, 1], 5)],
            |_, x| gradients(x[0].avg_pool([3, 3], [2, 2], Padding::Same), x),
            [Literal::new(
                &[1, 4, 5, 1],
                &[
                    -0.625f32,
                    -0.902777778,
                    -0.277777778,
                    -0.486111111,
                    -0.208333333,
                    -0.625,
                    -0.902777778,
                    -0.277777778,
                    -0.486111111,
                    -0.208333333,
                    -0.625,
                    -0.694444444,
                    -0.0694444444,
                    0.347222222,
                    0.416666667,
                    0.0,
                    0.208333333,
                    0.208333333,
                    0.833333333,
                    0.625,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
    ]
}
