//! Floating-point functions of one and two elements.

use super::{Case, bools, case, v};
use hlo::Literal;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
/// Tolerance for a platform's approximation of a transcendental function.
const APPROXIMATE: f64 = 3e-6;

pub(super) fn cases() -> Vec<Case> {
    [transcendental(), exact_unary(), arithmetic()]
        .into_iter()
        .flatten()
        .collect()
}

/// Any sign: 0.5, −1.25, 2, 0.001.
fn any() -> Literal {
    v([0.5f32, -1.25, 2.0, 0.001])
}

/// Positive: 0.5, 1.25, 4, 0.1.
fn positive() -> Literal {
    v([0.5f32, 1.25, 4.0, 0.1])
}

/// 0, −0, ∞, −∞, NaN.
fn special() -> Literal {
    v([0.0f32, -0.0, INF, -INF, NAN])
}

fn transcendental() -> Vec<Case> {
    vec![
        case(
            "exponential",
            "any",
            [any()],
            |_, x| vec![x[0].exp()],
            [v([1.648_721_3f32, 0.286_504_8, 7.389_056, 1.001_000_5])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "exponential",
            "special",
            [special()],
            |_, x| vec![x[0].exp()],
            [v([1.0f32, 1.0, INF, 0.0, NAN])],
        ),
        case(
            "log",
            "positive",
            [positive()],
            |_, x| vec![x[0].log()],
            [v([-0.693_147_2f32, 0.223_143_55, 1.386_294_4, -2.302_585_1])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "log",
            "special",
            [special()],
            |_, x| vec![x[0].log()],
            [v([-INF, -INF, INF, NAN, NAN])],
        ),
        case(
            "sqrt",
            "positive",
            [positive()],
            |_, x| vec![x[0].sqrt()],
            [v([0.707_106_77f32, 1.118_034, 2.0, 0.316_227_77])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "sqrt",
            "special",
            [special()],
            |_, x| vec![x[0].sqrt()],
            [v([0.0f32, -0.0, INF, NAN, NAN])],
        ),
        case(
            "rsqrt",
            "positive",
            [positive()],
            |_, x| vec![x[0].rsqrt()],
            [v([1.414_213_5f32, 0.894_427_2, 0.5, 3.162_277_6])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "rsqrt",
            "special",
            [special()],
            |_, x| vec![x[0].rsqrt()],
            [v([INF, -INF, 0.0, NAN, NAN])],
        ),
        case(
            "tanh",
            "any",
            [any()],
            |_, x| vec![x[0].tanh()],
            [v([0.462_117_16f32, -0.848_283_65, 0.964_027_6, 0.000_999_999_7])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "tanh",
            "special",
            [special()],
            |_, x| vec![x[0].tanh()],
            [v([0.0f32, -0.0, 1.0, -1.0, NAN])],
        )
        .within(APPROXIMATE),
        case(
            "logistic",
            "any",
            [any()],
            |_, x| vec![x[0].logistic()],
            [v([0.622_459_35f32, 0.222_700_14, 0.880_797_1, 0.500_25])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "logistic",
            "special",
            [special()],
            |_, x| vec![x[0].logistic()],
            [v([0.5f32, 0.5, 1.0, 0.0, NAN])],
        )
        .within(APPROXIMATE),
        case(
            "sine",
            "any",
            [any()],
            |_, x| vec![x[0].sin()],
            [v([0.479_425_55f32, -0.948_984_6, 0.909_297_4, 0.000_999_999_9])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "sine",
            "special",
            [special()],
            |_, x| vec![x[0].sin()],
            [v([0.0f32, -0.0, NAN, NAN, NAN])],
        ),
        case(
            "cosine",
            "any",
            [any()],
            |_, x| vec![x[0].cos()],
            [v([0.877_582_55f32, 0.315_322_37, -0.416_146_84, 0.999_999_5])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "cosine",
            "special",
            [special()],
            |_, x| vec![x[0].cos()],
            [v([1.0f32, 1.0, NAN, NAN, NAN])],
        ),
    ]
}

fn exact_unary() -> Vec<Case> {
    let halves = || v([-2.5f32, -1.5, -0.5, 0.5, 1.5, 2.5, 2.75]);
    vec![
        case(
            "abs",
            "any, rank 2",
            [Literal::new(&[2, 2], &[0.5f32, -1.25, 2.0, -0.001])],
            |_, x| vec![x[0].abs()],
            [Literal::new(&[2, 2], &[0.5f32, 1.25, 2.0, 0.001])],
        )
        .numeric(&[0]),
        case(
            "abs",
            "special",
            [special()],
            |_, x| vec![x[0].abs()],
            [v([0.0f32, 0.0, INF, INF, NAN])],
        ),
        case(
            "negate",
            "any, rank 0",
            [Literal::scalar(1.5f32)],
            |_, x| vec![-x[0]],
            [Literal::scalar(-1.5f32)],
        )
        .numeric(&[0]),
        case(
            "negate",
            "special",
            [special()],
            |_, x| vec![-x[0]],
            [v([-0.0f32, 0.0, -INF, INF, NAN])],
        ),
        case(
            "sign",
            "any",
            [any()],
            |_, x| vec![x[0].sign()],
            [v([1.0f32, -1.0, 1.0, 1.0])],
        )
        .zero(),
        case(
            "sign",
            "special",
            [special()],
            |_, x| vec![x[0].sign()],
            [v([0.0f32, -0.0, 1.0, -1.0, NAN])],
        ),
        case(
            "floor",
            "halves",
            [halves()],
            |_, x| vec![x[0].floor()],
            [v([-3.0f32, -2.0, -1.0, 0.0, 1.0, 2.0, 2.0])],
        )
        .zero(),
        case("floor", "special", [special()], |_, x| vec![x[0].floor()], [special()]),
        case(
            "floor",
            "towards zero by composition",
            [halves()],
            |_, x| vec![x[0].trunc()],
            [v([-2.0f32, -1.0, -0.0, 0.0, 1.0, 2.0, 2.0])],
        ),
        case(
            "round-nearest-even",
            "halves",
            [halves()],
            |_, x| vec![x[0].round_nearest_even()],
            [v([-2.0f32, -2.0, -0.0, 0.0, 2.0, 2.0, 3.0])],
        )
        .zero(),
        case(
            "round-nearest-even",
            "special",
            [special()],
            |_, x| vec![x[0].round_nearest_even()],
            [special()],
        ),
        case(
            "is-finite",
            "special",
            [v([0.0f32, -0.0, INF, -INF, NAN, f32::MAX])],
            |_, x| vec![x[0].is_finite()],
            [bools([true, true, false, false, false, true])],
        )
        .zero(),
    ]
}

fn arithmetic() -> Vec<Case> {
    let (a, b) = (|| v([1.5f32, -2.0, 3.25, -0.5]), || v([0.5f32, 4.0, -2.0, -1.0]));
    vec![
        case(
            "add",
            "two arrays",
            [a(), b()],
            |_, x| vec![x[0] + x[1]],
            [v([2.0f32, 2.0, 1.25, -1.5])],
        )
        .numeric(&[0, 1]),
        case(
            "add",
            "special",
            [v([INF, INF, -0.0, NAN]), v([1.0f32, -INF, -0.0, 1.0])],
            |_, x| vec![x[0] + x[1]],
            [v([INF, NAN, -0.0, NAN])],
        ),
        case(
            "add",
            "broadcasts [2,1] with [3], and a number",
            [Literal::new(&[2, 1], &[10.0f32, 20.0]), v([1.0f32, 2.0, 3.0])],
            |_, x| vec![x[0] + x[1] + 0.5],
            [Literal::new(&[2, 3], &[11.5f32, 12.5, 13.5, 21.5, 22.5, 23.5])],
        )
        .numeric(&[0, 1]),
        case(
            "add",
            "f64 keeps what f32 drops",
            [v([1.0f64])],
            |_, x| vec![x[0] + 1e-12],
            [v([1.000_000_000_001f64])],
        ),
        case(
            "subtract",
            "two arrays",
            [a(), b()],
            |_, x| vec![x[0] - x[1]],
            [v([1.0f32, -6.0, 5.25, 0.5])],
        )
        .numeric(&[0, 1]),
        case(
            "subtract",
            "number first",
            [a()],
            |_, x| vec![1.0 - x[0]],
            [v([-0.5f32, 3.0, -2.25, 1.5])],
        )
        .numeric(&[0]),
        case(
            "multiply",
            "two arrays",
            [a(), b()],
            |_, x| vec![x[0] * x[1]],
            [v([0.75f32, -8.0, -6.5, 0.5])],
        )
        .numeric(&[0, 1]),
        case(
            "multiply",
            "special",
            [v([INF, -1.0, 3e38, NAN]), v([0.0f32, 0.0, 10.0, 0.0])],
            |_, x| vec![x[0] * x[1]],
            [v([NAN, -0.0, INF, NAN])],
        ),
        case(
            "multiply",
            "bf16 rounds to 8 bits",
            [v([half::bf16::from_f32(1.007_812_5)])],
            |_, x| vec![x[0] * x[0]],
            [v([half::bf16::from_f32(1.015_625)])],
        ),
        case(
            "multiply",
            "f16 overflows",
            [v([half::f16::from_f32(300.0), half::f16::from_f32(3.0)])],
            |_, x| vec![x[0] * x[0]],
            [v([half::f16::INFINITY, half::f16::from_f32(9.0)])],
        ),
        case(
            "divide",
            "two arrays",
            [a(), b()],
            |_, x| vec![x[0] / x[1]],
            [v([3.0f32, -0.5, -1.625, 0.5])],
        )
        .numeric(&[0, 1]),
        case(
            "divide",
            "by zero",
            [v([1.0f32, -1.0, 0.0, INF]), v([0.0f32, 0.0, 0.0, INF])],
            |_, x| vec![x[0] / x[1]],
            [v([INF, -INF, NAN, NAN])],
        ),
        case(
            "remainder",
            "signs of the dividend",
            [v([5.5f32, -5.5, 5.5, -5.5]), v([2.0f32, 2.0, -2.0, -2.0])],
            |_, x| vec![x[0] % x[1]],
            [v([1.5f32, -1.5, 1.5, -1.5])],
        )
        .numeric(&[0, 1]),
        case(
            "remainder",
            "special",
            [v([1.0f32, INF, 1.5, -0.0]), v([0.0f32, 2.0, INF, 2.0])],
            |_, x| vec![x[0] % x[1]],
            [v([NAN, NAN, 1.5, -0.0])],
        ),
        case(
            "power",
            "positive base",
            [v([2.0f32, 0.5, 3.0, 1.5]), v([3.0f32, -2.0, 0.5, 1.25])],
            |_, x| vec![x[0].pow(x[1])],
            [v([8.0f32, 4.0, 1.732_050_8, 1.660_022_9])],
        )
        .within(APPROXIMATE)
        .numeric(&[0, 1]),
        case(
            "power",
            "negative base, whole exponent",
            [v([-2.0f32, -2.0, -0.5])],
            |_, x| vec![x[0].pow(3.0)],
            [v([-8.0f32, -8.0, -0.125])],
        )
        .within(APPROXIMATE)
        .numeric(&[0]),
        case(
            "power",
            "square at zero",
            [v([0.0f32, 1.0])],
            |_, x| vec![x[0].pow(2.0)],
            [v([0.0f32, 1.0])],
        )
        .numeric(&[0]),
        case(
            "power",
            "exponent zero",
            [v([0.0f32, 3.0])],
            |_, x| vec![x[0].pow(0.0)],
            [v([1.0f32, 1.0])],
        )
        .numeric(&[0]),
        case(
            "power",
            "base zero",
            [v([2.0f32, 1.0])],
            |_, x| vec![x[0].zeros_like().pow(x[0])],
            [v([0.0f32, 0.0])],
        )
        .numeric(&[0]),
        case(
            "power",
            "special",
            [v([0.0f32, 0.0, -2.0, 2.0, 1.0]), v([0.0f32, -1.0, 0.5, INF, NAN])],
            |_, x| vec![x[0].pow(x[1])],
            [v([1.0f32, INF, NAN, INF, 1.0])],
        ),
    ]
}
