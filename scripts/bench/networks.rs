//! One network on the CPU or a GPU: training steps by the real launch program, and predictions, timed one by one.
//!
//! `cargo bench --bench networks -- train PRESET BATCH STEPS [KEY=VALUE]…` runs launches of one iteration and one of as many
//! as the preset has on random pictures, then, where the method has any, an iteration with a mask update; of no STEPS it
//! compiles only. `… -- predict PRESET BATCH STEPS` runs predictions, and `… -- pair PRESET BATCH ROUNDS` ordinary launches of
//! the preset's method and of static masks in turns. `… -- executions PRESET BATCH ROUNDS` predicts from masked kernels and from
//! connections alone in turns (`sparse_predictions.py`). KEY=VALUE sets any key of the preset, such as `device.kind=gpu` and
//! `train.precision=bf16`. Prints one JSON object. `networks.py` runs it in turns with its peers.
#![allow(missing_docs)]

use anyhow::{Context, bail};
use hlo::{DType, Literal};
use models::Model;
use rigl_xla::config::{Layers, Plan};
use rigl_xla::device::Device;
use rigl_xla::engine::{Arg, Buffer, Program};
use rigl_xla::prediction::SparsePredictor;
use rigl_xla::train::eval::Inference;
use rigl_xla::train::inference::Predictor;
use rigl_xla::train::step::{Row, Trainer, schedule};
use rigl_xla::train::{condensed, state};
use serde_json::json;
use sparse::rng;
use sparse::{Counters, Tick};
use std::time::Instant;

/// Iterations of a launch where two methods take turns: few, so that a slow spell of the machine meets both.
const TURN: usize = 3;

/// The preset at a batch size, with a mask update early on.
fn plan(preset: &str, batch: usize, values: &[String]) -> anyhow::Result<Plan> {
    let mut layers = Layers::preset(preset)?
        .set("BATCH", &["train", "batch_size"], batch as i64)?
        .set("DATA", &["data", "name"], "synthetic")?;
    for pair in values {
        let (key, value) = pair.split_once('=').context("expected KEY=VALUE")?;
        let key: Vec<&str> = key.split('.').collect();
        layers = match (value.parse::<i64>(), value.parse::<f64>()) {
            (Ok(whole), _) => layers.set(pair, &key, whole)?,
            (_, Ok(number)) => layers.set(pair, &key, number)?,
            _ => layers.set(pair, &key, value)?,
        };
    }
    Ok(layers.plan()?)
}

/// Random pictures and labels.
fn pictures(plan: &Plan, model: &dyn Model, count: usize) -> [Literal; 2] {
    let mut stream = rng::stream(plan.run.train.seed, "networks", "", 0);
    let dims = [vec![count], model.input_dims()].concat();
    let pixels: Vec<u8> = (0..dims.iter().product()).map(|_| stream.next_u32() as u8).collect();
    let labels: Vec<i32> = (0..count)
        .map(|_| (stream.next_u32() as usize % model.classes()) as i32)
        .collect();
    [Literal::new(&dims, &pixels), Literal::new(&[count], &labels)]
}

/// A compiled launch with its inputs on the device.
struct Training<'a> {
    plan: &'a Plan,
    device: &'a Device,
    program: Box<dyn Program>,
    state: Vec<Buffer>,
    data: Vec<Buffer>,
    seed: Buffer,
}

impl Training<'_> {
    /// Seconds of a launch of these rows, and its mean cross entropy.
    fn launch(&mut self, rows: &[Row]) -> anyhow::Result<(f64, f64)> {
        let (batch, length) = (self.plan.run.train.batch_size, self.plan.launch_length() as usize);
        let columns = Row::columns(self.plan);
        let indices: Vec<i32> = (0..length * batch).map(|i| (i % batch) as i32).collect();
        let mut values: Vec<f32> = rows.iter().flat_map(Row::values).collect();
        values.resize(length * columns, 0.0);
        let mut inputs = vec![
            Literal::new(&[length, batch], &indices),
            Literal::new(&[length, columns], &values),
            Literal::scalar(rows.len() as i32),
        ];
        if self.plan.draws() {
            inputs.push(Literal::scalar(0i64));
        }
        let upload = |input: &Literal| self.device.upload(input, 0);
        let buffers = inputs.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        let state = std::mem::take(&mut self.state).into_iter().map(Arg::Donate);
        let kept = self.data.iter().chain(&buffers).chain([&self.seed]).map(Arg::Keep);
        let started = Instant::now();
        let mut outputs = self.program.execute(state.chain(kept).collect())?;
        let measured = outputs.split_off(state::specs(self.plan).len());
        let loss = measured[1].to_literal()?.item::<f32>().context("a loss")?;
        let seconds = started.elapsed().as_secs_f64();
        self.state = outputs;
        Ok((seconds, f64::from(loss) / rows.len() as f64))
    }
}

