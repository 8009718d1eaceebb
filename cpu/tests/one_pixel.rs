//! Windows over images of one pixel.
#![allow(missing_docs, clippy::unwrap_used)]

use cpu::{Epilogue, Gradients, Halo, Kernel, Layout, Options, SparseConv, Window, on_this_thread};

/// Image side, kernel size, stride and padding. The output is one pixel in every case.
const CASES: [(usize, usize, usize, [usize; 2]); 5] = [
    (1, 3, 1, [1, 1]),
    (1, 1, 1, [0, 0]),
    (2, 1, 2, [0, 0]),
    (2, 3, 2, [0, 1]),
    (1, 3, 2, [1, 1]),
];

#[test]
fn windows_that_leave_one_pixel_agree_with_a_dense_sum() {
    let (batch, inputs, outputs) = (32, 3, 2);
    for (side, size, stride, pads) in CASES {
        let kernel = Kernel::new(size, size, inputs, outputs);
        let window = Window {
            stride: [stride; 2],
            pads: [pads; 2],
        };
        let x = Layout::lanes(batch, side, side, inputs, Halo::default());
        let y = Layout::lanes(batch, 1, 1, outputs, Halo::default());
        let options = Options::default();
        let mask: Vec<bool> = (0..kernel.size()).map(|i| i % 3 != 1).collect();
        let weights: Vec<f32> = (0..kernel.size()).map(|i| i as f32 * 0.25 - 1.0).collect();
        let layer = SparseConv::new(kernel, window, x, y, &mask, &options).unwrap();
        let layer = layer
            .with_gradients(Gradients { output: y, input: x }, &options)
            .unwrap();
        let given: Vec<f32> = (0..x.len).map(|i| (i % 11) as f32 - 5.0).collect();
        let mut found = vec![0.0; y.len];
        let values = layer.gather(&weights).unwrap();
        layer
            .forward(&values, &given, &mut found, &Epilogue::default(), on_this_thread())
            .unwrap();
        let at = |row: usize, column: usize, input: usize, output: usize| {
            ((row * size + column) * inputs + input) * outputs + output
        };
        for example in 0..batch {
            for output in 0..outputs {
                let mut sum = 0.0;
                for (row, column) in (0..size).flat_map(|row| (0..size).map(move |column| (row, column))) {
                    let place = [row, column].map(|i| i.checked_sub(pads[0]).filter(|&i| i < side));
                    let [Some(from_row), Some(from_column)] = place else {
                        continue;
                    };
                    for input in 0..inputs {
                        let i = at(row, column, input, output);
                        if mask[i] {
                            sum += weights[i] * given[x.at(example, from_row, from_column, input)];
                        }
                    }
                }
                assert_eq!(
                    found[y.at(example, 0, 0, output)],
                    sum,
                    "{side} {size} {stride} {example} {output}"
                );
            }
        }
        let mut to_x = vec![0.0; x.len];
        layer
            .input_gradient(&values, &found, &mut to_x, on_this_thread())
            .unwrap();
        let mut to_values = vec![0.0; values.len()];
        layer
            .kernel_gradient(&given, &found, &mut to_values, on_this_thread())
            .unwrap();
        // <y, y> = <x, dx> = <values, dvalues>.
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let norm = dot(&found, &found);
        assert!(
            (dot(&given, &to_x) - norm).abs() < 1e-3 * norm,
            "{side} {size} {stride}"
        );
        assert!(
            (dot(&values, &to_values) - norm).abs() < 1e-3 * norm,
            "{side} {size} {stride}"
        );
    }
}
