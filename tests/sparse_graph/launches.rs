//! The training program of a small network, run launch by launch.

use crate::{Backend, Program, bools, random};
use hlo::{Literal, Tensor};
use models::{MnistFc, Model, Net};
use rigl_xla::config::{Layers, Plan};
use rigl_xla::train::launch::LAUNCH_OUTPUTS;
use rigl_xla::train::state::{counters, initial, specs};
use rigl_xla::train::step::{Row, Trainer, schedule};
use sparse::rng::BoundedRng;
use sparse::{Counters, Tick, UpdateTiming};

/// Masked fully connected layers `layer1`, `layer2`, … of these sizes, with ReLU between.
pub struct Small(pub Vec<usize>);

impl Model for Small {
    fn name(&self) -> &'static str {
        "small"
    }

    fn input_dims(&self) -> Vec<usize> {
        vec![self.0[0]]
    }

    fn classes(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    fn forward<'g>(&self, net: &Net<'g>, images: Tensor<'g>) -> Tensor<'g> {
        let (&classes, rest) = self.0.split_last().unwrap();
        let hidden = rest[1..].to_vec();
        let layers = MnistFc {
            pixels: rest[0],
            hidden,
            classes,
            ..MnistFc::new(true)
        };
        layers.forward(net, images)
    }
}

/// Examples of the data set. Every iteration sees all of them, in a different order.
const EXAMPLES: usize = 8;

/// A plan for `model` from a preset and these values over it.
pub fn plan(preset: &str, model: &Small, values: &[(&[&str], toml::Value)]) -> Plan {
    let mut layers = Layers::preset(preset).unwrap();
    for (key, value) in values {
        layers = layers.set("test", key, value.clone()).unwrap();
    }
    let mut run = layers
        .set("test", &["train", "batch_size"], EXAMPLES as i64)
        .unwrap()
        .run()
        .unwrap();
    run.sparsity
        .layers
        .retain(|name, _| name == "layer3" && model.0.len() > 3);
    Plan::for_params(run, model.params()).unwrap()
}

/// Training of a plan on random data.
pub struct Training<'a> {
    plan: &'a Plan,
    model: &'a Small,
    program: Program,
    names: Vec<String>,
    pub state: Vec<Literal>,
    pub counters: Counters,
}

impl<'a> Training<'a> {
    pub fn new(backend: Backend, plan: &'a Plan, model: &'a Small) -> Self {
        let (launch, _) = Trainer { plan, model }.launch(EXAMPLES).unwrap();
        let names: Vec<String> = specs(plan).into_iter().map(|(name, _)| name).collect();
        let mut initial = initial(plan).unwrap();
        Training {
            program: backend.program(launch),
            state: names.iter().map(|name| initial.remove(name).unwrap()).collect(),
            counters: Counters::start(plan.method.timing, &plan.schedule),
            names,
            plan,
            model,
        }
    }

    /// Runs one launch of `count` iterations. Returns their ticks, and [`LAUNCH_OUTPUTS`].
    pub fn launch(&mut self, count: usize) -> (Vec<Tick>, Vec<Literal>) {
        let k = self.plan.run.train.steps_per_launch as usize;
        let first = self.counters.iteration as usize;
        let (ticks, rows): (Vec<Tick>, Vec<Row>) = schedule(self.plan, &mut self.counters, count).into_iter().unzip();
        let mut indices: Vec<i32> = (0..k)
            .flat_map(|i| {
                let mut order: Vec<i32> = (0..EXAMPLES as i32).collect();
                random("order", first + i).shuffle(&mut order);
                order
            })
            .collect();
        indices.resize(k * EXAMPLES, 0);
        let columns = Row::columns(self.plan);
        let mut schedule: Vec<f32> = rows.iter().flat_map(Row::values).collect();
        schedule.resize(k * columns, f32::NAN); // never to be looked at
        let mut rng = random("data", 0);
        let pixels = self.model.0[0];
        let images: Vec<u8> = (0..EXAMPLES * pixels).map(|_| rng.up_to(255) as u8).collect();
        let labels: Vec<i32> = (0..EXAMPLES)
            .map(|_| rng.up_to(self.model.classes() as u64 - 1) as i32)
            .collect();
        let inputs = [
            Literal::new(&[EXAMPLES, pixels], &images),
            Literal::new(&[EXAMPLES], &labels),
            Literal::new(&[k, EXAMPLES], &indices),
            Literal::new(&[k, columns], &schedule),
            Literal::scalar(count as i32),
            Literal::new(&[2], &[self.plan.run.train.seed as u32, 0]),
        ];
        let arguments: Vec<Literal> = self.state.iter().cloned().chain(inputs).collect();
        let mut outputs = self.program.run(&arguments);
        let measured = outputs.split_off(self.names.len());
        assert_eq!(measured.len(), LAUNCH_OUTPUTS.len());
        self.state = outputs;
        self.check_counters();
        (ticks, measured)
    }

    /// The device's counters are the schedule's.
    fn check_counters(&self) {
        let arrays = self.names.iter().cloned().zip(self.state.iter().cloned()).collect();
        let mut counters = counters(self.plan, &arrays, self.counters.iteration);
        if matches!(self.plan.method.timing, UpdateTiming::Every | UpdateTiming::None) {
            counters.last_update = self.counters.last_update; // not kept, as nothing depends on it
        }
        assert_eq!(
            counters, self.counters,
            "{} {:?}",
            self.plan.method.name, self.plan.run.optimizer
        );
    }

    pub fn get(&self, name: &str) -> &Literal {
        let i = self.names.iter().position(|n| n == name).unwrap();
        &self.state[i]
    }

    /// Names and arrays.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &Literal)> {
        self.names.iter().map(String::as_str).zip(&self.state)
    }

    pub fn mask(&self) -> Vec<bool> {
        bools(self.get("layer1/mask"))
    }
}
