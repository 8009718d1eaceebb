//! Epilogues, sums, NaN and infinities, threads, pooling, and errors.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Case, Random, assert_close, available, place, take};
use cpu::{
    Activation, Buffer, Epilogue, Error, Gradients, Halo, Isa, Kernel, LANES, Layout, Options, Order, Pool, Reduction,
    SparseConv, SparseDense, Threads, Window, on_this_thread,
};

const ORDERS: [Order; 2] = [Order::Lanes, Order::Pixels];

#[test]
fn epilogues_match_the_dense_reference() {
    let mut r = Random(11);
    for number in 0..80 {
        let order = r.pick(&ORDERS);
        let case = Case::random(&mut r, 2 + number % 3, order);
        let x = r.floats(case.inputs());
        let channels = case.kernel.outputs;
        let (scale, shift, residual) = (r.floats(channels), r.floats(channels), r.floats(case.outputs()));
        let has: [bool; 3] = std::array::from_fn(|_| r.below(2) == 0);
        let activation = r.pick(&[Activation::None, Activation::Relu, Activation::Relu6]);
        let expected: Vec<f64> = case
            .reference(&x)
            .iter()
            .enumerate()
            .map(|(i, &y)| {
                let c = i % channels;
                let y = if has[0] { y * f64::from(scale[c]) } else { y };
                let y = if has[1] { y + f64::from(shift[c]) } else { y };
                let y = if has[2] { y + f64::from(residual[i]) } else { y };
                match activation {
                    Activation::None => y,
                    Activation::Relu => y.max(0.0),
                    Activation::Relu6 => y.clamp(0.0, 6.0),
                }
            })
            .collect();
        for isa in available() {
            let (conv, values) = case.conv(order, isa, &Options::default());
            let residual = place(conv.output(), &residual);
            let epilogue = Epilogue {
                scale: has[0].then_some(&scale),
                shift: has[1].then_some(&shift),
                residual: has[2].then_some(&residual),
                activation,
            };
            let mut y = vec![0.0; conv.output().len];
            conv.forward(&values, &place(conv.input(), &x), &mut y, &epilogue, on_this_thread())
                .unwrap();
            assert_close(
                &take(conv.output(), &y),
                &expected,
                8.0,
                &format!("{number} {isa:?} {epilogue:?} {case:?}"),
            );
        }
    }
}

#[test]
fn sums_match_the_dense_reference() {
    let mut r = Random(12);
    for number in 0..60 {
        let order = r.pick(&ORDERS);
        let batch = r.pick(&[1, 3, 16, 19]);
        let case = Case::random(&mut r, batch, order);
        let x = r.floats(case.inputs());
        let channels = case.kernel.outputs;
        let pivots = r.floats(channels);
        let y = case.reference(&x);
        let n = y.len() / channels;
        let mean: Vec<f64> = (0..channels)
            .map(|c| y.iter().skip(c).step_by(channels).sum::<f64>() / n as f64)
            .collect();
        let square = |c: usize| {
            y.iter()
                .skip(c)
                .step_by(channels)
                .map(|y| (y - mean[c]).powi(2))
                .sum::<f64>()
                / n as f64
        };
        let variance: Vec<f64> = (0..channels).map(square).collect();
        for isa in available() {
            let what = format!("{number} {isa:?} {case:?}");
            let (conv, values) = case.conv(order, isa, &Options::default());
            let mut out = vec![0.0; conv.output().len];
            let input = place(conv.input(), &x);
            let epilogue = Epilogue {
                shift: Some(&pivots),
                ..Epilogue::default()
            };
            let pivots = r.pick(&[None, Some(&*pivots)]);
            let sums = conv
                .forward_with_sums(&values, &input, &mut out, &epilogue, pivots, on_this_thread())
                .unwrap();
            let (found_mean, found_variance) = sums.moments(pivots);
            assert_close(&found_mean, &mean, 8.0, &what);
            assert_close(&found_variance, &variance, 40.0, &what);
            let shifted: Vec<f64> = y
                .iter()
                .enumerate()
                .map(|(i, y)| y + f64::from(epilogue.shift.unwrap()[i % channels]))
                .collect();
            assert_close(&take(conv.output(), &out), &shifted, 8.0, &what);
        }
    }
}

