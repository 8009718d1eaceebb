//! Integer arithmetic: wrapping, division by zero, bits and shifts.

use super::{Case, bools, case, v};

pub(super) fn cases() -> Vec<Case> {
    [arithmetic(), division(), bits(), shifts()]
        .into_iter()
        .flatten()
        .collect()
}

fn arithmetic() -> Vec<Case> {
    vec![
        case(
            "abs",
            "the least integer wraps",
            [v([-5i32, 7, i32::MIN])],
            |_, x| vec![x[0].abs()],
            [v([5i32, 7, i32::MIN])],
        )
        .zero(),
        case(
            "negate",
            "integers wrap",
            [v([-5i32, i32::MIN])],
            |_, x| vec![-x[0]],
            [v([5i32, i32::MIN])],
        ),
        case(
            "negate",
            "unsigned",
            [v([0u32, 1])],
            |_, x| vec![-x[0]],
            [v([0u32, u32::MAX])],
        ),
        case(
            "sign",
            "integers",
            [v([-5i64, 0, 9])],
            |_, x| vec![x[0].sign()],
            [v([-1i64, 0, 1])],
        ),
        case(
            "add",
            "s32 wraps",
            [v([i32::MAX, -1])],
            |_, x| vec![x[0] + 1.0],
            [v([i32::MIN, 0])],
        ),
        case(
            "add",
            "u8 wraps",
            [v([255u8, 3])],
            |_, x| vec![x[0] + 1.0],
            [v([0u8, 4])],
        ),
        case(
            "add",
            "u64 wraps",
            [v([u64::MAX, 1 << 63])],
            |_, x| vec![x[0] + x[0]],
            [v([u64::MAX - 1, 0])],
        ),
        case(
            "subtract",
            "u32 wraps",
            [v([0u32, 5])],
            |_, x| vec![x[0] - 1.0],
            [v([u32::MAX, 4])],
        ),
        case(
            "subtract",
            "s64 wraps",
            [v([i64::MIN])],
            |_, x| vec![x[0] - 1.0],
            [v([i64::MAX])],
        ),
        case(
            "multiply",
            "u32 wraps",
            [v([0x1_0001u32, 3]), v([0x1_0001u32, 5])],
            |_, x| vec![x[0] * x[1]],
            [v([0x2_0001u32, 15])],
        ),
        case(
            "multiply",
            "s64 wraps",
            [v([i64::MAX, i64::MIN])],
            |_, x| vec![x[0] * x[0]],
            [v([1i64, 0])],
        ),
        case(
            "multiply",
            "u64 wraps",
            [v([u64::MAX])],
            |_, x| vec![x[0] * x[0]],
            [v([1u64])],
        ),
        case(
            "maximum",
            "signed and unsigned",
            [v([-1i32, 3]), v([1i32, 2])],
            |_, x| {
                vec![
                    x[0].max(x[1]),
                    x[0].bitcast_convert(hlo::DType::U32)
                        .max(x[1].bitcast_convert(hlo::DType::U32)),
                ]
            },
            [v([1i32, 3]), v([u32::MAX, 3])],
        ),
        case(
            "minimum",
            "signed and unsigned",
            [v([-1i32, 3]), v([1i32, 2])],
            |_, x| {
                vec![
                    x[0].min(x[1]),
                    x[0].bitcast_convert(hlo::DType::U32)
                        .min(x[1].bitcast_convert(hlo::DType::U32)),
                ]
            },
            [v([-1i32, 2]), v([1u32, 2])],
        ),
        case(
            "power",
            "integers wrap",
            [v([3i32, 2, -2, 7]), v([4i32, 31, 3, 0])],
            |_, x| vec![x[0].pow(x[1])],
            [v([81i32, i32::MIN, -8, 1])],
        ),
        case(
            "power",
            "unsigned, large exponents",
            [v([3u32, 2, 1]), v([31u32, 31, u32::MAX])],
            |_, x| vec![x[0].pow(x[1])],
            [v([1_264_544_299u32, 1 << 31, 1])],
        ),
    ]
}

