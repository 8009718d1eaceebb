//! Schedules and normalised pixels as TensorFlow 1.15 computed them, bit for bit (`tests/data/tf1/schedules.py`).
//!
//! Both call the C library's `cosf`, `logf` and `powf`, whose last bit differs between C libraries.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used)]

use std::path::Path;

use hlo::{Graph, Literal};
use rigl_xla::config::{Layers, Plan};
use rigl_xla::data::pixels::Preprocessing;
use sparse::reference::n_prune;
use sparse::{GradualPruning, Schedule};

/// Rows of one kind: settings, step, value.
fn rows(kind: &str) -> Vec<(Vec<String>, i64, f32)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1/schedules.csv");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<_> = text
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|cells| cells[0] == kind)
        .map(|cells| {
            let (settings, [step, bits]) = cells[1..].split_at(cells.len() - 3) else {
                panic!("{cells:?}")
            };
            let value = f32::from_bits(u32::from_str_radix(bits, 16).unwrap());
            (
                settings.iter().map(|cell| cell.to_string()).collect(),
                step.parse().unwrap(),
                value,
            )
        })
        .collect();
    assert!(!rows.is_empty(), "{kind}");
    rows
}

/// Compares every row of a kind with `compute`, given the row's settings and step.
fn matches(kind: &str, mut compute: impl FnMut(&[String], i64) -> f32) {
    for (settings, step, want) in rows(kind) {
        let got = compute(&settings, step);
        assert_eq!(
            got.to_bits(),
            want.to_bits(),
            "{kind} {settings:?} at {step}: {got} instead of {want}"
        );
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(cell: &str) -> T {
    cell.parse().unwrap()
}

#[test]
fn drop_fractions_match_tensorflow() {
    matches("drop", |cells, step| {
        let schedule = Schedule {
            begin_step: number(&cells[0]),
            end_step: number(&cells[1]),
            frequency_steps: 1,
            drop_fraction: number(&cells[2]),
            anneal: cells[3].parse().unwrap(),
        };
        schedule.drop_fraction_at(step)
    });
}

/// Reference 2.2: where the fraction rounds up, one more connection moves.
#[test]
fn rounding_decides_connections() {
    let schedule = |end_step| Schedule {
        begin_step: 0,
        end_step,
        frequency_steps: 100,
        drop_fraction: 0.3,
        anneal: "cosine".parse().unwrap(),
    };
    let mnist = schedule(50_000).drop_fraction_at(25_000);
    assert_eq!([n_prune(3540, mnist), n_prune(1000, mnist)], [531, 150]);
    let half = schedule(25_000).drop_fraction_at(12_500);
    assert_eq!((half, n_prune(160, half)), (0.150_000_02, 24));
}

#[test]
fn pruning_sparsities_match_tensorflow() {
    matches("sparsity", |cells, step| {
        let gradual = GradualPruning {
            begin_step: number(&cells[0]),
            end_step: number(&cells[1]),
            initial_sparsity: number(&cells[2]),
            target_sparsity: number(&cells[3]),
            exponent: number(&cells[4]),
        };
        gradual.sparsity_at(step)
    });
}

/// A preset's plan under settings `key=value`, separated by spaces.
fn plan(preset: &str, settings: &str) -> Plan {
    let mut layers = Layers::preset(preset).unwrap();
    for setting in settings.split(' ').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap();
        let value: toml::Table = format!("value = {value}").parse().unwrap();
        let key: Vec<&str> = key.split('.').collect();
        layers = layers.set(setting, &key, value["value"].clone()).unwrap();
    }
    layers.plan().unwrap()
}

#[test]
fn learning_rates_match_tensorflow() {
    // Plans are made once per run of equal settings.
    let mut last = (String::new(), String::new(), None);
    let mut rate = |preset: &str, settings: String, step: i64| {
        if (&*last.0, &last.1) != (preset, &settings) {
            last = (preset.to_owned(), settings.clone(), Some(plan(preset, &settings)));
        }
        last.2.as_ref().unwrap().learning_rate.at(step)
    };
    matches("piecewise", |cells, step| rate(&cells[0], String::new(), step));
    matches("epochs", |cells, step| {
        let [model, batch, base, multiplier] = cells else {
            panic!("{cells:?}")
        };
        let settings = format!("train.batch_size={batch} learning_rate.base={base} train.multiplier={multiplier}");
        rate(&format!("{model}-dense"), settings, step)
    });
    matches("sgdr", |cells, step| {
        let [batch, base, first, t_mul, m_mul] = cells else {
            panic!("{cells:?}")
        };
        let settings = format!(
            "learning_rate.schedule=\"sgdr\" train.batch_size={batch} learning_rate.base={base} \
             learning_rate.cycle_epochs={first} learning_rate.t_mul={t_mul} learning_rate.m_mul={m_mul}"
        );
        rate("resnet50-dense", settings, step)
    });
    matches("cosine", |cells, step| {
        let [base, steps] = cells else { panic!("{cells:?}") };
        let settings =
            format!("learning_rate.schedule=\"cosine\" learning_rate.base={base} learning_rate.decay_steps={steps}");
        rate("mnist-dense", settings, step)
    });
}

#[test]
fn normalised_pixels_match_tensorflow() {
    let pixels: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
    let g = Graph::new("pixels");
    let pixels = g.constant(Literal::new(&[1, 256, 1, 3], &pixels));
    let normalised = [Preprocessing::ImageNet.apply(pixels).output()];
    let got: Vec<f32> = g.build(&normalised).unwrap().evaluate(&[]).unwrap()[0]
        .to_vec()
        .unwrap();
    matches("pixel", |cells, value| {
        got[3 * value as usize + number::<usize>(&cells[0])]
    });
}
