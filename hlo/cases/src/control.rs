//! Loops, branches, calls, and random bits.

use super::{Case, case, v};
use hlo::random::Key;
use hlo::{Computation, DType, Graph, Literal, Shape, Tensor};
use std::sync::Arc;

pub(super) fn cases() -> Vec<Case> {
    [loops(), branches(), calls(), random()].into_iter().flatten().collect()
}

fn loops() -> Vec<Case> {
    vec![
        case(
            "while",
            "doubles until 100",
            [Literal::scalar(3.0f32)],
            |g, x| g.while_loop(x, |_, s| s[0].lt(100.0), |_, s| vec![s[0] * 2.0]),
            [Literal::scalar(192.0f32)],
        )
        .stop(),
        case(
            "while",
            "not once",
            [Literal::scalar(300.0f32), v([1i32, 2])],
            |g, x| g.while_loop(x, |_, s| s[0].lt(100.0), |_, s| vec![s[0] * 2.0, s[1]]),
            [Literal::scalar(300.0f32), v([1i32, 2])],
        ),
        case(
            "while",
            "repeat at run-time count",
            [Literal::scalar(5i32), v([0i32, 10])],
            |g, x| g.repeat(x[0], &x[1..], |_, i, s| vec![s[0] + i]),
            [v([10i32, 20])],
        ),
        case(
            "while",
            "repeat no times",
            [Literal::scalar(0i32), v([7u8])],
            |g, x| g.repeat(x[0], &x[1..], |_, _, s| vec![s[0] + 1.0]),
            [v([7u8])],
        ),
        case(
            "while",
            "nested",
            [Literal::scalar(0i32)],
            |g, x| {
                g.repeat(g.scalar(3i32), x, |g, i, s| {
                    g.repeat(i, s, |_, j, s| vec![s[0] + j + 1.0])
                })
            },
            [Literal::scalar(4i32)],
        ),
    ]
}

fn branches() -> Vec<Case> {
    vec![
        case(
            "conditional",
            "true",
            [Literal::from_bools(&[], &[true]), Literal::scalar(3.0f32)],
            |g, x| {
                g.conditional(
                    x[0],
                    &x[1..],
                    |_, s| vec![s[0] + 1.0, s[0]],
                    |_, s| vec![s[0] * 10.0, -s[0]],
                )
            },
            [Literal::scalar(4.0f32), Literal::scalar(3.0f32)],
        )
        .stop(),
        case(
            "conditional",
            "false",
            [Literal::from_bools(&[], &[false]), Literal::scalar(3.0f32)],
            |g, x| {
                g.conditional(
                    x[0],
                    &x[1..],
                    |_, s| vec![s[0] + 1.0, s[0]],
                    |_, s| vec![s[0] * 10.0, -s[0]],
                )
            },
            [Literal::scalar(30.0f32), Literal::scalar(-3.0f32)],
        ),
        case(
            "conditional",
            "no operands, inside a loop",
            [Literal::scalar(0i32)],
            |g, x| {
                g.repeat(g.scalar(4i32), x, |g, i, s| {
                    vec![
                        s[0] + g.conditional(
                            i.lt(2.0),
                            &[],
                            |g, _| vec![g.scalar(1i32)],
                            |g, _| vec![g.scalar(100i32)],
                        )[0],
                    ]
                })
            },
            [Literal::scalar(202i32)],
        ),
    ]
}

/// x² + y and x − y.
fn polynomial() -> Arc<Computation> {
    let scalar = |name: &str| (name.to_string(), Shape::scalar(DType::F64));
    let built = Graph::function("polynomial", &[scalar("x"), scalar("y")], |_, p| {
        vec![p[0] * p[0] + p[1], p[0] - p[1]]
    });
    Arc::new(built.unwrap_or_else(|error| unreachable!("{error}")))
}

fn calls() -> Vec<Case> {
    let (x, y) = (Literal::scalar(3.0f64), Literal::scalar(4.0f64));
    vec![
        case(
            "call",
            "two results",
            [x.clone(), y.clone()],
            |g, x| g.call(&polynomial(), x),
            [Literal::scalar(13.0f64), Literal::scalar(-1.0f64)],
        )
        .stop(),
        case(
            "call",
            "twice, of its own results",
            [x, y],
            |g, x| {
                let body = polynomial();
                g.call(&body, &g.call(&body, x))
            },
            [Literal::scalar(168.0f64), Literal::scalar(14.0f64)],
        ),
    ]
}

/// The key of a seed, folded with a purpose and a step.
fn folded<'g>(x: &[Tensor<'g>]) -> Key<'g> {
    Key::new(x[0]).fold(0x0123_4567_89ab_cdef).fold_step(x[1])
}

fn random() -> Vec<Case> {
    let inputs = || [v([1u32, 2]), Literal::scalar(7i64)];
    let bits = case(
        "xor",
        "threefry bits of a folded key",
        inputs(),
        |_, x| folded(x).bits(&[2, 2]).to_vec(),
        [
            Literal::new(&[2, 2], &[0xc83b_03afu32, 0xdf11_efb6, 0x21d2_8c9f, 0x2bf9_9c86]),
            Literal::new(&[2, 2], &[0xbe8b_2117u32, 0x873d_df54, 0x0051_5be1, 0x0419_141a]),
        ],
    );
    let uniform = case(
        "shift-right-logical",
        "uniform numbers of a folded key",
        inputs(),
        |_, x| vec![folded(x).uniform(&[4])],
        [v([0.782_150_45f32, 0.871_367_4, 0.132_118_94, 0.171_777_49])],
    );
    let normal = case(
        "log",
        "normal numbers of a folded key",
        inputs(),
        |_, x| vec![folded(x).normal(&[4])],
        [v([0.779_476_55f32, 1.132_878_8, -1.116_430_4, -0.947_164_36])],
    )
    .within(3e-6);
    // Trials from the first two blocks above, a quarter each: low halves of the low words, their high halves, then the
    // same for the high words.
    let trials = case(
        "dynamic-update-slice",
        "trials of a folded key, of which the last quarter is not whole",
        inputs(),
        |_, x| vec![folded(x).bernoulli(0.8, &[7]).convert(DType::U8)],
        [v([1u8, 0, 1, 0, 1, 0, 1])],
    );
    vec![bits, uniform, normal, trials]
}
