//! Random cases, and dense references in `f64`.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part; tests may unwrap"
)]

use cpu::{Gradients, Halo, Isa, Kernel, Layout, Options, Order, SparseConv, Window, on_this_thread};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.unit() * 2.0 - 1.0) as f32).collect()
    }

    pub fn mask(&mut self, n: usize, density: f64) -> Vec<bool> {
        (0..n).map(|_| self.unit() < density).collect()
    }
}

/// A convolution and its shapes.
#[derive(Clone, Debug)]
pub struct Case {
    pub kernel: Kernel,
    pub window: Window,
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub mask: Vec<bool>,
    pub weights: Vec<f32>,
}

impl Case {
    /// A random case whose pictures lie in `order`.
    pub fn random(r: &mut Random, batch: usize, order: Order) -> Self {
        loop {
            let (rows, columns) = r.pick(&[(1, 1), (1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 4), (7, 7)]);
            let (height, width) = (r.below(12) + 1, r.below(24) + 1);
            let (inputs, outputs) = (r.below(20) + 1, r.below(40) + 1);
            let stride = [r.pick(&[1, 1, 2, 3]), r.pick(&[1, 1, 2, 3])];
            let kernel = match r.below(6) {
                0 => Kernel::depthwise(rows, columns, inputs, 1 + r.below(2)),
                _ => Kernel::new(rows, columns, inputs, outputs),
            };
            let window = match r.below(3) {
                0 => Window::same([rows, columns], stride, height, width),
                1 => Window::valid(stride),
                _ => Window {
                    stride,
                    pads: [[r.below(rows), r.below(rows)], [r.below(columns), r.below(columns)]],
                },
            };
            if window.output([rows, columns], height, width).is_err() {
                continue;
            }
            let density = r.pick(&[0.0, 0.02, 0.1, 0.3, 1.0]);
            let mut mask = r.mask(kernel.size(), density);
            if r.below(5) == 0 {
                mask.fill(false);
                let only = r.below(mask.len());
                mask[only] = true;
            }
            if order == Order::Pixels && kernel.inputs > 12 {
                continue;
            }
            let weights = r.floats(kernel.size());
            return Self {
                kernel,
                window,
                batch,
                height,
                width,
                mask,
                weights,
            };
        }
    }

    pub fn output(&self) -> [usize; 2] {
        let kernel = [self.kernel.rows, self.kernel.columns];
        self.window.output(kernel, self.height, self.width).unwrap()
    }

    /// Layouts of input and output.
    pub fn layouts(&self, order: Order) -> (Layout, Layout) {
        let [height, width] = self.output();
        match order {
            Order::Lanes => (
                Layout::lanes(
                    self.batch,
                    self.height,
                    self.width,
                    self.kernel.inputs,
                    self.window.halo(),
                ),
                Layout::lanes(
                    self.batch,
                    height,
                    width,
                    self.kernel.outputs,
                    Halo::all(self.batch % 2),
                ),
            ),
            Order::Pixels | Order::Channels => {
                let wide = Halo::all(self.kernel.columns.max(self.kernel.rows) - 1 + self.batch % 2);
                (
                    Layout::pixels(self.batch, self.height, self.width, self.kernel.inputs, wide),
                    Layout::pixels(self.batch, height, width, self.kernel.outputs, wide),
                )
            }
        }
    }

    /// The convolution and its values.
    pub fn conv(&self, order: Order, isa: Isa, options: &Options) -> (SparseConv, Vec<f32>) {
        let (x, y) = self.layouts(order);
        let options = Options {
            isa: Some(isa),
            ..*options
        };
        let conv = SparseConv::new(self.kernel, self.window, x, y, &self.mask, &options).unwrap();
        let values = conv.gather(&self.weights).unwrap();
        (conv, values)
    }

    /// A halo that suffices, or none.
    fn halo(&self, needed: Halo) -> Halo {
        if self.mask.len().is_multiple_of(2) {
            needed
        } else {
            Halo::default()
        }
    }

