//! Sort and top-k: ties, both directions, and the total order of floating-point keys.

use super::{Case, case, v};
use hlo::{DType, Literal, Shape};

pub(super) fn cases() -> Vec<Case> {
    [sorts(), top_k()].into_iter().flatten().collect()
}

fn sorts() -> Vec<Case> {
    let wild = || v([1.0f32, f32::NAN, -0.0, 0.0, f32::NEG_INFINITY, f32::INFINITY, -f32::NAN]);
    vec![
        case(
            "sort",
            "ascending, ties in place",
            [v([3.0f32, 1.0, 2.0, 1.0]), v([0i32, 1, 2, 3])],
            |_, x| x[0].sort_with(&x[1..], 0, false),
            [v([1.0f32, 1.0, 2.0, 3.0]), v([1i32, 3, 2, 0])],
        )
        .stop(),
        case(
            "sort",
            "descending, ties in place",
            [v([3.0f32, 1.0, 2.0, 1.0]), v([0i32, 1, 2, 3])],
            |_, x| x[0].sort_with(&x[1..], 0, true),
            [v([3.0f32, 2.0, 1.0, 1.0]), v([0i32, 2, 1, 3])],
        ),
        case(
            "sort",
            "along the outer axis, two carried",
            [
                Literal::new(&[3, 2], &[3u32, 1, 1, 2, 2, 0]),
                Literal::new(&[3, 2], &[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]),
                Literal::from_bools(&[3, 2], &[true, false, false, true, false, true]),
            ],
            |_, x| x[0].sort_with(&x[1..], 0, false),
            [
                Literal::new(&[3, 2], &[1u32, 0, 2, 1, 3, 2]),
                Literal::new(&[3, 2], &[2.0f32, 5.0, 4.0, 1.0, 0.0, 3.0]),
                Literal::from_bools(&[3, 2], &[false, true, false, false, true, true]),
            ],
        ),
        case(
            "sort",
            "along the inner axis",
            [
                Literal::new(&[2, 3], &[3i32, -1, 2, 9, 8, 7]),
                Literal::new(&[2, 3], &[0u8, 1, 2, 3, 4, 5]),
            ],
            |_, x| x[0].sort_with(&x[1..], 1, false),
            [
                Literal::new(&[2, 3], &[-1i32, 2, 3, 7, 8, 9]),
                Literal::new(&[2, 3], &[1u8, 2, 0, 5, 4, 3]),
            ],
        ),
        case(
            "sort",
            "total order",
            [wild()],
            |g, x| x[0].sort_with(&[g.iota(Shape::new(DType::S32, [7]), 0)], 0, false),
            [
                v([-f32::NAN, f32::NEG_INFINITY, -0.0, 0.0, 1.0, f32::INFINITY, f32::NAN]),
                v([6i32, 4, 2, 3, 0, 5, 1]),
            ],
        ),
        case(
            "sort",
            "total order, descending",
            [wild()],
            |g, x| x[0].sort_with(&[g.iota(Shape::new(DType::S32, [7]), 0)], 0, true),
            [
                v([f32::NAN, f32::INFINITY, 1.0, 0.0, -0.0, f32::NEG_INFINITY, -f32::NAN]),
                v([1i32, 5, 0, 3, 2, 4, 6]),
            ],
        ),
        case(
            "sort",
            "unsigned keys above the sign bit",
            [v([0x8000_0000u32, 1, u32::MAX]), v([0i32, 1, 2])],
            |_, x| x[0].sort_with(&x[1..], 0, true),
            [v([u32::MAX, 0x8000_0000, 1]), v([2i32, 0, 1])],
        ),
        case(
            "sort",
            "many equal keys",
            [Literal::new(&[100], &[0u32; 100])],
            |g, x| vec![x[0].sort_with(&[g.iota(Shape::new(DType::S32, [100]), 0)], 0, true)[1]],
            [Literal::new(&[100], &(0..100).collect::<Vec<i32>>())],
        ),
        case(
            "get-tuple-element",
            "only the carried array",
            [v([3.0f32, 1.0]), v([5.0f32, 6.0])],
            |_, x| vec![x[0].sort_with(&x[1..], 0, false)[1]],
            [v([6.0f32, 5.0])],
        )
        .stop(),
    ]
}

fn top_k() -> Vec<Case> {
    vec![
        case(
            "topk",
            "ties take the lower index",
            [v([1.0f32, 3.0, 3.0, 2.0, 3.0])],
            |_, x| pair(x[0].top_k(3)),
            [v([3.0f32, 3.0, 3.0]), v([1i32, 2, 4])],
        )
        .stop(),
        case(
            "topk",
            "u32, each row",
            [Literal::new(&[2, 3], &[1u32, u32::MAX, 3, 6, 6, 4])],
            |_, x| pair(x[0].top_k(2)),
            [
                Literal::new(&[2, 2], &[u32::MAX, 3, 6, 6]),
                Literal::new(&[2, 2], &[1i32, 2, 0, 1]),
            ],
        ),
        case(
            "topk",
            "s32 and everything",
            [v([-4i32, 7, -4])],
            |_, x| pair(x[0].top_k(3)),
            [v([7i32, -4, -4]), v([1i32, 0, 2])],
        ),
        case(
            "topk",
            "everything of many equal",
            [Literal::new(&[1000], &[1.0f32; 1000])],
            |_, x| vec![x[0].top_k(1000).1],
            [Literal::new(&[1000], &(0..1000).collect::<Vec<i32>>())],
        ),
        case(
            "topk",
            "most of many equal",
            [Literal::new(&[1000], &[1.0f32; 1000])],
            |_, x| vec![x[0].top_k(999).1],
            [Literal::new(&[999], &(0..999).collect::<Vec<i32>>())],
        ),
        case(
            "topk",
            "total order",
            [v([1.0f32, f32::NAN, -0.0, 0.0, f32::INFINITY, -1.0])],
            |_, x| pair(x[0].top_k(5)),
            [v([f32::NAN, f32::INFINITY, 1.0, 0.0, -0.0]), v([1i32, 4, 0, 3, 2])],
        ),
        case(
            "topk",
            "bf16",
            [v([1.0, 3.0, 2.0].map(half::bf16::from_f32))],
            |_, x| pair(x[0].top_k(2)),
            [v([3.0, 2.0].map(half::bf16::from_f32)), v([1i32, 2])],
        ),
    ]
}

fn pair<T>((a, b): (T, T)) -> Vec<T> {
    vec![a, b]
}
