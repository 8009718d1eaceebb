//! Wrong calls are reported when the graph is built, with operator, shapes and the caller's line. Later calls on the
//! result are harmless.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
mod wrong;

use hlo::{DType, Error, Graph, Literal, Padding, Reducer, Shape, Tensor, grad};

const HERE: &str = "hlo/tests/shape_errors.rs";

fn message(g: Graph, outputs: &[hlo::Output]) -> String {
    g.build(outputs).unwrap_err().to_string()
}

#[test]
fn wrong_calls_report_operator_shapes_and_line() {
    let calls = wrong::calls();
    for (i, wrong) in calls.iter().enumerate() {
        let after = calls
            .get(i + 1)
            .map(|w| w.place)
            .filter(|p| p.file() == wrong.place.file());
        let g = Graph::new("wrong");
        let outputs = [(wrong.call)(&g).output()];
        let error = g.build(&outputs).unwrap_err();
        let Error::Shape { op, location, .. } = &error else {
            panic!("{error}")
        };
        let message = error.to_string();
        assert_eq!(*op, wrong.op, "{message}");
        assert!(
            message.starts_with(&format!("{}: ", wrong.at)),
            "{message}, not {}",
            wrong.at
        );
        assert!(message.contains(wrong.message), "{message}, not {}", wrong.message);
        assert!(
            message.contains(&format!(", at {}:{}:", wrong.place.file(), location.line())),
            "{message}"
        );
        let entry = wrong.place.line()..after.map_or(u32::MAX, |p| p.line());
        assert!(
            entry.contains(&location.line()) || wrong.op == "call",
            "{message}, not in {entry:?}"
        );
    }
}

#[test]
fn reports_the_first_of_several_wrong_calls() {
    for wrong in wrong::calls() {
        let g = Graph::new("wrong");
        let y = (wrong.call)(&g);
        let outputs: Vec<_> = everything_with(&g, y).iter().map(Tensor::output).collect();
        let message = message(g, &outputs);
        assert!(
            message.starts_with(&format!("{}: ", wrong.at)),
            "{message}, not {}",
            wrong.at
        );
    }
}

/// Calls of every kind on a handle that may be poisoned.
fn everything_with<'g>(g: &'g Graph, y: Tensor<'g>) -> Vec<Tensor<'g>> {
    let zero = g.scalar(0i32);
    let mut made = vec![
        -y + 1.0,
        2.0 - y,
        y * y,
        y.relu().trunc(),
        y.clamp(0.0, y),
        y.eq(1.0).select(y, y),
        y.convert(DType::S64),
        y.bitcast_convert(DType::U32),
        y.stop_gradient(),
        y.with_vjp(&[y], |_, cotangent| vec![Some(cotangent)]),
        y.zeros_like(),
        y.broadcast(&[7], &[]),
        y.broadcast_to(&[2, 2]),
        y.reshape(&[5]),
        y.transpose(&[1, 0]),
        y.slice(&[0], &[9]),
        y.pad(0.0, &[1], &[1], &[0]),
        g.concatenate(&[y, y], 3),
        y.reverse(&[4]),
        y.dynamic_slice(&[zero], &[1]),
        y.dynamic_update_slice(y, &[zero]),
        y.take_rows(y),
        y.matmul(y),
        y.conv2d(y, [0, 2], Padding::Same, 0),
        y.max_pool([0, 2], [2, 0], Padding::Same),
        y.avg_pool([2, 2], [1, 1], Padding::Explicit([(1, 1); 2])),
        y.select_and_scatter(y, vec![]),
        y.reduce_sum(&[3]),
        y.reduce_mean(&[3]),
        y.reduce_max(&[]),
        y.all_reduce(Reducer::Add),
        y.reduce_sum_all(),
        y.argmax(6),
        y.one_hot(3, DType::F32),
        y.top_k(2).1,
    ];
    made.extend(y.sort_with(&[y], 0, true));
    made.extend(g.while_loop(&[y, zero], |_, s| s[1].lt(3.0), |_, s| vec![s[0] + s[0], s[1]]));
    made.extend(g.repeat(zero, &[y], |_, _, s| vec![s[0].matmul(s[0])]));
    made.extend(g.conditional(y, &[y], |_, s| vec![s[0]], |_, s| vec![s[0], s[0]]));
    made.extend(hlo::random::Key::new(y).fold(1).fold_step(y).bits(&[2]));
    made.extend(grad(y, &[y]));
    made
}

