//! Predicts with ResNet-50 and MobileNet-v1, uniformly sparse, with random weights: all in the layout by pixels, normalisation folded
//! into kernels, ReLU and residual sums in epilogues.
//!
//! `cargo bench -p cpu --bench networks -- [--network resnet50|mobilenet-v1] [--sparsity 0.9,0.95] [--batch 1,8,64] [--threads N]
//! [--seconds S] [--profile 1] [--check 1]` prints a JSON object per line. One picture is shared by all threads; of several, each
//! thread takes whole pictures. `--check 1` compares with a dense reference, `--profile 1` prints times per layer.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/network.rs"]
mod network;

use common::{list, noise, time};
use cpu::{
    Activation, Buffer, Epilogue, Halo, Kernel, Layout, Options, ParallelFor, Pool, Reduction, SparseConv, Threads,
    Window, on_this_thread,
};
use network::{Network, Step};
use std::sync::Mutex;

/// A step that is ready to run.
enum Ready {
    Conv {
        conv: Box<SparseConv>,
        values: Vec<f32>,
        shift: Vec<f32>,
        activation: Activation,
        residual: Option<usize>,
    },
    Pool(Box<Pool>),
}

struct Predictor {
    layouts: Vec<Layout>,
    /// The buffer of each activation: one that is no longer needed is used again for the same layout, whose halo stays zero.
    slots: Vec<usize>,
    /// Name, input, output and step.
    steps: Vec<(String, usize, usize, Ready)>,
}

impl Predictor {
    fn new(network: &Network) -> Self {
        let layout = |&[side, channels]: &[usize; 2]| match side {
            1 => Layout::features(1, channels),
            112 => Layout::pixels(1, side, side, channels, Halo::all(2)),
            _ => Layout::pixels(1, side, side, channels, Halo::all(1)),
        };
        let layouts: Vec<_> = network.shapes.iter().map(layout).collect();
        let steps = network.steps.iter().map(|step| match step {
            Step::Conv(c) => {
                let (x, y) = (layouts[c.from], layouts[c.to]);
                let kernel = match c.depthwise {
                    true => Kernel::depthwise(c.size, c.size, x.channels, 1),
                    false => Kernel::new(c.size, c.size, x.channels, y.channels),
                };
                let window = Window::same([c.size; 2], [c.stride; 2], x.height, x.width);
                let conv = SparseConv::new(kernel, window, x, y, &c.mask, &Options::default()).unwrap();
                let mut values = conv.gather(&c.weights).unwrap();
                conv.scale(&mut values, &c.scale).unwrap();
                let ready = Ready::Conv {
                    conv: Box::new(conv),
                    values,
                    shift: c.shift.clone(),
                    activation: match c.activation {
                        0 => Activation::None,
                        1 => Activation::Relu,
                        _ => Activation::Relu6,
                    },
                    residual: c.residual,
                };
                (c.name.clone(), c.from, c.to, ready)
            }
            &Step::MaxPool { from, to } => {
                let (x, y) = (layouts[from], layouts[to]);
                let window = Window::same([3, 3], [2, 2], x.height, x.width);
                let pool = Pool::new(Reduction::Max, [3, 3], window, x, y, None).unwrap();
                ("max pool".into(), from, to, Ready::Pool(Box::new(pool)))
            }
            &Step::Mean { from, to } => {
                let (x, y) = (layouts[from], layouts[to]);
                let pool = Pool::new(Reduction::Average, [x.height, x.width], Window::unit(), x, y, None).unwrap();
                ("mean".into(), from, to, Ready::Pool(Box::new(pool)))
            }
        });
        let steps: Vec<_> = steps.collect();
        let slots = slots(&layouts, &steps);
        Self { layouts, slots, steps }
    }

    fn buffers(&self) -> Vec<Buffer> {
        let count = self.slots.iter().max().map_or(0, |last| last + 1);
        let layout = |slot| {
            self.slots
                .iter()
                .position(|&s| s == slot)
                .map(|first| self.layouts[first])
        };
        (0..count)
            .map(|slot| Buffer::zeros(layout(slot).map_or(0, |layout| layout.len)))
            .collect()
    }

