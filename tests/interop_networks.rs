//! Compares our image networks with JAX ones written from the reference alone: logits, loss, gradients of every parameter and moved
//! statistics, in small variants with arrays of no particular kind; and logits of whole networks, in the forms in which the
//! program has them on a CPU.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hlo::random::Key;
use hlo::{Computation, Graph, Literal, Shape, grad};
use lowering::{Target, lower};
use models::{Declaration, Draw, Init, Mode, Model, Net, Options, layers};
use pjrt::{Arg, CompileOptions, DeviceKind};
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::engine::Pjrt;
use sparse::rng::{BoundedRng, Stream, stream};

const PACKAGES: &[&str] = &["jax==0.4.38", "numpy==2.2.6", "safetensors==0.5.3"];

/// Examples of a small variant.
const BATCH: usize = 4;

/// One client for all tests of this process.
static DEVICE: LazyLock<Pjrt> = LazyLock::new(|| Pjrt::open(DeviceKind::Cpu, None, 1).unwrap());

/// A network to compare. The seed is one for which no activation lies so near to zero that rounding would decide on
/// which side, and so on gradients: the script prints the margin.
struct Compared {
    name: &'static str,
    options: Options,
    batch: usize,
    seed: u64,
    /// Elements of an array after which its values repeat.
    distinct: usize,
}

impl Compared {
    /// Narrow, on small images.
    fn small(name: &'static str, image_size: usize, width: f64, seed: u64) -> Self {
        let options = Options {
            width: Some(width),
            image_size: Some(image_size),
            classes: Some(7),
            dropout: name.starts_with("wrn").then_some(0.0),
            ..Options::new(name, true)
        };
        Compared {
            name,
            options,
            batch: BATCH,
            seed,
            distinct: usize::MAX,
        }
    }

    /// As published, one image.
    fn whole(name: &'static str) -> Self {
        Compared {
            name,
            options: Options::new(name, true),
            batch: 1,
            seed: 1,
            // Out of step with any dimension; drawing them all would take a minute.
            distinct: 65_537,
        }
    }

    fn random(&self, name: &str) -> Stream {
        stream(self.seed, "interop", name, 0)
    }

    /// An array for a parameter or statistic. Activations neither grow nor vanish, nothing is zero, and no normalisation
    /// starts as the identity.
    fn array(&self, name: &str, dims: &[usize], init: Init) -> Literal {
        let (centre, scale) = match (init.draw(dims), dims) {
            (Draw::Constant(value), _) if name.ends_with("gamma") => (value.max(0.2), 0.2 * value.max(0.2)),
            (Draw::Constant(value), _) => (value, 0.2),
            (_, [window @ .., inputs, outputs]) => {
                let inputs = if *outputs == 1 { 1 } else { *inputs };
                (0.0, (2.0 / (window.iter().product::<usize>() * inputs) as f64).sqrt())
            }
            _ => panic!("{name} {dims:?}"),
        };
        let mut random = self.random(name);
        let mut draw = || (centre + scale * random.truncated_normal()) as f32;
        let n: usize = dims.iter().product();
        let drawn: Vec<f32> = (0..n.min(self.distinct)).map(|_| draw()).collect();
        let values: Vec<f32> = drawn.into_iter().cycle().take(n).collect();
        Literal::new(dims, &values)
    }

    /// Everything that a pass takes, by name.
    fn inputs(&self, network: &dyn Model, declared: &Declaration) -> BTreeMap<String, Literal> {
        let params = declared.params.iter().map(|p| (&p.name, &p.dims, p.init));
        let statistics = declared.statistics.iter().map(|s| (&s.name, &s.dims, s.init));
        let all = params.chain(statistics);
        let mut inputs: BTreeMap<_, _> = all
            .map(|(name, dims, init)| (name.clone(), self.array(name, dims, init)))
            .collect();
        let dims = [vec![self.batch], network.input_dims()].concat();
        let mut random = self.random("images");
        let pixels: Vec<f32> = (0..dims.iter().product()).map(|_| random.normal() as f32).collect();
        let classes = network.classes() as u64;
        let labels: Vec<i32> = (0..self.batch).map(|_| random.up_to(classes - 1) as i32).collect();
        inputs.insert("images".into(), Literal::new(&dims, &pixels));
        inputs.insert("labels".into(), Literal::new(&[self.batch], &labels));
        inputs
    }