const BODY_LINE: u32 = line!() + 2;
fn wrong_body<'a>(_: &'a Graph, s: &[Tensor<'a>]) -> Vec<Tensor<'a>> {
    vec![s[0].transpose(&[7])]
}

fn forever<'a>(g: &'a Graph, _: &[Tensor<'a>]) -> Tensor<'a> {
    g.constant(Literal::from_bools(&[], &[true]))
}

#[test]
fn wrong_calls_in_bodies_report_their_line() {
    type Wrap = for<'a> fn(&'a Graph, Tensor<'a>) -> Tensor<'a>;
    let wraps: [Wrap; 4] = [
        |g, x| g.while_loop(&[x], forever, wrong_body)[0],
        |g, x| g.conditional(forever(g, &[]), &[x], wrong_body, |_, s| s.to_vec())[0],
        |g, x| g.conditional(forever(g, &[]), &[x], |_, s| s.to_vec(), wrong_body)[0],
        |g, x| {
            g.while_loop(&[x], forever, |g, s| {
                g.repeat(g.scalar(2i32), s, |g, _, s| wrong_body(g, s))
            })[0]
        },
    ];
    for wrap in wraps {
        let g = Graph::new("outer");
        let result = wrap(&g, g.parameter("x", Shape::new(DType::F32, [2])));
        let outputs = [(result * 2.0).transpose(&[9]).output()];
        let text = message(g, &outputs);
        assert!(text.starts_with("transpose(f32[2]): axis 7"), "{text}");
        assert!(text.contains(&format!("{HERE}:{BODY_LINE}:")), "{text}");
    }
}

#[test]
fn rejects_tensors_of_another_graph() {
    let (g, other) = (Graph::new("one"), Graph::new("other"));
    let (x, y) = (g.scalar(1f32), other.scalar(2f32));
    let outputs = [(x + y).output()];
    let text = message(g, &outputs);
    assert!(
        text.contains("add(f32[], f32[]): an operand belongs to another graph") && text.contains(HERE),
        "{text}"
    );

    let (g, other) = (Graph::new("one"), Graph::new("other"));
    let far = [(other.scalar(1f32) + 1.0).output()];
    let near = g.scalar(1f32);
    assert!(!near.shape().dtype.is_integer());
    let text = message(g, &far);
    assert!(
        text.contains("build(): an output belongs to another graph") && text.contains(HERE),
        "{text}"
    );

    let (g, other) = (Graph::new("one"), Graph::new("other"));
    let gradients = grad(g.scalar(1f32), &[other.scalar(2f32)]);
    let outputs = [gradients[0].output()];
    assert!(message(g, &outputs).contains("gradient(f32[], f32[]): an operand belongs to another graph"));
}

#[test]
fn correct_graph_builds() {
    let parameters = [("x".to_string(), Shape::new(DType::F32, [2, 2]))];
    let built = Graph::function("right", &parameters, |_, x| vec![x[0].matmul(x[0]).reduce_sum_all()]);
    assert_eq!(built.unwrap().output_shapes(), [Shape::scalar(DType::F32)]);
}

#[test]
fn evaluate_rejects_wrong_arguments() {
    let parameters = [("x".to_string(), Shape::new(DType::F32, [2]))];
    let built = Graph::function("right", &parameters, |_, x| vec![x[0] + x[0]]).unwrap();
    let text = built.evaluate(&[]).unwrap_err().to_string();
    assert_eq!(text, "evaluating right: 0 arguments for 1 parameters");
    let text = built.evaluate(&[Literal::scalar(1i32)]).unwrap_err().to_string();
    assert_eq!(text, "evaluating right: parameter x is f32[2], the argument s32[]");
}