#[test]
fn infinities_and_nan_propagate_through_connections() {
    let mut r = Random(13);
    for number in 0..120 {
        let order = r.pick(&ORDERS);
        let mut case = Case::random(&mut r, 2, order);
        let mut x = r.floats(case.inputs());
        for _ in 0..3 {
            let i = r.below(x.len());
            x[i] = r.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        }
        if case.window.pads == [[0; 2]; 2] {
            let i = r.below(case.weights.len());
            case.weights[i] = r.pick(&[f32::INFINITY, f32::NAN]);
        }
        let activation = r.pick(&[Activation::None, Activation::Relu, Activation::Relu6]);
        let expected: Vec<f64> = case
            .reference(&x)
            .into_iter()
            .map(|y| match activation {
                Activation::None => y,
                Activation::Relu | Activation::Relu6 if y < 0.0 => 0.0,
                Activation::Relu6 if y > 6.0 => 6.0,
                Activation::Relu | Activation::Relu6 => y,
            })
            .collect();
        for isa in available() {
            let (conv, values) = case.conv(order, isa, &Options::default());
            let mut y = vec![0.0; conv.output().len];
            let epilogue = Epilogue {
                activation,
                ..Epilogue::default()
            };
            conv.forward(&values, &place(conv.input(), &x), &mut y, &epilogue, on_this_thread())
                .unwrap();
            assert_close(
                &take(conv.output(), &y),
                &expected,
                8.0,
                &format!("{number} {isa:?} {case:?}"),
            );
            let elements: usize = take(conv.output(), &y).len();
            let zeros = y.iter().filter(|v| **v == 0.0).count();
            assert!(
                order == Order::Lanes || zeros + elements >= y.len(),
                "the halo of {number} is not zero"
            );
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let mut r = Random(14);
    let kernel = Kernel::new(3, 3, 40, 70);
    let window = Window::same([3, 3], [1, 1], 14, 14);
    let mask = r.mask(kernel.size(), 0.1);
    let weights = r.floats(kernel.size());
    for batch in [1, 37] {
        let layout = |channels| match batch {
            1 => Layout::pixels(1, 14, 14, channels, Halo::all(1)),
            _ => Layout::skewed_lanes(batch, 14, 14, channels, Halo::all(1)),
        };
        let (x, y) = (layout(40), layout(70));
        let mut conv = SparseConv::new(kernel, window, x, y, &mask, &Options::default()).unwrap();
        if batch > 1 {
            conv = conv
                .with_gradients(Gradients { output: y, input: x }, &Options::default())
                .unwrap();
        }
        let values = conv.gather(&weights).unwrap();
        let input = place(&x, &r.floats(batch * 14 * 14 * 40));
        let dy = place(&y, &r.floats(batch * 14 * 14 * 70));
        let run = |count: usize| {
            let threads = Threads::new(count);
            let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
            let (mut out, mut dx) = (Buffer::zeros(y.len), Buffer::zeros(x.len));
            let mut dw = vec![0.0; conv.connections()];
            let sums = conv
                .forward_with_sums(&values, &input, &mut out, &Epilogue::default(), None, &parallel)
                .unwrap();
            if batch > 1 {
                conv.input_gradient(&values, &dy, &mut dx, &parallel).unwrap();
                conv.kernel_gradient(&input, &dy, &mut dw, &parallel).unwrap();
            }
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (bits(&take(&y, &out)), bits(&take(&x, &dx)), bits(&dw), sums)
        };
        let one = run(1);
        assert!((2..6).all(|count| run(count) == one), "batch {batch}");
    }
}

#[test]
fn masks_can_be_replaced_in_place() {
    let mut r = Random(15);
    let mut case = Case::random(&mut r, 17, Order::Lanes);
    let options = Options::default();
    let (conv, _) = case.conv(Order::Lanes, Isa::detect(), &options);
    let layouts = case.gradients();
    let mut conv = conv.with_gradients(layouts, &options).unwrap();
    case.mask = r.mask(case.kernel.size(), 0.2);
    conv.set_mask(&case.mask).unwrap();
    let values = conv.gather(&case.weights).unwrap();
    let masked: Vec<f32> = case
        .weights
        .iter()
        .zip(&case.mask)
        .map(|(&w, &m)| if m { w } else { 0.0 })
        .collect();
    assert_eq!(conv.scatter(&values).unwrap(), masked);
    let dy = r.floats(case.outputs());
    let mut dx = vec![0.0; layouts.input.len];
    conv.input_gradient(&values, &place(&layouts.output, &dy), &mut dx, on_this_thread())
        .unwrap();
    assert_close(
        &take(&layouts.input, &dx),
        &case.reference_input_gradient(&dy),
        8.0,
        "input gradient",
    );
    let mut scaled = values.clone();
    let factors = r.floats(case.kernel.outputs);
    conv.scale(&mut scaled, &factors).unwrap();
    let channels = case.kernel.outputs;
    let expected: Vec<f32> = masked
        .iter()
        .enumerate()
        .map(|(i, w)| w * factors[i % channels])
        .collect();
    assert_eq!(conv.scatter(&scaled).unwrap(), expected);
}

#[test]
fn dense_layers_match_the_reference_in_every_batch() {
    let mut r = Random(16);
    for batch in [1, 2, 15, 16, 17, 64, 100, 129] {
        let (inputs, outputs) = (1 + r.below(300), 1 + r.below(100));
        let kernel = Kernel::new(1, 1, inputs, outputs);
        let density = r.pick(&[0.0, 0.05, 0.2, 1.0]);
        let case = Case {
            kernel,
            window: Window::unit(),
            batch,
            height: 1,
            width: 1,
            mask: r.mask(kernel.size(), density),
            weights: r.floats(kernel.size()),
        };
        let (x, dy) = (r.floats(case.inputs()), r.floats(case.outputs()));
        for isa in available() {
            let options = Options {
                isa: Some(isa),
                ..Options::default()
            };
            let layer = SparseDense::new(batch, inputs, outputs, &case.mask, &options).unwrap();
            let values = layer.gather(&case.weights).unwrap();
            let (from, to) = (*layer.input(), *layer.output());
            let (mut y, mut dx) = (vec![0.0; to.len], vec![0.0; from.len]);
            let mut gradient = vec![0.0; layer.connections()];
            let (input, slope) = (place(&from, &x), place(&to, &dy));
            layer
                .forward(&values, &input, &mut y, &Epilogue::default(), on_this_thread())
                .unwrap();
            layer
                .input_gradient(&values, &slope, &mut dx, on_this_thread())
                .unwrap();
            layer
                .kernel_gradient(&input, &slope, &mut gradient, on_this_thread())
                .unwrap();
            let dense = layer.scatter(&gradient).unwrap();
            let what = format!("batch {batch}, {isa:?}");
            assert_close(&take(&to, &y), &case.reference(&x), 16.0, &what);
            assert_close(&take(&from, &dx), &case.reference_input_gradient(&dy), 16.0, &what);
            assert_close(&dense, &case.reference_kernel_gradient(&x, &dy), 16.0, &what);
        }
    }
}

/// The elements of `[batch, height, width, channels]` under each position of a window.
fn pool_windows(size: [usize; 2], window: &Window, dims: [usize; 4]) -> Vec<Vec<usize>> {
    let [batch, height, width, channels] = dims;
    let [rows, columns] = window.output(size, height, width).unwrap();
    let mut windows = Vec::new();
    for position in 0..batch * rows * columns * channels {
        let (c, pixel) = (position % channels, position / channels);
        let (column, row, n) = (pixel % columns, pixel / columns % rows, pixel / columns / rows);
        let element = |k: usize| {
            let h = (row * window.stride[0] + k / size[1]).wrapping_sub(window.pads[0][0]);
            let w = (column * window.stride[1] + k % size[1]).wrapping_sub(window.pads[1][0]);
            (h < height && w < width).then(|| ((n * height + h) * width + w) * channels + c)
        };
        windows.push((0..size[0] * size[1]).filter_map(element).collect());
    }
    windows
}

/// The pooled values, and the gradient of `values` from that of the result.
fn pool_reference(reduction: Reduction, windows: &[Vec<usize>], values: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut gradient = vec![0.0f64; values.len()];
    let pool = |(elements, dy): (&Vec<usize>, &f32)| {
        let (dy, n) = (f64::from(*dy), elements.len() as f64);
        match reduction {
            Reduction::Average => {
                elements.iter().for_each(|&i| gradient[i] += dy / n);
                elements.iter().map(|&i| f64::from(values[i])).sum::<f64>() / n
            }
            Reduction::Max => {
                let larger = |a: usize, b: usize| if values[a] >= values[b] { a } else { b };
                let largest = elements.iter().copied().reduce(larger).unwrap();
                gradient[largest] += dy;
                let nan = elements.iter().any(|&i| values[i].is_nan());
                if nan { f64::NAN } else { f64::from(values[largest]) }
            }
        }
    };
    let pooled = windows.iter().zip(dy).map(pool).collect();
    (pooled, gradient)
}

#[test]
fn pooling_matches_the_reference() {
    let mut r = Random(17);
    for number in 0..100 {
        let order = r.pick(&[Order::Lanes, Order::Pixels, Order::Channels]);
        let (size, stride) = (
            r.pick(&[[3, 3], [2, 2], [2, 3], [1, 1]]),
            r.pick(&[[1, 1], [2, 2], [2, 1]]),
        );
        let (batch, height, width, channels) = (r.pick(&[1, 5, 18]), 3 + r.below(8), 3 + r.below(20), 1 + r.below(5));
        let window = match r.below(2) {
            0 => Window::valid(stride),
            _ => Window::same(size, stride, height, width),
        };
        let [oh, ow] = window.output(size, height, width).unwrap();
        let layout = |h, w| match order {
            Order::Lanes => Layout::lanes(batch, h, w, channels, Halo::all(number % 2)),
            Order::Pixels => Layout::pixels(batch, h, w, channels, Halo::all(number % 2)),
            Order::Channels => Layout::channels(batch, h, w, channels, Halo::all(number % 2)),
        };
        let (x, y) = (layout(height, width), layout(oh, ow));
        // Few different values, so that maxima are equal.
        let mut values: Vec<f32> = (0..batch * height * width * channels)
            .map(|_| r.below(4) as f32 - 2.0)
            .collect();
        values[0] = f32::NAN;
        let dy = r.floats(batch * oh * ow * channels);
        for reduction in [Reduction::Max, Reduction::Average] {
            let windows = pool_windows(size, &window, [batch, height, width, channels]);
            let (expected, slopes) = pool_reference(reduction, &windows, &values, &dy);
            for isa in available() {
                let what = format!("{number} {isa:?} {reduction:?} {order:?} {size:?} {window:?} {x:?}");
                let pool = Pool::new(reduction, size, window, x, y, Some(isa)).unwrap();
                let mut out = vec![0.0; y.len];
                pool.forward(&place(&x, &values), &mut out, on_this_thread()).unwrap();
                assert_close(&take(&y, &out), &expected, 1.0, &what);
                if order == Order::Lanes {
                    let mut dx = vec![9.0; x.len];
                    pool.gradient(&place(&x, &values), &place(&y, &dy), &mut dx, on_this_thread())
                        .unwrap();
                    assert_close(&take(&x, &dx), &slopes, 1.0, &what);
                }
            }
        }
    }
}

#[test]
fn global_averages_change_the_order_of_lanes() {
    let mut r = Random(18);
    for order in ORDERS {
        for batch in [1, 4, 16, 18] {
            let x = match order {
                Order::Lanes => Layout::lanes(batch, 7, 7, 3, Halo::all(1)),
                Order::Pixels | Order::Channels => Layout::pixels(batch, 7, 7, 3, Halo::all(1)),
            };
            let y = Layout::features(batch, 3);
            let values = r.floats(batch * 49 * 3);
            let pool = Pool::new(Reduction::Average, [7, 7], Window::unit(), x, y, None).unwrap();
            let mut out = vec![0.0; y.len];
            pool.forward(&place(&x, &values), &mut out, on_this_thread()).unwrap();
            let mean =
                |n: usize, c: usize| (0..49).map(|p| f64::from(values[(n * 49 + p) * 3 + c])).sum::<f64>() / 49.0;
            let expected: Vec<f64> = (0..batch * 3).map(|i| mean(i / 3, i % 3)).collect();
            assert_close(&take(&y, &out), &expected, 1.0, &format!("{order:?} {batch}"));
        }
    }
}

#[test]
fn rejects_mismatched_arrays() {
    let kernel = Kernel::new(3, 3, 2, 2);
    let window = Window::same([3, 3], [1, 1], 4, 4);
    let new = |x: Layout, y: Layout, mask: usize| {
        SparseConv::new(kernel, window, x, y, &vec![true; mask], &Options::default()).map(|_| ())
    };
    let good = Layout::lanes(2, 4, 4, 2, Halo::all(1));
    let bare = Layout::lanes(2, 4, 4, 2, Halo::default());
    assert_eq!(new(good, bare, 36), Ok(()));
    assert_eq!(new(bare, good, 36), Ok(()));
    assert!(matches!(new(good, good, 35), Err(Error::Length { what: "mask", .. })));
    assert!(new(Layout::lanes(2, 4, 4, 3, Halo::all(1)), good, 36).is_err());
    assert!(new(Layout::pixels(2, 4, 4, 2, Halo::all(1)), good, 36).is_err());
    assert!(new(Layout::lanes(0, 4, 4, 2, Halo::all(1)), good, 36).is_err());
    assert!(new(Layout::lanes(LANES, 1 << 14, 1 << 14, 2, Halo::all(1)), good, 36).is_err());
    let narrow = Layout::pixels(2, 4, 4, 2, Halo::default());
    let message = new(narrow, narrow, 36).unwrap_err().to_string();
    assert!(message.contains("columns between the rows of the output"), "{message}");

    let conv = SparseConv::new(kernel, window, good, bare, &[true; 36], &Options::default()).unwrap();
    let (x, mut y) = (vec![0.0; good.len], vec![0.0; bare.len]);
    let epilogue = Epilogue::default();
    assert!(
        conv.forward(&[0.0; 36], &x[1..], &mut y, &epilogue, on_this_thread())
            .is_err()
    );
    let short = Epilogue {
        shift: Some(&[0.0]),
        ..epilogue
    };
    assert!(conv.forward(&[0.0; 36], &x, &mut y, &short, on_this_thread()).is_err());
    let message = conv
        .input_gradient(&[0.0; 36], &y, &mut x.clone(), on_this_thread())
        .unwrap_err()
        .to_string();
    assert!(message.contains("with_gradients"), "{message}");
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        let options = Options {
            isa: Some(isa),
            ..Options::default()
        };
        assert!(SparseConv::new(kernel, window, good, bare, &[true; 36], &options).is_err());
    }
}

#[test]
fn threads_propagate_panics_and_stay_usable() {
    let threads = Threads::new(3);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        threads.run(8, &|piece| assert!(piece != 5));
    }));
    assert!(failed.is_err());
    let sum = std::sync::atomic::AtomicUsize::new(0);
    for _ in 0..1000 {
        threads.run(7, &|piece| {
            sum.fetch_add(piece, std::sync::atomic::Ordering::Relaxed);
        });
    }
    assert_eq!(sum.into_inner(), 21_000);
}