/// The launch's program of a plan, with its initial state, and the seconds to build the graph and to compile it.
fn prepared<'a>(device: &'a Device, plan: &'a Plan) -> anyhow::Result<(Training<'a>, [f64; 2])> {
    let model = plan.model();
    let trainer = Trainer { plan, model };
    let batch = plan.run.train.batch_size;
    let started = Instant::now();
    let (computation, aliases) = trainer.launch(batch)?;
    let graph_s = started.elapsed().as_secs_f64();
    let program = device.replicated(&computation, &aliases)?;
    let compile_s = started.elapsed().as_secs_f64() - graph_s;
    let specs = state::specs(plan);
    let mut arrays = state::initial(plan)?;
    condensed::condense(plan, &mut arrays)?;
    let upload = |literal: &Literal| device.upload(literal, 0);
    let state = specs.iter().map(|(name, _)| upload(&arrays[name]));
    let seed = Literal::new(&[2], &[0u32, 0]);
    let training = Training {
        plan,
        device,
        program,
        state: state.collect::<Result<Vec<_>, _>>()?,
        data: pictures(plan, model, batch)
            .iter()
            .map(upload)
            .collect::<Result<Vec<_>, _>>()?,
        seed: upload(&seed)?,
    };
    Ok((training, [graph_s, compile_s]))
}

/// The first ordinary iteration's row, and those of mask updates. At a rate of 0, so that random labels do not let the loss
/// grow without bound.
fn rows(plan: &Plan) -> anyhow::Result<(Row, Vec<Row>)> {
    let mut counters = Counters::start(plan.method.timing, &plan.schedule);
    let still = |(tick, row): (Tick, Row)| (tick.update_at, Row { rate: 0.0, ..row });
    let rows = schedule(plan, &mut counters, 400).into_iter().map(still);
    let (updates, plain): (Vec<_>, Vec<_>) = rows.partition(|(update, _)| update.is_some());
    let (_, plain) = plain.into_iter().next().context("an ordinary iteration")?;
    Ok((plain, updates.into_iter().map(|(_, row)| row).collect()))
}

fn train(device: &Device, plan: &Plan, steps: usize) -> anyhow::Result<serde_json::Value> {
    let (mut training, [graph_s, compile_s]) = prepared(device, plan)?;
    if steps == 0 {
        return Ok(json!({ "graph_s": graph_s, "compile_s": compile_s }));
    }
    let (plain, updates) = rows(plan)?;
    let (_, first) = training.launch(std::slice::from_ref(&plain))?;
    let mut seconds = Vec::new();
    for _ in 0..steps {
        seconds.push(training.launch(std::slice::from_ref(&plain))?.0);
    }
    let length = plan.launch_length() as usize;
    let several = training.launch(&vec![plain; length])?.0 / length as f64;
    // The first one is also the first to touch the memory of an update.
    let mut update = None;
    for row in updates.into_iter().skip(1).take(2) {
        update = Some(training.launch(&[row])?.0);
    }
    Ok(json!({
        "graph_s": graph_s,
        "compile_s": compile_s,
        "seconds": seconds,
        "launch": length,
        "in_launch_s": several,
        "with_update_s": update,
        "first_loss": first,
    }))
}

/// Seconds of ordinary iterations of a plan's method and of static masks, in turns.
fn pair(device: &Device, plans: &[Plan; 2], rounds: usize) -> anyhow::Result<serde_json::Value> {
    let mut seconds = [vec![], vec![]];
    let mut trainings = Vec::new();
    for plan in plans {
        let (mut training, _) = prepared(device, plan)?;
        let (plain, _) = rows(plan)?;
        let launch = vec![plain; TURN];
        training.launch(&launch)?;
        trainings.push((training, launch));
    }
    for round in 0..rounds {
        // Neither is always the first.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let (training, launch) = &mut trainings[which];
            seconds[which].push(training.launch(launch)?.0 / TURN as f64);
        }
    }
    Ok(json!({ "method": seconds[0], "static": seconds[1] }))
}

