//! Run-time indices: dynamic slices, gather and scatter, inside and outside the array.

use super::{Case, case, v};
use hlo::{GatherDims, Literal, Tensor, Update};

pub(super) fn cases() -> Vec<Case> {
    [dynamic(), gathers(), scatters()].into_iter().flatten().collect()
}

fn matrix() -> Literal {
    Literal::new(&[3, 2], &[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0])
}

fn dynamic() -> Vec<Case> {
    let at = |value: i32| Literal::scalar(value);
    vec![
        case(
            "dynamic-slice",
            "inside",
            [matrix(), at(1), at(0)],
            |_, x| vec![x[0].dynamic_slice(&x[1..], &[2, 1])],
            [Literal::new(&[2, 1], &[2.0f32, 4.0])],
        )
        .numeric(&[0]),
        case(
            "dynamic-slice",
            "moved inside at both ends",
            [matrix(), at(7), at(-3)],
            |_, x| vec![x[0].dynamic_slice(&x[1..], &[2, 1])],
            [Literal::new(&[2, 1], &[2.0f32, 4.0])],
        )
        .numeric(&[0]),
        case(
            "dynamic-slice",
            "unsigned start, pred",
            [
                Literal::from_bools(&[3], &[true, false, true]),
                Literal::scalar(u32::MAX),
            ],
            |_, x| vec![x[0].dynamic_slice(&x[1..], &[2])],
            [Literal::from_bools(&[2], &[false, true])],
        ),
        case(
            "dynamic-update-slice",
            "inside",
            [matrix(), Literal::new(&[1, 2], &[8.0f32, 9.0]), at(1), at(0)],
            |_, x| vec![x[0].dynamic_update_slice(x[1], &x[2..])],
            [Literal::new(&[3, 2], &[0.0f32, 1.0, 8.0, 9.0, 4.0, 5.0])],
        )
        .numeric(&[0, 1]),
        case(
            "dynamic-update-slice",
            "moved inside",
            [v([1.0f32, 2.0, 3.0]), v([8.0f32, 9.0]), at(5)],
            |_, x| vec![x[0].dynamic_update_slice(x[1], &x[2..])],
            [v([1.0f32, 8.0, 9.0])],
        )
        .numeric(&[0, 1]),
    ]
}

/// Single elements of a vector.
fn elements() -> GatherDims {
    GatherDims {
        offset: vec![],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    }
}

/// Windows of a matrix that keep both axes, at [row, column] pairs along the first axis of the indices.
fn windows() -> GatherDims {
    GatherDims {
        offset: vec![1, 2],
        collapsed: vec![],
        start_index_map: vec![1, 0],
        index_vector_axis: 0,
    }
}

fn gathers() -> Vec<Case> {
    vec![
        case(
            "gather",
            "rows, one twice",
            [matrix(), v([2i32, 0, 2])],
            |_, x| vec![x[0].take_rows(x[1])],
            [Literal::new(&[3, 2], &[4.0f32, 5.0, 0.0, 1.0, 4.0, 5.0])],
        )
        .numeric(&[0]),
        case(
            "gather",
            "rows out of range are moved inside",
            [matrix(), v([-1i32, 3, 1])],
            |_, x| vec![x[0].take_rows(x[1])],
            [Literal::new(&[3, 2], &[0.0f32, 1.0, 4.0, 5.0, 2.0, 3.0])],
        )
        .numeric(&[0]),
        case(
            "gather",
            "elements of a vector, no rows",
            [v([5i32, 6, 7]), v([2u32, 1]), Literal::new::<u32>(&[0], &[])],
            |_, x| vec![x[0].gather(x[1], elements(), &[1]), x[0].gather(x[2], elements(), &[1])],
            [v([7i32, 6]), Literal::new::<i32>(&[0], &[])],
        ),
        case(
            "gather",
            "windows at [column, row] pairs",
            [matrix(), Literal::new(&[2, 2], &[0i32, 9, 1, 0])],
            |_, x| vec![x[0].gather(x[1], windows(), &[2, 1])],
            [Literal::new(&[2, 2, 1], &[2.0f32, 4.0, 1.0, 3.0])],
        )
        .numeric(&[0]),
        case(
            "gather",
            "window axis in front",
            [matrix(), v([2i32, 0])],
            |_, x| vec![x[0].gather(x[1], columns_first(), &[1, 2])],
            [Literal::new(&[2, 2], &[4.0f32, 0.0, 5.0, 1.0])],
        )
        .numeric(&[0]),
    ]
}

