//! `rigl-xla cost --measured`: time of single layers on this machine, masked and from connections alone.

use std::collections::HashMap;
use std::time::Instant;

use cpu::{
    After, Epilogue, Gradients, Halo, Kernel, Layout, NetworkBuilder, Options, SparseConv, Threads, Weights, Window,
};
use hlo::{DType, Graph, Literal, Shape, Tensor, grad};
use models::{Kind, Layer};
use serde::Serialize;

use crate::config::Plan;
use crate::engine::{Arg, Buffer, Engine, Pjrt, Program};
use crate::report::table::{Style, Table};
use crate::report::units;
use crate::threads::cores;
use pjrt::DeviceKind;
use sparse::mask::random_mask;
use sparse::rng::stream;

/// Turns of either execution; the median counts.
const TURNS: usize = 5;

/// Seconds that a turn takes at least.
const TURN_S: f64 = 0.02;

/// Time of a layer in both executions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seconds {
    /// As a dense layer with masked weights, compiled by XLA.
    pub masked: f64,
    /// From the connections alone.
    pub sparse: f64,
}

impl Seconds {
    /// How many times as fast sparse execution is.
    pub fn gain(&self) -> f64 {
        self.masked / self.sparse
    }
}

/// A measured layer.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredLayer {
    /// Name of the layer.
    pub name: String,
    /// Share of weights that are connections.
    pub density: f64,
    /// Multiply-adds of a forward pass of one example, of the connections and of all weights.
    pub multiply_adds: [f64; 2],
    /// XLA's estimate of the operations of the masked training program, per example.
    pub compiled_flops: Option<f64>,
    /// Forward pass and both gradients of the run's batch (of a replica). `None` for batches that sparse training does not take.
    pub training: Option<Seconds>,
    /// Forward pass of one example in a prediction.
    pub prediction: Seconds,
}

/// Measures every masked layer of a plan on this processor, with random weights, masks and activations. Equal layers are measured
/// once.
///
/// # Errors
/// Errors of the plugin, its compiler and the kernels.
pub fn layers(plan: &Plan) -> anyhow::Result<Vec<MeasuredLayer>> {
    let device = Pjrt::open(DeviceKind::Cpu, plan.plugin(), 1)?;
    let threads = Threads::new(cores());
    let batch = plan.part_batch();
    let mut known = HashMap::new();
    let masked = plan.layers.iter().enumerate().filter(|(_, layer)| layer.masked);
    let mut measured = vec![];
    for (i, layer) in masked {
        let Some(budget) = plan.budgets.iter().find(|budget| budget.name == layer.name) else {
            continue;
        };
        let shape = (
            layer.dims.clone(),
            layer.strides,
            layer.input,
            layer.output,
            budget.nonzeros,
            i == 0,
        );
        let found: MeasuredLayer = match known.get(&shape) {
            Some(found) => MeasuredLayer::clone(found),
            None => {
                let bench = Bench::new(layer, budget.nonzeros, i > 0);
                let made = bench.measure(&device, &threads, batch)?;
                known.insert(shape, made.clone());
                made
            }
        };
        measured.push(MeasuredLayer {
            name: layer.name.clone(),
            ..found
        });
    }
    Ok(measured)
}