    /// Layouts of the gradients.
    pub fn gradients(&self) -> Gradients {
        let [height, width] = self.output();
        let halo = self.halo(self.window.gradient_halo([self.kernel.rows, self.kernel.columns]));
        Gradients {
            output: Layout::lanes(self.batch, height, width, self.kernel.outputs, halo),
            input: Layout::lanes(
                self.batch,
                self.height,
                self.width,
                self.kernel.inputs,
                Halo::all(self.batch % 3),
            ),
        }
    }

    /// Calls `f` with the flat indices of output, input and kernel (NHWC, HWIO) of each product of a connection.
    pub fn products(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [height, width] = self.output();
        let k = &self.kernel;
        let multiplier = k.outputs / k.inputs;
        for n in 0..self.batch {
            for oh in 0..height {
                for ow in 0..width {
                    for kh in 0..k.rows {
                        for kw in 0..k.columns {
                            let ih = (oh * self.window.stride[0] + kh).wrapping_sub(self.window.pads[0][0]);
                            let iw = (ow * self.window.stride[1] + kw).wrapping_sub(self.window.pads[1][0]);
                            if ih >= self.height || iw >= self.width {
                                continue;
                            }
                            for co in 0..k.outputs {
                                let inputs = if k.depthwise { 1 } else { k.inputs };
                                for i in 0..inputs {
                                    let ci = if k.depthwise { co / multiplier } else { i };
                                    let index = ((kh * k.columns + kw) * inputs + i) * k.outputs + co;
                                    if self.mask[index] {
                                        f(
                                            ((n * height + oh) * width + ow) * k.outputs + co,
                                            ((n * self.height + ih) * self.width + iw) * k.inputs + ci,
                                            index,
                                        );
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    pub fn inputs(&self) -> usize {
        self.batch * self.height * self.width * self.kernel.inputs
    }

    pub fn outputs(&self) -> usize {
        let [height, width] = self.output();
        self.batch * height * width * self.kernel.outputs
    }

    pub fn reference(&self, x: &[f32]) -> Vec<f64> {
        let mut y = vec![0.0; self.outputs()];
        self.products(|o, i, k| y[o] += f64::from(x[i]) * f64::from(self.weights[k]));
        y
    }

    pub fn reference_input_gradient(&self, dy: &[f32]) -> Vec<f64> {
        let mut dx = vec![0.0; self.inputs()];
        self.products(|o, i, k| dx[i] += f64::from(dy[o]) * f64::from(self.weights[k]));
        dx
    }

    pub fn reference_kernel_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f64> {
        let mut dw = vec![0.0; self.kernel.size()];
        self.products(|o, i, k| dw[k] += f64::from(dy[o]) * f64::from(x[i]));
        dw
    }
}

/// A NHWC array in a layout, whose unused lanes hold NaN.
pub fn place(layout: &Layout, nhwc: &[f32]) -> Vec<f32> {
    let mut array = vec![0.0; layout.len];
    if layout.order == Order::Lanes {
        let whole = layout.batch.next_multiple_of(16);
        for picture in layout.batch..whole {
            for h in 0..layout.height {
                for w in 0..layout.width {
                    for c in 0..layout.channels {
                        array[layout.at(picture, h, w, c)] = f32::NAN;
                    }
                }
            }
        }
    }
    layout.from_nhwc(nhwc, &mut array, on_this_thread()).unwrap();
    array
}

pub fn take(layout: &Layout, array: &[f32]) -> Vec<f32> {
    let mut nhwc = vec![0.0; layout.batch * layout.height * layout.width * layout.channels];
    layout.to_nhwc(array, &mut nhwc, on_this_thread()).unwrap();
    nhwc
}

/// Compares with the reference; `scale` bounds the magnitude of a sum's terms.
pub fn assert_close(found: &[f32], expected: &[f64], scale: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(f) == e || (f.is_nan() && e.is_nan());
        let close = same || (f64::from(f) - e).abs() <= 2e-6 * (scale + e.abs());
        assert!(close, "{what}: element {i} is {f}, expected {e}");
    }
}

pub fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}
