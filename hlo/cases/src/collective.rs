//! All-reduce. A test program runs as its only replica, so the result is the operand.

use super::{Case, bools, case, v};
use hlo::{Reducer, grad};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "all-reduce",
            "sum of one replica",
            [v([1.5f32, -0.0, f32::INFINITY])],
            |_, x| vec![x[0].all_reduce(Reducer::Add)],
            [v([1.5f32, -0.0, f32::INFINITY])],
        ),
        case(
            "all-reduce",
            "sum within a formula",
            [v([1.0f32, -2.0, 3.0])],
            |_, x| vec![x[0] * (x[0] * x[0]).all_reduce(Reducer::Add)],
            [v([1.0f32, -8.0, 27.0])],
        )
        .numeric(&[0]),
        case(
            "all-reduce",
            "gradient of a sum",
            [v([1.0f32, -2.0])],
            |_, x| grad((x[0].all_reduce(Reducer::Add) * x[0]).reduce_sum_all(), x),
            [v([2.0f32, -4.0])],
        ),
        case(
            "all-reduce",
            "largest of one replica",
            [v([1.0f32, -2.0])],
            |_, x| vec![x[0].all_reduce(Reducer::Max)],
            [v([1.0f32, -2.0])],
        )
        .stop(),
        case(
            "all-reduce",
            "smallest of one replica, in a loop",
            [v([3u32, u32::MAX])],
            |g, x| g.repeat(g.scalar(2i32), x, |_, _, s| vec![s[0].all_reduce(Reducer::Min)]),
            [v([3u32, u32::MAX])],
        ),
        case(
            "all-reduce",
            "truths of one replica",
            [bools([true, false])],
            |_, x| vec![x[0].all_reduce(Reducer::And), x[0].all_reduce(Reducer::Or)],
            [bools([true, false]), bools([true, false])],
        ),
    ]
}
