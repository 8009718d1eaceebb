//! ResNet-50 and MobileNet-v1 with random weights, as lists of steps.

use super::noise;

/// A step of a network; activations are numbered, 0 is the image.
#[derive(Clone, Debug)]
pub enum Step {
    Conv(Conv),
    /// 3 x 3 windows, by steps of 2.
    MaxPool {
        from: usize,
        to: usize,
    },
    /// The mean over all pixels.
    Mean {
        from: usize,
        to: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Conv {
    pub size: usize,
    pub stride: usize,
    pub depthwise: bool,
    pub from: usize,
    pub to: usize,
    pub residual: Option<usize>,
    /// 0: none, 1: ReLU, 6: ReLU6.
    pub activation: u8,
    pub mask: Vec<bool>,
    /// HWIO.
    pub weights: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// Height (and width) and channels of each activation, and the steps.
pub struct Network {
    pub shapes: Vec<[usize; 2]>,
    pub steps: Vec<Step>,
    sparsity: f64,
}

impl Network {
    fn new(sparsity: f64) -> Self {
        Self {
            shapes: vec![[224, 3]],
            steps: Vec::new(),
            sparsity,
        }
    }

    fn activation(&mut self, side: usize, channels: usize) -> usize {
        self.shapes.push([side, channels]);
        self.shapes.len() - 1
    }

    #[allow(clippy::too_many_arguments)] // a layer
    fn conv(
        &mut self,
        from: usize,
        size: usize,
        outputs: usize,
        stride: usize,
        kind: Kind,
        residual: Option<usize>,
        activation: u8,
    ) -> usize {
        let [side, inputs] = self.shapes[from];
        let to = self.activation(side.div_ceil(stride), outputs);
        let seed = self.steps.len() as u32 * 7 + 1;
        let depthwise = kind == Kind::Depthwise;
        let elements = size * size * if depthwise { 1 } else { inputs } * outputs;
        let sparsity = if kind == Kind::Sparse { self.sparsity } else { 0.0 };
        let mask: Vec<bool> = noise(elements, seed)
            .iter()
            .map(|&v| f64::from(v) >= sparsity * 2.0 - 1.0)
            .collect();
        // Keeps the magnitude of activations.
        let per_output = mask.iter().filter(|&&set| set).count() as f32 / outputs as f32;
        let magnitude = (6.0 / per_output.max(1.0)).sqrt() * if residual.is_some() { 0.3 } else { 1.0 };
        self.steps.push(Step::Conv(Conv {
            size,
            stride,
            depthwise,
            from,
            to,
            residual,
            activation,
            mask,
            weights: noise(elements, seed + 1).iter().map(|v| v * magnitude).collect(),
            scale: noise(outputs, seed + 2).iter().map(|v| 1.0 + 0.2 * v).collect(),
            shift: noise(outputs, seed + 3).iter().map(|v| 0.1 * v).collect(),
        }));
        to
    }

    fn head(&mut self, from: usize) {
        let to = self.activation(1, self.shapes[from][1]);
        self.steps.push(Step::Mean { from, to });
        self.conv(to, 1, 1000, 1, Kind::Sparse, None, 0);
    }

    /// ResNet-50, with strides in the 3 x 3 kernels.
    pub fn resnet50(sparsity: f64) -> Self {
        let mut n = Self::new(sparsity);
        let stem = n.conv(0, 7, 64, 2, Kind::Dense, None, 1);
        let mut x = n.activation(56, 64);
        n.steps.push(Step::MaxPool { from: stem, to: x });
        for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
            let width = 64 << stage;
            for block in 0..blocks {
                let stride = if block == 0 && stage > 0 { 2 } else { 1 };
                let shortcut = match block {
                    0 => n.conv(x, 1, width * 4, stride, Kind::Sparse, None, 0),
                    _ => x,
                };
                let a = n.conv(x, 1, width, 1, Kind::Sparse, None, 1);
                let b = n.conv(a, 3, width, stride, Kind::Sparse, None, 1);
                x = n.conv(b, 1, width * 4, 1, Kind::Sparse, Some(shortcut), 1);
            }
        }
        n.head(x);
        n
    }

    /// MobileNet-v1; the first and the depthwise kernels are dense.
    pub fn mobilenet_v1(sparsity: f64) -> Self {
        let mut n = Self::new(sparsity);
        let mut x = n.conv(0, 3, 32, 2, Kind::Dense, None, 6);
        let layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
        let tail = [(512, 1); 5].into_iter().chain([(1024, 2), (1024, 1)]);
        for (outputs, stride) in layers.into_iter().chain(tail) {
            let channels = n.shapes[x][1];
            let depthwise = n.conv(x, 3, channels, stride, Kind::Depthwise, None, 6);
            x = n.conv(depthwise, 1, outputs, 1, Kind::Sparse, None, 6);
        }
        n.head(x);
        n
    }

    /// The result for an image (HWC), computed densely: all activations as `[channels][side][side]`.
    pub fn reference(&self, picture: &[f32]) -> Vec<f32> {
        let mut arrays: Vec<Vec<f32>> = self.shapes.iter().map(|[side, c]| vec![0.0; side * side * c]).collect();
        for (i, &value) in picture.iter().enumerate() {
            arrays[0][i % 3 * 224 * 224 + i / 3] = value;
        }
        for step in &self.steps {
            let (to, result) = match step {
                Step::Conv(conv) => (conv.to, self.dense(conv, &arrays)),
                Step::MaxPool { from, to } => (*to, self.max_pool(&arrays[*from], *from, *to)),
                Step::Mean { from, to } => {
                    let pixels = self.shapes[*from][0].pow(2);
                    let mean = |plane: &[f32]| plane.iter().sum::<f32>() / pixels as f32;
                    (*to, arrays[*from].chunks(pixels).map(mean).collect())
                }
            };
            arrays[to] = result;
        }
        arrays.pop().unwrap_or_default()
    }

    /// Zeros before the first row, as SAME has them.
    fn pad(side: usize, size: usize, stride: usize) -> usize {
        ((side.div_ceil(stride) - 1) * stride + size).saturating_sub(side) / 2
    }

    fn dense(&self, conv: &Conv, arrays: &[Vec<f32>]) -> Vec<f32> {
        let ([side, inputs], [out, outputs]) = (self.shapes[conv.from], self.shapes[conv.to]);
        let (x, pad) = (&arrays[conv.from], Self::pad(side, conv.size, conv.stride));
        let mut y = vec![0.0f32; out * out * outputs];
        let per_tap = if conv.depthwise { 1 } else { inputs } * outputs;
        for (i, (&weight, &set)) in conv.weights.iter().zip(&conv.mask).enumerate() {
            let weight = if set { weight } else { 0.0 };
            let (tap, output) = (i / per_tap, i % outputs);
            let input = if conv.depthwise { output } else { i / outputs % inputs };
            let (kh, kw) = (tap / conv.size, tap % conv.size);
            for oh in 0..out {
                let Some(ih) = (oh * conv.stride + kh).checked_sub(pad).filter(|&ih| ih < side) else {
                    continue;
                };
                let x = &x[(input * side + ih) * side..][..side];
                let y = &mut y[(output * out + oh) * out..][..out];
                for (ow, y) in y.iter_mut().enumerate() {
                    let iw = (ow * conv.stride + kw).wrapping_sub(pad);
                    *y += weight * x.get(iw).copied().unwrap_or(0.0);
                }
            }
        }
        for (i, y) in y.iter_mut().enumerate() {
            let c = i / (out * out);
            let residual = conv.residual.map_or(0.0, |r| arrays[r][i]);
            *y = *y * conv.scale[c] + conv.shift[c] + residual;
            *y = match conv.activation {
                0 => *y,
                1 => y.max(0.0),
                _ => y.clamp(0.0, 6.0),
            };
        }
        y
    }

    fn max_pool(&self, x: &[f32], from: usize, to: usize) -> Vec<f32> {
        let ([side, channels], [out, _]) = (self.shapes[from], self.shapes[to]);
        let pad = Self::pad(side, 3, 2);
        let mut y = vec![f32::NEG_INFINITY; out * out * channels];
        for (i, y) in y.iter_mut().enumerate() {
            let (c, oh, ow) = (i / (out * out), i / out % out, i % out);
            for (kh, kw) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                let (ih, iw) = ((oh * 2 + kh).wrapping_sub(pad), (ow * 2 + kw).wrapping_sub(pad));
                if ih < side && iw < side {
                    *y = y.max(x[(c * side + ih) * side + iw]);
                }
            }
        }
        y
    }
}

/// Which connections a layer has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dense,
    Sparse,
    Depthwise,
}
