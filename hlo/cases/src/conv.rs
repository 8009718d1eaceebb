//! Convolutions: strides, padding, groups, dilation and axis roles.

use super::{Case, case, mixed, window};
use hlo::{ConvDims, Literal, Padding, Tensor, WindowDim};

pub(super) fn cases() -> Vec<Case> {
    [images(), groups(), windows(), types()].into_iter().flatten().collect()
}

fn images() -> Vec<Case> {
    vec![
        case(
            "convolution",
            "3x3, stride 1, SAME",
            [mixed(&[1, 3, 3, 2], 7), mixed(&[3, 3, 2, 2], 11)],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Same, 1)],
            [Literal::new(
                &[1, 3, 3, 2],
                &[
                    6.6875f32, 10.25, -14.6875, 12.5625, 14.5, -11.5, 4.5625, -9.625, 4.125, -9.0, -2.8125, -4.1875,
                    9.1875, -15.875, 19.375, 5.625, -13.625, 5.375,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "3x3, stride 2, SAME on an even side pads after only",
            [mixed(&[2, 4, 4, 2], 7), mixed(&[3, 3, 2, 2], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Same, 1)],
            [Literal::new(
                &[2, 2, 2, 2],
                &[
                    -27.75f32, 12.25, -5.3125, 13.125, 25.8125, -30.8125, 17.125, -15.5625, -41.125, 25.4375, -31.5625,
                    33.0, 1.0625, 11.875, 5.0, -12.4375,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "3x3, stride 2, SAME on an odd side",
            [mixed(&[1, 5, 5, 1], 7), mixed(&[3, 3, 1, 2], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Same, 1)],
            [Literal::new(
                &[1, 3, 3, 2],
                &[
                    -23.125f32, 8.875, 13.875, -5.25, -12.6875, -0.4375, -10.4375, 8.0625, 14.0625, 20.5625, -31.9375,
                    13.125, -0.125, 10.625, 6.375, -33.0, 14.375, 9.25,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "5x2, stride 1, VALID, unequal sides",
            [mixed(&[1, 6, 4, 1], 7), mixed(&[5, 2, 1, 2], 11)],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Valid, 1)],
            [Literal::new(
                &[1, 2, 3, 2],
                &[
                    31.125f32, -0.0625, -8.25, -10.6875, -5.0, 3.875, 5.375, 19.4375, 6.6875, -10.5625, 6.0625,
                    -21.1875,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "1x1, stride 2",
            [mixed(&[1, 4, 4, 2], 7), mixed(&[1, 1, 2, 3], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Same, 1)],
            [Literal::new(
                &[1, 2, 2, 3],
                &[
                    20.5625f32, 4.75, -11.0625, -3.25, -1.875, -0.5, -12.6875, -2.375, 7.9375, -7.4375, -1.25, 4.9375,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "3x3, stride 2, padding 1+1",
            [mixed(&[1, 4, 4, 1], 7), mixed(&[3, 3, 1, 2], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Explicit([(1, 1); 2]), 1)],
            [Literal::new(
                &[1, 2, 2, 2],
                &[-3.25f32, 7.5, 7.75, 1.3125, 24.0, -48.1875, -3.625, 20.875],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "7x7, stride 2, padding 3+3",
            [mixed(&[1, 6, 6, 1], 7), mixed(&[7, 7, 1, 1], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Explicit([(3, 3); 2]), 1)],
            [Literal::new(
                &[1, 3, 3, 1],
                &[
                    11.375f32, -7.5, 5.5625, 41.1875, -43.75, -14.125, 29.0, -18.0625, -19.3125,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
    ]
}

fn groups() -> Vec<Case> {
    vec![
        case(
            "convolution",
            "depthwise, 3x3, SAME",
            [mixed(&[1, 3, 3, 3], 7), mixed(&[3, 3, 1, 3], 11)],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Same, 3)],
            [Literal::new(
                &[1, 3, 3, 3],
                &[
                    6.0f32, 9.0, 13.6875, 9.0625, 11.625, -19.125, -2.75, 11.875, 1.0625, 13.3125, 12.0, 4.5, 19.5,
                    14.625, -19.875, -6.375, 9.75, 2.25, 9.75, 5.0, 1.9375, 13.9375, 4.875, -16.1875, -7.75, -0.875,
                    5.75,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "depthwise, two outputs for each channel, stride 2",
            [mixed(&[1, 4, 4, 2], 7), mixed(&[3, 3, 1, 4], 11)],
            |_, x| vec![x[0].conv2d(x[1], [2, 2], Padding::Explicit([(1, 1); 2]), 2)],
            [Literal::new(
                &[1, 2, 2, 4],
                &[
                    5.625f32, 6.375, 0.875, 5.375, 16.5, -23.625, 16.375, -22.0, 0.4375, 12.875, 15.125, 6.0625,
                    -12.25, 21.0625, -3.9375, 6.8125,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "two groups of two channels",
            [mixed(&[1, 3, 3, 4], 7), mixed(&[2, 2, 2, 6], 11)],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Valid, 2)],
            [Literal::new(
                &[1, 2, 2, 6],
                &[
                    31.9375f32, -13.9375, 4.125, -19.25, 4.125, 6.1875, 4.375, -19.25, 15.25, 0.5625, -13.875, 10.4375,
                    -19.75, 1.125, 8.4375, 3.375, 12.125, -0.4375, -18.25, 3.5625, 6.0, 21.25, 13.5, -15.5625,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "two groups of two examples",
            [mixed(&[4, 3, 3, 2], 7), mixed(&[2, 2, 2, 4], 11)],
            |_, x| vec![x[0].convolution(x[1], vec![window(2); 2], ConvDims::nhwc(), 1, 2)],
            [Literal::new(
                &[2, 2, 2, 4],
                &[
                    -3.625f32, 17.375, 1.9375, 15.875, 27.75, -19.5625, -20.0, -2.6875, 5.25, -19.8125, -19.3125,
                    26.0625, -4.0625, 1.375, 18.8125, -31.25, -4.125, 16.25, 19.5625, 7.6875, 27.25, -20.6875,
                    -12.0625, -20.5625, 28.0, -19.0, -21.0625, -1.5, -4.5625, 0.25, -2.3125, 20.625,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
    ]
}

pub(super) fn dilated<'g>(x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
    let height = WindowDim {
        stride: 2,
        pad_low: 2,
        pad_high: 1,
        base_dilation: 2,
        ..window(3)
    };
    let width = WindowDim {
        pad_high: 1,
        window_dilation: 2,
        ..window(2)
    };
    x.convolution(kernel, vec![height, width], ConvDims::nhwc(), 1, 1)
}

fn cut<'g>(x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
    let height = WindowDim {
        pad_low: -2,
        pad_high: -1,
        ..window(2)
    };
    let width = WindowDim {
        stride: 2,
        pad_low: -1,
        pad_high: 1,
        ..window(2)
    };
    x.convolution(kernel, vec![height, width], ConvDims::nhwc(), 1, 1)
}

/// Input `[batch, feature, space]`, kernel `[out, space, in]`, output `[space, batch, feature]`.
fn moved<'g>(x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
    let dims = ConvDims {
        input_batch: 0,
        input_feature: 1,
        input_spatial: vec![2],
        kernel_input: 2,
        kernel_output: 0,
        kernel_spatial: vec![1],
        output_batch: 1,
        output_feature: 2,
        output_spatial: vec![0],
    };
    x.convolution(
        kernel,
        vec![WindowDim {
            pad_low: 1,
            ..window(2)
        }],
        dims,
        1,
        1,
    )
}

/// Axes `[batch, …, feature]` and `[…, in, out]`, with the `spatial` axes in place of the dots.
fn channels_last(spatial: usize) -> ConvDims {
    ConvDims {
        input_batch: 0,
        input_feature: spatial + 1,
        input_spatial: (1..=spatial).collect(),
        kernel_input: spatial,
        kernel_output: spatial + 1,
        kernel_spatial: (0..spatial).collect(),
        output_batch: 0,
        output_feature: spatial + 1,
        output_spatial: (1..=spatial).collect(),
    }
}

fn flat<'g>(x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
    x.convolution(kernel, vec![], channels_last(0), 1, 1)
}

fn cubes<'g>(x: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
    x.convolution(
        kernel,
        vec![
            WindowDim {
                pad_low: 1,
                ..window(2)
            };
            3
        ],
        channels_last(3),
        1,
        1,
    )
}

fn windows() -> Vec<Case> {
    vec![
        case(
            "convolution",
            "window and base dilation, unequal padding",
            [mixed(&[1, 3, 4, 1], 7), mixed(&[3, 2, 1, 2], 11)],
            |_, x| vec![dilated(x[0], x[1])],
            [Literal::new(
                &[1, 3, 3, 2],
                &[
                    -10.4375f32,
                    7.625,
                    -4.75,
                    9.375,
                    -0.6875,
                    0.5625,
                    22.0625,
                    -6.0,
                    2.9375,
                    5.75,
                    -1.8125,
                    2.5,
                    -7.9375,
                    -11.3125,
                    2.0,
                    8.1875,
                    -1.0625,
                    4.9375,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "negative padding cuts",
            [mixed(&[1, 6, 5, 1], 7), mixed(&[2, 2, 1, 1], 11)],
            |_, x| vec![cut(x[0], x[1])],
            [Literal::new(&[1, 2, 2, 1], &[-8.9375f32, -11.4375, -15.1875, 11.375])],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "one spatial axis, all roles moved",
            [mixed(&[2, 2, 4], 7), mixed(&[3, 2, 2], 11)],
            |_, x| vec![moved(x[0], x[1])],
            [Literal::new(
                &[4, 2, 3],
                &[
                    -17.125f32, 10.3125, 8.6875, -1.3125, -6.875, 6.9375, 16.25, 14.6875, -27.5625, -28.625, 12.3125,
                    12.5625, 13.0625, -4.5, -2.6875, 14.6875, 14.4375, -26.5, 2.125, -6.25, 4.75, 11.5, -4.75, -1.625,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "no spatial axis: a matrix product",
            [mixed(&[2, 3], 7), mixed(&[3, 2], 11)],
            |_, x| vec![flat(x[0], x[1])],
            [Literal::new(&[2, 2], &[10.6875f32, 9.6875, 1.4375, -18.25])],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
        case(
            "convolution",
            "three spatial axes",
            [mixed(&[1, 2, 3, 2, 1], 7), mixed(&[2, 2, 2, 1, 1], 11)],
            |_, x| vec![cubes(x[0], x[1])],
            [Literal::new(
                &[1, 2, 3, 2, 1],
                &[
                    0.0f32, 10.3125, -8.4375, -1.9375, -0.5625, -5.4375, 12.1875, 2.6875, 2.3125, 6.0625, -4.6875, 9.75,
                ],
            )],
        )
        .within(1e-6)
        .numeric(&[0, 1]),
    ]
}

fn types() -> Vec<Case> {
    vec![
        case(
            "convolution",
            "f64",
            [
                Literal::new(&[1, 2, 1, 1], &[1.0f64, 1e-12]),
                Literal::new(&[2, 1, 1, 1], &[1.0f64, 1.0]),
            ],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Valid, 1)],
            [Literal::new(&[1, 1, 1, 1], &[1.000_000_000_001f64])],
        )
        .within(1e-15),
        case(
            "convolution",
            "bf16",
            [
                Literal::new(&[1, 2, 1, 1], &[1.5, -2.0].map(half::bf16::from_f32)),
                Literal::new(&[2, 1, 1, 1], &[2.0, 0.25].map(half::bf16::from_f32)),
            ],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Valid, 1)],
            [Literal::new(&[1, 1, 1, 1], &[2.5].map(half::bf16::from_f32))],
        )
        .within(1e-6),
        case(
            "convolution",
            "a kernel larger than the image has no position",
            [mixed(&[1, 2, 2, 1], 7), mixed(&[3, 1, 1, 1], 11)],
            |_, x| vec![x[0].conv2d(x[1], [1, 1], Padding::Valid, 1)],
            [Literal::new::<f32>(&[1, 0, 2, 1], &[])],
        )
        .numeric(&[0, 1]),
    ]
}