/// Formats the layers and their sums as a table.
pub fn table(layers: &[MeasuredLayer], style: Style) -> Table {
    let [count, _] = units::forms(style);
    let mut table = Table::new(&[
        "measured",
        "density",
        "multiply-adds",
        "compiled FLOPs",
        "training, ms",
        "sparse, ms",
        "gain",
        "prediction, ms",
        "sparse, ms",
        "gain",
    ]);
    let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
    let both = |times: Option<Seconds>| match times {
        Some(times) => [ms(times.masked), ms(times.sparse), format!("{:.2}", times.gain())],
        None => ["-".to_owned(), "-".to_owned(), "-".to_owned()],
    };
    let mut row = |name: &str, density: f64, adds: f64, flops: Option<f64>, training, prediction| {
        let [masked, sparse, gain] = both(training);
        let [masked_one, sparse_one, gain_one] = both(Some(prediction));
        table.row([
            name.to_owned(),
            format!("{density:.3}"),
            count(adds),
            flops.map_or("-".to_owned(), count),
            masked,
            sparse,
            gain,
            masked_one,
            sparse_one,
            gain_one,
        ]);
    };
    for layer in layers {
        let [adds, _] = layer.multiply_adds;
        row(
            &layer.name,
            layer.density,
            adds,
            layer.compiled_flops,
            layer.training,
            layer.prediction,
        );
    }
    let sum = |each: &dyn Fn(&MeasuredLayer) -> f64| layers.iter().map(each).sum::<f64>();
    let [adds, all] = [0, 1].map(|i| sum(&|layer| layer.multiply_adds[i]));
    let training = layers.iter().map(|layer| layer.training).collect::<Option<Vec<_>>>();
    let total = |times: &[Seconds]| Seconds {
        masked: times.iter().map(|t| t.masked).sum(),
        sparse: times.iter().map(|t| t.sparse).sum(),
    };
    let flops = layers.iter().map(|layer| layer.compiled_flops).sum::<Option<f64>>();
    let predictions: Vec<Seconds> = layers.iter().map(|layer| layer.prediction).collect();
    row(
        "total",
        adds / all,
        adds,
        flops,
        training.as_deref().map(total),
        total(&predictions),
    );
    table
}

/// A layer with random weights.
struct Bench<'a> {
    layer: &'a Layer,
    window: Window,
    weights: Vec<f32>,
    mask: Vec<bool>,
    /// Whether training needs the gradient of the input: not of a network's first layer.
    input_gradient: bool,
}

impl<'a> Bench<'a> {
    fn new(layer: &'a Layer, connections: usize, input_gradient: bool) -> Self {
        let weights = layer.weights();
        let windows = layer.padding.windows(layer.window(), layer.strides, layer.input);
        Bench {
            window: Window {
                stride: layer.strides,
                // Layers pad by nothing negative.
                pads: windows.map(|w| [w.pad_low, w.pad_high].map(|pad| usize::try_from(pad).unwrap_or(0))),
            },
            weights: noise("weights", weights),
            mask: random_mask(weights, weights - connections, &mut stream(0, "measure", "mask", 0)),
            layer,
            input_gradient,
        }
    }

    fn kernel(&self) -> Kernel {
        let [rows, columns] = self.layer.window();
        let [inputs, outputs] = self.channels();
        match self.layer.kind {
            Kind::Conv | Kind::Dense => Kernel::new(rows, columns, inputs, outputs),
            Kind::Depthwise => Kernel::depthwise(rows, columns, inputs, outputs / inputs),
        }
    }

    /// Channels of the input and of the output.
    fn channels(&self) -> [usize; 2] {
        let [.., inputs, outputs] = self.layer.dims[..] else {
            return [0; 2];
        };
        match self.layer.kind {
            Kind::Conv | Kind::Dense => [inputs, outputs],
            Kind::Depthwise => [inputs, inputs * outputs],
        }
    }

    /// Dimensions of the input or output of `batch` examples.
    fn dims(&self, batch: usize, [height, width]: [usize; 2], channels: usize) -> Vec<usize> {
        match self.layer.kind {
            Kind::Dense => vec![batch, channels],
            Kind::Conv | Kind::Depthwise => vec![batch, height, width, channels],
        }
    }

    fn measure(&self, device: &Pjrt, threads: &Threads, batch: usize) -> anyhow::Result<MeasuredLayer> {
        let connections = self.mask.iter().filter(|&&one| one).count();
        let positions = (self.layer.output[0] * self.layer.output[1]) as f64;
        let (masked, flops) = self.masked_training(device, batch)?;
        let sparse_training = match self.layer.kind {
            Kind::Conv if !batch.is_multiple_of(cpu::LANES) => None,
            Kind::Depthwise => None,
            Kind::Conv | Kind::Dense => Some(self.sparse_training(threads, batch)?),
        };
        let training = match sparse_training {
            Some(sparse) => Some(in_turns(masked, sparse)?),
            None => None,
        };
        let prediction = in_turns(self.masked_prediction(device)?, self.sparse_prediction(threads)?)?;
        Ok(MeasuredLayer {
            name: String::new(),
            density: connections as f64 / self.mask.len().max(1) as f64,
            multiply_adds: [connections, self.mask.len()].map(|weights| weights as f64 * positions),
            compiled_flops: flops.map(|flops| flops / batch as f64),
            training,
            prediction,
        })
    }

