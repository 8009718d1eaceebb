//! Times the layers of a table: forward, input gradient and kernel gradient of each, at several batches and densities.
//!
//! `cargo bench -p rigl-cpu --bench layers -- [--batch 1,16,64] [--sparsity 0.8,0.9,0.95] [--threads N] [--seconds S] [--only NAME]
//! [--isa avx512|avx2|portable] [--tile N] [--blocks INPUTS,OUTPUTS]` prints a JSON object per line: GFLOP/s of the connections,
//! the same counted for the dense layer, and the share of the processor's multiply-add peak, measured in the same run.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{list, noise, time};
use cpu::{Blocking, Buffer, Epilogue, Gradients, Halo, Isa, Kernel, Layout, Options, SparseConv, Threads, Window};

/// Name, kernel size, inputs, outputs, height and width.
const LAYERS: [(&str, usize, usize, usize, usize); 13] = [
    ("1x1 256 to 64, 56x56", 1, 256, 64, 56),
    ("1x1 64 to 256, 56x56", 1, 64, 256, 56),
    ("3x3 64, 56x56", 3, 64, 64, 56),
    ("1x1 512 to 128, 28x28", 1, 512, 128, 28),
    ("1x1 128 to 512, 28x28", 1, 128, 512, 28),
    ("3x3 128, 28x28", 3, 128, 128, 28),
    ("1x1 1024 to 256, 14x14", 1, 1024, 256, 14),
    ("1x1 256 to 1024, 14x14", 1, 256, 1024, 14),
    ("3x3 256, 14x14", 3, 256, 256, 14),
    ("1x1 2048 to 512, 7x7", 1, 2048, 512, 7),
    ("3x3 512, 7x7", 3, 512, 512, 7),
    ("3x3 32, 32x32", 3, 32, 32, 32),
    ("3x3 128, 8x8", 3, 128, 128, 8),
];

struct Arguments {
    batches: Vec<usize>,
    sparsities: Vec<f64>,
    threads: usize,
    seconds: f64,
    only: String,
    options: Options,
}

fn arguments() -> Arguments {
    let mut a = Arguments {
        batches: vec![1, 16, 64],
        sparsities: vec![0.8, 0.9, 0.95],
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        seconds: 0.1,
        only: String::new(),
        options: Options::default(),
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        match word.as_str() {
            "--batch" => a.batches = list(&value),
            "--sparsity" => a.sparsities = list(&value),
            "--threads" => a.threads = value.parse().unwrap(),
            "--seconds" => a.seconds = value.parse().unwrap(),
            "--only" => a.only = value,
            "--tile" => a.options.tile = Some(value.parse().unwrap()),
            "--blocks" => {
                let sizes = list(&value);
                a.options.blocking = Some(Blocking {
                    inputs: sizes[0],
                    outputs: sizes[1],
                });
            }
            "--isa" => {
                let named = |isa: &Isa| format!("{isa:?}").eq_ignore_ascii_case(&value);
                a.options.isa = Isa::ALL.into_iter().find(named);
            }
            other => panic!("unknown argument {other}"),
        }
    }
    a
}

fn main() {
    let a = arguments();
    let threads = Threads::new(a.threads);
    let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
    let isa = a.options.isa.unwrap_or_else(Isa::detect);
    let peak = cpu::multiply_add_peak(isa, &parallel, threads.count());
    println!(
        "{{\"isa\": \"{isa:?}\", \"threads\": {}, \"peak_gflops\": {peak:.0}}}",
        threads.count()
    );
    for &batch in &a.batches {
        for (name, size, inputs, outputs, side) in LAYERS {
            if !name.contains(&a.only) {
                continue;
            }
            for &sparsity in &a.sparsities {
                layer(
                    &a,
                    &parallel,
                    peak,
                    name,
                    [size, inputs, outputs, side, batch],
                    sparsity,
                );
            }
        }
    }
}

fn layer(
    a: &Arguments,
    parallel: &cpu::ParallelFor<'_>,
    peak: f64,
    name: &str,
    [size, inputs, outputs, side, batch]: [usize; 5],
    sparsity: f64,
) {
    let kernel = Kernel::new(size, size, inputs, outputs);
    let window = Window::same([size, size], [1, 1], side, side);
    let layout = |channels| match batch {
        1..8 => Layout::pixels(batch, side, side, channels, Halo::all(1)),
        _ => Layout::skewed_lanes(batch, side, side, channels, window.halo()),
    };
    let (x_layout, y_layout) = (layout(inputs), layout(outputs));
    let draws = noise(kernel.size(), 1);
    let mask: Vec<bool> = draws.iter().map(|&v| f64::from(v) >= sparsity * 2.0 - 1.0).collect();
    let conv = SparseConv::new(kernel, window, x_layout, y_layout, &mask, &a.options).unwrap();
    let values = conv.gather(&noise(kernel.size(), 2)).unwrap();
    let connections = conv.connections();
    let flops = 2.0 * (connections * batch * side * side) as f64;
    let dense = 2.0 * (kernel.size() * batch * side * side) as f64;
    let (x, mut y) = (noise(x_layout.len, 3), Buffer::zeros(y_layout.len));
    let report = |pass: &str, seconds: f64| {
        println!(
            "{{\"layer\": \"{name}\", \"batch\": {batch}, \"sparsity\": {sparsity}, \"pass\": \"{pass}\", \"us\": {:.1}, \
             \"gflops\": {:.1}, \"dense_gflops\": {:.0}, \"peak\": {:.3}}}",
            seconds * 1e6,
            flops / seconds / 1e9,
            dense / seconds / 1e9,
            flops / seconds / 1e9 / peak,
        );
    };
    let epilogue = Epilogue::default();
    report(
        "forward",
        time(a.threads, a.seconds, || {
            conv.forward(&values, &x, &mut y, &epilogue, parallel).unwrap()
        }),
    );
    if batch < 8 {
        return;
    }
    let gradients = Gradients {
        output: y_layout,
        input: x_layout,
    };
    let conv = conv.with_gradients(gradients, &a.options).unwrap();
    let (dy, mut dx) = (noise(y_layout.len, 4), Buffer::zeros(x_layout.len));
    report(
        "input gradient",
        time(a.threads, a.seconds, || {
            conv.input_gradient(&values, &dy, &mut dx, parallel).unwrap()
        }),
    );
    let mut gradient = vec![0.0; connections];
    report(
        "kernel gradient",
        time(a.threads, a.seconds, || {
            conv.kernel_gradient(&x, &dy, &mut gradient, parallel).unwrap()
        }),
    );
}
