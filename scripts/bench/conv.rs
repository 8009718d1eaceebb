//! Convolutions in each of their forms on the CPU, alternating in one process.
//!
//! `cargo bench --bench conv -- layers NETWORK BATCH` times every distinct convolution of a training step alone, in each
//! form that it has; `… -- prepared NETWORK BATCH` those of an inference that have a matrix product's form, with their kernels
//! made ready once; `… -- networks NETWORK BATCH` times one step (gradients and moved statistics) and one inference, as
//! built and lowered. Both print JSON, one object a line. Of many short repetitions the least is kept, so that other
//! programs on the machine count little.
#![allow(missing_docs)]

use anyhow::Context;
use hlo::random::Key;
use hlo::{Computation, DType, Graph, Literal, Node, Op, Shape, Tensor, WindowDim, grad};
use lowering::{ConvFacts, ConvForm, ConvLowering, Grouping, Target, lower, lower_convolutions, prepare};
use models::layers::cross_entropy;
use models::{Mode, Model, Net, Options};
use rigl_xla::engine::{Pjrt, options};
use rigl_xla::host_functions::register;
use rigl_xla::pjrt::{Arg, Buffer, DeviceKind, Executable};
use serde_json::json;
use sparse::rng;
use std::cell::RefCell;
use std::time::Instant;

/// Most window elements, or positions, that are unrolled.
const UNROLLED: usize = 49;

/// Bytes of kernels that take turns in inference, so that none is found in the processor's cache.
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

/// Loss, gradients and moved statistics.
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

/// One convolution alone, of its kernel and its input.
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

/// Each distinct convolution of a computation alone, and how often it is there.
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

/// Shape and work of the only convolution of `computation`, and the form that the rules choose.
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

/// Least seconds of each program, alternating; one that is hopelessly slower than another after a few rounds runs no more.
fn least(programs: &[Executable], inputs: &[Buffer], budget_s: f64) -> anyhow::Result<Vec<f64>> {
    let mut least = Vec::new();
    for program in programs {
        run(program, inputs)?;
        least.push(run(program, inputs)?);
    }
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed().as_secs_f64() < budget_s {
        let hopeless = if round < 4 { 50.0 } else { 4.0 };
        round += 1;
        let best = least.iter().copied().fold(f64::INFINITY, f64::min);
        for (program, least) in programs.iter().zip(&mut least) {
            if *least <= hopeless * best {
                *least = least.min(run(program, inputs)?);
            }
        }
    }
    Ok(least)
}

fn inputs(device: &Pjrt, computation: &Computation) -> anyhow::Result<Vec<Buffer>> {
    let mut stream = rng::stream(0, "conv", "", 0);
    let mut input = |(_, shape): (String, Shape)| {
        // Positive, because moving variances are among them, and small, because nothing is scaled for depth.
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
        let seconds = least(&programs, &inputs(device, &single)?, BUDGETS_S[0])?;
        let mut record = record(model, pass(&facts), &facts, count, names.into_iter().zip(seconds));
        record["chosen"] = json!(chosen.map(|l| format!("{:?}{}", l.form, if l.phases { "/phases" } else { "" })));
        println!("{record}");
    }
    Ok(())
}

/// What is printed of a convolution.
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

/// The convolutions of an inference for which a matrix product and the library compete, with their kernels made ready once.
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
                // Some in a row, for the other's threads wait a while for more.
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

/// What a convolution is in a training step, from its shape: gradients of kernels have a window as large as an image.
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
        let seconds = least(&programs, &inputs(device, &computation)?, BUDGETS_S[1])?;
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
