//! Wrong calls: for every operator, one that its shape rule rejects. Shared by the tests of messages and of coverage.

use hlo::{DType, DotDims, GatherDims, Graph, Literal, Reducer, Shape, Tensor, Update, grad};
use std::panic::Location;
use std::sync::Arc;

mod windows;

/// A wrong call and its expected error.
pub struct Wrong {
    /// The operator.
    pub op: &'static str,
    /// Where the entry begins. The call is between it and the file's next entry.
    pub place: &'static Location<'static>,
    /// Makes the call.
    pub call: for<'a> fn(&'a Graph) -> Tensor<'a>,
    /// Operator with its operand shapes, as printed.
    pub at: &'static str,
    /// The expected message.
    pub message: &'static str,
}

/// Operators that no caller can misuse: the graph adds them itself, or they accept any array.
pub const NEVER_WRONG: [&str; 5] = ["parameter", "constant", "convert", "stop-gradient", "get-tuple-element"];

fn t<'g>(g: &'g Graph, dtype: DType, dims: &[usize]) -> Tensor<'g> {
    g.parameter("t", Shape::new(dtype, dims))
}

#[track_caller]
fn wrong(
    op: &'static str,
    call: for<'a> fn(&'a Graph) -> Tensor<'a>,
    at: &'static str,
    message: &'static str,
) -> Wrong {
    let place = Location::caller();
    Wrong {
        op,
        place,
        call,
        at,
        message,
    }
}

/// Every wrong call, ordered by line within a file.
pub fn calls() -> Vec<Wrong> {
    [
        unary(),
        binary(),
        choices(),
        layout(),
        index(),
        contract(),
        collective(),
        order(),
        control(),
        windows::calls(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const FLOATS: &str = "takes floating-point numbers, not s32";
const INTEGERS: &str = "takes integers, not f32";
const BITS: &str = "takes integers or pred, not f32";
const DIFFER: &str = "element types f32 and s32 differ";

fn s32(g: &Graph) -> Tensor<'_> {
    t(g, DType::S32, &[2])
}

fn f32(g: &Graph) -> Tensor<'_> {
    t(g, DType::F32, &[2])
}

fn matrix(g: &Graph) -> Tensor<'_> {
    t(g, DType::F32, &[3, 2])
}

fn unary() -> Vec<Wrong> {
    vec![
        wrong(
            "abs",
            |g| t(g, DType::U32, &[2]).abs(),
            "abs(u32[2])",
            "takes signed numbers, not u32",
        ),
        wrong(
            "negate",
            |g| -t(g, DType::Pred, &[2]),
            "negate(pred[2])",
            "takes numbers, not pred",
        ),
        wrong(
            "sign",
            |g| t(g, DType::U8, &[]).sign(),
            "sign(u8[])",
            "takes signed numbers, not u8",
        ),
        wrong("exponential", |g| s32(g).exp(), "exponential(s32[2])", FLOATS),
        wrong("log", |g| s32(g).log(), "log(s32[2])", FLOATS),
        wrong("sqrt", |g| s32(g).sqrt(), "sqrt(s32[2])", FLOATS),
        wrong("rsqrt", |g| s32(g).rsqrt(), "rsqrt(s32[2])", FLOATS),
        wrong("tanh", |g| s32(g).tanh(), "tanh(s32[2])", FLOATS),
        wrong("logistic", |g| s32(g).logistic(), "logistic(s32[2])", FLOATS),
        wrong("sine", |g| s32(g).sin(), "sine(s32[2])", FLOATS),
        wrong("cosine", |g| s32(g).cos(), "cosine(s32[2])", FLOATS),
        wrong("floor", |g| s32(g).floor(), "floor(s32[2])", FLOATS),
        wrong(
            "round-nearest-even",
            |g| s32(g).round_nearest_even(),
            "round-nearest-even(s32[2])",
            FLOATS,
        ),
        wrong("not", |g| !f32(g), "not(f32[2])", BITS),
        wrong("is-finite", |g| s32(g).is_finite(), "is-finite(s32[2])", FLOATS),
    ]
}