    /// Compares the outputs of `passes` on the network.
    fn check(&self, passes: Passes) {
        let network = self.options.build().unwrap();
        let declared = network.declaration();
        let inputs = self.inputs(&*network, &declared);
        let shapes: Vec<_> = inputs
            .iter()
            .map(|(name, array)| (name.clone(), array.shape().clone()))
            .collect();
        let (computation, names) = passes(&*network, &declared, &shapes);
        let program = DEVICE
            .client
            .compile(&computation.to_bytes(&[]), &CompileOptions::default())
            .unwrap();
        let upload = |array: &Literal| DEVICE.client.to_device(array, 0).unwrap();
        let buffers: Vec<_> = inputs.values().map(upload).collect();
        let outputs = program.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
        let outputs = outputs.iter().map(|b| b.to_literal().unwrap());
        let inputs = inputs.into_iter().map(|(name, array)| (format!("input/{name}"), array));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passes.safetensors");
        let arrays = inputs.chain(names.into_iter().zip(outputs)).collect();
        save(&path, &arrays, &Metadata::new("", 0, "")).unwrap();
        let report = common::python::run(PACKAGES, "networks.py", &[path.to_str().unwrap(), self.name]);
        let report: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(&report).unwrap();
        for (mode, errors) in &report {
            for (kind, &error) in errors {
                let holds = match (mode.as_str(), kind.as_str()) {
                    (_, "margin") => error > 1e-6,
                    // Statistics of few numbers, layer after layer, enlarge rounding.
                    ("train", "gradient") => error < 1e-4,
                    _ => error < 1e-5,
                };
                assert!(holds, "{} {mode}: {kind} {error}; {report:?}", self.name);
            }
        }
    }
}

/// A graph of a network on named inputs, and the names of its outputs.
type Passes = fn(&dyn Model, &Declaration, &[(String, Shape)]) -> (Computation, Vec<String>);

/// The logits of an evaluation.
fn logits(network: &dyn Model, _: &Declaration, inputs: &[(String, Shape)]) -> (Computation, Vec<String>) {
    let computation = Graph::function("logits", inputs, |g, tensors| {
        let inputs = inputs.iter().map(|(name, _)| name.clone());
        let arrays: BTreeMap<_, _> = inputs.zip(tensors.iter().copied()).collect();
        vec![network.apply(&Net::new(g, Mode::Eval, arrays.clone()), arrays["images"])]
    });
    let lowered = lower(&computation.unwrap(), Target::Cpu).unwrap();
    (lowered, vec!["full/logits".into()])
}

/// Per mode logits, mean cross entropy, gradients and moved statistics, with their names.
fn passes(network: &dyn Model, declared: &Declaration, inputs: &[(String, Shape)]) -> (Computation, Vec<String>) {
    let mut names = vec![];
    let computation = Graph::function("passes", inputs, |g, tensors| {
        let inputs = inputs.iter().map(|(name, _)| name.clone());
        let arrays: BTreeMap<_, _> = inputs.zip(tensors.iter().copied()).collect();
        let key = Key::new(g.constant(Literal::new(&[2], &[0u32, 0])));
        let mut outputs = vec![];
        for (name, mode) in [("eval", Mode::Eval), ("train", Mode::Train(key))] {
            let net = Net::new(g, mode, arrays.clone());
            let logits = network.apply(&net, arrays["images"]);
            let loss = layers::cross_entropy(logits, arrays["labels"], 0.0).reduce_mean(&[0]);
            let params: Vec<_> = declared.params.iter().map(|p| arrays[&p.name]).collect();
            let gradients = declared.params.iter().map(|p| format!("gradient/{}", p.name));
            let gradients = gradients.zip(grad(loss, &params));
            let single = [("logits".to_string(), logits), ("loss".to_string(), loss)];
            for (output, tensor) in single.into_iter().chain(gradients).chain(net.updated_statistics()) {
                names.push(format!("{name}/{output}"));
                outputs.push(tensor);
            }
        }
        outputs
    });
    (computation.unwrap(), names)
}

fn check(name: &'static str, image_size: usize, width: f64, seed: u64) {
    Compared::small(name, image_size, width, seed).check(passes);
}

#[test]
fn resnet_of_basic_blocks() {
    check("resnet18", 45, 0.125, 8);
}

#[test]
fn resnet_of_bottlenecks() {
    check("resnet50", 66, 0.125, 11);
}

#[test]
fn mobilenet_v1() {
    check("mobilenet-v1", 66, 0.25, 8);
}

#[test]
fn mobilenet_v2() {
    check("mobilenet-v2", 66, 0.25, 4);
}

#[test]
fn wide_resnets() {
    check("wrn-10-1", 16, 1.0, 13);
    check("wrn-16-2", 18, 2.0, 3);
}

#[test]
fn vgg() {
    check("vgg-a", 35, 0.125, 13);
}

#[test]
fn whole_networks() {
    for name in ["resnet50", "mobilenet-v1", "mobilenet-v2"] {
        Compared::whole(name).check(logits);
    }
}
