//! Measures each form of convolutions on the CPU, in alternation in one process.
//!
//! * `cargo bench --bench conv -- layers NETWORK BATCH`: every distinct convolution of a training step, in each form.
//! * `… -- prepared NETWORK BATCH`: the 1×1 convolutions of an inference, with kernels packed ahead.
//! * `… -- networks NETWORK BATCH`: one training step (gradients and updated statistics) and one inference, as built
//!   and lowered.
//!
//! Prints one JSON object per line. Keeps the minimum of many short repetitions, so that other programs on the machine
//! matter little.
#![allow(missing_docs)]

use anyhow::Context;
use hlo::random::Key;
use hlo::{Computation, DType, Graph, Literal, Node, Op, Shape, Tensor, WindowDim, grad};
use lowering::{ConvFacts, ConvForm, ConvLowering, Grouping, Target, lower, lower_convolutions, prepare};
use models::layers::cross_entropy;
use models::{Mode, Model, Net, Options};
use pjrt::{Arg, Buffer, DeviceKind, Executable};
use rigl_xla::engine::{Pjrt, options};
use rigl_xla::host_functions::register;
use serde_json::json;
use sparse::rng;
use std::cell::RefCell;
use std::time::Instant;

/// Largest number of window elements or positions that is unrolled.
const UNROLLED: usize = 49;

/// Bytes of the kernels used in turn in inference, so that none stays in the processor's cache.
const KERNELS: usize = 64 << 20;

/// Seconds spent on one convolution, and on one network.
const BUDGETS_S: [f64; 2] = [1.0, 40.0];

/// The arrays of `model` as parameters, and a forward pass on them.
fn forward<'g>(
    g: &'g Graph,
    model: &dyn Model,
    batch: usize,
    mode: Mode<'g>,
) -> (Net<'g>, Vec<Tensor<'g>>, Tensor<'g>) {
    let declared = model.declaration();
    let trained = declared.params.iter().map(|p| (&p.name, &p.dims));
    let moving = declared.statistics.iter().map(|s| (&s.name, &s.dims));
    let array = |(name, dims): (&String, &Vec<usize>)| {
        (
            name.clone(),
            g.parameter(name.clone(), Shape::new(DType::F32, dims.clone())),
        )
    };
    let arrays: Vec<_> = trained.chain(moving).map(array).collect();
    let params = arrays[..declared.params.len()].iter().map(|(_, t)| *t).collect();
    let images = [vec![batch], model.input_dims()].concat();
    let images = g.parameter("images", Shape::new(DType::F32, images));
    let net = Net::new(g, mode, arrays);
    let logits = model.apply(&net, images);
    (net, params, logits)
}

/// Logits.
fn inference(model: &dyn Model, batch: usize) -> hlo::Result<Computation> {
    let g = Graph::new("inference");
    let (_, _, logits) = forward(&g, model, batch, Mode::Eval);
    let outputs = [logits.output()];
    g.build(&outputs)
}

/// Loss, gradients and updated statistics.
fn step(model: &dyn Model, batch: usize) -> hlo::Result<Computation> {
    let g = Graph::new("step");
    let (net, params, logits) = forward(
        &g,
        model,
        batch,
        Mode::Train(Key::new(g.constant(Literal::new(&[2], &[0u32; 2])))),
    );
    let labels = g.iota(Shape::new(DType::S32, [batch]), 0);
    let loss = cross_entropy(logits, labels, 0.0).reduce_mean(&[0]);
    let gradients = grad(loss, &params);
    let moved = net.updated_statistics().into_iter().map(|(_, moved)| moved);
    let outputs: Vec<_> = [loss]
        .into_iter()
        .chain(gradients)
        .chain(moved)
        .map(|t| t.output())
        .collect();
    g.build(&outputs)
}

/// A computation of one convolution, with kernel and input as parameters.
fn alone(computation: &Computation, node: &Node) -> hlo::Result<Computation> {
    let operand = |&id: &usize| ("x".to_string(), computation.nodes[id].shape().clone());
    let parameters: Vec<_> = node.operands.iter().rev().map(operand).collect();
    Graph::function("convolution", &parameters, |_, x| match &node.op {
        Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
        } => vec![x[1].convolution(x[0], window.clone(), dims.clone(), *feature_groups, *batch_groups)],
        _ => vec![],
    })
}

/// Each distinct convolution of a computation, and how often it occurs.
fn distinct(computation: &Computation) -> hlo::Result<Vec<(Computation, usize)>> {
    let mut known: Vec<(String, Computation, usize)> = Vec::new();
    for node in &computation.nodes {
        if !matches!(node.op, Op::Convolution { .. }) {
            continue;
        }
        let single = alone(computation, node)?;
        let bytes = format!("{:?}{:?}", node.op, single.parameter_specs());
        match known.iter_mut().find(|(known, ..)| *known == bytes) {
            Some((.., count)) => *count += 1,
            None => known.push((bytes, single, 1)),
        }
    }
    Ok(known.into_iter().map(|(_, single, count)| (single, count)).collect())
}

