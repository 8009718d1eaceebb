//! Wrong calls of convolutions and of operators on windows.

use super::{DIFFER, FLOATS, Wrong, f32, matrix, t, wrong};
use hlo::{ConvDims, DType, Graph, Padding, Reducer, Tensor, WindowDim};

pub fn calls() -> Vec<Wrong> {
    [convolution(), groups(), windows()].into_iter().flatten().collect()
}

fn images(g: &Graph) -> Tensor<'_> {
    t(g, DType::F32, &[4, 5, 5, 3])
}

/// Convolves the images with a 1×1 kernel for `inner` channels; `groups` are the feature groups and the batch groups.
#[track_caller]
fn pointwise<'g>(g: &'g Graph, [inner, outer]: [usize; 2], dims: ConvDims, groups: [usize; 2]) -> Tensor<'g> {
    let kernel = t(g, DType::F32, &[1, 1, inner, outer]);
    images(g).convolution(kernel, vec![WindowDim::unit(); 2], dims, groups[0], groups[1])
}

fn convolution() -> Vec<Wrong> {
    vec![
        wrong(
            "convolution",
            |g| f32(g).conv2d(t(g, DType::S32, &[2]), [1, 1], Padding::Same, 1),
            "convolution(f32[2], s32[2])",
            DIFFER,
        ),
        wrong(
            "convolution",
            |g| t(g, DType::S32, &[2]).conv2d(t(g, DType::S32, &[2]), [1, 1], Padding::Same, 1),
            "convolution(s32[2], s32[2])",
            FLOATS,
        ),
        wrong(
            "convolution",
            |g| matrix(g).conv2d(matrix(g), [1, 1], Padding::Same, 1),
            "convolution(f32[3,2], f32[3,2])",
            "4 axis roles for the input f32[3,2]",
        ),
        wrong(
            "convolution",
            |g| images(g).conv2d(t(g, DType::F32, &[3, 3, 3, 1]), [2, 0], Padding::Same, 1),
            "convolution(f32[4,5,5,3], f32[3,3,3,1])",
            "the window's stride is 0 on window axis 1",
        ),
        wrong(
            "convolution",
            |g| images(g).conv2d(t(g, DType::F32, &[0, 3, 3, 1]), [1, 1], Padding::Same, 1),
            "convolution(f32[4,5,5,3], f32[0,3,3,1])",
            "the window's size is 0 on window axis 0",
        ),
        wrong(
            "convolution",
            |g| {
                let window = vec![WindowDim::unit(); 2];
                images(g).convolution(t(g, DType::F32, &[2, 2, 3, 1]), window, ConvDims::nhwc(), 1, 1)
            },
            "convolution(f32[4,5,5,3], f32[2,2,3,1])",
            "a window of sizes [1, 1], the kernel has [2, 2]",
        ),
        wrong(
            "convolution",
            |g| {
                let cut = WindowDim {
                    pad_low: -6,
                    ..WindowDim::unit()
                };
                let kernel = t(g, DType::F32, &[1, 1, 3, 1]);
                images(g).convolution(kernel, vec![cut; 2], ConvDims::nhwc(), 1, 1)
            },
            "convolution(f32[4,5,5,3], f32[1,1,3,1])",
            "padding leaves -1 elements on window axis 0",
        ),
        wrong(
            "convolution",
            |g| {
                let twice = ConvDims {
                    output_feature: 0,
                    ..ConvDims::nhwc()
                };
                pointwise(g, [3, 1], twice, [1, 1])
            },
            "convolution(f32[4,5,5,3], f32[1,1,3,1])",
            "axis 0 is named twice, in the roles of the output",
        ),
    ]
}

fn groups() -> Vec<Wrong> {
    vec![
        wrong(
            "convolution",
            |g| pointwise(g, [2, 4], ConvDims::nhwc(), [1, 1]),
            "convolution(f32[4,5,5,3], f32[1,1,2,4])",
            "3 input channels, expected 1 × 2 by feature groups and kernel",
        ),
        wrong(
            "convolution",
            |g| pointwise(g, [3, 4], ConvDims::nhwc(), [0, 1]),
            "convolution(f32[4,5,5,3], f32[1,1,3,4])",
            "0 groups",
        ),
        wrong(
            "convolution",
            |g| pointwise(g, [1, 6], ConvDims::nhwc(), [3, 2]),
            "convolution(f32[4,5,5,3], f32[1,1,1,6])",
            "3 feature groups and 2 batch groups at once",
        ),
        wrong(
            "convolution",
            |g| pointwise(g, [1, 4], ConvDims::nhwc(), [3, 1]),
            "convolution(f32[4,5,5,3], f32[1,1,1,4])",
            "4 output channels in 3 groups",
        ),
        wrong(
            "convolution",
            |g| pointwise(g, [3, 6], ConvDims::nhwc(), [1, 3]),
            "convolution(f32[4,5,5,3], f32[1,1,3,6])",
            "4 examples in 3 groups",
        ),
    ]
}

fn windows() -> Vec<Wrong> {
    vec![
        wrong(
            "reduce-window",
            |g| matrix(g).avg_pool([2, 2], [1, 1], Padding::Valid),
            "reduce-window(f32[3,2], f32[])",
            "a window of rank 4 over 2 axes",
        ),
        wrong(
            "reduce-window",
            |g| images(g).max_pool([2, 2], [0, 1], Padding::Valid),
            "reduce-window(f32[4,5,5,3], f32[])",
            "the window's stride is 0 on window axis 1",
        ),
        wrong(
            "reduce-window",
            |g| f32(g).reduce_window(vec![WindowDim::unit()], Reducer::Or),
            "reduce-window(f32[2], f32[])",
            "no or of f32",
        ),
        wrong(
            "select-and-scatter",
            |g| matrix(g).select_and_scatter(f32(g), vec![WindowDim::unit(); 2]),
            "select-and-scatter(f32[3,2], f32[2], f32[])",
            "the source is f32[2], the window has positions f32[3,2]",
        ),
        wrong(
            "select-and-scatter",
            |g| {
                let dilated = WindowDim {
                    window_dilation: 2,
                    ..WindowDim::unit()
                };
                f32(g).select_and_scatter(f32(g), vec![dilated])
            },
            "select-and-scatter(f32[2], f32[2], f32[])",
            "takes no dilated window",
        ),
    ]
}
