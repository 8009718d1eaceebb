//! Dense and depthwise convolutions and copies between orders, over random shapes, against plain loops.
#![allow(clippy::unwrap_used)]

use super::{DenseConv, DepthwiseConv};
use crate::convert::Conversion;
use crate::{Activation, Epilogue, Halo, Isa, Kernel, Layout, Window, on_this_thread};

struct Random(u32);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).collect()
    }
}

/// A convolution of images in NHWC, its epilogue, and what it yields.
struct Case {
    kernel: Kernel,
    window: Window,
    /// Batch, rows and columns of input and output.
    x: [usize; 3],
    y: [usize; 3],
    input: Vec<f32>,
    weights: Vec<f32>,
    scale: Option<Vec<f32>>,
    shift: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    activation: Activation,
}

impl Case {
    fn random(r: &mut Random, depthwise: bool) -> Self {
        let sizes = [1 + r.below(4), 1 + r.below(4)];
        let channels = [1 + r.below(40), 1 + r.below(70)];
        let kernel = match depthwise {
            true => Kernel::depthwise(sizes[0], sizes[1], channels[0], 1),
            false => Kernel::new(sizes[0], sizes[1], channels[0], channels[1]),
        };
        let window = Window {
            stride: [1 + r.below(3), 1 + r.below(3)],
            pads: [0, 1].map(|axis| [r.below(sizes[axis]), r.below(sizes[axis])]),
        };
        let x = [1 + r.below(3), sizes[0] + r.below(12), sizes[1] + r.below(33)];
        let [rows, columns] = window.output(sizes, x[1], x[2]).unwrap();
        let y = [x[0], rows, columns];
        let maybe = |r: &mut Random, n: usize| (r.below(2) == 0).then(|| r.values(n));
        Self {
            input: r.values(x.iter().product::<usize>() * kernel.inputs),
            weights: r.values(kernel.size()),
            scale: maybe(r, kernel.outputs),
            shift: maybe(r, kernel.outputs),
            residual: maybe(r, y.iter().product::<usize>() * kernel.outputs),
            activation: [Activation::None, Activation::Relu, Activation::Relu6][r.below(3)],
            kernel,
            window,
            x,
            y,
        }
    }

    fn expected(&self) -> Vec<f32> {
        let Kernel {
            rows,
            columns,
            inputs,
            outputs,
            depthwise,
        } = self.kernel;
        let mut result = Vec::new();
        for i in 0..self.y.iter().product::<usize>() * outputs {
            let (output, pixel) = (i % outputs, i / outputs);
            let (w, h, n) = (
                pixel % self.y[2],
                pixel / self.y[2] % self.y[1],
                pixel / self.y[2] / self.y[1],
            );
            let mut sum = 0.0f64;
            for (k, &weight) in self.weights.iter().enumerate() {
                let (input, tap) = match depthwise {
                    true => (k % outputs, k / outputs),
                    false => (k / outputs % inputs, k / outputs / inputs),
                };
                if k % outputs != output {
                    continue;
                }
                let at = |place: usize, axis: usize, tap: usize| {
                    let from = (place * self.window.stride[axis] + tap).checked_sub(self.window.pads[axis][0]);
                    from.filter(|&from| from < self.x[axis + 1])
                };
                let x = match (at(h, 0, tap / columns % rows), at(w, 1, tap % columns)) {
                    (Some(row), Some(column)) => {
                        self.input[((n * self.x[1] + row) * self.x[2] + column) * inputs + input]
                    }
                    _ => 0.0,
                };
                sum += f64::from(weight) * f64::from(x);
            }
            sum = sum * self.scale.as_ref().map_or(1.0, |scale| f64::from(scale[output]))
                + self.shift.as_ref().map_or(0.0, |shift| f64::from(shift[output]))
                + self.residual.as_ref().map_or(0.0, |residual| f64::from(residual[i]));
            result.push(match self.activation {
                Activation::None => sum as f32,
                Activation::Relu if sum < 0.0 => 0.0,
                Activation::Relu => sum as f32,
                Activation::Relu6 if sum < 0.0 => 0.0,
                Activation::Relu6 if sum > 6.0 => 6.0,
                Activation::Relu6 => sum as f32,
            });
        }
        result
    }

