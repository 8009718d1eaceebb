//! Exact selection over the kernels of ResNet-50: each form of `--select`, alternating in one run.
//!
//! `cargo bench --bench selection [-- ROUNDS]` prints one JSON object: medians in seconds, and how many times faster the
//! bits are than the full top-k.
#![allow(missing_docs)]

use hlo::{DType, Graph, Literal, Shape};
use pjrt::{Arg, Buffer, DeviceKind, Executable};
use rigl_xla::engine::Pjrt;
use sparse::rng;
use sparse::select::{Select, sort_keys, top_k_mask};
use std::time::Instant;

/// Elements of the 54 kernels (reference 1.5), with how often each size occurs.
const KERNELS: [(usize, usize); 15] = [
    (7 * 7 * 3 * 64, 1),
    (64 * 64, 1),
    (3 * 3 * 64 * 64, 3),
    (64 * 256, 6),
    (256 * 128, 1),
    (3 * 3 * 128 * 128, 4),
    (128 * 512, 7),
    (256 * 512, 2),
    (3 * 3 * 256 * 256, 6),
    (256 * 1024, 11),
    (512 * 1024, 2),
    (3 * 3 * 512 * 512, 3),
    (512 * 2048, 5),
    (1024 * 2048, 1),
    (2048 * 1000, 1),
];

/// Share of the weights that is selected.
const DENSITY: f64 = 0.2;

fn program(device: &Pjrt, sizes: &[usize], select: Select) -> anyhow::Result<(Executable, f64)> {
    let scores = |(i, &n): (usize, &usize)| (format!("scores{i}"), Shape::new(DType::F32, [n]));
    let counts = (0..sizes.len()).map(|i| (format!("k{i}"), Shape::scalar(DType::S32)));
    let parameters: Vec<_> = sizes.iter().enumerate().map(scores).chain(counts).collect();
    let computation = Graph::function("selection", &parameters, |_, inputs| {
        let (scores, counts) = inputs.split_at(sizes.len());
        scores
            .iter()
            .zip(counts)
            .map(|(&s, &k)| top_k_mask(sort_keys(s), k, select))
            .collect()
    })?;
    let started = Instant::now();
    Ok((
        device.executable(&computation, &[], 1)?,
        started.elapsed().as_secs_f64(),
    ))
}

fn run(program: &Executable, inputs: &[Buffer]) -> anyhow::Result<(f64, Vec<Buffer>)> {
    let started = Instant::now();
    let masks = program.execute(inputs.iter().map(Arg::Keep).collect())?;
    for mask in &masks {
        mask.wait()?;
    }
    Ok((started.elapsed().as_secs_f64(), masks))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> anyhow::Result<()> {
    let rounds: usize = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(5);
    let sizes: Vec<usize> = KERNELS.iter().flat_map(|&(n, times)| vec![n; times]).collect();
    let total: usize = sizes.iter().sum();
    anyhow::ensure!(
        sizes.len() == 54 && total == 25_502_912,
        "{} kernels of {total} weights",
        sizes.len()
    );
    let device = Pjrt::open(DeviceKind::Cpu, None, 1)?;
    let mut stream = rng::stream(0, "selection", "", 0);
    let mut inputs = Vec::new();
    for &n in &sizes {
        let scores: Vec<f32> = (0..n).map(|_| stream.normal().abs() as f32).collect();
        inputs.push(device.client.to_device(&Literal::new(&[n], &scores), 0)?);
    }
    for &n in &sizes {
        let k = (n as f64 * DENSITY) as i32;
        inputs.push(device.client.to_device(&Literal::scalar(k), 0)?);
    }
    let forms = Select::ALL;
    let mut programs = Vec::new();
    for select in forms {
        programs.push(program(&device, &sizes, select)?);
    }
    let mut times = vec![Vec::new(); forms.len()];
    let mut masks: Option<Vec<Literal>> = None;
    for round in 0..=rounds {
        for (i, (program, _)) in programs.iter().enumerate() {
            let (seconds, outputs) = run(program, &inputs)?;
            if round > 0 {
                times[i].push(seconds); // the first round warms up, and its masks are compared
                continue;
            }
            let outputs = outputs.iter().map(Buffer::to_literal).collect::<Result<Vec<_>, _>>()?;
            let first = masks.get_or_insert_with(|| outputs.clone());
            anyhow::ensure!(*first == outputs, "{:?} gives other masks", forms[i]);
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let by_name = |values: Vec<f64>| -> serde_json::Map<String, serde_json::Value> {
        let name = |s: &Select| format!("{s:?}").to_lowercase();
        forms.iter().map(name).zip(values.into_iter().map(Into::into)).collect()
    };
    let speedup = medians.iter().map(|m| m / medians[0]).collect();
    let report = serde_json::json!({
        "layers": sizes.len(),
        "scores": total,
        "rounds": rounds,
        "median_s": by_name(medians),
        "times_the_bits": by_name(speedup),
        "compile_or_load_s": by_name(programs.iter().map(|p| p.1).collect()),
        "plugin": device.client.plugin().path().file_name().map(|n| n.to_string_lossy()),
    });
    println!("{report}");
    Ok(())
}
