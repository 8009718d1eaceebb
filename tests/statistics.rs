//! Moving statistics in the training program.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use hlo::Literal;
use pjrt::{Arg, CompileOptions, DeviceKind};
use rigl_xla::config::{Layers, Plan};
use rigl_xla::engine::Pjrt;
use rigl_xla::train::state::{GLOBAL_STEP, initial, specs};
use rigl_xla::train::step::{Row, Trainer, schedule};
use sparse::Counters;
use toml::{Table, Value};

const BATCH: usize = 4;

fn plan() -> Plan {
    let none = Value::Table(Table::new());
    let layers = Layers::preset("mnist-rigl").unwrap();
    let layers = layers.set("test", &["sparsity", "layers"], none).unwrap();
    let layers = layers.set("test", &["model", "name"], "wrn-10-1").unwrap();
    let layers = layers.set("test", &["train", "batch_size"], BATCH as i64).unwrap();
    layers
        .set("test", &["train", "steps_per_launch"], 1)
        .unwrap()
        .plan()
        .unwrap()
}

/// RigL's first iteration updates masks instead of taking a gradient step. Statistics follow the batch even then
/// (reference 8.1).
#[test]
fn moving_statistics_change_in_mask_updates_too() {
    let plan = plan();
    let model = models::find("wrn-10-1", true).unwrap();
    let trainer = Trainer {
        plan: &plan,
        model: &*model,
    };
    let (launch, _) = trainer.launch(BATCH).unwrap();
    let device = Pjrt::open(DeviceKind::Cpu, None, 1).unwrap();
    let program = device
        .client
        .compile(&launch.to_bytes(&[]), &CompileOptions::default())
        .unwrap();
    let mut counters = Counters::start(plan.method.timing, &plan.schedule);
    let (tick, row) = schedule(&plan, &mut counters, 1).remove(0);
    assert!(tick.update_at.is_some());
    let mut arrays = initial(&plan).unwrap();
    let pixels: Vec<u8> = (0..BATCH * 32 * 32 * 3).map(|i| (i * i % 251) as u8).collect();
    let inputs = [
        Literal::new(&[BATCH, 32, 32, 3], &pixels),
        Literal::new(&[BATCH], &[0i32, 1, 2, 3]),
        Literal::new(&[1, BATCH], &[0i32, 1, 2, 3]),
        Literal::new(&[1, Row::columns(&plan)], &row.values()),
        Literal::scalar(1i32),
        Literal::scalar(0i64), // the iteration's number, for dropout
        Literal::new(&[2], &[0u32, 0]),
    ];
    let names: Vec<String> = specs(&plan).into_iter().map(|(name, _)| name).collect();
    let state: Vec<Literal> = names.iter().map(|name| arrays.remove(name).unwrap()).collect();
    let upload = |array: &Literal| device.client.to_device(array, 0).unwrap();
    let buffers: Vec<_> = state.iter().chain(&inputs).map(upload).collect();
    let outputs = program.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
    let after: BTreeMap<&str, Literal> = names
        .iter()
        .map(String::as_str)
        .zip(outputs.iter().map(|b| b.to_literal().unwrap()))
        .collect();
    assert_eq!(after[GLOBAL_STEP].item::<i64>(), Some(0));
    let before: BTreeMap<&str, &Literal> = names.iter().map(String::as_str).zip(&state).collect();
    for param in &plan.params {
        if param.mask.is_none() {
            assert_eq!(
                after[param.name.as_str()],
                *before[param.name.as_str()],
                "{}",
                param.name
            );
        }
    }
    assert_eq!(plan.statistics.len(), 14);
    for statistic in &plan.statistics {
        let values = after[statistic.name.as_str()].to_vec::<f32>().unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{}", statistic.name);
        // From 0, or from 1, a tenth of the way to the batch's.
        let start = before[statistic.name.as_str()].to_vec::<f32>().unwrap()[0];
        let moved = values.iter().filter(|&&v| v != start).count();
        assert!(moved * 2 > values.len(), "{}: {values:?}", statistic.name);
        if start == 1.0 {
            assert!(values.iter().all(|&v| v >= 0.9), "{}: {values:?}", statistic.name);
        }
    }
}