    /// Runs one step on the activations of a picture.
    fn step(&self, number: usize, buffers: &mut [Buffer], parallel: &ParallelFor<'_>) {
        let (_, from, to, ready) = &self.steps[number];
        let mut y = std::mem::replace(&mut buffers[self.slots[*to]], Buffer::zeros(0));
        let x = &buffers[self.slots[*from]];
        match ready {
            Ready::Conv {
                conv,
                values,
                shift,
                activation,
                residual,
            } => {
                let epilogue = Epilogue {
                    shift: Some(shift),
                    residual: residual.map(|r| &*buffers[self.slots[r]]),
                    activation: *activation,
                    ..Epilogue::default()
                };
                conv.forward(values, x, &mut y, &epilogue, parallel).unwrap();
            }
            Ready::Pool(pool) => pool.forward(x, &mut y, parallel).unwrap(),
        }
        buffers[self.slots[*to]] = y;
    }

    /// Predicts for a picture (HWC).
    fn predict(&self, picture: &[f32], buffers: &mut [Buffer], logits: &mut [f32], parallel: &ParallelFor<'_>) {
        self.layouts[0]
            .from_nhwc(picture, &mut buffers[self.slots[0]], parallel)
            .unwrap();
        for number in 0..self.steps.len() {
            self.step(number, buffers, parallel);
        }
        logits.copy_from_slice(&buffers[self.slots[self.slots.len() - 1]]);
    }
}

/// Assigns buffers to activations.
fn slots(layouts: &[Layout], steps: &[(String, usize, usize, Ready)]) -> Vec<usize> {
    let mut slots = vec![usize::MAX; layouts.len()];
    let (mut free, mut count) = (Vec::<usize>::new(), 1);
    slots[0] = 0;
    let reads = |step: &(String, usize, usize, Ready), activation: usize| {
        let residual = matches!(&step.3, Ready::Conv { residual, .. } if *residual == Some(activation));
        step.1 == activation || residual
    };
    for (number, step) in steps.iter().enumerate() {
        let to = step.2;
        let again = free.iter().position(|&old| layouts[old] == layouts[to]);
        slots[to] = again.map_or(count, |i| slots[free.swap_remove(i)]);
        count += usize::from(again.is_none());
        let dead = (0..layouts.len()).filter(|&a| reads(step, a) && !steps[number + 1..].iter().any(|s| reads(s, a)));
        free.extend(dead);
    }
    slots
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
    let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
    for name in names {
        for &sparsity in &sparsities {
            let network = match name {
                "resnet50" => Network::resnet50(sparsity),
                _ => Network::mobilenet_v1(sparsity),
            };
            let predictor = Predictor::new(&network);
            let picture = noise(224 * 224 * 3, 5);
            let mut buffers = predictor.buffers();
            let mut logits = vec![0.0; 1000];
            if check {
                predictor.predict(&picture, &mut buffers, &mut logits, &parallel);
                let expected = network.reference(&picture);
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
                print_profile(&predictor, &mut buffers, count, &parallel);
            }
            for &batch in &batches {
                let took = batch_seconds(&predictor, &picture, batch, count, seconds, &parallel);
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

fn print_profile(predictor: &Predictor, buffers: &mut [Buffer], count: usize, parallel: &ParallelFor<'_>) {
    for number in 0..predictor.steps.len() {
        let (name, _, to, ready) = &predictor.steps[number];
        let side = predictor.layouts[*to].height;
        let flops = match ready {
            Ready::Conv { conv, .. } => 2 * conv.connections() * side * side,
            Ready::Pool(_) => 0,
        };
        let took = time(count, 0.05, || predictor.step(number, buffers, parallel));
        println!(
            "{{\"layer\": \"{name}\", \"us\": {:.1}, \"gflops\": {:.1}}}",
            took * 1e6,
            flops as f64 / took / 1e9
        );
    }
}

/// Seconds of a prediction of `batch` pictures.
fn batch_seconds(
    predictor: &Predictor,
    picture: &[f32],
    batch: usize,
    count: usize,
    seconds: f64,
    parallel: &ParallelFor<'_>,
) -> f64 {
    let mut logits = vec![0.0; 1000];
    if batch == 1 {
        let mut buffers = predictor.buffers();
        return time(count, seconds, || {
            predictor.predict(picture, &mut buffers, &mut logits, parallel)
        });
    }
    let spare: Vec<_> = (0..count).map(|_| (predictor.buffers(), vec![0.0; 1000])).collect();
    let spare = Mutex::new(spare);
    time(count, seconds, || {
        parallel(batch, &|_| {
            let mut taken = spare.lock().unwrap().pop().unwrap();
            predictor.predict(picture, &mut taken.0, &mut taken.1, on_this_thread());
            spare.lock().unwrap().push(taken);
        });
    })
}
