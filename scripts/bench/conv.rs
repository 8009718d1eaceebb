//! Convolutions in each of their forms on the CPU, alternating in one process.
//!
//! `cargo bench --bench conv -- layers NETWORK BATCH` times every distinct convolution of a training step alone, in each
//! form that it has; `… -- networks NETWORK BATCH` times one step (gradients and moved statistics) and one inference, as
//! built and lowered. Both print JSON, one object a line. Of many short repetitions the least is kept, so that other
//! programs on the machine count little.
#![allow(missing_docs)]

use anyhow::Context;
use hlo::random::Key;
use hlo::{
    Computation, ConvFacts, DType, Form, Graph, Grouping, Literal, Lowering, Node, Op, Shape, Target, Tensor, grad,
};
use models::layers::cross_entropy;
use models::{Mode, Model, Net, Options};
use rigl_xla::engine::{Pjrt, options};
use rigl_xla::pjrt::{Arg, Buffer, DeviceKind, Executable};
use rigl_xla::rng;
use serde_json::json;
use std::cell::RefCell;
use std::time::Instant;

/// Most window elements, or positions, that are unrolled.
const UNROLLED: usize = 49;

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
    let moved = net.moved_statistics().into_iter().map(|(_, moved)| moved);
    let outputs: Vec<_> = [loss]
        .into_iter()
        .chain(gradients)
        .chain(moved)
        .map(|t| t.output())
        .collect();
    g.build(&outputs)
}

/// One convolution alone.
fn alone(computation: &Computation, node: &Node) -> hlo::Result<Computation> {
    let operand = |&id: &usize| ("x".to_string(), computation.nodes[id].shape().clone());
    let parameters: Vec<_> = node.operands.iter().map(operand).collect();
    Graph::function("convolution", &parameters, |_, x| match &node.op {
        Op::Convolution {
            window,
            dims,
            feature_groups,
            batch_groups,
            ..
        } => vec![x[0].convolution(x[1], window.clone(), dims.clone(), *feature_groups, *batch_groups)],
        _ => vec![],
    })
}

/// Shape and work of the only convolution of `computation`, and the form that the rules choose.
fn facts(computation: &Computation) -> hlo::Result<Option<ConvFacts>> {
    let seen = RefCell::new(None);
    computation.lowered_by(&|facts| {
        seen.replace(Some(facts.clone()));
        Lowering::KEEP
    })?;
    Ok(seen.into_inner())
}

fn compile(device: &Pjrt, computation: &Computation) -> anyhow::Result<Executable> {
    Ok(device
        .client
        .compile(&computation.to_bytes(&[]), &options(device.kind))?)
}

fn run(program: &Executable, inputs: &[Buffer]) -> anyhow::Result<f64> {
    let started = Instant::now();
    for output in program.execute(inputs.iter().map(Arg::Keep).collect())? {
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
fn candidates(facts: &ConvFacts) -> Vec<Lowering> {
    let unrolled = |form: &Form| match form {
        Form::Convolution | Form::Ordered | Form::Direct => true,
        Form::Taps | Form::Patches => facts.elements() <= UNROLLED,
        Form::Positions | Form::Columns => facts.places() <= UNROLLED,
    };
    let form = |form| [false, true].map(|phases| Lowering { form, phases });
    Form::ALL.into_iter().filter(unrolled).flat_map(form).collect()
}

fn layers(device: &Pjrt, model: &dyn Model, batch: usize) -> anyhow::Result<()> {
    let whole = step(model, batch)?;
    let mut distinct: Vec<(String, Computation, usize)> = Vec::new();
    for node in whole
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Convolution { .. }))
    {
        let single = alone(&whole, node)?;
        let bytes = format!("{:?}{:?}", node.op, single.parameter_specs());
        match distinct.iter_mut().find(|(known, ..)| *known == bytes) {
            Some((.., count)) => *count += 1,
            None => distinct.push((bytes, single, 1)),
        }
    }
    for (_, single, count) in distinct {
        let facts = facts(&single)?.context("a convolution without another form")?;
        let kept = single.to_bytes(&[]);
        let (mut names, mut programs) = (Vec::new(), Vec::new());
        for lowering in candidates(&facts) {
            let lowered = single.lowered_by(&|_| lowering)?;
            if lowering == Lowering::KEEP || lowered.to_bytes(&[]) != kept {
                names.push(format!(
                    "{:?}{}",
                    lowering.form,
                    if lowering.phases { "/phases" } else { "" }
                ));
                programs.push(compile(device, &lowered)?);
            }
        }
        let chosen = single.lowered(Target::CpuWithLibrary)?.to_bytes(&[]);
        let is_chosen = |&lowering: &Lowering| {
            single
                .lowered_by(&|_| lowering)
                .is_ok_and(|l| l.to_bytes(&[]) == chosen)
        };
        let chosen = candidates(&facts).into_iter().find(is_chosen);
        let seconds = least(&programs, &inputs(device, &single)?, BUDGETS_S[0])?;
        let gflops = facts.flops() / 1e9;
        let ms: serde_json::Map<_, _> = names.into_iter().zip(seconds.iter().map(|s| json!(s * 1e3))).collect();
        let sides: Vec<usize> = facts.window.iter().map(|w| w.size).collect();
        let strides: Vec<usize> = facts
            .window
            .iter()
            .map(|w| w.stride * w.base_dilation * w.window_dilation)
            .collect();
        println!(
            "{}",
            json!({
                "network": model.name(),
                "pass": pass(&facts),
                "batch": facts.batch,
                "channels": facts.channels,
                "filters": facts.filters,
                "image": facts.extents,
                "window": sides,
                "stride": strides,
                "positions": facts.positions,
                "times": count,
                "gflop": gflops,
                "ms": ms,
                "chosen": chosen.map(|l| format!("{:?}{}", l.form, if l.phases { "/phases" } else { "" })),
            })
        );
    }
    Ok(())
}

/// What a convolution is in a training step, from its shape: gradients of kernels have a window as large as an image.
fn pass(facts: &ConvFacts) -> &'static str {
    match facts.grouping {
        Grouping::PerExample => "depthwise kernel gradient",
        Grouping::PerChannel => "depthwise",
        Grouping::Dense if facts.places() <= facts.elements() => "kernel gradient",
        Grouping::Dense => "input",
    }
}

fn networks(device: &Pjrt, model: &dyn Model, batch: usize) -> anyhow::Result<()> {
    for computation in [step(model, batch)?, inference(model, batch)?] {
        let programs = [
            compile(device, &computation)?,
            compile(device, &computation.lowered(Target::Cpu)?)?,
            compile(device, &computation.lowered(Target::CpuWithLibrary)?)?,
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
    let usage = "usage: cargo bench --bench conv -- layers|networks NETWORK BATCH";
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [what, network, batch] = args.as_slice() else {
        anyhow::bail!(usage);
    };
    let batch = batch.parse().context(usage)?;
    let model = Options::new(network.as_str(), false).build()?;
    let device = Pjrt::open(DeviceKind::Cpu, None, 1)?;
    device
        .client
        .plugin()
        .kernels()?
        .context("no library of convolutions")?;
    match what.as_str() {
        "layers" => layers(&device, &*model, batch),
        "networks" => networks(&device, &*model, batch),
        _ => anyhow::bail!(usage),
    }
}