    fn found(&self, isa: Isa, interleaved: bool, wider: usize) -> Vec<f32> {
        let halo = |needed: Halo| Halo {
            top: needed.top + wider,
            right: needed.right + wider,
            ..needed
        };
        let ([n, h, w], [_, rows, columns]) = (self.x, self.y);
        let x = match interleaved {
            true => Layout::interleaved(n, h, w, self.kernel.inputs, halo(self.window.halo())),
            false => Layout::channels(n, h, w, self.kernel.inputs, halo(self.window.halo())),
        };
        let y = Layout::channels(n, rows, columns, self.kernel.outputs, Halo::all(wider));
        let (mut input, mut output, mut sum) = (vec![0.0; x.len], vec![0.0; y.len], vec![0.0; y.len]);
        x.from_nhwc(&self.input, &mut input, on_this_thread()).unwrap();
        if let Some(residual) = &self.residual {
            y.from_nhwc(residual, &mut sum, on_this_thread()).unwrap();
        }
        let epilogue = Epilogue {
            scale: self.scale.as_deref(),
            shift: self.shift.as_deref(),
            residual: self.residual.as_ref().map(|_| &*sum),
            activation: self.activation,
        };
        let (kernel, window, weights) = (self.kernel, self.window, &self.weights);
        if kernel.depthwise {
            let conv = DepthwiseConv::new(kernel, window, [x, y], weights, isa).unwrap();
            conv.forward(&input, &mut output, &epilogue, on_this_thread()).unwrap();
        } else {
            let conv = DenseConv::new(kernel, window, [x, y], weights, isa).unwrap();
            conv.forward(&input, &mut output, &epilogue, on_this_thread()).unwrap();
        }
        let elements = n * rows * columns * kernel.outputs;
        let mut result = vec![f32::NAN; elements];
        y.to_nhwc(&output, &mut result, on_this_thread()).unwrap();
        result
    }
}

fn agree(found: &[f32], expected: &[f32], what: &str) {
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= 2e-5 * b.abs().max(4.0),
            "{what}, element {i}: {a} and {b}"
        );
    }
}

#[test]
fn convolutions_agree_with_plain_loops_over_random_shapes() {
    let mut r = Random(7);
    for number in 0..160 {
        let depthwise = number % 4 == 3;
        let case = Case::random(&mut r, depthwise);
        let expected = case.expected();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let interleaved = !depthwise && number % 2 == 0;
            let found = case.found(isa, interleaved, number / 2 % 2);
            agree(
                &found,
                &expected,
                &format!("{number} {isa:?} {:?} {:?} {:?}", case.kernel, case.window, case.x),
            );
        }
    }
}

#[test]
fn infinities_and_nan_reach_the_outputs_whose_windows_have_them() {
    let mut r = Random(3);
    for depthwise in [false, true] {
        let mut case = Case::random(&mut r, depthwise);
        let channels = 19;
        case.kernel = match depthwise {
            true => Kernel::depthwise(3, 3, channels, 1),
            false => Kernel::new(3, 3, channels, channels),
        };
        (case.window, case.x, case.y) = (Window::same([3, 3], [1, 1], 9, 9), [1, 9, 9], [1, 9, 9]);
        (case.scale, case.shift, case.residual, case.activation) = (None, None, None, Activation::Relu6);
        (case.weights, case.input) = (vec![0.5; case.kernel.size()], vec![0.25; 81 * channels]);
        for (value, expected) in [(f32::NAN, f32::NAN), (f32::INFINITY, 6.0), (f32::NEG_INFINITY, 0.0)] {
            case.input[(4 * 9 + 4) * channels + 18] = value;
            let plain = case.expected();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let found = case.found(isa, false, 1);
                let at = |h: usize, w: usize| found[(h * 9 + w) * channels + 18];
                let right = at(3, 5) == expected || at(3, 5).is_nan() && expected.is_nan();
                assert!(right, "{isa:?}: {} for {value}", at(3, 5));
                for (found, plain) in found.iter().zip(&plain) {
                    assert!(found == plain || found.is_nan() && plain.is_nan() || (found - plain).abs() < 1e-4);
                }
            }
        }
    }
}

#[test]
fn copies_between_orders_keep_every_element() {
    let mut r = Random(5);
    for number in 0..40 {
        let [n, h, w, c] = [1 + r.below(2), 1 + r.below(5), 1 + r.below(40), 1 + r.below(40)];
        let pixels = Layout::pixels(n, h, w, c, Halo::all(number % 3));
        let channels = match number % 4 {
            0 => Layout::interleaved(n, h, w, c, Halo::all(number % 2)),
            _ => Layout::channels(n, h, w, c, Halo::all(number % 2)),
        };
        let values = r.values(n * h * w * c);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let (mut a, mut b, mut again) = (vec![0.0; pixels.len], vec![0.0; channels.len], vec![0.0; pixels.len]);
            pixels.from_nhwc(&values, &mut a, on_this_thread()).unwrap();
            let there = Conversion::new(pixels, channels, isa).unwrap();
            let back = Conversion::new(channels, pixels, isa).unwrap();
            there.run(&a, &mut b, on_this_thread()).unwrap();
            back.run(&b, &mut again, on_this_thread()).unwrap();
            assert_eq!(a, again, "{isa:?} {n} {h} {w} {c}");
            let mut result = vec![0.0; values.len()];
            channels.to_nhwc(&b, &mut result, on_this_thread()).unwrap();
            assert_eq!(result, values);
        }
    }
}
