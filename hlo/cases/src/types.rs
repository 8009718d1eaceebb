//! Element types: conversions of value and of bits.

use super::{Case, bools, case, v};
use half::{bf16, f16};
use hlo::{DType, Literal};

pub(super) fn cases() -> Vec<Case> {
    [conversions(), to_integers(), bits()].into_iter().flatten().collect()
}

/// 0, 1 and 3 in every type but `pred`, in the order of [`DType::ALL`].
fn small() -> [Literal; 9] {
    [
        v([0i32, 1, 3]),
        v([0i64, 1, 3]),
        v([0u8, 1, 3]),
        v([0u32, 1, 3]),
        v([0u64, 1, 3]),
        v([0.0, 1.0, 3.0].map(f16::from_f32)),
        v([0.0, 1.0, 3.0].map(bf16::from_f32)),
        v([0.0f32, 1.0, 3.0]),
        v([0.0f64, 1.0, 3.0]),
    ]
}

fn conversions() -> Vec<Case> {
    let [s32, s64, u8, u32, u64, half, brain, single, double] = small();
    let mut every = vec![bools([false, true, true])];
    every.extend(small());
    let each = Case {
        op: "convert",
        name: "every type to every type",
        inputs: every.clone(),
        build: |_, x| {
            DType::ALL
                .iter()
                .flat_map(|&to| x[1..].iter().map(move |t| t.convert(to)))
                .collect()
        },
        want: every
            .iter()
            .flat_map(|want| std::iter::repeat_n(want.clone(), 9))
            .collect(),
        tolerance: 0.0,
        gradient: super::Gradient::Unchecked,
    };
    let ones = |x: &Literal| {
        Literal::from_bytes(
            x.shape().with_dims([1]),
            x.bytes()[x.dtype().size()..2 * x.dtype().size()].to_vec(),
        )
        .unwrap_or_else(|| x.clone())
    };
    vec![
        each,
        case(
            "convert",
            "pred to every type",
            [bools([true])],
            |_, x| DType::ALL[1..].iter().map(|&to| x[0].convert(to)).collect(),
            [&s32, &s64, &u8, &u32, &u64, &half, &brain, &single, &double].map(ones),
        ),
        case(
            "convert",
            "narrower float and back",
            [v([0.5f32, -1.25, 2.0])],
            |_, x| vec![x[0].convert(DType::BF16).convert(DType::F32).convert(x[0].dtype())],
            [v([0.5f32, -1.25, 2.0])],
        ),
        case(
            "convert",
            "to f32 and back is smooth",
            [v([0.5f32, -1.25, 2.0])],
            |_, x| vec![(x[0] * 2.0).convert(DType::F32).convert(DType::F64)],
            [v([1.0f64, -2.5, 4.0])],
        )
        .within(1e-4)
        .numeric(&[0]),
        case(
            "convert",
            "through integers the gradient is zero",
            [v([0.5f32, -1.25, 2.0])],
            |_, x| vec![x[0].convert(DType::S32).convert(DType::F32)],
            [v([0.0f32, -1.0, 2.0])],
        )
        .zero(),
        case(
            "convert",
            "f32 rounds to even in bf16 and f16",
            [v([1.003_906_25f32, 1.011_718_75, 2049.0, 1e6])],
            |_, x| vec![x[0].convert(DType::BF16), x[0].convert(DType::F16)],
            [
                v([1.0, 1.015_625, 2048.0, 999_424.0].map(bf16::from_f32)),
                v([1.003_906_25, 1.011_718_75, 2048.0, f32::INFINITY].map(f16::from_f32)),
            ],
        ),
        case(
            "convert",
            "f64 rounds to f32",
            [v([1.0f64 + 1e-9, 1e300, -1e300, f64::NAN])],
            |_, x| vec![x[0].convert(DType::F32)],
            [v([1.0f32, f32::INFINITY, f32::NEG_INFINITY, f32::NAN])],
        ),
        case(
            "convert",
            "64-bit integers round to even",
            [
                v([(1i64 << 53) + 1, (1 << 53) + 3, i64::MAX]),
                v([u64::MAX, (1 << 24) + 1, 3]),
            ],
            |_, x| vec![x[0].convert(DType::F64), x[1].convert(DType::F32)],
            [
                v([
                    9_007_199_254_740_992.0f64,
                    9_007_199_254_740_996.0,
                    9_223_372_036_854_775_808.0,
                ]),
                v([18_446_744_073_709_551_616.0f32, 16_777_216.0, 3.0]),
            ],
        ),
        case(
            "convert",
            "integers wrap and extend",
            [v([-1i32, 256, i32::MAX]), v([1i64 << 32, -5, 7])],
            |_, x| {
                vec![
                    x[0].convert(DType::U8),
                    x[0].convert(DType::S64),
                    x[0].convert(DType::U64),
                    x[1].convert(DType::S32),
                    x[1].convert(DType::U32),
                ]
            },
            [
                v([255u8, 0, 255]),
                v([-1i64, 256, i64::from(i32::MAX)]),
                v([u64::MAX, 256, 0x7fff_ffff]),
                v([0i32, -5, 7]),
                v([0u32, u32::MAX - 4, 7]),
            ],
        ),
        case(
            "convert",
            "unsigned extends with zeros",
            [v([200u8]), v([u32::MAX])],
            |_, x| vec![x[0].convert(DType::S32), x[1].convert(DType::S64)],
            [v([200i32]), v([i64::from(u32::MAX)])],
        ),
    ]
}

