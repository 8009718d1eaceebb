//! Maximum, minimum, clamp, select and compare.

use super::{Case, bools, case, v};
use hlo::Literal;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

pub(super) fn cases() -> Vec<Case> {
    [extremes(), choices(), comparisons()].into_iter().flatten().collect()
}

fn extremes() -> Vec<Case> {
    vec![
        case(
            "maximum",
            "apart",
            [v([1.0f32, -2.0, 3.0]), v([2.0f32, -3.0, -3.0])],
            |_, x| vec![x[0].max(x[1])],
            [v([2.0f32, -2.0, 3.0])],
        )
        .numeric(&[0, 1]),
        case(
            "maximum",
            "NaN wins",
            [v([NAN, 1.0, INF]), v([1.0f32, NAN, -INF])],
            |_, x| vec![x[0].max(x[1])],
            [v([NAN, NAN, INF])],
        ),
        case(
            "maximum",
            "with itself: half the gradient twice",
            [v([1.0f32, -2.0])],
            |_, x| vec![x[0].max(x[0] * 1.0)],
            [v([1.0f32, -2.0])],
        )
        .numeric(&[0]),
        case(
            "minimum",
            "apart",
            [v([1.0f32, -2.0, 3.0]), v([2.0f32, -3.0, -3.0])],
            |_, x| vec![x[0].min(x[1])],
            [v([1.0f32, -3.0, -3.0])],
        )
        .numeric(&[0, 1]),
        case(
            "minimum",
            "NaN wins",
            [v([NAN, 1.0, INF]), v([1.0f32, NAN, -INF])],
            |_, x| vec![x[0].min(x[1])],
            [v([NAN, NAN, -INF])],
        ),
        case(
            "clamp",
            "array bounds",
            [v([-2.0f32, 0.25, 5.0]), v([-1.0f32, -1.0, 0.0]), v([1.0f32, 1.0, 2.0])],
            |_, x| vec![x[0].clamp(x[1], x[2])],
            [v([-1.0f32, 0.25, 2.0])],
        )
        .numeric(&[0, 1, 2]),
        case(
            "clamp",
            "numbers, NaN stays",
            [v([-2.0f32, 0.5, INF, NAN])],
            |_, x| vec![x[0].clamp(0.0, 1.0)],
            [v([0.0f32, 0.5, 1.0, NAN])],
        ),
        case(
            "clamp",
            "bounds broadcast",
            [
                Literal::new(&[2, 1], &[0.5f32, 5.0]),
                Literal::scalar(1.0f32),
                v([2.0f32, 3.0]),
            ],
            |_, x| vec![x[0].clamp(x[1], x[2])],
            [Literal::new(&[2, 2], &[1.0f32, 1.0, 2.0, 3.0])],
        )
        .numeric(&[0, 1, 2]),
        case(
            "clamp",
            "integers",
            [v([-7i32, 0, 7])],
            |_, x| vec![x[0].clamp(-1.0, 1.0)],
            [v([-1i32, 0, 1])],
        ),
    ]
}

fn choices() -> Vec<Case> {
    vec![
        case(
            "select",
            "by array",
            [bools([true, false, true]), v([1.0f32, NAN, 3.0]), v([NAN, 5.0, 6.0])],
            |_, x| vec![x[0].select(x[1], x[2])],
            [v([1.0f32, 5.0, 3.0])],
        ),
        case(
            "select",
            "smooth in both",
            [bools([true, false, true]), v([1.0f32, 2.0, 3.0]), v([4.0f32, 5.0, 6.0])],
            |_, x| vec![x[0].select(x[1], x[2])],
            [v([1.0f32, 5.0, 3.0])],
        )
        .numeric(&[1, 2]),
        case(
            "select",
            "scalar predicate broadcasts",
            [Literal::from_bools(&[], &[false]), v([1i32, 2]), v([3i32, 4])],
            |_, x| vec![x[0].select(x[1], x[2])],
            [v([3i32, 4])],
        ),
        case(
            "select",
            "relu, 0 at 0 and NaN at NaN",
            [v([-1.0f32, 0.0, 2.0, INF, NAN])],
            |_, x| vec![x[0].relu()],
            [v([0.0f32, 0.0, 2.0, INF, NAN])],
        ),
        case(
            "select",
            "relu away from 0",
            [v([-1.0f32, 2.0])],
            |_, x| vec![x[0].relu()],
            [v([0.0f32, 2.0])],
        )
        .numeric(&[0]),
    ]
}

fn comparisons() -> Vec<Case> {
    let (a, b) = (|| v([1.0f32, 2.0, 3.0, NAN, 0.0]), || v([2.0f32, 2.0, 1.0, NAN, -0.0]));
    vec![
        case(
            "compare",
            "EQ",
            [a(), b()],
            |_, x| vec![x[0].eq(x[1])],
            [bools([false, true, false, false, true])],
        )
        .zero(),
        case(
            "compare",
            "NE",
            [a(), b()],
            |_, x| vec![x[0].ne(x[1])],
            [bools([true, false, true, true, false])],
        ),
        case(
            "compare",
            "LT",
            [a(), b()],
            |_, x| vec![x[0].lt(x[1])],
            [bools([true, false, false, false, false])],
        ),
        case(
            "compare",
            "LE",
            [a(), b()],
            |_, x| vec![x[0].le(x[1])],
            [bools([true, true, false, false, true])],
        ),
        case(
            "compare",
            "GT",
            [a(), b()],
            |_, x| vec![x[0].gt(x[1])],
            [bools([false, false, true, false, false])],
        ),
        case(
            "compare",
            "GE",
            [a(), b()],
            |_, x| vec![x[0].ge(x[1])],
            [bools([false, true, true, false, true])],
        ),
        case(
            "compare",
            "signed",
            [v([-1i32, i32::MIN]), v([1i32, i32::MAX])],
            |_, x| vec![x[0].lt(x[1])],
            [bools([true, true])],
        ),
        case(
            "compare",
            "unsigned",
            [v([u32::MAX, 0x8000_0000]), v([1u32, 0x7fff_ffff])],
            |_, x| vec![x[0].gt(x[1])],
            [bools([true, true])],
        ),
        case(
            "compare",
            "64 bits",
            [v([u64::MAX, 1 << 53]), v([u64::MAX - 1, (1 << 53) + 1])],
            |_, x| vec![x[0].gt(x[1])],
            [bools([true, false])],
        ),
        case(
            "compare",
            "pred",
            [bools([true, false]), bools([false, false])],
            |_, x| vec![x[0].gt(x[1]), x[0].eq(x[1])],
            [bools([true, false]), bools([false, true])],
        ),
        case(
            "compare",
            "one_hot, out of range is all zero",
            [v([1i32, 0, 3, -1])],
            |_, x| vec![x[0].one_hot(3, hlo::DType::F32)],
            [Literal::new(
                &[4, 3],
                &[0.0f32, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            )],
        ),
    ]
}
