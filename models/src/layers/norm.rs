//! Batch normalisation, dropout and global pooling.

use super::sparse::{self, blocked, is_blocked, unblocked};
use crate::{Init, Mode, Net, Param, Precision, Statistic};
use hlo::{DType, Padding, Reducer, Tensor};

/// Decay of the moving statistics per step (reference 3.1, 3.5).
const MOMENTUM: f64 = 0.9;
/// Added to variances (reference 3.1, 3.5).
const EPSILON: f64 = BatchNorm::EPSILON;

/// Batch normalisation over all axes but the last, with scale and shift.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Scope; layers are numbered in it, as `batch_normalization`, `batch_normalization_1`, ….
    pub scope: &'a str,
    /// Initialiser of the scale.
    pub gamma: Init,
    /// Whether the moving variance uses the unbiased variance of the batch, like TensorFlow's fused kernel. The batch
    /// itself is always normalised by the biased variance.
    pub unbiased: bool,
}

impl BatchNorm<'_> {
    /// Added to variances before the square root.
    pub const EPSILON: f64 = 1e-5;
}

impl<'g> Net<'g> {
    /// Normalises `x`, of any shape with channels last, per channel. Training updates the moving statistics. With
    /// several replicas, each normalises its own batch, unless [`Net::with_batch_norm_over`] is set.
    #[track_caller]
    pub fn batch_norm(&self, x: Tensor<'g>, norm: &BatchNorm) -> Tensor<'g> {
        let name = match self.batch_norms() {
            0 => format!("{}/batch_normalization", norm.scope),
            i => format!("{}/batch_normalization_{i}", norm.scope),
        };
        self.record_norm(x, &name);
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
        let Mode::Train(_) = self.mode() else {
            let [mean, variance] = moving;
            return self.compute((x - mean) * ((variance + EPSILON).rsqrt() * gamma) + beta);
        };
        let ([mean, variance], count) = self.moments(x);
        let batch_variance = match norm.unbiased {
            true => variance * (count as f64 / count.saturating_sub(1).max(1) as f64),
            false => variance,
        };
        for (moving, batch) in moving.into_iter().zip([mean, batch_variance]) {
            self.record_updated_statistic(moving - (moving - batch) * (1.0 - MOMENTUM));
        }
        let inverse = (variance + EPSILON).rsqrt();
        let normalised = (x - mean) * (inverse * gamma) + beta;
        let replicas = self.batch_norm_replicas();
        let operands = [x, mean, inverse, gamma, beta];
        self.compute(normalised.with_vjp(&operands, move |operands, cotangent| {
            gradients(operands, cotangent, replicas)
        }))
    }

    /// In training, replaces a fraction `rate` of the elements of `x` by 0 and scales up the others.
    #[track_caller]
    pub fn dropout(&self, x: Tensor<'g>, rate: f64) -> Tensor<'g> {
        if rate <= 0.0 {
            return x;
        }
        self.record_dropout();
        match self.mode() {
            Mode::Train(key) => {
                let kept = key.fold(self.next_dropout()).bernoulli(1.0 - rate, &x.dims());
                kept.select(x / (1.0 - rate), x.zeros_like())
            }
            Mode::Eval => x,
        }
    }

    /// Max pooling over height and width: `[batch, height, width, channels] -> [batch, height', width', channels]`.
    /// Images may be blocked ([`sparse`](super::sparse)).
    #[track_caller]
    pub fn max_pool(&self, x: Tensor<'g>, size: usize, stride: usize, padding: Padding) -> Tensor<'g> {
        unblocked(x).max_pool([size; 2], [stride; 2], padding)
    }

    /// The sum of images of which some may be blocked ([`sparse`](super::sparse)).
    #[track_caller]
    pub fn add(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        match a.shape().rank() == b.shape().rank() {
            true => a + b,
            false => blocked(a) + blocked(b),
        }
    }

    /// Mean over the image: `[batch, height, width, channels] -> [batch, channels]`. Images may be blocked
    /// ([`sparse`](super::sparse)).
    #[track_caller]
    pub fn mean_pool(&self, x: Tensor<'g>) -> Tensor<'g> {
        let image = x.shape().rank().saturating_sub(3);
        let mean = x.convert(DType::F32).reduce_mean(&[image, image + 1]);
        self.compute(match mean.dims()[..] {
            [blocks, lanes, channels] => mean.reshape(&[blocks * lanes, channels]),
            _ => mean,
        })
    }

    /// Mean and biased variance per channel, and the number of elements per channel.
    ///
    /// In bf16, from the sums of the elements and of their squares, which compilers for GPUs and TPUs compute in one
    /// pass. A variance so small relative to the squared mean that this cancels in f32 is already lost in the rounding
    /// of bf16. In f32, about the mean, in two passes.
    #[track_caller]
    fn moments(&self, x: Tensor<'g>) -> ([Tensor<'g>; 2], usize) {
        let (axes, count) = axes_but_channels(x);
        let replicas = self.batch_norm_replicas();
        if is_blocked(x) && replicas == 1 {
            return (sparse::moments(x).map(|sum| sum / count as f64), count);
        }
        let over_all = |x: Tensor<'g>| mean_over(replicas, x.reduce_mean(&axes));
        let mean = over_all(x);
        let variance = match self.precision() {
            Precision::Bf16 => (over_all(x * x) - mean * mean).max(0.0),
            Precision::F32 => {
                let centred = x - mean;
                over_all(centred * centred)
            }
        };
        ([mean, variance], count * replicas)
    }
}

/// The axes of `x` other than the channels, and their number of elements.
fn axes_but_channels(x: Tensor<'_>) -> (Vec<usize>, usize) {
    let mut dims = x.dims();
    dims.pop();
    ((0..dims.len()).collect(), dims.iter().product())
}

/// Mean over the replicas that share their moments.
fn mean_over(replicas: usize, x: Tensor<'_>) -> Tensor<'_> {
    match replicas {
        1 => x,
        replicas => (x / replicas as f64).all_reduce(Reducer::Add),
    }
}

/// Gradients of a normalisation with respect to `x`, scale and shift (Ioffe and Szegedy, 2015); the operands are `x`,
/// mean, inverse standard deviation, scale and shift. With `n` the normalised `x` and `c` the cotangent: `shift' = Σ
/// c`, `scale' = Σ c n` and `x' = (c - shift'/N - n scale'/N) scale inverse`, over the batches of all replicas. The
/// moments get no gradient of their own because `x'` includes their part.
///
/// Differentiating the moments would take another pass over `x`, for a sum that is 0. The last operator adds two arrays
/// of the size of `x`. If it took only one, XLA's CPU compiler would recompute the whole gradient for each of its
/// users; in residual networks these are sums over all later blocks.
fn gradients<'g>(operands: &[Tensor<'g>], cotangent: Tensor<'g>, replicas: usize) -> Vec<Option<Tensor<'g>>> {
    let &[x, mean, inverse, gamma, _] = operands else {
        return vec![None; operands.len()];
    };
    let (axes, count) = axes_but_channels(x);
    let centred = x - mean;
    let [scale, shift] = match is_blocked(x) {
        true => {
            let [products, sum] = sparse::products(cotangent, x, mean);
            [products * inverse, sum]
        }
        // In this order, because a host function that provides these sums returns the second with the first.
        false => [
            (cotangent * centred).reduce_sum(&axes) * inverse,
            cotangent.reduce_sum(&axes),
        ],
    };
    let [shift_mean, scale_mean] = [shift, scale].map(|sum| mean_over(replicas, sum / count as f64));
    let factor = inverse * gamma;
    let common = centred * (scale_mean * inverse * factor) + shift_mean * factor;
    vec![Some(cotangent * factor - common), None, None, Some(scale), Some(shift)]
}