fn to_integers() -> Vec<Case> {
    let wild = || v([1.9f32, -1.9, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20]);
    vec![
        case(
            "convert",
            "float to s32 truncates and limits, NaN is 0",
            [wild()],
            |_, x| vec![x[0].convert(DType::S32)],
            [v([1i32, -1, 0, i32::MAX, i32::MIN, i32::MAX])],
        ),
        case(
            "convert",
            "float to s64",
            [wild()],
            |_, x| vec![x[0].convert(DType::S64)],
            [v([1i64, -1, 0, i64::MAX, i64::MIN, i64::MAX])],
        ),
        case(
            "convert",
            "float to u32",
            [wild()],
            |_, x| vec![x[0].convert(DType::U32)],
            [v([1u32, 0, 0, u32::MAX, 0, u32::MAX])],
        ),
        case(
            "convert",
            "float to u8",
            [v([1.9f32, 255.0, 300.0, -3.0, f32::NAN])],
            |_, x| vec![x[0].convert(DType::U8)],
            [v([1u8, 255, 255, 0, 0])],
        ),
        case(
            "convert",
            "to pred is not zero",
            [v([0.0f32, -0.0, 0.25, f32::NAN]), v([0i32, -1, 256, 2])],
            |_, x| vec![x[0].convert(DType::Pred), x[1].convert(DType::Pred)],
            [bools([false, false, true, true]), bools([false, true, true, true])],
        ),
    ]
}

fn bits() -> Vec<Case> {
    vec![
        case(
            "bitcast-convert",
            "f32 and 32-bit integers",
            [v([1.0f32, -0.0, f32::INFINITY])],
            |_, x| {
                vec![
                    x[0].bitcast_convert(DType::U32),
                    x[0].bitcast_convert(DType::S32),
                    x[0].bitcast_convert(DType::U32).bitcast_convert(DType::F32),
                ]
            },
            [
                v([0x3f80_0000u32, 0x8000_0000, 0x7f80_0000]),
                v([0x3f80_0000i32, i32::MIN, 0x7f80_0000]),
                v([1.0f32, -0.0, f32::INFINITY]),
            ],
        ),
        case(
            "bitcast-convert",
            "f64 and 64-bit integers",
            [v([1.0f64, -0.0])],
            |_, x| {
                vec![
                    x[0].bitcast_convert(DType::U64),
                    x[0].bitcast_convert(DType::S64),
                    x[0].bitcast_convert(DType::S64).bitcast_convert(DType::F64),
                ]
            },
            [
                v([0x3ff0_0000_0000_0000u64, 1 << 63]),
                v([0x3ff0_0000_0000_0000i64, i64::MIN]),
                v([1.0f64, -0.0]),
            ],
        ),
        case(
            "bitcast-convert",
            "f16 and bf16",
            [v([1.0, -2.0].map(f16::from_f32))],
            |_, x| vec![x[0].bitcast_convert(DType::BF16)],
            [v([bf16::from_bits(0x3c00), bf16::from_bits(0xc000)])],
        )
        .stop(),
        case(
            "bitcast-convert",
            "signed and unsigned",
            [v([-1i32]), v([u64::MAX])],
            |_, x| vec![x[0].bitcast_convert(DType::U32), x[1].bitcast_convert(DType::S64)],
            [v([u32::MAX]), v([-1i64])],
        ),
    ]
}
