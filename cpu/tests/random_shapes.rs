//! Kernels against dense references over random shapes, in all instruction sets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Case, Random, assert_close, available, place, take};
use cpu::{Blocking, Epilogue, Options, Order, on_this_thread};

/// Random sizes of blocks, groups and tiles, or those chosen by shape.
fn options(r: &mut Random) -> Options {
    if r.below(2) == 0 {
        return Options::default();
    }
    Options {
        tile: Some(1 + r.below(14)),
        blocking: Some(Blocking {
            inputs: 1 + r.below(12),
            outputs: 1 + r.below(12),
        }),
        ..Options::default()
    }
}

fn forward(order: Order, batches: &[usize], seed: u64, cases: usize) {
    let mut r = Random(seed);
    for number in 0..cases {
        let batch = r.pick(batches);
        let case = Case::random(&mut r, batch, order);
        let options = options(&mut r);
        let x = r.floats(case.inputs());
        let expected = case.reference(&x);
        for isa in available() {
            let (conv, values) = case.conv(order, isa, &options);
            let mut y = vec![0.0; conv.output().len];
            let input = place(conv.input(), &x);
            conv.forward(&values, &input, &mut y, &Epilogue::default(), on_this_thread())
                .unwrap();
            let what = format!("case {number}, {isa:?}, {options:?}, {case:?}");
            assert_close(&take(conv.output(), &y), &expected, 8.0, &what);
        }
    }
}

#[test]
fn forward_by_lanes_matches_the_dense_reference() {
    forward(Order::Lanes, &[1, 2, 7, 15, 16, 17, 31, 33], 1, 150);
}

#[test]
fn forward_by_pixels_matches_the_dense_reference() {
    forward(Order::Pixels, &[1, 1, 2, 3], 2, 300);
}

#[test]
fn large_batches_match_the_dense_reference() {
    forward(Order::Lanes, &[64, 100, 127, 128, 129], 3, 12);
}

#[test]
fn gradients_match_the_dense_reference() {
    let mut r = Random(4);
    for number in 0..120 {
        let batch = r.pick(&[1, 3, 16, 17, 35]);
        let case = Case::random(&mut r, batch, Order::Lanes);
        let options = options(&mut r);
        let (x, dy) = (r.floats(case.inputs()), r.floats(case.outputs()));
        let input_gradient = case.reference_input_gradient(&dy);
        let kernel_gradient = case.reference_kernel_gradient(&x, &dy);
        let layouts = case.gradients();
        for isa in available() {
            let what = format!("case {number}, {isa:?}, {options:?}, {case:?}");
            let options = Options {
                isa: Some(isa),
                ..options
            };
            let (conv, values) = case.conv(Order::Lanes, isa, &options);
            let conv = conv.with_gradients(layouts, &options).unwrap();
            let dy = place(&layouts.output, &dy);
            let mut dx = vec![7.0; layouts.input.len];
            conv.input_gradient(&values, &dy, &mut dx, on_this_thread()).unwrap();
            assert_close(&take(&layouts.input, &dx), &input_gradient, 8.0, &what);

            let mut gradient = vec![7.0; conv.connections()];
            let x = place(conv.input(), &x);
            conv.kernel_gradient(&x, &dy, &mut gradient, on_this_thread()).unwrap();
            let dense = conv.scatter(&gradient).unwrap();
            assert_close(&dense, &kernel_gradient, 40.0, &what);
        }
    }
}
