//! Max pooling of normalised images.

use super::BatchNorm;
use super::norm::{Arrays, EPSILON, mean_over};
use crate::{Mode, Net, Precision};
use hlo::{DType, Padding, Tensor};

impl<'g> Net<'g> {
    /// Normalisation, ReLU and max pooling: `[batch, height, width, channels] -> [batch, height', width', channels]`.
    ///
    /// In training in bf16 the pooling comes first, which gives the same values: normalisation with a positive scale and ReLU
    /// keep the order, and where the scale is negative the signs are turned before. The large image is then not normalised in
    /// memory, and the sums for the gradients of scale and shift are over the pooled image.
    #[track_caller]
    pub fn norm_relu_max_pool(
        &self,
        x: Tensor<'g>,
        norm: &BatchNorm,
        size: usize,
        stride: usize,
        padding: Padding,
    ) -> Tensor<'g> {
        match (self.mode(), self.precision()) {
            (Mode::Train(_), Precision::Bf16) => self.pooled_norm(x, norm, [size, stride], padding).relu(),
            (Mode::Train(_), Precision::F32) | (Mode::Eval, _) => {
                let x = self.batch_norm(x, norm).relu();
                self.max_pool(x, size, stride, padding)
            }
        }
    }

    fn pooled_norm(&self, x: Tensor<'g>, norm: &BatchNorm, [size, stride]: [usize; 2], padding: Padding) -> Tensor<'g> {
        let own = self.next_batch_norm();
        let name = format!("{}/{own}", norm.scope);
        let _scope = self.graph().scope(own);
        self.record_norm(x, &name);
        let Arrays { gamma, beta, moving } = self.norm_arrays(&name, norm, x.dims().last().copied().unwrap_or(1));
        let one = gamma.zeros_like() + 1.0;
        let sign = gamma.ge(0.0).select(one, -one);
        let x = x * sign.convert(x.dtype());
        let (moments, count) = self.moments(x.convert(DType::F32));
        let [mean, variance] = moments;
        self.move_statistics(moving, [mean * sign, variance], count, norm);
        let inverse = (variance + EPSILON).rsqrt();
        let pooled = self.max_pool(x, size, stride, padding);
        let scale = gamma * sign;
        let normalised = (pooled.convert(DType::F32) - mean) * (inverse * scale) + beta;
        let replicas = self.batch_norm_replicas();
        let operands = [x, pooled, mean, inverse, scale, beta];
        self.compute(normalised.with_vjp(&operands, move |operands, cotangent| {
            gradients(operands, cotangent, replicas)
        }))
    }
}

/// Gradients with respect to the image, its pooled form, scale and shift; the operands are those, with mean and inverse standard
/// deviation in between. With `c` the cotangent and `n` the normalised pooled image: `shift' = Σ c`, `scale' = Σ c n`,
/// `pooled' = c scale inverse` and `image' = -(shift'/N + m scale'/N) scale inverse`, where `m` is the normalised image and `N`
/// its number of elements per channel: the part of the moments.
fn gradients<'g>(operands: &[Tensor<'g>], cotangent: Tensor<'g>, replicas: usize) -> Vec<Option<Tensor<'g>>> {
    let &[x, pooled, mean, inverse, scale, _] = operands else {
        return vec![None; operands.len()];
    };
    let [x32, pooled32] = [x, pooled].map(|image| image.convert(DType::F32));
    let axes = [0, 1, 2];
    let count: usize = x.dims().iter().rev().skip(1).product();
    let shift_gradient = cotangent.reduce_sum(&axes);
    let scale_gradient = (cotangent * (pooled32 - mean)).reduce_sum(&axes) * inverse;
    let [shift_mean, scale_mean] = [shift_gradient, scale_gradient].map(|sum| mean_over(replicas, sum / count as f64));
    let factor = inverse * scale;
    let common = (x32 - mean) * (scale_mean * inverse * factor) + shift_mean * factor;
    vec![
        Some((-common).convert(x.dtype())),
        Some((cotangent * factor).convert(pooled.dtype())),
        None,
        None,
        Some(scale_gradient),
        Some(shift_gradient),
    ]
}
