//! Batch normalisation, dropout and global pooling.

use super::expanding;
use super::sparse::{self, blocked, is_blocked, memory_order, unblocked};
use crate::{Init, Mode, Net, Param, Precision, Statistic};
use hlo::{DType, Padding, Reducer, Tensor};

/// Decay of the moving statistics per step (reference 3.1, 3.5).
const MOMENTUM: f64 = 0.9;
/// Added to variances (reference 3.1, 3.5).
pub(super) const EPSILON: f64 = BatchNorm::EPSILON;

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

/// The arrays of a normalisation, `[channels]`.
pub(super) struct Arrays<'g> {
    pub gamma: Tensor<'g>,
    pub beta: Tensor<'g>,
    /// Moving mean and variance.
    pub moving: [Tensor<'g>; 2],
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
        let own = self.next_batch_norm();
        let name = format!("{}/{own}", norm.scope);
        let _scope = self.graph().scope(own);
        self.record_norm(x, &name);
        let arrays = self.norm_arrays(&name, norm, x.dims().last().copied().unwrap_or(1));
        let expanding = self.expanding(x);
        let x = x.convert(DType::F32);
        let Arrays { gamma, beta, moving } = arrays;
        let Mode::Train(_) = self.mode() else {
            let [mean, variance] = moving;
            return self.compute((x - mean) * ((variance + EPSILON).rsqrt() * gamma) + beta);
        };
        let (moments, count) = self.moments(x);
        self.move_statistics(moving, moments, count, norm);
        let [mean, variance] = moments;
        let inverse = (variance + EPSILON).rsqrt();
        let normalised = (x - mean) * (inverse * gamma) + beta;
        let replicas = self.batch_norm_replicas();
        if let Some(conv) = expanding {
            let operands = [conv.input, conv.kernel, mean, inverse, gamma, beta];
            return self.compute(normalised.with_vjp(&operands, move |operands, cotangent| {
                let mean_over = |x| mean_over(replicas, x);
                let [input, kernel, scale, shift] = expanding::gradients(operands, cotangent, mean_over);
                vec![Some(input), Some(kernel), None, None, Some(scale), Some(shift)]
            }));
        }
        let operands = [x, mean, inverse, gamma, beta];
        self.compute(normalised.with_vjp(&operands, move |operands, cotangent| {
            gradients(operands, cotangent, replicas)
        }))
    }

    /// The arrays of a normalisation of this name.
    pub(super) fn norm_arrays(&self, name: &str, norm: &BatchNorm, channels: usize) -> Arrays<'g> {
        let [gamma, beta] = [("gamma", norm.gamma), ("beta", Init::Zeros)].map(|(part, init)| {
            self.param(Param {
                name: format!("{name}/{part}"),
                dims: vec![channels],
                init,
                mask: None,
                decayed: false,
            })
        });
        let moving = [("moving_mean", Init::Zeros), ("moving_variance", Init::Ones)].map(|(part, init)| {
            self.statistic(Statistic {
                name: format!("{name}/{part}"),
                dims: vec![channels],
                init,
                dtype: DType::F32,
            })
        });
        Arrays { gamma, beta, moving }
    }

    /// Updates moving statistics by those of a batch, over `count` elements per channel.
    pub(super) fn move_statistics(
        &self,
        moving: [Tensor<'g>; 2],
        [mean, variance]: [Tensor<'g>; 2],
        count: usize,
        norm: &BatchNorm,
    ) {
        let variance = match norm.unbiased {
            true => variance * (count as f64 / count.saturating_sub(1).max(1) as f64),
            false => variance,
        };
        for (moving, batch) in moving.into_iter().zip([mean, variance]) {
            self.record_updated_statistic(moving - (moving - batch) * (1.0 - MOMENTUM));
        }
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
                let _scope = self.graph().scope("dropout");
                let key = key.fold(self.next_dropout());
                let kept = key.bernoulli_in(1.0 - rate, &x.dims(), &memory_order(x));
                kept.select(x / (1.0 - rate), x.zeros_like())
            }
            Mode::Eval => x,
        }
    }

    /// Max pooling over height and width: `[batch, height, width, channels] -> [batch, height', width', channels]`.
    /// Images may be blocked ([`sparse`](super::sparse)).
    #[track_caller]
    pub fn max_pool(&self, x: Tensor<'g>, size: usize, stride: usize, padding: Padding) -> Tensor<'g> {
        let _scope = self.graph().scope("max_pool");
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
        let _scope = self.graph().scope("mean_pool");
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
    pub(super) fn moments(&self, x: Tensor<'g>) -> ([Tensor<'g>; 2], usize) {
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
pub(super) fn mean_over(replicas: usize, x: Tensor<'_>) -> Tensor<'_> {
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