fn predict(device: &Device, plan: &Plan, steps: usize) -> anyhow::Result<serde_json::Value> {
    let model = plan.model();
    let batch = plan.run.train.batch_size;
    let arrays = state::initial(plan)?;
    let specs = state::inference_specs(&model.declaration());
    let arrays: Vec<Literal> = specs.iter().map(|(name, _)| arrays[name].clone()).collect();
    let started = Instant::now();
    let predictor = Predictor::new(device, Inference::new(plan, model), &arrays, batch, DType::U8)?;
    let compile_s = started.elapsed().as_secs_f64();
    let images = device.upload(&pictures(plan, model, batch)[0], 0)?;
    let mut seconds = Vec::new();
    for _ in 0..=steps {
        let started = Instant::now();
        predictor.run(&images)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(json!({ "compile_s": compile_s, "seconds": seconds[1..] }))
}

/// Predictions of the same pictures from masked kernels and from connections alone. Prints a record of both, then, for every
/// line `masked` or `sparse` of standard input, the median seconds of a call within about a second: several engines can take turns.
fn executions(device: &Device, plan: &Plan) -> anyhow::Result<()> {
    let model = plan.model();
    let batch = plan.run.train.batch_size;
    let arrays = state::initial(plan)?;
    let specs = state::inference_specs(&model.declaration());
    let arrays: Vec<Literal> = specs.iter().map(|(name, _)| lively(name, &arrays[name])).collect();
    let network = Inference::new(plan, model);
    let started = Instant::now();
    let masked = Predictor::new(device, network, &arrays, batch, DType::U8)?;
    let masked_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let sparse = SparsePredictor::new(network, &arrays)?;
    let sparse_s = started.elapsed().as_secs_f64();
    let pixels = &pictures(plan, model, batch)[0];
    let uploaded = device.upload(pixels, 0)?;
    let logits = [
        masked.run(&uploaded)?,
        sparse.logits(pixels)?.to_vec().context("logits")?,
    ];
    let largest = logits[0].iter().fold(0f32, |most, logit| most.max(logit.abs()));
    let apart = logits[0].iter().zip(&logits[1]).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0f32, f32::max);
    println!(
        "{}",
        json!({
            "batch": batch, "difference": apart / largest, "density": sparse.density(), "ready_s": [masked_s, sparse_s],
        })
    );
    for line in std::io::stdin().lines() {
        let seconds = match line?.as_str() {
            "masked" => turn(|| masked.run(&uploaded).map(|_| ()).map_err(Into::into))?,
            "sparse" => turn(|| sparse.logits(pixels).map(|_| ()).map_err(Into::into))?,
            other => bail!("found {other}, expected masked or sparse"),
        };
        println!("{seconds}");
    }
    Ok(())
}

/// Scales that start at zero would make the logits of a residual network trivial.
fn lively(name: &str, array: &Literal) -> Literal {
    match name.ends_with("/gamma") {
        true => Literal::new(array.dims(), &vec![0.5f32; array.shape().elements()]),
        false => array.clone(),
    }
}

/// Median seconds of calls for about a second, after one that does not count.
fn turn(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    call()?;
    let (begun, mut seconds) = (Instant::now(), vec![]);
    while begun.elapsed().as_secs_f64() < 1.0 {
        let started = Instant::now();
        call()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn main() -> anyhow::Result<()> {
    rigl_xla::huge_pages::enable();
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [what, preset, batch, values @ ..] = &args[..]
        && what == "executions"
    {
        let values = [values, &["device.execution=masked".into()]].concat();
        let plan = plan(preset, batch.parse()?, &values)?;
        return executions(&Device::of(&plan, None)?, &plan);
    }
    let [what, preset, batch, steps, values @ ..] = &args[..] else {
        bail!("usage: train|predict|pair PRESET BATCH STEPS [KEY=VALUE]…, or executions PRESET BATCH [KEY=VALUE]…");
    };
    let batch = batch.parse()?;
    let plan_with = |more: &[String]| plan(preset, batch, &[values, more].concat());
    let plan = plan_with(&[])?;
    let started = Instant::now();
    let device = Device::of(&plan, None)?;
    let mut record = match what.as_str() {
        "train" => train(&device, &plan, steps.parse()?)?,
        "predict" => predict(&device, &plan, steps.parse()?)?,
        "pair" => pair(
            &device,
            &[plan.clone(), plan_with(&["method.name=static".into()])?],
            steps.parse()?,
        )?,
        other => bail!("found {other}, expected train, predict, pair or executions"),
    };
    record["batch"] = json!(plan.run.train.batch_size);
    record["total_s"] = json!(started.elapsed().as_secs_f64());
    println!("{record}");
    Ok(())
}
