#![allow(missing_docs)]
use cpu::{Activation, Buffer, Epilogue, Gradients, Halo, Kernel, Layout, Options, SparseConv, Threads, Window};

fn main() -> cpu::Result<()> {
    let (batch, side, inputs, outputs) = (16, 14, 32, 64);
    let kernel = Kernel::new(3, 3, inputs, outputs);
    let window = Window::same([3, 3], [1, 1], side, side);

    // Every tenth weight is a connection.
    let mask: Vec<bool> = (0..kernel.size()).map(|i| i % 10 == 0).collect();
    let weights: Vec<f32> = (0..kernel.size()).map(|i| (i % 7) as f32 * 0.01).collect();

    // Activations lie by lanes, with a halo of one pixel for the next 3 x 3 kernel.
    let x_layout = Layout::skewed_lanes(batch, side, side, inputs, Halo::all(1));
    let y_layout = Layout::skewed_lanes(batch, side, side, outputs, Halo::all(1));
    let gradients = Gradients {
        output: y_layout,
        input: x_layout,
    };
    let options = Options::default();
    let conv =
        SparseConv::new(kernel, window, x_layout, y_layout, &mask, &options)?.with_gradients(gradients, &options)?;
    let values = conv.gather(&weights)?;

    let threads = Threads::new(2);
    let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
    let pictures = vec![1.0; batch * side * side * inputs];
    let (mut x, mut y) = (Buffer::zeros(x_layout.len), Buffer::zeros(y_layout.len));
    x_layout.from_nhwc(&pictures, &mut x, &parallel)?;

    let bias = vec![0.1; outputs];
    let epilogue = Epilogue {
        shift: Some(&bias),
        activation: Activation::Relu,
        ..Epilogue::default()
    };
    conv.forward(&values, &x, &mut y, &epilogue, &parallel)?;

    // Gradients of the sum of all outputs.
    let (mut dy, mut dx) = (Buffer::zeros(y_layout.len), Buffer::zeros(x_layout.len));
    y_layout.from_nhwc(&vec![1.0; batch * side * side * outputs], &mut dy, &parallel)?;
    let mut slopes = vec![0.0; conv.connections()];
    conv.input_gradient(&values, &dy, &mut dx, &parallel)?;
    conv.kernel_gradient(&x, &dy, &mut slopes, &parallel)?;

    // The connection at the kernel's corner sees 13 x 13 of the 14 x 14 positions of each picture.
    assert_eq!(conv.structure().index[0] / (inputs * outputs) as u32, 0);
    assert_eq!(slopes[0], (batch * 13 * 13) as f32);
    println!("{} of {} connections", conv.connections(), kernel.size());
    Ok(())
}