fn division() -> Vec<Case> {
    vec![
        case(
            "divide",
            "signed truncates",
            [v([7i32, -7, 7, -7]), v([2i32, 2, -2, -2])],
            |_, x| vec![x[0] / x[1]],
            [v([3i32, -3, -3, 3])],
        ),
        case(
            "divide",
            "signed by zero and overflow",
            [v([5i32, 0, i32::MIN]), v([0i32, 0, -1])],
            |_, x| vec![x[0] / x[1]],
            [v([-1i32, -1, i32::MIN])],
        ),
        case(
            "divide",
            "unsigned by zero",
            [v([5u32, 0, u32::MAX]), v([0u32, 0, 2])],
            |_, x| vec![x[0] / x[1]],
            [v([u32::MAX, u32::MAX, 0x7fff_ffff])],
        ),
        case(
            "divide",
            "s64 by zero and overflow",
            [v([5i64, i64::MIN]), v([0i64, -1])],
            |_, x| vec![x[0] / x[1]],
            [v([-1i64, i64::MIN])],
        ),
        case(
            "remainder",
            "signed",
            [v([7i32, -7, 7, -7]), v([3i32, 3, -3, -3])],
            |_, x| vec![x[0] % x[1]],
            [v([1i32, -1, 1, -1])],
        ),
        case(
            "remainder",
            "by zero and overflow",
            [v([5i32, -5, i32::MIN]), v([0i32, 0, -1])],
            |_, x| vec![x[0] % x[1]],
            [v([5i32, -5, 0])],
        ),
        case(
            "remainder",
            "unsigned",
            [v([7u32, 5, u32::MAX]), v([3u32, 0, 16])],
            |_, x| vec![x[0] % x[1]],
            [v([1u32, 5, 15])],
        ),
    ]
}

fn bits() -> Vec<Case> {
    vec![
        case(
            "not",
            "s32",
            [v([0i32, -1, 5])],
            |_, x| vec![!x[0]],
            [v([-1i32, 0, -6])],
        )
        .zero(),
        case("not", "u8", [v([0u8, 0xf0])], |_, x| vec![!x[0]], [v([255u8, 0x0f])]),
        case(
            "not",
            "u64",
            [v([0u64, 1])],
            |_, x| vec![!x[0]],
            [v([u64::MAX, u64::MAX - 1])],
        ),
        case(
            "not",
            "pred",
            [bools([true, false])],
            |_, x| vec![!x[0]],
            [bools([false, true])],
        ),
        case(
            "and",
            "u32",
            [v([0b1100u32, u32::MAX]), v([0b1010u32, 1])],
            |_, x| vec![x[0] & x[1]],
            [v([0b1000u32, 1])],
        )
        .zero(),
        case(
            "and",
            "negative",
            [v([-2i32]), v([7i32])],
            |_, x| vec![x[0] & x[1]],
            [v([6i32])],
        ),
        case(
            "and",
            "pred",
            [bools([true, true, false, false]), bools([true, false, true, false])],
            |_, x| vec![x[0] & x[1]],
            [bools([true, false, false, false])],
        ),
        case(
            "or",
            "u32",
            [v([0b1100u32]), v([0b1010u32])],
            |_, x| vec![x[0] | x[1]],
            [v([0b1110u32])],
        )
        .zero(),
        case(
            "or",
            "pred",
            [bools([true, true, false, false]), bools([true, false, true, false])],
            |_, x| vec![x[0] | x[1]],
            [bools([true, true, true, false])],
        ),
        case(
            "xor",
            "u32",
            [v([0b1100u32]), v([0b1010u32])],
            |_, x| vec![x[0] ^ x[1]],
            [v([0b0110u32])],
        )
        .zero(),
        case(
            "xor",
            "s64",
            [v([-1i64]), v([1i64 << 40])],
            |_, x| vec![x[0] ^ x[1]],
            [v([!(1i64 << 40)])],
        ),
        case(
            "xor",
            "pred",
            [bools([true, true, false, false]), bools([true, false, true, false])],
            |_, x| vec![x[0] ^ x[1]],
            [bools([false, true, true, false])],
        ),
    ]
}

fn shifts() -> Vec<Case> {
    vec![
        case(
            "shift-left",
            "u32, up to and over the width",
            [v([1u32, 3, 1, 1]), v([4u32, 31, 32, 40])],
            |_, x| vec![x[0].shift_left(x[1])],
            [v([16u32, 0x8000_0000, 0, 0])],
        )
        .zero(),
        case(
            "shift-left",
            "s32, negative amount",
            [v([1i32, -1, 5]), v([31i32, 4, -1])],
            |_, x| vec![x[0].shift_left(x[1])],
            [v([i32::MIN, -16, 0])],
        ),
        case(
            "shift-left",
            "u8 and u64",
            [v([0x81u8]), v([3u64])],
            |_, x| vec![x[0].shift_left(1.0), x[1].shift_left(63.0), x[1].shift_left(64.0)],
            [v([2u8]), v([1u64 << 63]), v([0u64])],
        ),
        case(
            "shift-right-logical",
            "u32, up to and over the width",
            [v([16u32, 0x8000_0000, 1, 1]), v([4u32, 31, 32, 40])],
            |_, x| vec![x[0].shift_right_logical(x[1])],
            [v([1u32, 1, 0, 0])],
        )
        .zero(),
        case(
            "shift-right-logical",
            "s32 brings in zeros",
            [v([-1i32, i32::MIN]), v([28i32, 31])],
            |_, x| vec![x[0].shift_right_logical(x[1])],
            [v([15i32, 1])],
        ),
        case(
            "shift-right-logical",
            "u64",
            [v([u64::MAX])],
            |_, x| vec![x[0].shift_right_logical(60.0)],
            [v([15u64])],
        ),
    ]
}