/// The properties of the only convolution of `computation`.
fn facts(computation: &Computation) -> hlo::Result<Option<ConvFacts>> {
    let seen = RefCell::new(None);
    lower_convolutions(computation, &|facts| {
        seen.replace(Some(facts.clone()));
        ConvLowering::KEEP
    })?;
    Ok(seen.into_inner())
}

fn compile(device: &Pjrt, computation: &Computation) -> anyhow::Result<Executable> {
    Ok(device
        .client
        .compile(&computation.to_bytes(&[]), &options(device.kind))?)
}

fn run<'b>(program: &Executable, inputs: impl IntoIterator<Item = &'b Buffer>) -> anyhow::Result<f64> {
    let started = Instant::now();
    for output in program.execute(inputs.into_iter().map(Arg::Keep).collect())? {
        output.wait()?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Minimum seconds of each program, run in alternation. Programs that are much slower than the fastest are dropped
/// after a few rounds.
fn minimum_seconds(programs: &[Executable], inputs: &[Buffer], budget_s: f64) -> anyhow::Result<Vec<f64>> {
    let mut fastest = Vec::new();
    for program in programs {
        run(program, inputs)?;
        fastest.push(run(program, inputs)?);
    }
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed().as_secs_f64() < budget_s {
        let allowed_ratio = if round < 4 { 50.0 } else { 4.0 };
        round += 1;
        let best = fastest.iter().copied().fold(f64::INFINITY, f64::min);
        for (program, fastest) in programs.iter().zip(&mut fastest) {
            if *fastest <= allowed_ratio * best {
                *fastest = fastest.min(run(program, inputs)?);
            }
        }
    }
    Ok(fastest)
}

fn inputs(device: &Pjrt, computation: &Computation) -> anyhow::Result<Vec<Buffer>> {
    let mut stream = rng::stream(0, "conv", "", 0);
    let mut input = |(_, shape): (String, Shape)| {
        // Positive, because some are moving variances, and small, because no initialiser scales them.
        let values: Vec<f32> = (0..shape.elements())
            .map(|_| stream.normal().abs() as f32 * 0.1)
            .collect();
        Ok(device.client.to_device(&Literal::new(&shape.dims, &values), 0)?)
    };
    computation.parameter_specs().into_iter().map(&mut input).collect()
}

/// The forms to measure, the operator itself first.
fn candidates(facts: &ConvFacts) -> Vec<ConvLowering> {
    let unrolled = |form: &ConvForm| match form {
        ConvForm::Convolution | ConvForm::Ordered | ConvForm::Direct => true,
        ConvForm::Taps | ConvForm::Patches => facts.window_elements() <= UNROLLED,
        ConvForm::Positions | ConvForm::Columns => facts.positions_count() <= UNROLLED,
    };
    let form = |form| [false, true].map(|phases| ConvLowering { form, phases });
    ConvForm::ALL.into_iter().filter(unrolled).flat_map(form).collect()
}

fn layers(device: &Pjrt, model: &dyn Model, batch: usize) -> anyhow::Result<()> {
    for (single, count) in distinct(&step(model, batch)?)? {
        let facts = facts(&single)?.context("a convolution without another form")?;
        let kept = single.to_bytes(&[]);
        let (mut names, mut programs) = (Vec::new(), Vec::new());
        for lowering in candidates(&facts) {
            let lowered = lower_convolutions(&single, &|_| lowering)?;
            if lowering == ConvLowering::KEEP || lowered.to_bytes(&[]) != kept {
                names.push(format!(
                    "{:?}{}",
                    lowering.form,
                    if lowering.phases { "/phases" } else { "" }
                ));
                programs.push(compile(device, &lowered)?);
            }
        }
        let chosen = lower(&single, Target::CpuWithHostFunctions)?.to_bytes(&[]);
        let is_chosen = |&lowering: &ConvLowering| {
            lower_convolutions(&single, &|_| lowering).is_ok_and(|l| l.to_bytes(&[]) == chosen)
        };
        let chosen = candidates(&facts).into_iter().find(is_chosen);
        let seconds = minimum_seconds(&programs, &inputs(device, &single)?, BUDGETS_S[0])?;
        let mut record = record(model, pass(&facts), &facts, count, names.into_iter().zip(seconds));
        record["chosen"] = json!(chosen.map(|l| format!("{:?}{}", l.form, if l.phases { "/phases" } else { "" })));
        println!("{record}");
    }
    Ok(())
}

/// The printed record of a convolution.
fn record(
    model: &dyn Model,
    pass: &str,
    facts: &ConvFacts,
    count: usize,
    seconds: impl Iterator<Item = (String, f64)>,
) -> serde_json::Value {
    let of = |part: fn(&WindowDim) -> usize| facts.window.iter().map(part).collect::<Vec<usize>>();
    json!({
        "network": model.name(),
        "pass": pass,
        "batch": facts.batch,
        "channels": facts.channels,
        "filters": facts.filters,
        "image": facts.extents,
        "window": of(|w| w.size),
        "stride": of(|w| w.stride * w.base_dilation * w.window_dilation),
        "positions": facts.positions,
        "times": count,
        "gflop": facts.flops() / 1e9,
        "ms": seconds.map(|(name, s)| (name, json!(s * 1e3))).collect::<serde_json::Map<_, _>>(),
    })
}

/// Compares matrix product and library for the 1×1 convolutions of an inference, with kernels packed ahead.
fn prepared(device: &Pjrt, model: &dyn Model, batch: usize) -> anyhow::Result<()> {
    for (single, count) in distinct(&inference(model, batch)?)? {
        let facts = facts(&single)?.context("a convolution without another form")?;
        if facts.grouping != Grouping::Dense || facts.window_elements() > 1 {
            continue;
        }
        let inputs = inputs(device, &single)?;
        let copies = (KERNELS / single.parameter_specs()[0].1.bytes()).clamp(1, 1000);
        let mut rivals = Vec::new();
        for form in [ConvForm::Taps, ConvForm::Direct] {
            let parts = prepare(
                &lower_convolutions(&single, &|_| ConvLowering { form, phases: false })?,
                1,
            )?;
            let first = compile(device, &parts.first)?;
            let kernel = || Ok(first.execute(vec![Arg::Keep(&inputs[0])])?);
            let kernels = (0..copies).map(|_| kernel()).collect::<anyhow::Result<Vec<_>>>()?;
            rivals.push((form, compile(device, &parts.rest)?, kernels, Vec::new()));
        }
        let started = Instant::now();
        let mut round = 0;
        while started.elapsed().as_secs_f64() < BUDGETS_S[0] || round < 8 {
            for (_, rest, kernels, seconds) in &mut rivals {
                // Several in a row, because the other program's threads spin for a while.
                for i in 0..8 {
                    let kernel = &kernels[(8 * round + i) % copies];
                    seconds.push(run(rest, kernel.iter().chain(&inputs[1..]))?);
                }
            }
            round += 1;
        }
        let medians = rivals.into_iter().map(|(form, _, _, mut seconds)| {
            seconds.sort_by(f64::total_cmp);
            (format!("{form:?}"), seconds[seconds.len() / 2])
        });
        println!("{}", record(model, "prepared", &facts, count, medians));
    }
    Ok(())
}

/// Names the pass of a convolution by its shape: kernel gradients have a window as large as an image.
fn pass(facts: &ConvFacts) -> &'static str {
    match facts.grouping {
        Grouping::PerExample => "depthwise kernel gradient",
        Grouping::PerChannel => "depthwise",
        Grouping::Dense if facts.positions_count() <= facts.window_elements() => "kernel gradient",
        Grouping::Dense => "input",
    }
}

fn networks(device: &Pjrt, model: &dyn Model, batch: usize) -> anyhow::Result<()> {
    for computation in [step(model, batch)?, inference(model, batch)?] {
        let programs = [
            compile(device, &computation)?,
            compile(device, &lower(&computation, Target::Cpu)?)?,
            compile(device, &lower(&computation, Target::CpuWithHostFunctions)?)?,
        ];
        let seconds = minimum_seconds(&programs, &inputs(device, &computation)?, BUDGETS_S[1])?;
        println!(
            "{}",
            json!({
                "network": model.name(),
                "graph": computation.name,
                "batch": batch,
                "as_built_s": seconds[0],
                "lowered_s": seconds[1],
                "with_library_s": seconds[2],
                "speedup": seconds[0] / seconds[2],
            })
        );
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let usage = "usage: cargo bench --bench conv -- layers|prepared|networks NETWORK BATCH";
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [what, network, batch] = args.as_slice() else {
        anyhow::bail!(usage);
    };
    let batch = batch.parse().context(usage)?;
    let model = Options::new(network.as_str(), false).build()?;
    let device = Pjrt::open(DeviceKind::Cpu, None, 1)?;
    register(device.client.plugin())?.context("oneDNN is not available")?;
    match what.as_str() {
        "layers" => layers(&device, &*model, batch),
        "prepared" => prepared(&device, &*model, batch),
        "networks" => networks(&device, &*model, batch),
        _ => anyhow::bail!(usage),
    }
}