    /// The masked layer: its output, from its input, weights and mask.
    fn apply<'g>(&self, x: Tensor<'g>, effective: Tensor<'g>) -> Tensor<'g> {
        match self.layer.kind {
            Kind::Dense => x.matmul(effective),
            Kind::Conv | Kind::Depthwise => {
                x.conv2d(effective, self.layer.strides, self.layer.padding, self.layer.groups)
            }
        }
    }

    fn parameters(&self, batch: usize) -> Vec<(String, Shape)> {
        let [inputs, _] = self.channels();
        vec![
            ("weights".into(), Shape::new(DType::F32, self.layer.dims.clone())),
            ("mask".into(), Shape::new(DType::Pred, self.layer.dims.clone())),
            (
                "x".into(),
                Shape::new(DType::F32, self.dims(batch, self.layer.input, inputs)),
            ),
        ]
    }

    /// The program's call, and XLA's estimate of its operations.
    fn masked_training<'d>(&self, device: &'d Pjrt, batch: usize) -> anyhow::Result<(Call<'d>, Option<f64>)> {
        let [inputs, outputs] = self.channels();
        let mut parameters = self.parameters(batch);
        let output = self.dims(batch, self.layer.output, outputs);
        parameters.push(("cotangent".into(), Shape::new(DType::F32, output.clone())));
        let graph = Graph::function("layer", &parameters, |_, given| {
            let &[weights, mask, x, cotangent] = given else {
                return vec![];
            };
            let effective = mask.select(weights, weights.zeros_like());
            let y = self.apply(x, effective);
            let gradients = grad((y * cotangent).reduce_sum_all(), &[effective, x]);
            let kept = if self.input_gradient { 2 } else { 1 };
            with_number([&[y], &gradients[..kept]].concat())
        })?;
        let input = self.dims(batch, self.layer.input, inputs);
        let arrays = [
            Literal::new(&self.layer.dims, &self.weights),
            Literal::from_bools(&self.layer.dims, &self.mask),
            Literal::new(&input, &noise("x", input.iter().product())),
            Literal::new(&output, &noise("cotangent", output.iter().product())),
        ];
        let program = device.compile(&graph, &[], 1)?;
        // XLA does not count calls of host functions, so the program that it estimates has none.
        let plain = device.lowered_executable(&graph, &[], 1)?;
        let costs = plain.compiled().cost_analysis()?;
        let flops = costs.and_then(|costs| costs.get("flops")?.as_f64());
        let arrays = arrays.iter().map(|array| Ok(device.upload(array, 0)?));
        let arrays = arrays.collect::<anyhow::Result<_>>()?;
        Ok((timed(program, arrays), flops))
    }

    fn masked_prediction<'d>(&self, device: &'d Pjrt) -> anyhow::Result<Call<'d>> {
        let graph = Graph::function("layer", &self.parameters(1), |_, given| {
            let &[weights, mask, x] = given else {
                return vec![];
            };
            let effective = mask.select(weights, weights.zeros_like());
            with_number(vec![self.apply(x, effective)])
        })?;
        let [inputs, _] = self.channels();
        let input = self.dims(1, self.layer.input, inputs);
        let fixed = [
            Literal::new(&self.layer.dims, &self.weights),
            Literal::from_bools(&self.layer.dims, &self.mask),
        ];
        let x = Literal::new(&input, &noise("x", input.iter().product()));
        let [first, rest] = device.compile_prepared(&graph, fixed.len())?;
        let upload = |array| Ok(Arg::Donate(device.upload(array, 0)?));
        let mut arrays = first.execute(fixed.iter().map(upload).collect::<anyhow::Result<_>>()?)?;
        arrays.push(device.upload(&x, 0)?);
        Ok(timed(rest, arrays))
    }

    /// Forward pass and gradients, with what a program's call does besides: values from a dense kernel, and back.
    fn sparse_training<'t>(&self, threads: &'t Threads, batch: usize) -> anyhow::Result<Call<'t>> {
        let batch = batch.next_multiple_of(cpu::LANES);
        let [inputs, outputs] = self.channels();
        let layout = |[height, width]: [usize; 2], channels| match self.layer.kind {
            Kind::Dense => Layout::features(batch, channels),
            Kind::Conv | Kind::Depthwise => Layout::lanes(batch, height, width, channels, Halo::default()),
        };
        let (input, output) = (layout(self.layer.input, inputs), layout(self.layer.output, outputs));
        let options = Options::default();
        let layer = SparseConv::new(self.kernel(), self.window, input, output, &self.mask, &options)?
            .with_gradients(Gradients { output, input }, &options)?;
        let (x, dy) = (noise("x", input.len), noise("cotangent", output.len));
        let (mut y, mut dx) = (vec![0.0; output.len], vec![0.0; input.len]);
        let (weights, with_input, mut gradient) =
            (self.weights.clone(), self.input_gradient, vec![0.0; self.weights.len()]);
        Ok(Box::new(move || {
            let started = Instant::now();
            let parallel = |pieces: usize, run: &(dyn Fn(usize) + Sync)| threads.run(pieces, run);
            layer.forward(&layer.gather(&weights)?, &x, &mut y, &Epilogue::default(), &parallel)?;
            if with_input {
                layer.input_gradient(&layer.gather(&weights)?, &dy, &mut dx, &parallel)?;
            }
            let mut values = vec![0.0; layer.connections()];
            layer.kernel_gradient(&x, &dy, &mut values, &parallel)?;
            gradient.fill(0.0);
            layer.structure().scatter(&values, &mut gradient)?;
            Ok(started.elapsed().as_secs_f64())
        }))
    }

    fn sparse_prediction<'t>(&self, threads: &'t Threads) -> anyhow::Result<Call<'t>> {
        let [inputs, _] = self.channels();
        let [height, width] = self.layer.input;
        let (mut builder, picture) = NetworkBuilder::new([height, width, inputs]);
        let weights = Weights {
            kernel: self.kernel(),
            window: self.window,
            mask: Some(self.mask.as_slice().into()),
            values: self.weights.as_slice().into(),
        };
        let y = builder.conv(picture, weights, After::default())?;
        let network = builder.build(y)?;
        let x = noise("x", network.inputs());
        // Without the copies into and out of the layout of kernels, which a network makes once.
        Ok(Box::new(move || {
            let steps = network.profile(&x, threads)?;
            Ok(steps.iter().map(|step| step.seconds).sum())
        }))
    }
}

