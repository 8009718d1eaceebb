//! Gradients of a normalised 1x1 convolution that expands its input to more channels.
//!
//! Differentiating one operator after the other reads the convolution's wide result `y = a W` three times: for the gradient of
//! the scale, of the kernel and of the input. All three also follow from the narrow input `a` and from products that are needed
//! anyway: with `P = aᵀ c` for the cotangent `c` of the normalisation, `Σ c y = Σ_i W_i P_i` per channel, `aᵀ y = (aᵀ a) W`, and
//! `y s Wᵀ = a (W s Wᵀ)` for a factor `s` per channel. So the backward pass does not need `y`, nor keep it.

use hlo::{ConvDims, DType, Tensor, WindowDim};

/// The convolution of a normalised array: input `a`, and kernel `[1, 1, in, out]` in f32.
#[derive(Clone, Copy)]
pub(crate) struct Expanding<'g> {
    pub input: Tensor<'g>,
    pub kernel: Tensor<'g>,
}

/// Least ratio of output to input channels at which the extra product `aᵀ a` costs less than the reads that it saves.
const LEAST_RATIO: usize = 4;

impl<'g> Expanding<'g> {
    /// Whether a convolution of this kernel, stride and number of groups has such gradients.
    pub fn applies(kernel: Tensor<'g>, strides: [usize; 2], groups: usize) -> bool {
        let unit = strides == [1, 1] && groups == 1;
        unit && matches!(kernel.dims()[..], [1, 1, inner, outer] if outer >= LEAST_RATIO * inner)
    }

    /// `aᵀ c` over batch and image, `[1, 1, in, c's channels]`, f32.
    fn product(a: Tensor<'g>, c: Tensor<'g>) -> Tensor<'g> {
        let dims = a.dims();
        let window = [1, 2].map(|axis| WindowDim {
            size: dims.get(axis).copied().unwrap_or(1),
            ..WindowDim::unit()
        });
        let roles = ConvDims {
            input_batch: 3,
            input_feature: 0,
            input_spatial: vec![1, 2],
            kernel_input: 0,
            kernel_output: 3,
            kernel_spatial: vec![1, 2],
            output_batch: 2,
            output_feature: 3,
            output_spatial: vec![0, 1],
        };
        a.convolution(c, window.to_vec(), roles, 1, 1).convert(DType::F32)
    }

    /// `c Wᵀ`, of the shape of `a`.
    fn back(c: Tensor<'g>, kernel: Tensor<'g>) -> Tensor<'g> {
        let roles = ConvDims {
            kernel_input: 3,
            kernel_output: 2,
            ..ConvDims::nhwc()
        };
        c.convolution(kernel, vec![WindowDim::unit(); 2], roles, 1, 1)
    }
}

/// Gradients of input, kernel, scale and shift; the operands are input, kernel, mean, inverse standard deviation and scale. `mean_over` averages the sums of a replica over those that share their moments.
pub(super) fn gradients<'g>(
    operands: &[Tensor<'g>],
    cotangent: Tensor<'g>,
    mean_over: impl Fn(Tensor<'g>) -> Tensor<'g>,
) -> [Tensor<'g>; 4] {
    let &[a, kernel, mean, inverse, gamma, ..] = operands else {
        panic!("{} operands, expected 6", operands.len())
    };
    let narrow = a.dtype();
    let c = cotangent.convert(narrow);
    // As they were multiplied.
    let weights = kernel.convert(narrow).convert(DType::F32);
    let products = Expanding::product(a, c);
    let shift = cotangent.reduce_sum(&[0, 1, 2]);
    let count: usize = cotangent.dims()[..3].iter().product();
    // Σ c (y - mean) inverse.
    let scale = ((weights * products).reduce_sum(&[0, 1, 2]) - mean * shift) * inverse;
    let [shift_mean, scale_mean] = [shift, scale].map(|sum| mean_over(sum / count as f64));
    let factor = inverse * gamma;
    // The gradient of y is c factor - y slope - offset.
    let slope = scale_mean * inverse * factor;
    let offset = shift_mean * factor - mean * slope;
    let squares = Expanding::product(a, a);
    let sums = a.convert(DType::F32).reduce_sum(&[0, 1, 2]);
    let inner = sums.dims().iter().product();
    let kernel_gradient = products * factor
        - Expanding::mix(squares, weights * slope)
        - sums.reshape(&[1, 1, inner, 1]).broadcast_to(&products.dims()) * offset;
    let back = |c: Tensor<'g>, kernel: Tensor<'g>| Expanding::back(c, kernel.convert(narrow)).convert(DType::F32);
    let symmetric = Expanding::mix(weights * slope, Expanding::turned(weights));
    let constant = (weights * offset).reduce_sum(&[0, 1, 3]);
    let input = back(c, weights * factor) - back(a, symmetric) - constant;
    [input.convert(narrow), kernel_gradient, scale, shift]
}

impl<'g> Expanding<'g> {
    /// The product of two matrices with two axes of size 1 before.
    fn mix(a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        let matrix = |t: Tensor<'g>| {
            let dims = t.dims();
            t.reshape(&dims[dims.len().min(2)..])
        };
        let product = matrix(a).matmul(matrix(b));
        product.reshape(&[&[1, 1], &product.dims()[..]].concat())
    }

    /// `[1, 1, in, out]` as `[1, 1, out, in]`.
    fn turned(kernel: Tensor<'g>) -> Tensor<'g> {
        kernel.transpose(&[0, 1, 3, 2])
    }
}