fn binary() -> Vec<Wrong> {
    vec![
        wrong(
            "add",
            |g| t(g, DType::F32, &[2, 3]) + t(g, DType::F32, &[2, 4]),
            "add(f32[2,3], f32[2,4])",
            "dimensions [2, 3] and [2, 4] differ",
        ),
        wrong("subtract", |g| f32(g) - s32(g), "subtract(f32[2], s32[2])", DIFFER),
        wrong("multiply", |g| f32(g) * s32(g), "multiply(f32[2], s32[2])", DIFFER),
        wrong("divide", |g| f32(g) / s32(g), "divide(f32[2], s32[2])", DIFFER),
        wrong("remainder", |g| f32(g) % s32(g), "remainder(f32[2], s32[2])", DIFFER),
        wrong(
            "maximum",
            |g| t(g, DType::Pred, &[2]).max(1.0),
            "maximum(pred[2], pred[2])",
            "takes numbers, not pred",
        ),
        wrong("minimum", |g| f32(g).min(s32(g)), "minimum(f32[2], s32[2])", DIFFER),
        wrong("power", |g| f32(g).pow(s32(g)), "power(f32[2], s32[2])", DIFFER),
        wrong("and", |g| f32(g) & f32(g), "and(f32[2], f32[2])", BITS),
        wrong("or", |g| f32(g) | f32(g), "or(f32[2], f32[2])", BITS),
        wrong("xor", |g| f32(g) ^ f32(g), "xor(f32[2], f32[2])", BITS),
        wrong(
            "shift-left",
            |g| f32(g).shift_left(1.0),
            "shift-left(f32[2], f32[2])",
            INTEGERS,
        ),
        wrong(
            "shift-right-logical",
            |g| f32(g).shift_right_logical(1.0),
            "shift-right-logical(f32[2], f32[2])",
            INTEGERS,
        ),
    ]
}

fn choices() -> Vec<Wrong> {
    vec![
        wrong("compare", |g| f32(g).lt(s32(g)), "compare(f32[2], s32[2])", DIFFER),
        wrong(
            "select",
            |g| f32(g).select(f32(g), f32(g)),
            "select(f32[2], f32[2], f32[2])",
            "takes a pred first operand, not f32",
        ),
        wrong(
            "select",
            |g| t(g, DType::Pred, &[3]).select(f32(g), f32(g)),
            "select(pred[3], f32[2], f32[2])",
            "dimensions [3] and [2] differ",
        ),
        wrong(
            "clamp",
            |g| f32(g).clamp(s32(g), 1.0),
            "clamp(s32[2], f32[2], f32[2])",
            "element types s32 and f32 differ",
        ),
        wrong(
            "with-vjp",
            |g| {
                let x = f32(g);
                let y = x.with_vjp(&[x], |_, cotangent| vec![Some(cotangent.reduce_sum_all())]);
                grad(y.reduce_sum_all(), &[x])[0]
            },
            "with-vjp(f32[2])",
            "the rule's gradients have other shapes than its operands",
        ),
        wrong(
            "bitcast-convert",
            |g| f32(g).bitcast_convert(DType::U64),
            "bitcast-convert(f32[2])",
            "f32 and u64 differ in width",
        ),
    ]
}

fn layout() -> Vec<Wrong> {
    vec![
        wrong(
            "iota",
            |g| g.iota(Shape::new(DType::S32, [2]), 1),
            "iota()",
            "axis 1 of an operand of rank 1",
        ),
        wrong(
            "broadcast",
            |g| f32(g).broadcast(&[2, 3], &[1]),
            "broadcast(f32[2])",
            "operand axis 0 has 2 elements, result axis 1 has 3",
        ),
        wrong(
            "broadcast",
            |g| matrix(g).broadcast_to(&[2]),
            "broadcast(f32[3,2])",
            "axis 1 of an operand of rank 1",
        ),
        wrong(
            "reshape",
            |g| matrix(g).reshape(&[4]),
            "reshape(f32[3,2])",
            "6 elements do not fill f32[4]",
        ),
        wrong(
            "transpose",
            |g| matrix(g).transpose(&[0, 0]),
            "transpose(f32[3,2])",
            "axis 0 is named twice",
        ),
        wrong(
            "slice",
            |g| matrix(g).slice(&[0, 1], &[3, 4]),
            "slice(f32[3,2])",
            "1..4 by 1 of 2 elements on axis 1",
        ),
        wrong(
            "pad",
            |g| f32(g).pad(0.0, &[-1], &[-2], &[0]),
            "pad(f32[2], f32[])",
            "axis 0 would have -1 elements",
        ),
        wrong(
            "concatenate",
            |g| g.concatenate(&[matrix(g), f32(g)], 0),
            "concatenate(f32[3,2], f32[2])",
            "f32[2] does not join f32[3,2] on axis 0",
        ),
        wrong(
            "concatenate",
            |g| g.concatenate(&[], 0),
            "concatenate()",
            "needs at least one operand",
        ),
        wrong(
            "reverse",
            |g| f32(g).reverse(&[1]),
            "reverse(f32[2])",
            "axis 1 of an operand of rank 1",
        ),
    ]
}

fn rows() -> GatherDims {
    GatherDims {
        offset: vec![1],
        collapsed: vec![0],
        start_index_map: vec![0],
        index_vector_axis: 1,
    }
}

