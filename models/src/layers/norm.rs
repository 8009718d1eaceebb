//! Batch normalisation, dropout and pooling over the whole image.

use crate::{Init, Mode, Net, Param, Statistic};
use hlo::{DType, Tensor};

/// Share of a moving statistic that one step keeps (reference 3.1, 3.5).
const MOMENTUM: f64 = 0.9;
/// Added to variances (reference 3.1, 3.5).
const EPSILON: f64 = 1e-5;

/// Batch normalisation over all axes but the last, with scale and shift.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Scope in which layers of this kind are numbered, as `batch_normalization`, `batch_normalization_1`, ….
    pub scope: &'a str,
    /// Initialiser of the scale.
    pub gamma: Init,
    /// Whether the moving variance follows the unbiased variance of the batch, as TensorFlow's fused kernel has it. The
    /// batch is normalised by the biased one in any case.
    pub unbiased: bool,
}

impl<'g> Net<'g> {
    /// `x`, of any shape that ends in channels, normalised per channel; in training the moving statistics follow. Of
    /// several replicas each normalises its own batch, unless [`Net::normalised_over`] says otherwise.
    #[track_caller]
    pub fn batch_norm(&self, x: Tensor<'g>, norm: &BatchNorm) -> Tensor<'g> {
        let name = match self.batch_norms() {
            0 => format!("{}/batch_normalization", norm.scope),
            i => format!("{}/batch_normalization_{i}", norm.scope),
        };
        let dims = vec![x.dims().last().copied().unwrap_or(1)];
        let [gamma, beta] = [("gamma", norm.gamma), ("beta", Init::Zeros)].map(|(part, init)| {
            self.param(Param {
                name: format!("{name}/{part}"),
                dims: dims.clone(),
                init,
                mask: None,
                decayed: false,
            })
        });
        let moving = [("moving_mean", Init::Zeros), ("moving_variance", Init::Ones)].map(|(part, init)| {
            let name = format!("{name}/{part}");
            let dims = dims.clone();
            self.statistic(Statistic { name, dims, init })
        });
        let x = x.convert(DType::F32);
        let [mean, variance] = match self.mode() {
            Mode::Eval => moving,
            Mode::Train(_) => {
                let ([mean, variance], count) = self.moments(x);
                let followed = match norm.unbiased {
                    true => variance * (count as f64 / count.saturating_sub(1).max(1) as f64),
                    false => variance,
                };
                for (moving, batch) in moving.into_iter().zip([mean, followed]) {
                    self.moved(moving - (moving - batch) * (1.0 - MOMENTUM));
                }
                [mean, variance]
            }
        };
        let scale = (variance + EPSILON).rsqrt() * gamma;
        // The mean moves the result as the shift does, so its gradient is taken from the sum that the shift's needs, and
        // not from another pass over the activations. (That of the variance by way of the mean is 0 but for the mean's
        // rounding, which it makes up for.)
        let centre = mean.stop_gradient();
        let moved = beta - (mean - centre) * scale;
        self.compute((x - centre) * scale + beta.with_gradient_of(moved))
    }

    /// In training, `x` with a share `rate` of its elements replaced by 0 and the others scaled up for it.
    #[track_caller]
    pub fn dropout(&self, x: Tensor<'g>, rate: f64) -> Tensor<'g> {
        if rate <= 0.0 {
            return x;
        }
        self.record_dropout();
        match self.mode() {
            Mode::Train(key) => {
                let kept = key.fold(self.next_dropout()).uniform(&x.dims()).ge(rate);
                kept.select(x / (1.0 - rate), x.zeros_like())
            }
            Mode::Eval => x,
        }
    }

    /// Mean over the image: `[batch, height, width, channels] -> [batch, channels]`.
    #[track_caller]
    pub fn mean_pool(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.compute(x.convert(DType::F32).reduce_mean(&[1, 2]))
    }

    /// Mean and biased variance per channel, and of how many numbers each.
    #[track_caller]
    fn moments(&self, x: Tensor<'g>) -> ([Tensor<'g>; 2], usize) {
        let dims = x.dims();
        let axes: Vec<usize> = (0..dims.len().saturating_sub(1)).collect();
        let mean = self.mean_over_replicas(x.reduce_mean(&axes));
        let centred = x - mean;
        let variance = self.mean_over_replicas((centred * centred).reduce_mean(&axes));
        let own = axes.iter().map(|&axis| dims[axis]).product();
        ([mean, variance], self.count_over_replicas(own))
    }
}