/// Rows of a matrix, laid out as columns of the result.
fn columns_first() -> GatherDims {
    GatherDims {
        offset: vec![0],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    }
}

/// Rows of a matrix.
fn rows() -> GatherDims {
    GatherDims {
        offset: vec![1],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    }
}

fn add<'g>(x: &[Tensor<'g>], dims: GatherDims) -> Vec<Tensor<'g>> {
    vec![x[0].scatter(x[1], x[2], dims, Update::Add, false)]
}

fn set<'g>(x: &[Tensor<'g>], dims: GatherDims) -> Vec<Tensor<'g>> {
    vec![x[0].scatter(x[1], x[2], dims, Update::Set, true)]
}

fn scatters() -> Vec<Case> {
    let three_rows = || Literal::new(&[3, 2], &[10.0f32, 20.0, 30.0, 40.0, 50.0, 60.0]);
    vec![
        case(
            "scatter",
            "add elements, one twice",
            [v([1.0f32, 2.0, 3.0]), v([2i32, 0, 2]), v([10.0f32, 20.0, 30.0])],
            |_, x| add(x, elements()),
            [v([21.0f32, 2.0, 43.0])],
        )
        .numeric(&[0, 2]),
        case(
            "scatter",
            "out of range is dropped",
            [v([1.0f32, 2.0, 3.0]), v([-1i32, 3, 1]), v([10.0f32, 20.0, 30.0])],
            |_, x| add(x, elements()),
            [v([1.0f32, 32.0, 3.0])],
        )
        .numeric(&[0, 2]),
        case(
            "scatter",
            "add rows, one out of range",
            [matrix(), v([1i32, 7, 1]), three_rows()],
            |_, x| add(x, rows()),
            [Literal::new(&[3, 2], &[0.0f32, 1.0, 62.0, 83.0, 4.0, 5.0])],
        )
        .numeric(&[0, 2]),
        case(
            "scatter",
            "a window that overhangs is dropped whole",
            [
                matrix(),
                Literal::new(&[2, 2], &[0i32, 1, 2, 0]),
                Literal::new(&[2, 2, 1], &[10.0f32, 20.0, 30.0, 40.0]),
            ],
            |_, x| add(x, windows()),
            [Literal::new(&[3, 2], &[0.0f32, 31.0, 2.0, 43.0, 4.0, 5.0])],
        )
        .numeric(&[0, 2]),
        case(
            "scatter",
            "set",
            [v([1.0f32, 2.0, 3.0]), v([2i32, 0]), v([10.0f32, 20.0])],
            |_, x| set(x, elements()),
            [v([20.0f32, 2.0, 10.0])],
        )
        .numeric(&[0, 2]),
        case(
            "scatter",
            "set pred, out of range is dropped",
            [
                Literal::from_bools(&[3], &[false, false, true]),
                v([1u32, 9]),
                Literal::from_bools(&[2], &[true, true]),
            ],
            |_, x| set(x, elements()),
            [Literal::from_bools(&[3], &[false, true, true])],
        ),
        case(
            "scatter",
            "set without a promise of unique indices",
            [v([1.0f32, 2.0, 3.0]), v([1i32]), v([9.0f32])],
            |_, x| vec![x[0].scatter(x[1], x[2], elements(), Update::Set, false)],
            [v([1.0f32, 9.0, 3.0])],
        )
        .stop(),
        case(
            "scatter",
            "integers wrap",
            [v([250u8]), v([0i32, 0]), v([3u8, 4])],
            |_, x| add(x, elements()),
            [v([1u8])],
        ),
    ]
}