fn index() -> Vec<Wrong> {
    vec![
        wrong(
            "dynamic-slice",
            |g| f32(g).dynamic_slice(&[g.scalar(0i32)], &[3]),
            "dynamic-slice(f32[2], s32[])",
            "window [3] of f32[2]",
        ),
        wrong(
            "dynamic-slice",
            |g| matrix(g).dynamic_slice(&[g.scalar(0i32), g.scalar(0u32)], &[1, 1]),
            "dynamic-slice(f32[3,2], s32[], u32[])",
            "integer scalars of one type",
        ),
        wrong(
            "dynamic-update-slice",
            |g| f32(g).dynamic_update_slice(s32(g), &[g.scalar(0i32)]),
            "dynamic-update-slice(f32[2], s32[2], s32[])",
            "update s32[2] does not fit f32[2]",
        ),
        wrong(
            "gather",
            |g| matrix(g).take_rows(f32(g)),
            "gather(f32[3,2], f32[2])",
            "indices are f32",
        ),
        wrong(
            "gather",
            |g| matrix(g).gather(s32(g), rows(), &[1, 5]),
            "gather(f32[3,2], s32[2])",
            "window [1, 5] of f32[3,2]",
        ),
        wrong(
            "scatter",
            |g| matrix(g).scatter(s32(g), f32(g), rows(), Update::Add, false),
            "scatter(f32[3,2], s32[2], f32[2])",
            "updates f32[2] have no axes [1]",
        ),
    ]
}

fn contract() -> Vec<Wrong> {
    vec![
        wrong(
            "dot",
            |g| matrix(g).matmul(matrix(g)),
            "dot(f32[3,2], f32[3,2])",
            "contracted axes 1 and 0 have 2 and 3 elements",
        ),
        wrong(
            "dot",
            |g| {
                matrix(g).dot_general(
                    matrix(g),
                    DotDims {
                        lhs_batch: vec![0],
                        ..DotDims::default()
                    },
                )
            },
            "dot(f32[3,2], f32[3,2])",
            "batch axes [0] and [] do not pair",
        ),
        wrong(
            "reduce",
            |g| f32(g).reduce_sum(&[2]),
            "reduce(f32[2], f32[])",
            "axis 2 of an operand of rank 1",
        ),
        wrong(
            "reduce",
            |g| f32(g).reduce(&[0], Reducer::And),
            "reduce(f32[2], f32[])",
            "no and of f32",
        ),
    ]
}

fn collective() -> Vec<Wrong> {
    vec![
        wrong(
            "all-reduce",
            |g| t(g, DType::Pred, &[2]).all_reduce(Reducer::Add),
            "all-reduce(pred[2])",
            "no add of pred",
        ),
        wrong(
            "all-reduce",
            |g| f32(g).all_reduce(Reducer::Or),
            "all-reduce(f32[2])",
            "no or of f32",
        ),
    ]
}

fn order() -> Vec<Wrong> {
    vec![
        wrong(
            "sort",
            |g| f32(g).sort_with(&[matrix(g)], 0, false)[0],
            "sort(f32[2], f32[3,2])",
            "dimensions [2] and [3, 2] differ",
        ),
        wrong(
            "sort",
            |g| f32(g).sort_with(&[], 0, false)[0],
            "sort(f32[2])",
            "at least one array to carry along",
        ),
        wrong("topk", |g| f32(g).top_k(3).0, "topk(f32[2])", "3 largest of 2"),
    ]
}

fn control() -> Vec<Wrong> {
    vec![
        wrong(
            "while",
            |g| g.while_loop(&[f32(g)], |_, s| s[0], |_, s| s.to_vec())[0],
            "while(f32[2])",
            "the condition yields (f32[2])",
        ),
        wrong(
            "while",
            |g| {
                g.while_loop(
                    &[f32(g)],
                    |g, _| g.constant(Literal::from_bools(&[], &[true])),
                    |_, s| vec![s[0].eq(s[0])],
                )[0]
            },
            "while(f32[2])",
            "the body turns (f32[2]) into (pred[2])",
        ),
        wrong(
            "conditional",
            |g| {
                g.conditional(
                    g.constant(Literal::from_bools(&[], &[true])),
                    &[f32(g)],
                    |_, s| vec![s[0]],
                    |_, s| vec![s[0].reduce_sum_all()],
                )[0]
            },
            "conditional(pred[], f32[2])",
            "the branches yield (f32[2]) and (f32[])",
        ),
        wrong(
            "conditional",
            |g| g.conditional(f32(g), &[], |g, _| vec![f32(g)], |g, _| vec![f32(g)])[0],
            "conditional(f32[2])",
            "the predicate is f32[2]",
        ),
        wrong(
            "call",
            called_with_a_matrix,
            "call(f32[3,2])",
            "double takes (f32[2]), is given (f32[3,2])",
        ),
    ]
}

fn called_with_a_matrix(g: &Graph) -> Tensor<'_> {
    let parameters = [("x".to_string(), Shape::new(DType::F32, [2]))];
    let double = Graph::function("double", &parameters, |_, x| vec![x[0] + x[0]]).unwrap();
    g.call(&Arc::new(double), &[matrix(g)])[0]
}
