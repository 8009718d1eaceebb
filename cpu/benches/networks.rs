//! Predicts with ResNet-50 and MobileNet-v1, uniformly sparse, with random weights: all in the layout by pixels, normalisation folded
//! into kernels, ReLU and residual sums in epilogues.
//!
//! `cargo bench -p rigl-cpu --bench networks -- [--network resnet50|mobilenet-v1] [--sparsity 0.9,0.95] [--batch 1,8,64] [--threads N]
//! [--seconds S] [--profile 1] [--check 1]` prints a JSON object per line. One image is shared by all threads; of several, each
//! thread takes whole images. `--check 1` compares with a dense reference, `--profile 1` prints times per layer.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/network.rs"]
mod network;

use common::{list, noise, time};
use cpu::{Activation, After, Features, Kernel, Network, NetworkBuilder, Reduction, Threads, Weights, Window};
use network::{Network as Description, Step};

fn ready(of: &Description) -> Network {
    let [side, channels] = of.shapes[0];
    let (mut builder, input) = NetworkBuilder::new([side, side, channels]);
    let mut features: Vec<Features> = vec![input];
    for step in &of.steps {
        let next = match step {
            Step::Conv(c) => {
                let ([side, inputs], [_, outputs]) = (of.shapes[c.from], of.shapes[c.to]);
                let kernel = match c.depthwise {
                    true => Kernel::depthwise(c.size, c.size, inputs, 1),
                    false => Kernel::new(c.size, c.size, inputs, outputs),
                };
                let weights = Weights {
                    kernel,
                    window: Window::same([c.size; 2], [c.stride; 2], side, side),
                    mask: Some((&c.mask[..]).into()),
                    values: (&c.weights[..]).into(),
                };
                let after = After {
                    scale: Some(c.scale.clone()),
                    shift: Some(c.shift.clone()),
                    residual: c.residual.map(|residual| features[residual]),
                    activation: match c.activation {
                        0 => Activation::None,
                        1 => Activation::Relu,
                        _ => Activation::Relu6,
                    },
                };
                builder.conv(features[c.from], weights, after)
            }
            &Step::MaxPool { from, .. } => {
                let [side, _] = of.shapes[from];
                let window = Window::same([3, 3], [2, 2], side, side);
                builder.pool(features[from], Reduction::Max, [3, 3], window)
            }
            &Step::Mean { from, .. } => {
                let [side, _] = of.shapes[from];
                builder.pool(features[from], Reduction::Average, [side; 2], Window::unit())
            }
        };
        features.push(next.unwrap());
    }
    builder.build(features[features.len() - 1]).unwrap()
}

fn main() {
    let (mut names, mut sparsities, mut batches) = (vec!["resnet50", "mobilenet-v1"], vec![0.9, 0.95], vec![1, 8, 64]);
    let mut count = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut seconds, mut profile, mut check) = (1.0, false, false);
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    for pair in words.chunks(2) {
        let value = &*pair[1];
        match &*pair[0] {
            "--network" => names = vec![value],
            "--sparsity" => sparsities = list(value),
            "--batch" => batches = list(value),
            "--threads" => count = value.parse().unwrap(),
            "--seconds" => seconds = value.parse().unwrap(),
            "--profile" => profile = true,
            "--check" => check = true,
            other => panic!("unknown argument {other}"),
        }
    }
    let threads = Threads::new(count);
    for name in names {
        for &sparsity in &sparsities {
            let described = match name {
                "resnet50" => Description::resnet50(sparsity),
                _ => Description::mobilenet_v1(sparsity),
            };
            let network = ready(&described);
            if check {
                let picture = noise(network.inputs(), 5);
                let mut logits = vec![0.0; network.outputs()];
                network.predict(&picture, &mut logits, &threads).unwrap();
                let expected = described.reference(&picture);
                let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                let error = logits
                    .iter()
                    .zip(&expected)
                    .fold(0.0f32, |a, (x, y)| a.max((x - y).abs()));
                assert!(
                    error <= 1e-4 * largest,
                    "differs by {error} from a dense reference, of at most {largest}"
                );
                println!(
                    "{{\"network\": \"{name}\", \"sparsity\": {sparsity}, \"relative_error\": {:.1e}}}",
                    error / largest
                );
            }
            if profile {
                print_profile(&network, seconds, &threads);
            }
            for &batch in &batches {
                let pictures = noise(batch * network.inputs(), 5);
                let mut logits = vec![0.0; batch * network.outputs()];
                let took = time(count, seconds, || {
                    network.predict(&pictures, &mut logits, &threads).unwrap()
                });
                println!(
                    "{{\"network\": \"{name}\", \"sparsity\": {sparsity}, \"batch\": {batch}, \"threads\": {count}, \"ms\": {:.3}, \
                     \"images_per_s\": {:.1}}}",
                    took * 1e3,
                    batch as f64 / took
                );
            }
        }
    }
}

/// The least time of each step within a budget of seconds.
fn print_profile(network: &Network, seconds: f64, threads: &Threads) {
    let picture = noise(network.inputs(), 5);
    let mut least = network.profile(&picture, threads).unwrap();
    let begin = std::time::Instant::now();
    while begin.elapsed().as_secs_f64() < seconds {
        let times = network.profile(&picture, threads).unwrap();
        let each = least.iter_mut().zip(times);
        each.for_each(|(least, time)| least.seconds = least.seconds.min(time.seconds));
    }
    for step in least {
        println!(
            "{{\"layer\": \"{}\", \"us\": {:.1}, \"gflops\": {:.1}}}",
            step.name,
            step.seconds * 1e6,
            2e-9 * step.multiply_adds as f64 / step.seconds
        );
    }
}