/// A call, which returns its seconds.
type Call<'t> = Box<dyn FnMut() -> anyhow::Result<f64> + 't>;

/// Adds a scalar that a host can wait for without copying the arrays.
fn with_number(arrays: Vec<Tensor<'_>>) -> Vec<Tensor<'_>> {
    let first = arrays.iter().map(|array| {
        let rank = array.shape().rank();
        array.slice(&vec![0; rank], &vec![1; rank]).reshape(&[])
    });
    let number = first.reduce(|a, b| a + b);
    arrays.into_iter().chain(number).collect()
}

/// A program on arrays, timed until its last result, a scalar, is on the host.
fn timed<'d>(program: Box<dyn Program>, arrays: Vec<Buffer>) -> Call<'d> {
    Box::new(move || {
        let started = Instant::now();
        let results = program.execute(arrays.iter().map(Arg::Keep).collect())?;
        if let Some(number) = results.last() {
            number.to_literal()?;
        }
        Ok(started.elapsed().as_secs_f64())
    })
}

/// Median seconds of both calls, which take turns.
fn in_turns(masked: Call<'_>, sparse: Call<'_>) -> anyhow::Result<Seconds> {
    let mut calls = [masked, sparse];
    for call in &mut calls {
        call()?;
    }
    let mut seconds = [vec![], vec![]];
    for _ in 0..TURNS {
        for (call, seconds) in calls.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            while started.elapsed().as_secs_f64() < TURN_S {
                seconds.push(call()?);
            }
        }
    }
    let [masked, sparse] = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    });
    Ok(Seconds { masked, sparse })
}

/// Numbers from -0.5 to 0.5.
fn noise(name: &str, n: usize) -> Vec<f32> {
    let mut random = stream(0, "measure", name, 0);
    (0..n).map(|_| random.uniform_f32() - 0.5).collect()
}
